"""The rationale memory: the state of one Markov chain per training question."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class MemoryState(NamedTuple):
  """One remembered rationale for each of N training questions.

  Token ids are stored, not text, because a decode/encode round trip can change
  them. Their log-probability would then no longer be that of the draw.

  Attributes:
    tokens: [N, T] int32; 0 after the end of the sequence.
    is_correct: [N] bool, whether the rationale reaches the known answer. An
      incorrect rationale is kept, but has no gradient: its chain has not
      started.
    accepted_at: [N] int32, the step that wrote the row; 0 is the memory's
      start, -1 an empty row.
    num_proposed: [N] int32, draws made for the question since the start.
    num_accepted: [N] int32, steps that changed the row since the start.
  """

  tokens: jax.Array
  is_correct: jax.Array
  accepted_at: jax.Array
  num_proposed: jax.Array
  num_accepted: jax.Array


def init(num_examples: int, length: int) -> MemoryState:
  """Makes an empty memory for N questions and rationales of up to T tokens.

  Example:

    >>> init(num_examples=2, length=3).tokens.tolist()
    [[0, 0, 0], [0, 0, 0]]
  """
  zeros = jnp.zeros(num_examples, jnp.int32)
  return MemoryState(
    tokens=jnp.zeros((num_examples, length), jnp.int32),
    is_correct=jnp.zeros(num_examples, bool),
    accepted_at=zeros - 1,
    num_proposed=zeros,
    num_accepted=zeros.copy(),  # so that both buffers can be donated
  )


def start(
  memory: MemoryState,
  index: jax.Array,
  tokens: jax.Array,
  is_correct: jax.Array,
) -> MemoryState:
  """Writes the first rationales, correct or not (Algorithm 1, line 3).

  Args:
    memory: The memory so far.
    index: [B] int32, rows to write.
    tokens: [B, T] int32, the rationales.
    is_correct: [B] bool, their correctness.

  Returns:
    The memory with these rows set.
  """
  return memory._replace(
    tokens=memory.tokens.at[index].set(tokens),
    is_correct=memory.is_correct.at[index].set(is_correct),
    accepted_at=memory.accepted_at.at[index].set(0),
  )


def mean_age(memory: MemoryState, step: int) -> jax.Array:
  """Averages the steps since each correct rationale was accepted.

  Stale chains cause the remaining bias of the estimators: their rationales were
  drawn from parameters that are many steps old.

  Args:
    memory: The memory after the step.
    step: The training step, from 1.

  Returns:
    Scalar, in steps; 0 where no rationale is correct.
  """
  age = jnp.where(memory.is_correct, step - memory.accepted_at, 0)
  # In float32: ten million ages do not fit an int32.
  return age.sum(dtype=jnp.float32) / jnp.maximum(memory.is_correct.sum(), 1)


def write(
  memory: MemoryState,
  index: jax.Array,
  tokens: jax.Array,
  is_correct: jax.Array,
  accepted: jax.Array,
  step: int,
) -> MemoryState:
  """Writes a minibatch's rows back after their transition.

  Args:
    memory: The memory before the step.
    index: [M] int32, distinct rows.
    tokens: [M, T] int32, the rows after the transition.
    is_correct: [M] bool, their correctness.
    accepted: [M, K] bool, the draw that became the memory, if any.
    step: The training step, from 1.

  Returns:
    The memory after the step.
  """
  changed = accepted.any(axis=1)
  written_at = jnp.where(changed, step, memory.accepted_at[index])
  return MemoryState(
    tokens=memory.tokens.at[index].set(tokens),
    is_correct=memory.is_correct.at[index].set(is_correct),
    accepted_at=memory.accepted_at.at[index].set(written_at),
    num_proposed=memory.num_proposed.at[index].add(accepted.shape[1]),
    num_accepted=memory.num_accepted.at[index].add(changed),
  )
