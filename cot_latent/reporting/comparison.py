"""Statistics of methods that ran with several seeds each.

Runs of the same seed share their base model, their minibatches and their
evaluation questions. So methods are compared seed by seed: the interval of the
differences leaves out the effects that a seed has on all of them.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cot_latent.reporting import stats


class Estimate(NamedTuple):
  """A mean with its error.

  Attributes:
    num: Number of values.
    mean: Mean in the values' unit.
    sd: Standard deviation with n - 1 degrees of freedom; None for one value.
    low: Lower end of the 95% interval; None if there is no interval.
    high: Upper end of the interval.
    kind: Kind of the interval: "t" over values, "wilson" over questions, or "".
  """

  num: int
  mean: float
  sd: float | None = None
  low: float | None = None
  high: float | None = None
  kind: str = ""


def estimate(values: Sequence[float]) -> Estimate:
  """Estimates a mean from independent values, with Student's 95% interval.

  Sums are exact and the quantile is rounded, so that the result is the same
  to the last bit on every machine. `scipy.stats.ttest_1samp` differs between
  machines, and loses digits if values are nearly equal.

  Args:
    values: One value or more. A single value has no deviation or interval.

  Reference: Student 1908.
  """
  mean = statistics.mean(values)
  if len(values) == 1:
    return Estimate(1, mean)
  sd = statistics.stdev(values)
  half = t_quantile(len(values) - 1) * sd / math.sqrt(len(values))
  return Estimate(len(values), mean, sd, mean - half, mean + half, "t")


def difference(
  values: Mapping[int, float], baseline: Mapping[int, float]
) -> Estimate:
  """Estimates the mean difference of two methods, paired by seed.

  Args:
    values: Values of the method, by seed.
    baseline: Values of the baseline, for the same seeds.

  Returns:
    Estimate of the method's values minus the baseline's.

  Raises:
    ValueError: If the seeds differ.
  """
  if values.keys() != baseline.keys():
    raise ValueError(f"seeds differ: {[*values]} and {[*baseline]}")
  return estimate([values[seed] - baseline[seed] for seed in sorted(values)])


def best(values: Mapping[str, Mapping[int, float]]) -> str | None:
  """Finds the method that is better than every other.

  That is, the interval of its paired difference to each other method is above
  0. The intervals are not corrected for their number.

  Args:
    values: Method -> seed -> value; greater is better; equal seeds.

  Returns:
    Its name; None if there is no such method, or only one seed or method.
  """
  for name, own in values.items():
    lows = [
      difference(own, other).low
      for another, other in values.items()
      if another != name
    ]
    if lows and all(low is not None and low > 0 for low in lows):
      return name
  return None


def t_quantile(degrees: int) -> float:
  """Returns the 97.5% quantile of Student's distribution, to 12 digits."""
  import scipy.special

  return stats.rounded(scipy.special.stdtrit(degrees, 0.975))
