"""Scores equal plain numpy, are causal, and stop at the end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.models import token_rows
from cot_latent.models.api import PAD_ID
from cot_latent.models.stops import Ending
from tests.asserts import assert_trees_equal
from tests.models import oracles, twins
from tests.models.common import (
  CONFIG,
  EOS_ID,
  LENGTH,
  PROMPT_LENGTH,
  ROWS,
  VOCABULARY,
  build_model,
  check_close,
  compiled,
  params,
  prompts,
  random_targets,
  shifted_inputs,
  slow_target_mask,
)
from tests.params import by_night

# Scores.


def check_against_numpy(targets, **changes):
  actual = compiled().log_prob(params(), prompts(), targets)
  expected = np.zeros_like(actual)
  for row, (prompt, target) in enumerate(zip(prompts(), targets, strict=True)):
    whole = [*oracles.unpadded(prompt), *target]
    log_probs = oracles.next_log_probs(params(), CONFIG, whole, **changes)
    for t, token in enumerate(target):
      expected[row, t] = log_probs[t - LENGTH - 1, token]
      if token == EOS_ID:
        break
  check_close(actual, expected)


@pytest.mark.parametrize("ends", [False, True])
def test_log_prob_equals_plain_numpy(ends):
  targets = random_targets()
  if ends:
    targets[np.arange(ROWS), np.arange(ROWS) % LENGTH] = EOS_ID
  check_against_numpy(targets)
  with pytest.raises(AssertionError):
    check_against_numpy(targets, turn=oracles.turn_neighbours)
  with pytest.raises(AssertionError):
    check_against_numpy(targets, sees=lambda place, other: other <= place + 1)


def test_target_mask_equals_plain_loops():
  rows = np.array(list(itertools.product([PAD_ID, EOS_ID, 2], repeat=4)))
  mask = Ending((EOS_ID,)).mask(rows)
  np.testing.assert_array_equal(mask, [slow_target_mask(row) for row in rows])
  one = Ending((EOS_ID,)).mask(rows[5])
  np.testing.assert_array_equal(one, mask[5])


def check_nothing_after_the_end(model):
  """Checks that tokens after EOS have neither score nor gradient."""

  def score(params, targets):
    log_prob = model.log_prob(params, prompts(), targets)
    return log_prob.sum(), log_prob

  score_and_gradient = jax.jit(jax.value_and_grad(score, has_aux=True))
  tokens = random_targets()
  tokens[::2, 3] = EOS_ID
  is_over = ~np.array([slow_target_mask(row) for row in tokens])
  assert is_over.any()
  expected = score_and_gradient(params(), tokens)
  assert not np.asarray(expected[0][1])[is_over].any()
  for junk in [EOS_ID, PAD_ID, random_targets()[::-1]]:
    other = np.where(is_over, junk, tokens)
    assert_trees_equal(score_and_gradient(params(), other), expected)


def test_nothing_after_the_end_counts():
  check_nothing_after_the_end(compiled())


@pytest.mark.parametrize("twin", [twins.never_ends, twins.ends_before_padding])
def test_twins_that_continue_are_rejected(twin):
  with twins.replaced(*twins.TARGET_MASK, twin), pytest.raises(AssertionError):
    check_nothing_after_the_end(build_model())


# Causality.


def check_later_tokens(model):
  """Checks that no bit of a score depends on the tokens after it."""
  targets = random_targets()
  expected = model.log_prob(params(), prompts(), targets)
  for t in range(1, LENGTH):
    other = targets.copy()
    other[:, t:] = (targets[:, t:] + 1) % VOCABULARY
    other[::2, t] = EOS_ID
    scores = model.log_prob(params(), prompts(), other)
    np.testing.assert_array_equal(scores[:, :t], expected[:, :t])
    assert (scores[:, t] != expected[:, t]).all()


def check_gradients(model):
  """Checks that a score's gradient is not 0 for just the inputs before it."""
  rows = 2 * PROMPT_LENGTH + 2
  questions, targets = prompts()[:rows], random_targets(rows)
  targets[:, 4] = EOS_ID

  def score(offset):
    with shifted_inputs(offset):
      # Traced here, not taken from what was compiled before.
      shared = model.network.encode_prefix(params(), token_rows.NO_PREFIX)
      return model.network.log_prob(params(), shared, questions, targets)

  num_inputs = PROMPT_LENGTH + LENGTH - 1
  offset = jnp.zeros((rows, num_inputs, CONFIG.embed_dim))
  jacobian = jax.jit(jax.jacrev(score))(offset)  # [B, T, B, S, E]
  assert np.isfinite(jacobian).all()
  expected = np.zeros((rows, LENGTH, rows, num_inputs), bool)
  for row, question in enumerate(questions):
    first = PROMPT_LENGTH - len(oracles.unpadded(question))
    for t in range(5):
      expected[row, t, row, first : PROMPT_LENGTH + t] = True
  np.testing.assert_array_equal((jacobian != 0).any(axis=-1), expected)


CAUSALITY = [check_later_tokens, check_gradients]


@pytest.mark.parametrize("check", CAUSALITY)
def test_scores_are_causal(check):
  check(compiled())


@pytest.mark.parametrize("check", CAUSALITY)
@pytest.mark.parametrize(
  ("part", "twin"),
  [
    (twins.ATTEND, twins.sees_later_tokens),
    *by_night((twins.PROMPT_MASK, twins.nothing_to_start_from)),
  ],
)
def test_twins_that_look_ahead_are_rejected(check, part, twin):
  with twins.replaced(*part, twin), pytest.raises(AssertionError):
    check(build_model())
