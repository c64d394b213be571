"""JEPO's, VeriFree's and LaTRO's estimates are the gradients of what they name.

By listing all draws: the mean of the estimate against the derivative of the
objective, which is computed from its definition.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import scored_estimators
from tests.asserts import assert_close, assert_mean
from tests.exact import enumeration, scored_toy
from tests.params import by_night

NO_ANSWER = -4.0
KL = 0.3
THETA = np.asarray(scored_toy.SMALL.theta)
BASE = THETA + 0.4
JEPO = scored_estimators.jepo(NO_ANSWER)
VERIFREE = scored_estimators.verifree()
LATRO = scored_estimators.latro(KL, NO_ANSWER)
PLAIN = scored_estimators.latro(no_answer=NO_ANSWER)


def log_l(theta):
  found = scored_toy.log_likelihood(theta)
  return jnp.where(found > -jnp.inf, found, NO_ANSWER)


def of_jepo(theta, num_draws):
  """E log (1/K) sum l, over all sequences of K draws."""
  log_p, nats, total = scored_toy.log_prior(theta), log_l(theta), 0.0
  for draws in itertools.product(range(4), repeat=num_draws):
    chosen = list(draws)
    bound = jax.nn.logsumexp(nats[:, chosen], axis=1) - jnp.log(num_draws)
    total += (jnp.exp(log_p[:, chosen].sum(axis=1)) * bound).mean()
  return total


def of_verifree(theta, num_draws):
  del num_draws
  return jnp.exp(scored_toy.log_marginal(theta)).mean()


def of_latro(theta, num_draws, kl=KL):
  del num_draws
  log_p = scored_toy.log_prior(theta)
  distance = log_p - scored_toy.log_prior(BASE)
  return (jnp.exp(log_p) * (log_l(theta) - kl * distance)).sum(axis=1).mean()


def of_plain_latro(theta, num_draws):
  return of_latro(theta, num_draws, 0.0)


def of_log_marginal(theta, num_draws):
  del num_draws
  return scored_toy.log_marginal(theta).mean()


def check_mean(estimator, objective, num_draws):
  found = scored_toy.tables()
  old = np.eye(4)[[0, 2]]
  cases = enumeration.outcomes(old, found.prior, num_draws)
  ratio = scored_toy.log_prior(THETA) - scored_toy.log_prior(BASE)
  by_outcome = scored_toy.weights(
    estimator,
    scored_toy.by_candidate(found.log_l, cases),
    scored_toy.by_candidate(ratio, cases)[..., 1:],
  )
  values = scored_toy.estimates(by_outcome, cases, found)
  expected = jax.grad(objective)(THETA, num_draws)
  assert_mean(cases.probability, values, np.asarray(expected))


OBJECTIVES = {
  "jepo": (JEPO, of_jepo),
  "verifree": (VERIFREE, of_verifree),
  "latro": (LATRO, of_latro),
  "latro without kl": (PLAIN, of_plain_latro),
}


@pytest.mark.parametrize("num_draws", [*by_night(2), 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_mean_is_the_objective_s_gradient(name, num_draws):
  estimator, objective = OBJECTIVES[name]
  check_mean(estimator, objective, num_draws)
  for other in [of_log_marginal, *(o for _, o in OBJECTIVES.values())]:
    if other is not objective:
      with pytest.raises(AssertionError):
        check_mean(estimator, other, num_draws)


def own_baseline(estimator):
  """Takes the mean of all draws, and not of the others, for a baseline."""

  def weigh(candidates):
    weights = estimator(candidates)
    num_draws = weights.shape[1] - 1
    return weights.at[..., 0].multiply((num_draws - 1) / num_draws)

  return weigh


def without_answers(estimator):
  def weigh(candidates):
    return estimator(candidates).at[..., 1].set(0)

  return weigh


@pytest.mark.parametrize("name", OBJECTIVES)
def test_broken_twins_are_rejected(name):
  estimator, objective = OBJECTIVES[name]
  for twin in [own_baseline(estimator), without_answers(estimator)]:
    with pytest.raises(AssertionError):
      check_mean(twin, objective, 2)


def test_the_bounds_are_in_order():
  """E log l <= JEPO's at K = 2 <= at K = 3 <= log p(y|x)."""
  values = [
    of_plain_latro(THETA, 1),
    of_jepo(THETA, 2),
    of_jepo(THETA, 3),
    of_log_marginal(THETA, 1),
  ]
  assert np.all(np.diff(np.array(values)) > 1e-3)
  assert_close(of_jepo(THETA, 1), of_plain_latro(THETA, 1))


@pytest.mark.parametrize("num_draws", [2, 3, 5, 8])
def test_draws_without_an_answer_have_no_weight_at_all(num_draws):
  """The memory's answer changes nothing, and rounding leaves nothing."""
  nothing = jnp.full((1, 1 + num_draws), -jnp.inf)
  rows = jnp.concatenate([nothing, nothing.at[:, 0].set(-1.0)])
  for estimator in [scored_estimators.jepo(), VERIFREE]:
    assert not np.any(estimator(scored_estimators.Scored(rows)))


def test_they_need_several_draws():
  one = scored_estimators.Scored(jnp.zeros((2, 2)))
  for estimator in [JEPO, VERIFREE, LATRO]:
    with pytest.raises(ValueError, match="several draws"):
      estimator(one)


def test_a_distance_that_does_not_exist():
  with pytest.raises(ValueError, match="0 or more, not -1"):
    scored_estimators.latro(-1)
