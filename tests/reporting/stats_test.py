"""The interval is where the score test just rejects."""

import math

import pytest

from cot_latent.reporting import stats

CASES = [
  (correct, total)
  for total in (1, 2, 7, 200, 1319, 10**6)
  for correct in sorted({0, 1, total // 3, total // 2, total - 1, total})
]
Z95 = 1.959963984540054


def score(rate, p, total):
  """How many standard errors the observed rate is from p, if p is true."""
  return (rate - p) / math.sqrt(p * (1 - p) / total)


def solve(rate, total, z):
  """Finds both ends by bisection of the score equation."""

  def bisect(is_outside, outside, inside):
    for _ in range(200):
      middle = (outside + inside) / 2
      if is_outside(middle):
        outside = middle
      else:
        inside = middle
    return inside

  low, high = 0.0, 1.0
  if rate > 0:
    low = bisect(lambda p: p <= 0 or score(rate, p, total) > z, 0.0, rate)
  if rate < 1:
    high = bisect(lambda p: p >= 1 or score(rate, p, total) < -z, 1.0, rate)
  return low, high


def check_interval(interval, correct, total, z):
  expected = solve(correct / total, total, z)
  assert interval(correct, total, z) == pytest.approx(expected, abs=1e-12)


def wald(correct, total, z):
  rate = correct / total
  spread = z * math.sqrt(rate * (1 - rate) / total)
  return max(0.0, rate - spread), min(1.0, rate + spread)


def uncentred(correct, total, z):
  """Wilson's width around the plain rate."""
  low, high = stats.wilson_interval(correct, total, z)
  rate, half = correct / total, (high - low) / 2
  return max(0.0, rate - half), min(1.0, rate + half)


@pytest.mark.parametrize(("correct", "total"), CASES)
@pytest.mark.parametrize("z", [1.0, Z95, 4.0])
def test_the_interval_solves_the_score_equation(correct, total, z):
  check_interval(stats.wilson_interval, correct, total, z)


@pytest.mark.parametrize("broken", [wald, uncentred])
def test_other_intervals_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_interval(broken, 66, 200, Z95)


@pytest.mark.parametrize(("correct", "total"), CASES)
def test_the_interval_is_one(correct, total):
  low, high = stats.wilson_interval(correct, total)
  assert 0 <= low <= correct / total <= high <= 1
  assert low < high
  # Right and wrong change places.
  mirrored = stats.wilson_interval(total - correct, total)
  assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_default_is_95_percent():
  assert math.erf(Z95 / math.sqrt(2)) == pytest.approx(0.95, abs=1e-12)
  assert stats.wilson_interval(3, 10) == stats.wilson_interval(3, 10, Z95)


def test_more_questions_narrow_the_interval():
  widths = []
  for total in (10, 100, 1000):
    low, high = stats.wilson_interval(total // 2, total)
    widths.append(high - low)
  assert widths == sorted(widths, reverse=True)
