"""pass@k and the log-likelihood have their means, summed over all outcomes."""

import math

import numpy as np
import pytest

from cot_latent.reporting import objective

NUM_DRAWS = [1, 2, 7, 40]
PI = [0.0, 1e-3, 0.2, 0.5, 0.97, 1.0]


def mean_over_outcomes(values, num_draws, pi):
  """Sums over s with the binomial's probabilities."""
  probability = [
    math.comb(num_draws, s) * pi**s * (1 - pi) ** (num_draws - s)
    for s in range(num_draws + 1)
  ]
  return math.fsum(p * v for p, v in zip(probability, values, strict=True))


def cut_log(pi, order):
  return -math.fsum((1 - pi) ** k / k for k in range(1, order + 1))


def check_log_likelihood(estimate, num_draws, pi):
  found = mean_over_outcomes(estimate(num_draws), num_draws, pi)
  assert found == pytest.approx(cut_log(pi, num_draws), abs=1e-12)


def check_pass_at(estimate, num_draws, k, pi):
  found = mean_over_outcomes(estimate(num_draws, k), num_draws, pi)
  assert found == pytest.approx(1 - (1 - pi) ** k, abs=1e-12)


def incorrect_share(num_draws):
  return 1 - np.arange(num_draws + 1) / num_draws


def plugged_in_log(num_draws):
  """Takes the share of correct draws for pi."""
  orders = np.arange(1, num_draws + 1)
  return -(incorrect_share(num_draws)[:, None] ** orders / orders).sum(axis=1)


def without_orders(num_draws):
  """Leaves out the 1 / k of the series."""
  return -objective.all_incorrect(num_draws).sum(axis=1)


def plugged_in_pass(num_draws, k):
  return 1 - incorrect_share(num_draws) ** k


def any_correct(num_draws, k):
  """Pass@n, whatever k is."""
  return objective.pass_at(num_draws, num_draws)


@pytest.mark.parametrize("num_draws", NUM_DRAWS)
@pytest.mark.parametrize("pi", PI)
def test_the_log_likelihood_is_unbiased_for_the_cut_series(num_draws, pi):
  check_log_likelihood(objective.log_likelihood, num_draws, pi)


@pytest.mark.parametrize("num_draws", NUM_DRAWS)
@pytest.mark.parametrize("pi", PI)
def test_pass_at_k_is_unbiased(num_draws, pi):
  for k in range(1, num_draws + 1):
    check_pass_at(objective.pass_at, num_draws, k, pi)


@pytest.mark.parametrize("broken", [plugged_in_log, without_orders])
def test_biased_log_likelihoods_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_log_likelihood(broken, 7, 0.5)


@pytest.mark.parametrize("broken", [plugged_in_pass, any_correct])
def test_biased_pass_rates_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_pass_at(broken, 7, 3, 0.5)


def test_the_cut_series_comes_near_the_logarithm():
  assert cut_log(0.2, 40) == pytest.approx(math.log(0.2), abs=1e-4)
  assert cut_log(0.2, 4) > math.log(0.2) + 0.1


def test_a_summary_is_the_mean_over_questions():
  found = objective.summarise([0, 3, 6, 6], 6)
  assert list(found["pass_at"]) == ["1", "2", "4", "6"]
  assert found["pass_at"]["1"]["value"] == pytest.approx(15 / 24)
  assert found["pass_at"]["6"]["value"] == 0.75
  harmonic = sum(1 / k for k in range(1, 7))
  three = sum(math.comb(3, k) / math.comb(6, k) / k for k in range(1, 4))
  assert found["log_likelihood"]["value"] == pytest.approx(
    -(harmonic + three) / 4, abs=1e-11
  )
