"""The transition equals a plain loop over its draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import transition
from tests.asserts import assert_trees_equal

LENGTH = 3


def every_pattern(size, num_draws):
  """All patterns of correctness: [S, M] old ones and [S, M, K] draws."""
  bits = itertools.product([False, True], repeat=size * (1 + num_draws))
  bits = np.array(list(bits)).reshape(-1, size, 1 + num_draws)
  return bits[..., 0], bits[..., 1:]


def tokens(size, num_draws):
  """Distinct tokens everywhere, so that no mix-up goes unseen."""
  every = np.arange(size * (1 + num_draws) * LENGTH, dtype=np.int32)
  every = every.reshape(size, 1 + num_draws, LENGTH)
  return every[:, 0], every[:, 1:]


def slow(old_tokens, old_is_correct, draw_tokens, draw_is_correct):
  """One step after another, as a Markov chain does."""
  state, is_correct = old_tokens.copy(), old_is_correct.copy()
  accepted = np.zeros_like(draw_is_correct)
  for m in range(len(state)):
    for k in range(draw_is_correct.shape[1]):
      if draw_is_correct[m, k]:
        state[m], is_correct[m] = draw_tokens[m, k], True
        accepted[m] = False
        accepted[m, k] = True
  return transition.Transition(
    old_tokens,
    old_is_correct,
    draw_tokens,
    draw_is_correct,
    accepted,
    state,
    is_correct,
  )


def check(step, size, num_draws):
  old_tokens, draw_tokens = tokens(size, num_draws)
  for old, draws in zip(*every_pattern(size, num_draws), strict=True):
    arrays = old_tokens, old, draw_tokens, draws
    assert_trees_equal(step(*arrays), slow(*arrays))


def first_correct(old_tokens, old_is_correct, draw_tokens, draw_is_correct):
  """Remembers the first correct draw instead of the last."""
  back = transition.independence(
    old_tokens, old_is_correct, draw_tokens[:, ::-1], draw_is_correct[:, ::-1]
  )
  return back._replace(
    draw_tokens=draw_tokens,
    draw_is_correct=draw_is_correct,
    accepted=back.accepted[:, ::-1],
  )


def last_draw(old_tokens, old_is_correct, draw_tokens, draw_is_correct):
  """Looks at the last draw only."""
  accepted = jnp.zeros_like(draw_is_correct)
  accepted = accepted.at[:, -1].set(draw_is_correct[:, -1])
  changed = accepted.any(axis=1)
  return transition.Transition(
    old_tokens,
    old_is_correct,
    draw_tokens,
    draw_is_correct,
    accepted,
    jnp.where(changed[:, None], draw_tokens[:, -1], old_tokens),
    old_is_correct | changed,
  )


@pytest.mark.parametrize(("size", "num_draws"), [(3, 1), (2, 2), (2, 3)])
def test_equals_a_plain_loop(size, num_draws):
  check(jax.jit(transition.independence), size, num_draws)


@pytest.mark.parametrize("broken", [first_correct, last_draw])
def test_loop_rejects_broken_steps(broken):
  with pytest.raises(AssertionError):
    check(jax.jit(broken), 2, 2)


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_needs_no_compilation(num_draws):
  old_tokens, draw_tokens = tokens(2, num_draws)
  old, draws = (bits[-2] for bits in every_pattern(2, num_draws))
  arrays = old_tokens, old, draw_tokens, draws
  assert_trees_equal(
    transition.independence(*arrays), jax.jit(transition.independence)(*arrays)
  )
