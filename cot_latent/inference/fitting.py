"""The factor of a fitted control variate, from the gradients of earlier steps.

The estimate of a step is A - eta B (`estimators.FittedControlVariate`). Running
means of |A|^2, <A, B> and |B|^2 over the steps so far are kept; these are
scalar products of whole gradients. They give eta for the next step. This eta
does not depend on the next step's draws, so the mean of the estimate is that
of A.
"""

from typing import NamedTuple

import numpy as np

DECAY = np.float32(0.95)  # of the running means, from one fit to the next


class Fit(NamedTuple):
  """The running means of earlier steps; float32 scalars.

  They begin at 0, which cancels in their quotients.

  Attributes:
    kept: Running mean of |A|^2.
    product: Running mean of <A, B>.
    subtracted: Running mean of |B|^2.
  """

  kept: np.ndarray
  product: np.ndarray
  subtracted: np.ndarray

  def eta(self) -> float:
    """Returns the factor of the next step, 0 to 1; 0 before any measurement.

    Example:

      >>> begin().eta()
      0.0
      >>> update(begin(), [2.0, 1.0, 4.0]).eta()
      0.25
    """
    return min(max(self.score_ratio() or 0.0, 0.0), 1.0)

  def score_ratio(self) -> float | None:
    """Returns the best factor eta, before it is clipped to [0, 1].

    With one draw per question and beta = pi it estimates v+ / v: the variance
    of the score among correct rationales, over its mean squared norm among all.
    The paper's control variate lowers the variance if that is more than 1/2.

    Returns:
      E[<A, B>] / E[|B|^2]; None before B is measured.
    """
    if not self.subtracted > 0:
      return None
    return float(self.product / self.subtracted)

  def paper_ratio(self) -> float | None:
    """Returns the mean squared norm of the basic estimate over the paper's.

    Above 1 the paper's control variate pays. The ratio of the variances shows
    this more clearly: both squared norms contain |E[A]|^2, which moves this
    ratio closer to 1, on the same side of it.

    Returns:
      E[|A|^2] / E[|A - B|^2], above 1 if it pays; None if it is not finite.
    """
    rest = float(self.kept - 2 * self.product + self.subtracted)
    return float(self.kept) / rest if rest > 0 else None


def begin() -> Fit:
  """Returns the fit before the first step."""
  return Fit(*(np.zeros((), np.float32) for _ in Fit._fields))


def update(fit: Fit, measured) -> Fit:
  """Adds the measurements of one step.

  Args:
    fit: Fit before the step.
    measured: [3] |A|^2, <A, B> and |B|^2 of the step.

  Returns:
    The fit for the following steps.
  """
  new = np.asarray(measured, np.float32)
  return Fit(
    *(
      np.asarray(DECAY * old + (1 - DECAY) * part, np.float32)
      for old, part in zip(fit, new, strict=True)
    )
  )
