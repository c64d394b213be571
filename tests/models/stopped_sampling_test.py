"""Draws end where plain string search says, and are scored up to there."""

import functools

import numpy as np
import pytest

from cot_latent.models import language_model, stops
from cot_latent.models.api import PAD_ID
from cot_latent.models.token_bytes import TokenBytes
from tests.models.common import (
  CONFIG,
  EOS_ID,
  LENGTH,
  ROWS,
  VOCABULARY,
  check_close,
  compiled,
  keys,
  params,
  prompts,
)

# Padding and EOS stand for no text; a stop is within tokens and across them.
TEXTS = ["", "", "a", "b", "ab", "ba", "c", "\n", "cb", "", "ca", "x", "\nx"]
STOP = ("ba", "\n\n")


def build(stop=STOP):
  tokens = TokenBytes([text.encode() for text in TEXTS])
  found = stops.over_tokens(tokens, [EOS_ID], stop)
  ending = stops.Ending((EOS_ID,), stop, found)
  return language_model.from_config(CONFIG, VOCABULARY, ending, LENGTH)


@functools.cache
def stopped():
  return build()


def slow_length(row):
  for place, token in enumerate(row):
    text = "".join(TEXTS[t] for t in row[: place + 1])
    if token == EOS_ID or any(one in text for one in STOP):
      return place + 1, True
  return LENGTH, False


def check_cut(draws, whole):
  """Checks draws against those of the same keys that only EOS ends."""
  reasons = set()
  for row, tokens in enumerate(np.asarray(whole.tokens)):
    length, ended = slow_length(tokens.tolist())
    reasons.add((ended, tokens[length - 1] == EOS_ID))
    wanted = np.where(np.arange(LENGTH) < length, tokens, PAD_ID)
    np.testing.assert_array_equal(draws.tokens[row], wanted)
    assert draws.ended[row] == ended
    assert not draws.log_prob[row, length:].any()
    check_close(draws.log_prob[row, :length], whole.log_prob[row, :length])
  assert len(reasons) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_only_cuts(temperature):
  arguments = params(), prompts(), keys(), temperature
  whole = compiled().sample(*arguments)
  check_cut(stopped().sample(*arguments), whole)
  with pytest.raises(AssertionError):
    check_cut(build(("ab",)).sample(*arguments), whole)


def test_stopped_draws_are_scored_as_drawn():
  draws = stopped().sample(params(), prompts(), keys())
  scores = stopped().log_prob(params(), prompts(), draws.tokens)
  check_close(draws.log_prob, scores)
  # Whatever stands after the end.
  after = np.arange(LENGTH) >= stopped().network.ending.lengths(draws.tokens)[
    0
  ].reshape(-1, 1)
  assert after.any()
  other = np.where(after, 6, draws.tokens)
  check_close(stopped().log_prob(params(), prompts(), other), scores)
  # A scorer that continues to EOS differs.
  with pytest.raises(AssertionError):
    check_close(compiled().log_prob(params(), prompts(), draws.tokens), scores)


@pytest.mark.parametrize("num_slots", [1, 5])
def test_rows_that_take_turns_stop_as_if_at_once(num_slots):
  questions = np.tile(prompts(), (3, 1))
  draw = functools.partial(
    stopped().sample, params(), questions, keys(3, 3 * ROWS)
  )
  whole, turns = draw(), draw(num_slots=num_slots)
  np.testing.assert_array_equal(turns.tokens, whole.tokens)
  np.testing.assert_array_equal(turns.ended, whole.ended)
