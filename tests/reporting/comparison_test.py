"""Means, deviations and intervals are those of a table of Student's t."""

import math
import statistics

import hypothesis
import pytest
import scipy.stats
from hypothesis import strategies as st

from cot_latent.reporting import comparison, stats
from cot_latent.reporting.comparison import Estimate

# From printed tables, to nine decimals.
QUANTILES = {
  1: 12.706204736,
  2: 4.302652730,
  4: 2.776445105,
  10: 2.228138852,
  30: 2.042272456,
}


@pytest.mark.parametrize(("degrees", "quantile"), QUANTILES.items())
def test_quantiles(degrees, quantile):
  found = stats.t_quantile(degrees)
  assert found == pytest.approx(quantile, abs=5e-10)
  assert found == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-11)
  # No digit is left in which versions of scipy might differ.
  assert float(f"{found:.12g}") == found


def check_estimate(estimate):
  # Mean 3, sum of squares 10, so s.d. sqrt(10 / 4) and 4 degrees of freedom.
  found = estimate([1, 2, 3, 4, 5])
  half = 2.776445105 * math.sqrt(2.5) / math.sqrt(5)
  assert found == (
    5,
    3,
    pytest.approx(1.5811388300841898, abs=1e-15),
    pytest.approx(3 - half, abs=1e-9),
    pytest.approx(3 + half, abs=1e-9),
    "t",
    None,
  )


def test_an_estimate_by_hand():
  check_estimate(comparison.estimate)


def population(values):
  """Divides by n."""
  found = comparison.estimate(values)
  half = QUANTILES[4] * statistics.pstdev(values) / math.sqrt(len(values))
  return found._replace(
    sd=statistics.pstdev(values), low=found.mean - half, high=found.mean + half
  )


def normal(values):
  """Takes the sample's deviation for the truth."""
  found = comparison.estimate(values)
  half = 1.959963985 * found.sd / math.sqrt(len(values))
  return found._replace(low=found.mean - half, high=found.mean + half)


def of_one_value(values):
  """The interval of the next value rather than of the mean."""
  found = comparison.estimate(values)
  half = QUANTILES[4] * found.sd
  return found._replace(low=found.mean - half, high=found.mean + half)


def n_degrees(values):
  found = comparison.estimate(values)
  half = stats.t_quantile(5) * found.sd / math.sqrt(len(values))
  return found._replace(low=found.mean - half, high=found.mean + half)


@pytest.mark.parametrize(
  "broken", [population, normal, of_one_value, n_degrees]
)
def test_other_estimates_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_estimate(broken)


def test_one_value_has_no_deviation():
  assert comparison.estimate([0.5]) == Estimate(1, 0.5)
  assert comparison.estimate([0.5]).kind == ""


def test_equal_values_have_an_interval_of_zero_width():
  assert comparison.estimate([0.1] * 3) == Estimate(3, 0.1, 0, 0.1, 0.1, "t")


OWN = {0: 90.0, 1: 92.0, 2: 94.0}
BASELINE = {2: 90.0, 0: 88.0, 1: 89.0}  # in another order


def check_difference(difference):
  # By seed 2, 3 and 4: mean 3, s.d. 1, two degrees of freedom.
  found = difference(OWN, BASELINE)
  half = 4.302652730 / math.sqrt(3)
  assert found[:3] == (3, 3, pytest.approx(1))
  assert found.low == pytest.approx(3 - half, abs=1e-9)
  assert found.high == pytest.approx(3 + half, abs=1e-9)
  assert found.low > 0


def test_a_difference_by_hand():
  check_difference(comparison.difference)


@hypothesis.given(
  st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.01, 1)
)
def test_differences_are_those_of_the_paired_test(values, change):
  own = {seed: round(value, 6) for seed, value in enumerate(values)}
  baseline = {seed: round(change * seed**2, 6) for seed in own}
  found = comparison.difference(own, baseline)
  test = scipy.stats.ttest_rel([*own.values()], [*baseline.values()])
  low, high = test.confidence_interval()
  assert found[3:5] == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def unpaired(values, baseline):
  """Student's interval of two independent samples."""
  one, other = ([*v.values()] for v in (values, baseline))
  mean = statistics.mean(one) - statistics.mean(other)
  sd = math.sqrt(statistics.variance(one) + statistics.variance(other))
  half = stats.t_quantile(2 * len(one) - 2) * sd / math.sqrt(len(one))
  return Estimate(len(one), mean, sd, mean - half, mean + half, "t")


def paired_by_order(values, baseline):
  pairs = zip(values.values(), baseline.values(), strict=True)
  return comparison.estimate([one - other for one, other in pairs])


def reversed_sign(values, baseline):
  return comparison.difference(baseline, values)


@pytest.mark.parametrize("broken", [unpaired, paired_by_order, reversed_sign])
def test_other_differences_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_difference(broken)


def check_no_common_part(difference, changes, common):
  """Checks that what a seed does to both methods makes no difference."""
  changes = dict(enumerate(changes))
  both = [
    {s: common[s] + c for s, c in changes.items()},
    dict(enumerate(common)),
  ]
  zero = dict.fromkeys(changes, 0.0)
  found, wanted = difference(*both), difference(changes, zero)
  assert found[1:5] == pytest.approx(wanted[1:5], abs=1e-6)


numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
three = st.lists(numbers, min_size=3, max_size=3)


@hypothesis.given(three, three)
def test_what_a_seed_does_to_all_cancels(changes, common):
  check_no_common_part(comparison.difference, changes, common)


def test_what_a_seed_does_to_all_does_not_cancel_unpaired():
  with pytest.raises(AssertionError):
    check_no_common_part(unpaired, [1, 2, 3], [10, 50, 90])


def test_other_seeds_are_refused():
  with pytest.raises(ValueError, match="seeds differ"):
    comparison.difference({0: 1.0, 1: 2.0}, {0: 1.0, 2: 2.0})


CASES = {
  # What is best; seeds 0, 1, 2 of methods a, b, c.
  "better than both": (
    "a",
    {"a": (90, 92, 94), "b": (80, 82, 84.5), "c": (70, 71, 74)},
  ),
  "better by the mean alone": (
    None,
    {"a": (90, 70, 95), "b": (80, 82, 84), "c": (60, 61, 62)},
  ),
  "better than one": (
    None,
    {"a": (90, 92, 94), "b": (89, 93, 92), "c": (70, 71, 74)},
  ),
  "better in pairs only": (
    "b",
    {"a": (50, 70, 90), "b": (51, 71.5, 91.2), "c": (49, 69, 89)},
  ),
  "equal": (None, {"a": (90, 92, 94), "b": (90, 92, 94)}),
  "alone": (None, {"a": (90, 92, 94)}),
  "one seed": (None, {"a": (90,), "b": (10,)}),
}


def by_seed(values):
  return {name: dict(enumerate(own)) for name, own in values.items()}


def check_best(best):
  for wanted, values in CASES.values():
    assert best(by_seed(values)) == wanted


def best(values):
  return comparison.best(
    [*values],
    lambda name, other: comparison.difference(values[name], values[other]),
  )


def test_best():
  check_best(best)


def test_the_best_is_so_with_other_questions_too():
  found = Estimate(5, 3.0, 1.0, 2.0, 4.0, "t")
  assert comparison.is_above(found)
  assert comparison.is_above(found._replace(with_questions=(0.5, 5.0)))
  assert not comparison.is_above(found._replace(with_questions=(-0.5, 6.0)))


def by_mean(values):
  return max(values, key=lambda name: statistics.mean(values[name].values()))


def than_the_last(values):
  """Compares with one of the others only."""
  *_, last = values
  for name, own in values.items():
    if name != last and (comparison.difference(own, values[last]).low or 0) > 0:
      return name
  return None


def without_pairs(values):
  for name, own in values.items():
    others = [value for other, value in values.items() if other != name]
    if (
      len(own) > 1 and others and all(unpaired(own, o).low > 0 for o in others)
    ):
      return name
  return None


@pytest.mark.parametrize("broken", [by_mean, than_the_last, without_pairs])
def test_other_choices_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_best(broken)
