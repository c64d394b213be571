"""The autocorrelation time is that of the chain's own transition matrix."""

import numpy as np
import pytest

from cot_latent.reporting import chains
from tests import toys

TOY = toys.make_toy()


def transition_matrix(question, num_draws):
  """[Z, Z] of a step with K draws, the last correct of which is remembered."""
  draw, is_correct = toys.prior(TOY)[question], TOY.is_correct[question]
  accepted = draw * is_correct
  moves = 1 - (1 - accepted.sum()) ** num_draws
  stays = np.eye(len(draw)) * (1 - moves)
  return stays + moves * accepted / accepted.sum(), moves


def summed_correlations(matrix, posterior, values):
  """1 + 2 sum_t of the correlations at lag t, by the geometric series."""
  centred = values - posterior @ values
  later = np.linalg.solve(
    np.eye(len(matrix)) - matrix + np.outer(np.ones(len(matrix)), posterior),
    centred,
  )
  variance = posterior @ centred**2
  return 2 * (posterior @ (centred * later)) / variance - 1


def check(time, num_draws=1):
  rng = np.random.default_rng(0)
  for question in range(len(TOY.is_correct)):
    matrix, moves = transition_matrix(question, num_draws)
    posterior = toys.posterior(TOY)[question]
    # It leaves the posterior as it is, and forgets every function alike.
    np.testing.assert_allclose(posterior @ matrix, posterior, atol=1e-14)
    if np.count_nonzero(posterior) < 2:
      continue  # a function of one state does not vary
    for values in rng.normal(size=(3, len(posterior))):
      found = summed_correlations(matrix, posterior, values)
      assert time(moves) == pytest.approx(found, rel=1e-10)


@pytest.mark.parametrize("num_draws", [1, 3])
def test_autocorrelation_time(num_draws):
  check(chains.autocorrelation_time, num_draws)


@pytest.mark.parametrize("broken", [lambda a: 1 / a, lambda a: 2 / a])
def test_other_times_are_rejected(broken):
  with pytest.raises(AssertionError):
    check(broken)
