"""A toy language model of which every sequence can be listed.

Shapes: X questions, Z sequences of T tokens from a vocabulary of V, P prefixes,
D parameters. All questions share the parameters, as in a real model.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Toy(NamedTuple):
  """A toy model and its questions.

  Attributes:
    features: [X, P, V, D] float64, what a logit depends on.
    theta: [D] float64.
    sequences: [Z, T] int32, all of them.
    prefixes: [Z, T] int32, the node of the prefix tree before each token.
    is_correct: [X, Z] bool, the table c(z, y).
    lean: Added to the logit of each last token that makes the answer correct;
      the accuracy goes to 1 with it. Not a parameter, so that the scores of
      incorrect sequences do not vanish on the way.
  """

  features: np.ndarray
  theta: np.ndarray
  sequences: np.ndarray
  prefixes: np.ndarray
  is_correct: np.ndarray
  lean: float


def make_toy(vocabulary=3, length=2, num_questions=4, lean=0.0) -> Toy:
  """Makes a toy whose answer is the sum of the tokens modulo V."""
  grid = np.indices((vocabulary,) * length)
  sequences = grid.reshape(length, -1).T.astype(np.int32)
  # Node of a prefix: nodes of all shorter prefixes, plus its own base-V number.
  prefixes = np.zeros_like(sequences)
  for t in range(1, length):
    shorter = sum(vocabulary**s for s in range(t))
    prefixes[:, t] = shorter + _number(sequences[:, :t], vocabulary)
  answers = np.arange(num_questions) % vocabulary
  rng = np.random.default_rng(0)
  num_prefixes, num_params = prefixes.max() + 1, 4
  shape = num_questions, num_prefixes, vocabulary, num_params
  return Toy(
    features=rng.normal(size=shape),
    theta=rng.normal(size=num_params),
    sequences=sequences,
    prefixes=prefixes,
    is_correct=sequences.sum(axis=1) % vocabulary == answers[:, None],
    lean=lean,
  )


def log_probs(toy: Toy, theta) -> jax.Array:
  """[X, Z] log p(z|x)."""
  last = jnp.asarray(toy.prefixes)[:, -1], jnp.asarray(toy.sequences)[:, -1]
  logits = jnp.tanh(jnp.asarray(toy.features) @ theta)
  logits = logits.at[:, *last].add(toy.lean * toy.is_correct)
  by_token = jax.nn.log_softmax(logits)[:, toy.prefixes, toy.sequences]
  return by_token.sum(axis=-1)


def log_marginals(toy: Toy, theta) -> jax.Array:
  """[X] log p(y|x), by summing over every sequence."""
  log_p = log_probs(toy, theta)
  return jax.nn.logsumexp(jnp.where(toy.is_correct, log_p, -jnp.inf), axis=1)


def prior(toy: Toy) -> np.ndarray:
  """[X, Z] p(z|x)."""
  return np.exp(_log_probs(toy, toy.theta))


def accuracy(toy: Toy) -> np.ndarray:
  """[X] pi(x) = p(y|x), also the acceptance probability."""
  return (prior(toy) * toy.is_correct).sum(axis=1)


def posterior(toy: Toy) -> np.ndarray:
  """[X, Z] p(z|x, y)."""
  return prior(toy) * toy.is_correct / accuracy(toy)[:, None]


def scores(toy: Toy) -> np.ndarray:
  """[X, Z, D] grad log p(z|x), by automatic differentiation."""
  return np.asarray(_scores(toy, toy.theta))


def gradient(toy: Toy, questions) -> np.ndarray:
  """[D] the gradient of the mean log marginal of some questions."""
  return np.asarray(_gradient(toy, toy.theta, np.asarray(questions)))


def index_of(toy: Toy, tokens) -> np.ndarray:
  """Finds sequences: [..., T] tokens to [...] indices into Z."""
  return _number(np.asarray(tokens), toy.features.shape[2])


def _mean_log_marginal(toy, theta, questions):
  return log_marginals(toy, theta)[questions].mean()


# Compiled once for each shape, whatever the numbers.
_log_probs = jax.jit(log_probs)
_scores = jax.jit(jax.jacobian(log_probs, argnums=1))
_gradient = jax.jit(jax.grad(_mean_log_marginal, argnums=1))


def _number(tokens, vocabulary):
  """Reads the last axis as digits, the first one the most significant."""
  powers = vocabulary ** np.arange(tokens.shape[-1])[::-1]
  return tokens @ powers
