"""The chain's step where a likelihood is any number from 0 to 1.

A rationale z has the likelihood l(z) = p(y|x, z). A question's candidates are
its memory, in column 0, and K draws from p(z|x). The next memory is one of
them, taken with the probabilities of a kernel here. Each kernel leaves the
weights l_j / sum l invariant, and so leaves p(z|x, y) invariant for every K.

The parameters move, and l with them, so the memory's l has to be computed again
in every step.

Reference: Andrieu, Lee and Vihola 2018 (i-SIR); Liu 1996, "Peskun's theorem
and a modified discrete-state Gibbs sampler"; Phan et al. 2023, appendix A.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Scored(NamedTuple):
  """The likelihoods of a minibatch's candidates.

  Attributes:
    log_likelihood: [M, 1 + K] nats, log p(y|x, z) of the memory before the step
      and of K fresh draws, all by the step's parameters; -inf for a rationale
      that reaches no answer, and where there is no memory.
    log_ratio: [M, K] nats, log p(z|x) of the draws minus the base model's; None
      if the estimator does not need it.
  """

  log_likelihood: jax.Array
  log_ratio: jax.Array | None = None


def shapes(num_rows: int, num_draws: int) -> Scored:
  """Describes M rows with K draws each, without arrays."""

  def nats(number: int) -> Any:
    return jax.ShapeDtypeStruct((num_rows, number), jnp.float32)

  return Scored(nats(1 + num_draws), nats(num_draws))


def importance(log_likelihood: jax.Array) -> jax.Array:
  """The kernel of iterated sampling importance resampling (i-SIR).

  Args:
    log_likelihood: [..., J] nats of the candidates.

  Returns:
    [..., J] l_j / sum l; zeros where every l is 0.

  Example:

    >>> importance(jnp.log(jnp.array([1.0, 2.0, 1.0]))).tolist()
    [0.25, 0.5, 0.25]
  """
  sizes = _relative(log_likelihood)
  return sizes / _or_1(sizes.sum(axis=-1, keepdims=True))


def metropolis_hastings(log_likelihood: jax.Array) -> jax.Array:
  """The kernel of Metropolis and Hastings, for any number of draws.

  A draw j is taken with probability

    l_j / max(sum_{i != 0} l_i, sum_{i != j} l_i),

  and otherwise the memory stays. With one draw that is min(1, l_1 / l_0). With
  likelihoods of 0 and 1 each correct draw has the same probability, and the
  memory stays only if none is correct. It stays less often than with
  `importance`.

  Args:
    log_likelihood: [..., J] nats of the candidates, the memory first.

  Returns:
    [..., J] probabilities; zeros where every l is 0.

  Example:

    >>> metropolis_hastings(jnp.log(jnp.array([4.0, 1.0]))).tolist()
    [0.75, 0.25]
  """
  sizes = _relative(log_likelihood)
  memory, draws = sizes[..., :1], sizes[..., 1:]
  # Sums of the others, not differences: what is 0 is so to the last bit.
  others = 1 - jnp.eye(sizes.shape[-1], dtype=sizes.dtype)
  rest = (sizes[..., None, :] * others).sum(axis=-1)
  of_draws = rest[..., :1]
  taken = draws / _or_1(jnp.maximum(of_draws, rest[..., 1:]))
  stays = taken * jnp.maximum(memory - draws, 0) / _or_1(of_draws)
  stays = jnp.where(of_draws > 0, stays.sum(axis=-1, keepdims=True), memory)
  return jnp.concatenate([stays, taken], axis=-1)


def _or_1(sizes: jax.Array) -> jax.Array:
  """Divisors, with 1 for 0."""
  return jnp.where(sizes > 0, sizes, 1)


def acceptance(log_likelihood: jax.Array) -> jax.Array:
  """The probability that each draw would be taken if it were the only one.

  Args:
    log_likelihood: [..., 1 + K] nats, the memory first.

  Returns:
    [..., K] min(1, l_k / l_0); 0 where l_k is 0.

  Example:

    >>> acceptance(jnp.log(jnp.array([4.0, 1.0, 8.0]))).tolist()
    [0.25, 1.0]
  """
  memory, draws = log_likelihood[..., :1], log_likelihood[..., 1:]
  is_possible = draws > -jnp.inf
  ratio = jnp.where(is_possible & (memory > -jnp.inf), draws - memory, 0)
  return jnp.where(is_possible, jnp.exp(jnp.minimum(ratio, 0)), 0)


def pick(probabilities: jax.Array, uniform: jax.Array) -> jax.Array:
  """Takes one candidate of each question.

  Args:
    probabilities: [M, J], of a kernel; zeros for a question take column 0.
    uniform: [M] random numbers in [0, 1).

  Returns:
    [M] int32 columns, never one of probability 0 where another is positive.

  Example:

    >>> pick(jnp.array([[0.75, 0.25], [0.0, 0.0]]), jnp.array([0.8, 0.8])
    ...   ).tolist()
    [1, 0]
  """
  upper = jnp.cumsum(probabilities, axis=1)
  upper = jax.lax.cummax(jnp.where(probabilities > 0, upper, 0), axis=1)
  total = upper[:, -1:]
  # Rounding may take the product to the last end itself.
  is_past = (upper <= uniform[:, None] * total) & (upper < total)
  return jnp.where(total[:, 0] > 0, is_past.sum(axis=1), 0).astype(jnp.int32)


def _relative(log_likelihood: jax.Array) -> jax.Array:
  """[..., J] l_j over the largest; zeros where every l is 0."""
  largest = log_likelihood.max(axis=-1, keepdims=True)
  largest = jnp.where(largest > -jnp.inf, largest, 0)
  return jnp.exp(log_likelihood - largest)
