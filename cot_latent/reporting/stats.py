"""Intervals and averages for reported numbers."""

import math
import re
from collections.abc import Collection, Mapping

_SIGNIFICANT_DIGITS = 12
# Tasks that differ only by the number of objects count as one.
_NUM_OBJECTS = re.compile(r"_(three|five|seven)_objects(?=_v\d+$|$)")


def rounded(value: float) -> float:
  """Rounds a number to 12 digits, on which scipy's versions and machines agree.

  >>> rounded(2 / 3)
  0.666666666667
  """
  return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
  """Returns the 95% Wilson score interval of a proportion, to 12 digits.

  Args:
    correct: Number of successes.
    total: Number of trials, at least one.

  Returns:
    Lower and upper end, within [0, 1].

  Reference: Wilson 1927.

  >>> wilson_interval(171, 200)
  (0.799513324692, 0.89710649358)
  """
  import scipy.stats  # slow to import, and most commands do not need it

  trials = scipy.stats.binomtest(correct, total)
  low, high = trials.proportion_ci(method="wilson")
  return rounded(low), rounded(high)


def t_quantile(degrees: float) -> float:
  """The 97.5% quantile of Student's distribution, to 12 digits.

  Args:
    degrees: Degrees of freedom; infinity is the normal distribution.

  >>> t_quantile(4)
  2.7764451052
  """
  import scipy.special

  if math.isinf(degrees):
    return rounded(float(scipy.special.ndtri(0.975)))
  return rounded(float(scipy.special.stdtrit(degrees, 0.975)))


def averages(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
  """Averages the accuracies of several tasks, in each of the usual ways.

  Args:
    counts: Task -> (correct, total).

  Returns:
    By name: "N tasks", the mean over tasks; "G tasks, N grouped", the mean
    after averaging tasks that differ only by their number of objects, if there
    are any; "examples", over all questions. For all of BIG-Bench Hard, N is 27
    and G is 23.

  Reference: Suzgun et al. 2022 average 23; Phan et al. 2023 average 27.

  >>> averages({"navigate_v1": (3, 4), "dyck_languages_v1": (1, 2)})
  {'2 tasks': 0.625, 'examples': 0.6666666666666666}
  """
  rates = {task: correct / total for task, (correct, total) in counts.items()}
  groups: dict[str, list[float]] = {}
  for task, rate in rates.items():
    groups.setdefault(_NUM_OBJECTS.sub("", task), []).append(rate)
  found = {f"{len(rates)} tasks": _mean(rates.values())}
  if len(groups) < len(rates):
    means = [_mean(group) for group in groups.values()]
    found[f"{len(groups)} tasks, {len(rates)} grouped"] = _mean(means)
  correct, total = (
    sum(column) for column in zip(*counts.values(), strict=True)
  )
  return found | {"examples": correct / total}


def _mean(rates: Collection[float]) -> float:
  return math.fsum(rates) / len(rates)
