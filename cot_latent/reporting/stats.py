"""Intervals for reported numbers."""

import math


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
