"""Statistics of methods that ran with several seeds each.

Runs of the same seed share their base model, their minibatches and the
questions that they are evaluated on, so methods are compared seed by seed: the
interval of the differences leaves out what a seed does to all of them alike.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cot_latent.reporting import stats


class Estimate(NamedTuple):
  """A mean with what is known about its error.

  Attributes:
    num: How many values it is the mean of.
    mean: In the values' unit.
    sd: Standard deviation, of n - 1 degrees of freedom; None of one value.
    low: Lower end of the 95% interval; None where there is none.
    high: Upper end.
    kind: Of the interval: "t" over values, "wilson" over questions, or "".
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
  to the last bit on every machine. That of `scipy.stats.ttest_1samp` is not,
  and where values are nearly equal it loses digits.

  Args:
    values: At least one. Of a single one there is no deviation or interval.

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
    values: Of the method, by seed.
    baseline: Of what it is compared with, for the same seeds.

  Returns:
    Of the method's values minus the baseline's.

  Raises:
    ValueError: If the seeds differ.
  """
  if values.keys() != baseline.keys():
    raise ValueError(f"seeds differ: {[*values]} and {[*baseline]}")
  return estimate([values[seed] - baseline[seed] for seed in sorted(values)])


def best(values: Mapping[str, Mapping[int, float]]) -> str | None:
  """Finds the method that is better than each of the others.

  That is, the interval of its paired difference to each lies above 0. The
  intervals are not corrected for how many they are.

  Args:
    values: Method -> seed -> value, the more the better; equal seeds.

  Returns:
    Its name; None where no method is, with one seed or one method too.
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
  """The 97.5% quantile of Student's distribution, to 12 digits."""
  import scipy.special

  return stats.rounded(scipy.special.stdtrit(degrees, 0.975))
