"""The Markov chain's step: an independence sampler with the model as proposal.

With a 0/1 likelihood the Metropolis-Hastings ratio is 1 if the proposal is
correct and 0 if it is incorrect (0/0, both incorrect, counts as a rejection).
So the step accepts exactly the correct proposals and needs no random number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Transition(NamedTuple):
  """A minibatch's chains before and after K fresh draws each.

  Attributes:
    old_tokens: [M, T] int32, the memory before the step.
    old_is_correct: [M] bool, its correctness.
    draw_tokens: [M, K, T] int32, fresh draws from p(z|x).
    draw_is_correct: [M, K] bool, their correctness.
    accepted: [M, K] bool, the draw that became the memory; at most one per row.
    tokens: [M, T] int32, the memory after the step.
    is_correct: [M] bool, its correctness.
  """

  old_tokens: jax.Array
  old_is_correct: jax.Array
  draw_tokens: jax.Array
  draw_is_correct: jax.Array
  accepted: jax.Array
  tokens: jax.Array
  is_correct: jax.Array


def shapes(num_rows: int, num_draws: int, length: int) -> Transition:
  """Describes a transition of M rows, K draws and T tokens, without arrays."""

  def tokens(*shape):
    return jax.ShapeDtypeStruct((*shape, length), jnp.int32)

  def flags(*shape):
    return jax.ShapeDtypeStruct(shape, bool)

  return Transition(
    old_tokens=tokens(num_rows),
    old_is_correct=flags(num_rows),
    draw_tokens=tokens(num_rows, num_draws),
    draw_is_correct=flags(num_rows, num_draws),
    accepted=flags(num_rows, num_draws),
    tokens=tokens(num_rows),
    is_correct=flags(num_rows),
  )


def independence(
  old_tokens: jax.Array,
  old_is_correct: jax.Array,
  draw_tokens: jax.Array,
  draw_is_correct: jax.Array,
) -> Transition:
  """Takes K independence-sampler steps: the last correct draw is remembered.

  Leaves p(z|x,y) invariant for every K.

  Args:
    old_tokens: [M, T] int32, the memory before the step.
    old_is_correct: [M] bool, its correctness.
    draw_tokens: [M, K, T] int32, K >= 1, in the order of drawing.
    draw_is_correct: [M, K] bool, their correctness.

  Returns:
    The transition.

  Reference: Phan et al. 2023, Algorithm 1, lines 5-9 (there K = 1).

  Example of a question whose second draw is the last correct draw:

    >>> old, draws = jnp.array([[7]]), jnp.array([[[1], [2], [3]]])
    >>> is_correct = jnp.array([[True, True, False]])
    >>> moved = independence(old, jnp.array([True]), draws, is_correct)
    >>> moved.tokens.tolist(), moved.accepted.tolist()
    ([[2]], [[False, True, False]])
  """
  correct_from_here = jnp.cumsum(draw_is_correct[:, ::-1], axis=1)[:, ::-1]
  accepted = draw_is_correct & (correct_from_here == 1)
  picked = jnp.take_along_axis(
    draw_tokens, jnp.argmax(accepted, axis=1)[:, None, None], axis=1
  )[:, 0]
  changed = accepted.any(axis=1)
  return Transition(
    old_tokens=old_tokens,
    old_is_correct=old_is_correct,
    draw_tokens=draw_tokens,
    draw_is_correct=draw_is_correct,
    accepted=accepted,
    tokens=jnp.where(changed[:, None], picked, old_tokens),
    is_correct=old_is_correct | changed,
  )
