"""The decoder equals plain numpy, in one piece or many, under any mask."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.models import decoder
from tests.models import oracles
from tests.models.common import (
  CONFIG,
  check_close,
  random_params,
  shifted_inputs,
)

VOCABULARY, ROWS, LENGTH = 11, 3, 7

NETWORK = decoder.Decoder(CONFIG, VOCABULARY)


def causal(length=LENGTH):
  mask = np.tril(np.ones((length, length), bool))
  return np.broadcast_to(mask, (ROWS, length, length))


def places():
  return np.broadcast_to(np.arange(LENGTH), (ROWS, LENGTH))


def tokens():
  rng = np.random.default_rng(0)
  return rng.integers(VOCABULARY, size=(ROWS, LENGTH))


@functools.cache
def params():
  def init(rng_key):
    cache = decoder.empty_cache(CONFIG, ROWS, LENGTH)
    arguments = tokens(), places(), causal(), cache, 0
    return nn.unbox(NETWORK.init(rng_key, *arguments)["params"])

  return random_params(init)


@functools.partial(jax.jit, static_argnames="logits_from")
def feed(params, tokens, positions, mask, cache, index, logits_from=0):
  arguments = tokens, positions, mask, cache, index, logits_from
  return NETWORK.apply({"params": params}, *arguments)


def at_once(logits_from=0):
  """[B, S - logits_from, V] logits of all the rows."""
  cache = decoder.empty_cache(CONFIG, ROWS, LENGTH)
  fed = tokens(), places(), causal()
  return feed(params(), *fed, cache, 0, logits_from)[0]


def check_against_numpy(config=CONFIG, **changes):
  actual = jax.nn.log_softmax(at_once())
  expected = [
    oracles.next_log_probs(params(), config, row, **changes) for row in tokens()
  ]
  check_close(actual, np.array(expected))


def sees_the_next(place, other):
  return other <= place + 1


def misses_itself(place, other):
  return other < max(place, 1)


def test_equals_plain_numpy():
  check_against_numpy()


@pytest.mark.parametrize(
  "changes",
  [
    {"turn": oracles.turn_neighbours},
    {"sees": sees_the_next},
    {"sees": misses_itself},
    {"config": dataclasses.replace(CONFIG, rope_base=10_000.0)},
    {"config": dataclasses.replace(CONFIG, num_layers=1)},
  ],
)
def test_another_decoder_is_rejected(changes):
  with pytest.raises(AssertionError):
    check_against_numpy(**changes)


def in_pieces(sizes, *, first_position=lambda start: start, extra=4):
  """Feeds the rows in piece by piece, with room to spare in the cache."""
  cache = decoder.empty_cache(CONFIG, ROWS, LENGTH + extra)
  mask = np.pad(causal(), ((0, 0), (0, 0), (0, extra)))
  logits, start = [], 0
  for size in sizes:
    piece = slice(start, start + size)
    positions = places()[:, :size] + first_position(start)
    fed = tokens()[:, piece], positions, mask[:, piece]
    out, cache = feed(params(), *fed, cache, start)
    logits.append(out)
    start += size
  return np.concatenate(logits, axis=1)


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [4, 1, 1, 1], [2, 5]])
def test_in_pieces_equals_at_once(sizes):
  check_close(in_pieces(sizes), at_once())
  # Positions that start afresh with every piece.
  with pytest.raises(AssertionError):
    check_close(in_pieces(sizes, first_position=lambda start: 0), at_once())


def test_logits_can_be_left_out():
  check_close(at_once(logits_from=3), at_once()[:, 3:])


@functools.cache
def input_gradients(layers):
  """Compiles mask [S, S] -> [S, S] largest |d logit at s / d input at u|."""
  network = decoder.Decoder(
    dataclasses.replace(CONFIG, num_layers=layers), VOCABULARY
  )
  variables = {"params": params()}
  cache = decoder.empty_cache(network.config, 1, LENGTH)

  def logits(offset, mask):
    with shifted_inputs(offset):
      fed = tokens()[:1], places()[:1], mask[None], cache, 0
      return network.apply(variables, *fed)[0][0]

  offset = jnp.zeros((LENGTH, CONFIG.embed_dim))
  jacobian = jax.jit(jax.jacrev(logits))  # [S, V, S, E]
  return lambda mask: np.abs(jacobian(offset, mask)).max(axis=(1, 3))


def check_reach(mask, layers, given=None):
  """Checks that inputs reach just the outputs that the mask lets them reach.

  A layer passes a position's input on to itself, and to what attends to it.
  """
  sizes = input_gradients(layers)(mask if given is None else given)
  reach = np.linalg.matrix_power(mask | np.eye(LENGTH, dtype=bool), layers)
  assert not reach.all()
  np.testing.assert_array_equal(sizes > 0, reach)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_mask_is_what_is_attended_to(layers):
  rng = np.random.default_rng(1)
  thin = rng.uniform(size=(LENGTH, LENGTH)) < 0.2
  np.fill_diagonal(thin, True)  # what sees nothing attends to everything
  for mask in [thin, causal()[0]]:
    check_reach(mask, layers)
    broken = [mask.T, np.ones_like(mask), np.roll(mask, 1, axis=1)]
    for given in broken:
      with pytest.raises(AssertionError):
        check_reach(mask, layers, given)


GOOD = dataclasses.asdict(CONFIG)


@pytest.mark.parametrize(
  ("field", "value", "expected"),
  [
    ("head_dim", 7, "head_dim = 7 must be even"),
    *((name, 0, f"{name} = 0 must be above 0") for name in GOOD),
    *((name, -2, f"{name} = -2 must be above 0") for name in GOOD),
    *((name, True, f"{name}: expected .*, got True .bool.") for name in GOOD),
    *((name, None, f"{name}: expected .*, got None") for name in GOOD),
    ("embed_dim", 32.0, "embed_dim: expected int, got 32.0 .float."),
    ("mlp_dim", "48", "mlp_dim: expected int, got '48' .str."),
    ("rope_base", "1e4", "rope_base: expected float, got '1e4' .str."),
    ("rope_base", float("nan"), "rope_base.* nan"),
  ],
)
def test_bad_sizes_are_refused(field, value, expected):
  decoder.DecoderConfig(**GOOD)
  with pytest.raises(UserError, match=rf"^DecoderConfig\.{expected}") as caught:
    decoder.DecoderConfig(**GOOD | {field: value})
  assert "\n" not in str(caught.value)
