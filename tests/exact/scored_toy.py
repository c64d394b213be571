"""A toy whose answers have probabilities, and all outcomes of a step on it.

S outcomes of a step on M questions, Z rationales, D parameters, which are in
p(z|x) and in p(y|x, z).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.inference.scored import Scored
from tests import toys
from tests.exact import enumeration
from tests.exact.enumeration import Outcomes

# Four rationales.
SMALL = toys.make_toy(vocabulary=2, length=2, num_questions=2)
QUESTIONS = np.arange(2)
_RNG = np.random.default_rng(1)
_FEATURES = _RNG.normal(size=(2, 4, 3, 4))  # of three answers
# The second question's last rationale reaches no answer.
NO_ANSWER = np.array([[0, 0, 0, 0], [0, 0, 0, 1]], bool)


def log_prior(theta) -> jax.Array:
  """[M, Z] log p(z|x)."""
  return toys.log_probs(SMALL, theta)


def log_likelihood(theta, no_answer=NO_ANSWER) -> jax.Array:
  """[M, Z] log p(y|x, z) of the known answer."""
  nats = jax.nn.log_softmax(3 * jnp.tanh(jnp.asarray(_FEATURES) @ theta))
  return jnp.where(no_answer, -jnp.inf, nats[:, :, 0])


def log_marginal(theta) -> jax.Array:
  """[M] log p(y|x)."""
  joint = log_prior(theta) + log_likelihood(theta)
  return jax.nn.logsumexp(joint, axis=1)


class Tables(NamedTuple):
  """Numbers of every question and rationale; gradients end with an axis D."""

  prior: np.ndarray
  log_l: np.ndarray
  posterior: np.ndarray
  score: np.ndarray
  answer_score: np.ndarray


def tables(no_answer=NO_ANSWER) -> Tables:
  theta = jnp.asarray(SMALL.theta)
  log_l = np.asarray(log_likelihood(theta, no_answer))
  prior = np.exp(log_prior(theta))
  joint = prior * np.exp(log_l)
  slopes = jax.jacobian(lambda t: log_likelihood(t, np.zeros_like(NO_ANSWER)))
  return Tables(
    prior,
    log_l,
    joint / joint.sum(axis=1, keepdims=True),
    np.asarray(jax.jacobian(log_prior)(theta)),
    np.asarray(slopes(theta)) * ~no_answer[..., None],
  )


def at_stationarity(num_draws, found: Tables) -> Outcomes:
  """All outcomes whose memories are drawn from their posteriors."""
  return enumeration.outcomes(found.posterior, found.prior, num_draws)


def candidates(cases: Outcomes) -> np.ndarray:
  """[S, M, 1 + K] indices of rationales, the old memory first."""
  return np.concatenate([cases.old[..., None], cases.draws], axis=-1)


def by_candidate(table, cases: Outcomes) -> np.ndarray:
  """[S, M, 1 + K, ...] a table's values of the candidates."""
  return np.asarray(table)[QUESTIONS[:, None], candidates(cases)]


def weights(estimator, log_l, log_ratio=None) -> np.ndarray:
  """[S, M, 1 + K, 2] of log-likelihoods [S, M, 1 + K]."""
  if log_ratio is None:
    weigh = jax.jit(jax.vmap(lambda nats: estimator(Scored(nats))))
    return np.asarray(weigh(log_l))
  weigh = jax.jit(jax.vmap(lambda *each: estimator(Scored(*each))))
  return np.asarray(weigh(log_l, log_ratio))


def estimates(by_outcome, cases: Outcomes, found: Tables) -> np.ndarray:
  """[S, D] the estimates that weights [S, M, 1 + K, 2] stand for."""
  return sum(
    np.einsum("smj,smjd->sd", by_outcome[..., part], by_candidate(table, cases))
    for part, table in enumerate((found.score, found.answer_score))
  )
