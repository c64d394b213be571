"""General likelihoods: exact means, invariance, and the 0/1 case."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators, scored, scored_estimators
from cot_latent.inference.scored import Scored
from tests.asserts import (
  assert_close,
  assert_invariant,
  assert_mean,
  assert_reversible,
  assert_stochastic,
)
from tests.exact import enumeration, scored_toy
from tests.inference import catalog
from tests.params import by_night

MH = scored_estimators.metropolis_hastings()
ISIR = scored_estimators.isir()
CHAINS = [MH, ISIR]
THETA = np.asarray(scored_toy.SMALL.theta)


def gradient():
  """[D] of the mean of log p(y|x)."""
  return np.asarray(
    jax.grad(lambda t: scored_toy.log_marginal(t).mean())(jnp.asarray(THETA))
  )


def check_unbiased(estimator, num_draws, *, stale=None, has_answer_term=True):
  """Checks the mean at stationarity.

  Args:
    estimator: Of a chain.
    num_draws: K.
    stale: Parameters by which the memory's likelihood is computed, where they
      are not the step's.
    has_answer_term: Whether grad log l is in the estimate.
  """
  found = scored_toy.tables()
  cases = scored_toy.at_stationarity(num_draws, found)
  log_l = scored_toy.by_candidate(found.log_l, cases)
  if stale is not None:
    old = scored_toy.by_candidate(scored_toy.log_likelihood(stale), cases)
    log_l = np.concatenate([old[..., :1], log_l[..., 1:]], axis=-1)
  by_outcome = scored_toy.weights(estimator, log_l)
  if not has_answer_term:
    by_outcome = by_outcome * np.array([1.0, 0.0])
  values = scored_toy.estimates(by_outcome, cases, found)
  assert_mean(cases.probability, values, gradient())


def own_in_scale(chain):
  """Counts the question's own draws in its scale."""

  def weigh(candidates):
    log_l = candidates.log_likelihood
    right = chain(candidates)
    on_answers = right[..., 1]
    scale = chain.shares(log_l).mean() / chain.size(log_l.shape[1] - 1)
    count = log_l.shape[0]
    on_rationales = on_answers.at[:, 1:].add(-scale / count)
    return jnp.stack([on_rationales, on_answers], axis=-1)

  return weigh


def without_memory(candidates):
  """Self-normalised importance weights over the draws alone."""
  log_l = candidates.log_likelihood
  share = scored.importance(log_l[:, 1:]) / len(log_l)
  share = jnp.pad(share, ((0, 0), (1, 0)))
  return jnp.stack([share, share], axis=-1)


@pytest.mark.parametrize("num_draws", [1, *by_night(2, 3)])
@pytest.mark.parametrize("chain", CHAINS)
def test_unbiased_at_stationarity(chain, num_draws):
  check_unbiased(chain, num_draws)


@pytest.mark.parametrize("num_draws", [*by_night(1), 2])
@pytest.mark.parametrize("chain", CHAINS)
def test_broken_twins_are_rejected(chain, num_draws):
  for twin in [own_in_scale(chain), without_memory]:
    with pytest.raises(AssertionError):
      check_unbiased(twin, num_draws)
  with pytest.raises(AssertionError):
    check_unbiased(chain, num_draws, stale=THETA + 0.1)
  with pytest.raises(AssertionError):
    check_unbiased(chain, num_draws, has_answer_term=False)


# The control variate and the coin.


def without_control(chain):
  def weigh(candidates):
    weights = chain(candidates)
    return jnp.stack([weights[..., 1], weights[..., 1]], axis=-1)

  return weigh


def variance(estimator, num_draws):
  """Trace of the estimate's variance at stationarity."""
  found = scored_toy.tables()
  cases = scored_toy.at_stationarity(num_draws, found)
  log_l = scored_toy.by_candidate(found.log_l, cases)
  by_outcome = scored_toy.weights(estimator, log_l)
  values = scored_toy.estimates(by_outcome, cases, found)
  mean = cases.probability @ values
  return (cases.probability @ (values - mean) ** 2).sum()


def test_averaging_over_the_coin_keeps_the_mean_and_lowers_the_variance():
  found = scored_toy.tables()
  cases = scored_toy.at_stationarity(1, found)
  log_l = scored_toy.by_candidate(found.log_l, cases)
  averaged = scored_toy.weights(MH, log_l)
  moves = np.asarray(scored.metropolis_hastings(jnp.asarray(log_l)))
  mean, square = 0.0, 0.0
  for coins in itertools.product([0, 1], repeat=2):
    chance = np.prod([moves[:, m, coin] for m, coin in enumerate(coins)], 0)
    held = np.eye(2)[list(coins)]
    change = (held - moves)[..., None] / 2
    values = scored_toy.estimates(averaged + change, cases, found)
    mean += chance[:, None] * values
    square += chance @ (cases.probability[:, None] * values**2)
  by_average = scored_toy.estimates(averaged, cases, found)
  assert_close(mean, by_average)
  of_average = cases.probability @ by_average**2
  assert (square.sum() - of_average.sum()) > 1e-3


@pytest.mark.parametrize("num_draws", [1, 2])
def test_more_draws_lower_the_variance(num_draws):
  for chain in CHAINS:
    assert variance(chain, num_draws + 1) < variance(chain, num_draws)


# The chains.


def kernel_matrix(kernel, question, num_draws, found):
  """[Z, Z] of the chain, over all draws and all candidates that are taken."""
  states = len(found.prior[question])
  alike = np.full((1, states), 1 / states)
  cases = enumeration.outcomes(alike, found.prior[[question]], num_draws)
  places = scored_toy.candidates(cases)[:, 0]
  moves = np.asarray(kernel(jnp.asarray(found.log_l[question][places])))
  result = np.zeros((states, states))
  flow = cases.probability[:, None] * states * moves
  np.add.at(result, (places[:, :1], places), flow)
  return result


def take_the_best(log_likelihood):
  return jax.nn.one_hot(
    jnp.argmax(log_likelihood, axis=-1),
    log_likelihood.shape[-1],
    dtype=log_likelihood.dtype,
  )


def take_a_draw(log_likelihood):
  moves = scored.importance(log_likelihood[..., 1:])
  return jnp.pad(moves, ((0, 0), (1, 0)))


@pytest.mark.parametrize("num_draws", [1, 2, 3])
@pytest.mark.parametrize("question", [0, 1])
def test_posterior_is_invariant(question, num_draws):
  # A rationale without an answer is never left to by a chain that has one.
  found = scored_toy.tables()
  posterior = found.posterior[question]
  is_state = posterior > 0
  for chain in CHAINS:
    matrix = kernel_matrix(chain.kernel, question, num_draws, found)
    inner = matrix[is_state][:, is_state]
    assert_stochastic(inner)
    assert_invariant(inner, posterior[is_state])
    assert_reversible(inner, posterior[is_state])
  for broken in [take_the_best, take_a_draw]:
    matrix = kernel_matrix(broken, question, num_draws, found)
    with pytest.raises(AssertionError):
      assert_invariant(matrix[is_state][:, is_state], posterior[is_state])


def test_one_draw_is_accepted_as_metropolis_and_hastings_do():
  log_l = jnp.log(jnp.array([[0.5, 0.2], [0.2, 0.5], [0.3, 0.3]]))
  moves = scored.metropolis_hastings(log_l)
  assert_close(moves[:, 1], np.array([0.4, 1, 1]))


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_metropolis_hastings_stays_least(num_draws):
  rng = np.random.default_rng(num_draws)
  log_l = jnp.asarray(rng.normal(size=(50, 1 + num_draws)) * 3)
  stays = scored.metropolis_hastings(log_l)[:, 0]
  assert (stays <= scored.importance(log_l)[:, 0]).all()


def test_a_candidate_is_taken_by_its_probability():
  rng = np.random.default_rng(0)
  for kernel in [scored.metropolis_hastings, scored.importance]:
    log_l = rng.normal(size=(20, 4))
    log_l[rng.uniform(size=log_l.shape) < 0.4] = -np.inf
    moves = np.asarray(kernel(jnp.asarray(log_l)))
    ends = np.cumsum(moves, axis=1)
    for row, upper in zip(moves, ends, strict=True):
      if not row.any():
        continue
      for column, chance in enumerate(row):
        if chance:
          inside = np.array([upper[column] - chance / 2, upper[column] - 1e-9])
          found = scored.pick(np.stack([row, row]), inside)
          assert found.tolist() == [column] * 2
  last = scored.pick(np.array([[0.3, 0.7, 0.0]]), np.array([1 - 1e-17]))
  assert last.tolist() == [1]
  assert scored.pick(np.zeros((1, 3)), np.array([0.5])).tolist() == [0]


# Likelihoods of 0 and 1.


@pytest.mark.parametrize(
  ("size", "num_draws"),
  [(1, 1), (2, 2), *by_night((2, 1), (3, 1), (2, 3), (3, 2))],
)
@pytest.mark.parametrize("corrected", [False, True])
def test_verdicts_give_the_weights_of_trice(size, num_draws, corrected):
  bits = itertools.product([False, True], repeat=size * (1 + num_draws))
  verdicts = np.array(list(bits)).reshape(-1, size, 1 + num_draws)
  log_l = np.where(verdicts, 0, -np.inf)
  old, draws = verdicts[..., 0], verdicts[..., 1:]
  today = catalog.weights(estimators.control_variate(corrected), old, draws)
  expected = catalog.on_sequences(today, draws)
  found = scored_toy.weights(
    scored_estimators.metropolis_hastings(corrected), log_l
  )
  assert_close(found[..., 0], expected)
  np.testing.assert_array_equal(found[..., 0] != 0, expected != 0)
  basic = catalog.weights(estimators.basic(), old, draws)
  if num_draws == 1:  # with more, the correct draws are averaged
    assert_close(found[..., 1], catalog.on_sequences(basic, draws))
  other = scored_toy.weights(scored_estimators.isir(corrected), log_l)
  with pytest.raises(AssertionError):
    assert_close(other[..., 0], expected)


def test_no_candidate_with_an_answer_gives_zeros():
  nothing = np.full((1, 2, 3), -np.inf)
  for chain in CHAINS:
    assert not scored_toy.weights(chain, nothing).any()


@pytest.mark.parametrize("chain", ["metropolis_hastings", "isir"])
def test_first_acceptances_can_be_corrected(chain):
  """From a memory without an answer, with and without the correction."""
  build = getattr(scored_estimators, chain)
  found = scored_toy.tables()
  old = np.stack([np.eye(4)[0], np.eye(4)[3]])  # the second has none
  cases = enumeration.outcomes(old, found.prior, 2)
  log_l = scored_toy.by_candidate(found.log_l, cases)

  def mean(estimator):
    by_outcome = scored_toy.weights(estimator, log_l)
    values = scored_toy.estimates(by_outcome, cases, found)
    return cases.probability @ values

  expected = mean(without_control(build()))
  assert_close(mean(build(True)), expected)
  with pytest.raises(AssertionError):
    assert_close(mean(build(False)), expected)


def test_likelihoods_of_any_size_are_finite():
  """A sentence's log-likelihood may be far below what float32 holds."""
  log_l = jnp.array([[-900.0, -1000.0, -950.0]], jnp.float32)
  for chain in CHAINS:
    weights = chain(Scored(log_l))
    assert jnp.isfinite(weights).all()
    assert float(weights[..., 1].sum()) == pytest.approx(1)
