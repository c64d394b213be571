"""The interval is where the score test just rejects; averages are by hand."""

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


def solve(rate, total):
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
    low = bisect(lambda p: p <= 0 or score(rate, p, total) > Z95, 0.0, rate)
  if rate < 1:
    high = bisect(lambda p: p >= 1 or score(rate, p, total) < -Z95, 1.0, rate)
  return low, high


def check_interval(interval, correct, total):
  expected = solve(correct / total, total)
  assert interval(correct, total) == pytest.approx(expected, abs=1e-12)


def wald(correct, total):
  rate = correct / total
  spread = Z95 * math.sqrt(rate * (1 - rate) / total)
  return max(0.0, rate - spread), min(1.0, rate + spread)


def uncentred(correct, total):
  """Wilson's width around the plain rate."""
  low, high = stats.wilson_interval(correct, total)
  rate, half = correct / total, (high - low) / 2
  return max(0.0, rate - half), min(1.0, rate + half)


@pytest.mark.parametrize(("correct", "total"), CASES)
def test_the_interval_solves_the_score_equation(correct, total):
  check_interval(stats.wilson_interval, correct, total)


@pytest.mark.parametrize("broken", [wald, uncentred])
def test_other_intervals_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_interval(broken, 66, 200)


@pytest.mark.parametrize(("correct", "total"), CASES)
def test_the_interval_is_one(correct, total):
  low, high = stats.wilson_interval(correct, total)
  assert 0 <= low <= correct / total <= high <= 1
  assert low < high
  # Right and wrong change places.
  mirrored = stats.wilson_interval(total - correct, total)
  assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_interval_is_95_percent_and_has_12_digits():
  assert math.erf(Z95 / math.sqrt(2)) == pytest.approx(0.95, abs=1e-12)
  for end in stats.wilson_interval(3, 10):
    assert float(f"{end:.12g}") == end


def test_more_questions_narrow_the_interval():
  widths = []
  for total in (10, 100, 1000):
    low, high = stats.wilson_interval(total // 2, total)
    widths.append(high - low)
  assert widths == sorted(widths, reverse=True)


# The 27 tasks of BIG-Bench Hard, of which two families have three sizes each.
FAMILIES = ("logical_deduction", "tracking_shuffled_objects")
SIZES = ("three", "five", "seven")
OTHERS = 27 - len(FAMILIES) * len(SIZES)


def bbh_counts(version=""):
  """(correct, total) by task: 0.5 where there is no family, sizes differ."""
  counts = {
    f"bbh_other_{n}{version}": (n + 1, 2 * n + 2) for n in range(OTHERS)
  }
  for family, correct in zip(FAMILIES, (3, 9), strict=True):
    for number, size in enumerate(SIZES):
      # 0.3, 0.4, 0.5 and 0.9, 1.0, 1.0 of 10, 100 and 1000 questions.
      rate = min(correct + number, 10)
      total = 10 ** (number + 1)
      name = f"bbh_{family}_{size}_objects{version}"
      counts[name] = (rate * total // 10, total)
  return counts


def check_averages(averages):
  for version in ("", "_v1", "_v12"):
    found = averages(bbh_counts(version))
    # 21 tasks of 0.5 each.
    by_task = (21 * 0.5 + 0.3 + 0.4 + 0.5 + 0.9 + 1.0 + 1.0) / 27
    by_group = (21 * 0.5 + 0.4 + 2.9 / 3) / 23
    # 21 * 22 / 2 right of 21 * 22; of the families 3 + 40 + 500 and
    # 9 + 100 + 1000 of 1110 each.
    by_example = (231 + 543 + 1109) / (462 + 2220)
    assert found == {
      "27 tasks": pytest.approx(by_task, abs=1e-15),
      "23 tasks, 27 grouped": pytest.approx(by_group, abs=1e-15),
      "examples": pytest.approx(by_example, abs=1e-15),
    }


def test_the_averages_of_bbh():
  check_averages(stats.averages)


def flat_families(counts):
  """Takes the questions of a family together."""
  found = stats.averages(counts)
  groups: dict = {}
  for task, (right, total) in counts.items():
    name = stats._NUM_OBJECTS.sub("", task)
    had = groups.get(name, (0, 0))
    groups[name] = (had[0] + right, had[1] + total)
  mean = sum(right / total for right, total in groups.values()) / len(groups)
  return found | {"23 tasks, 27 grouped": mean}


def ungrouped(counts):
  found = stats.averages(counts)
  return found | {"23 tasks, 27 grouped": found["27 tasks"]}


def mean_of_rates(counts):
  found = stats.averages(counts)
  return found | {"examples": found["27 tasks"]}


@pytest.mark.parametrize("broken", [flat_families, ungrouped, mean_of_rates])
def test_other_averages_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_averages(broken)


def test_averages_without_families():
  found = stats.averages({"one": (1, 4), "two_five_objects_more": (3, 4)})
  assert found == {"2 tasks": 0.5, "examples": 0.5}
  # A family of one is no group.
  assert list(stats.averages({"a_five_objects": (0, 1), "b": (1, 1)})) == [
    "2 tasks",
    "examples",
  ]
