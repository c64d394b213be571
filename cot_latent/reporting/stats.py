"""Intervals and averages for reported numbers."""

import math
import re
from collections.abc import Collection, Mapping

# Tasks that differ by the number of objects alone count as one.
_NUM_OBJECTS = re.compile(r"_(three|five|seven)_objects(?=_v\d+$|$)")


def wilson_interval(
  correct: int, total: int, z: float = 1.959963984540054
) -> tuple[float, float]:
  """Gives the Wilson score interval of a proportion.

  Args:
    correct: successes.
    total: trials, above 0.
    z: normal quantile; the default gives 95%.

  Returns:
    Lower and upper end, within [0, 1].

  Reference: Wilson 1927.
  """
  rate = correct / total
  spread = z * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
  scale = 1 / (1 + z * z / total)
  centre = rate + z * z / (2 * total)
  low, high = (centre - spread) * scale, (centre + spread) * scale
  # Rounding must not move an end past the rate itself.
  return max(0.0, min(low, rate)), min(1.0, max(high, rate))


def averages(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
  """Averages the accuracies of several tasks, in each of the ways in use.

  Args:
    counts: task -> (correct, total).

  Returns:
    By name: "N tasks", the mean over tasks; "G tasks, N grouped", the same
    after averaging tasks that differ by their number of objects alone, if there
    are any; "examples", over all questions. For all of BIG-Bench Hard, N is 27
    and G is 23.

  Reference: Suzgun et al. 2022 average 23; Phan et al. 2023 average 27.
  """
  rates = {task: right / total for task, (right, total) in counts.items()}
  groups: dict[str, list[float]] = {}
  for task, rate in rates.items():
    groups.setdefault(_NUM_OBJECTS.sub("", task), []).append(rate)
  found = {f"{len(rates)} tasks": _mean(rates.values())}
  if len(groups) < len(rates):
    means = [_mean(group) for group in groups.values()]
    found[f"{len(groups)} tasks, {len(rates)} grouped"] = _mean(means)
  right, total = (sum(column) for column in zip(*counts.values(), strict=True))
  return found | {"examples": right / total}


def _mean(rates: Collection[float]) -> float:
  return math.fsum(rates) / len(rates)
