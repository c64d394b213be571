"""The memory equals a list of rows that is written one at a time."""

import dataclasses

import jax
import numpy as np
import pytest

from cot_latent.inference import memory
from tests.asserts import assert_trees_equal

EXAMPLES, LENGTH, BATCH, STEPS = 7, 3, 3, 25


@dataclasses.dataclass
class Row:
  """One question's memory, as the attributes of MemoryState describe it."""

  tokens: tuple = (0,) * LENGTH
  is_correct: bool = False
  accepted_at: int = -1
  num_proposed: int = 0
  num_accepted: int = 0


def stacked(rows):
  def column(name, dtype):
    return np.array([getattr(row, name) for row in rows], dtype)

  return memory.MemoryState(
    tokens=column("tokens", np.int32),
    is_correct=column("is_correct", bool),
    accepted_at=column("accepted_at", np.int32),
    num_proposed=column("num_proposed", np.int32),
    num_accepted=column("num_accepted", np.int32),
  )


def random_tokens(rng):
  return rng.integers(9, size=(BATCH, LENGTH), dtype=np.int32)


def started():
  """A memory of which every row but the last is started, and its rows."""
  rng = np.random.default_rng(0)
  state = memory.init(EXAMPLES, LENGTH)
  rows = [Row() for _ in range(EXAMPLES)]
  for index in [[4, 0, 2], [1, 5, 3]]:
    tokens, is_correct = random_tokens(rng), np.array([True, False, True])
    state = memory.start(state, np.array(index), tokens, is_correct)
    for place, n in enumerate(index):
      rows[n] = Row(tuple(tokens[place]), is_correct[place], accepted_at=0)
  return state, rows


def check_writes(write, num_draws):
  """Compares many steps of `write` with rows written one at a time."""
  rng = np.random.default_rng(1)
  state, rows = started()
  for step in range(1, STEPS):
    index = rng.permutation(EXAMPLES)[:BATCH].astype(np.int32)
    # At most one draw per row becomes the memory, or none.
    pick = rng.integers(num_draws + 1, size=BATCH)
    accepted = pick[:, None] == np.arange(num_draws)
    drawn = random_tokens(rng)
    tokens, is_correct = np.zeros_like(drawn), np.zeros(BATCH, bool)
    for place, n in enumerate(index):
      row = rows[n]
      row.num_proposed += num_draws
      if accepted[place].any():
        row.tokens, row.is_correct = tuple(drawn[place]), True
        row.accepted_at = step
        row.num_accepted += 1
      tokens[place], is_correct[place] = row.tokens, row.is_correct
    state = write(state, index, tokens, is_correct, accepted, step)
    assert_trees_equal(state, stacked(rows))


def counts_draws_accepted(state, index, tokens, is_correct, accepted, step):
  """Takes every visit for an acceptance."""
  after = memory.write(state, index, tokens, is_correct, accepted, step)
  visited = state.num_accepted.at[index].add(1)
  return after._replace(num_accepted=visited)


def stamps_always(state, index, tokens, is_correct, accepted, step):
  """Stamps rows that did not change."""
  after = memory.write(state, index, tokens, is_correct, accepted, step)
  return after._replace(accepted_at=after.accepted_at.at[index].set(step))


def test_starts_empty():
  rows = [Row() for _ in range(EXAMPLES)]
  assert_trees_equal(memory.init(EXAMPLES, LENGTH), stacked(rows))


def test_start_keeps_incorrect_rationales_too():
  state, rows = started()
  assert_trees_equal(state, stacked(rows))
  assert not state.is_correct[0]
  assert state.tokens[0].any()
  assert state.accepted_at[EXAMPLES - 1] == -1  # the row left out


@pytest.mark.parametrize("num_draws", [1, 3])
def test_writes_equal_plain_rows(num_draws):
  check_writes(jax.jit(memory.write), num_draws)


@pytest.mark.parametrize("broken", [counts_draws_accepted, stamps_always])
def test_rows_reject_broken_writes(broken):
  with pytest.raises(AssertionError):
    check_writes(jax.jit(broken), 1)


def test_needs_no_compilation():
  state, _ = started()
  rng = np.random.default_rng(2)
  arrays = (
    np.array([6, 2, 0], np.int32),
    random_tokens(rng),
    np.array([True, True, False]),
    np.array([[True], [False], [False]]),
    9,
  )
  assert_trees_equal(
    memory.write(state, *arrays), jax.jit(memory.write)(state, *arrays)
  )


def test_the_old_memory_is_left_alone():
  state, rows = started()
  memory.write(
    state,
    np.array([0, 1, 2]),
    random_tokens(np.random.default_rng(3)),
    np.ones(BATCH, bool),
    np.ones((BATCH, 1), bool),
    1,
  )
  assert_trees_equal(state, stacked(rows))
