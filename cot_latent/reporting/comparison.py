"""Statistics of methods that ran with several seeds each.

Runs of the same seed share their base model, their minibatches and the
questions that they are evaluated on, so methods are compared seed by seed: the
interval of the differences leaves out what a seed does to all of them alike.

An interval over seeds says what other seeds would give on the same questions.
The second interval, by bootstrap over seeds and questions, says what other
questions would give too.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cot_latent.reporting import bootstrap, stats
from cot_latent.reporting.bootstrap import Stratum


class Estimate(NamedTuple):
  """A mean with its error.

  Attributes:
    num: Number of values.
    mean: Their mean, in their unit.
    sd: Standard deviation, with n - 1 degrees of freedom; None for one value.
    low: Lower end of the 95% interval; None if there is no interval.
    high: Upper end.
    kind: Kind of the interval: "t" over seeds, "wilson" or "bootstrap" over the
      questions of one seed, or "".
    with_questions: 95% interval by bootstrap over seeds and questions; None if
      there is one seed, or if questions have no values of their own.
  """

  num: int
  mean: float
  sd: float | None = None
  low: float | None = None
  high: float | None = None
  kind: str = ""
  with_questions: tuple[float, float] | None = None


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
  half = stats.t_quantile(len(values) - 1) * sd / math.sqrt(len(values))
  return Estimate(len(values), mean, sd, mean - half, mean + half, "t")


def add_questions(
  found: Estimate, strata: Sequence[Stratum] | None
) -> Estimate:
  """Adds the interval that contains the questions' error.

  Args:
    found: An estimate over seeds.
    strata: The values by seed and question; None if there are none.
  """
  if strata is None:
    return found
  low, high = bootstrap.over_seeds_and_questions(strata)
  if found.num > 1:
    return found._replace(with_questions=(low, high))
  return found._replace(low=low, high=high, kind="bootstrap")


def subtract(
  strata: Sequence[Stratum] | None, baseline: Sequence[Stratum] | None
) -> list[Stratum] | None:
  """Pairs two methods' values by seed and question.

  Args:
    strata: Values of the method; None if there are none.
    baseline: Values of the baseline, for the same seeds and questions.
  """
  if strata is None or baseline is None:
    return None
  return [
    Stratum(one.weight, one.values - other.values)
    for one, other in zip(strata, baseline, strict=True)
  ]


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


def best(
  methods: Sequence[str], compare: Callable[[str, str], Estimate]
) -> str | None:
  """Finds the method that is better than each of the others.

  That is, the intervals of its paired difference to each are above 0: that over
  seeds, and that over seeds and questions if there is one. They are not
  corrected for the number of comparisons.

  Args:
    methods: Their names.
    compare: Difference of one method to another; more is better.

  Returns:
    Its name; None if there is no such method, or only one seed or method.
  """
  for name in methods:
    others = [other for other in methods if other != name]
    if others and all(is_above(compare(name, other)) for other in others):
      return name
  return None


def is_above(found: Estimate) -> bool:
  """Tells whether a difference over seeds is above 0 beyond its intervals."""
  lows = [found.low if found.kind == "t" else None]
  if found.with_questions is not None:
    lows.append(found.with_questions[0])
  return all(low is not None and low > 0 for low in lows)
