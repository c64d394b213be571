"""The factor of a fitted control variate, from the gradients of earlier steps.

The estimate of a step is A - eta B (`estimators.FittedControlVariate`). Over
the steps so far, running means of |A|^2, <A, B> and |B|^2 are kept; these are
scalar products of whole gradients. From them eta is computed for the next step,
which does not depend on that step's draws, so that the mean of the estimate is
that of A.
"""

from typing import NamedTuple

import numpy as np

DECAY = np.float32(0.95)  # of the running means, from one fit to the next


class Fit(NamedTuple):
  """What is known from earlier steps; float32 scalars.

  The running means begin at 0. In their quotients that makes no difference.

  Attributes:
    kept: Running mean of |A|^2.
    product: Running mean of <A, B>.
    subtracted: Running mean of |B|^2.
  """

  kept: np.ndarray
  product: np.ndarray
  subtracted: np.ndarray

  def eta(self) -> float:
    """The factor of the next step, 0 to 1; 0 before anything is measured.

    Example:

      >>> begin().eta()
      0.0
      >>> update(begin(), [2.0, 1.0, 4.0]).eta()
      0.25
    """
    return min(max(self.score_ratio() or 0.0, 0.0), 1.0)

  def score_ratio(self) -> float | None:
    """The factor that fits best, before it is cut to 0 and 1.

    With one draw a question and beta = pi it estimates v+ / v: the variance of
    the score among correct rationales, over its mean squared norm among all.
    The paper's control variate lowers the variance where that is more than 1/2.

    Returns:
      E[<A, B>] / E[|B|^2]; None before B is measured.
    """
    if not self.subtracted > 0:
      return None
    return float(self.product / self.subtracted)

  def paper_ratio(self) -> float | None:
    """How much the paper's control variate shortens the gradient estimate.

    It tells whether the paper's control variate pays, but less distinctly than
    the ratio of the variances: both squared norms have |E[A]|^2 in them, so
    that the ratio is nearer to 1, on the same side of it.

    Returns:
      E[|A|^2] / E[|A - B|^2], above 1 where it pays; None where it is not
      finite.
    """
    rest = float(self.kept - 2 * self.product + self.subtracted)
    return float(self.kept) / rest if rest > 0 else None


def begin() -> Fit:
  """What is known before the first step: nothing."""
  return Fit(*(np.zeros((), np.float32) for _ in Fit._fields))


def update(fit: Fit, measured) -> Fit:
  """Adds what one step measured.

  Args:
    fit: What was known before.
    measured: [3] |A|^2, <A, B> and |B|^2 of the step.

  Returns:
    What is known for the steps that follow.
  """
  new = np.asarray(measured, np.float32)
  return Fit(
    *(
      np.asarray(DECAY * old + (1 - DECAY) * part, np.float32)
      for old, part in zip(fit, new, strict=True)
    )
  )
