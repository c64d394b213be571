"""The decoder equals plain numpy, in one piece or many, under any mask."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.models import attention, decoder, layers
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
    masks = decoder.LayerMasks(causal(), None)
    variables = NETWORK.init(rng_key, tokens(), places(), masks)
    return nn.unbox(variables["params"])

  return random_params(init)


def empty_cache(length):
  shape = (ROWS, CONFIG.kv_heads, length, CONFIG.head_dim)
  layer = attention.LayerCache(jnp.zeros(shape), jnp.zeros(shape))
  return (layer,) * CONFIG.num_layers


@jax.jit
def feed(params, tokens, positions, mask, cache=None, column=0):
  """Logits [B, S, V], and the cache with the S positions written."""
  masks = decoder.LayerMasks(mask, None)
  x, cache = NETWORK.apply(
    {"params": params}, tokens, positions, masks, (), cache, column
  )
  return layers.unembed(params, x), cache


def at_once():
  """[B, S, V] logits of all the rows."""
  return feed(params(), tokens(), places(), causal())[0]


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
  cache = empty_cache(LENGTH + extra)
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
  # Positions that start again with every piece.
  with pytest.raises(AssertionError):
    check_close(in_pieces(sizes, first_position=lambda start: 0), at_once())


@functools.cache
def input_gradients(depth):
  """Compiles mask [S, S] -> [S, S] largest |d logit at s / d input at u|."""
  network = decoder.Decoder(
    dataclasses.replace(CONFIG, num_layers=depth), VOCABULARY
  )
  variables = {"params": params()}

  def logits(offset, mask):
    with shifted_inputs(offset):
      masks = decoder.LayerMasks(mask[None], None)
      fed = tokens()[:1], places()[:1], masks
      x = network.apply(variables, *fed)[0][0]
      return layers.unembed(params(), x)

  offset = jnp.zeros((LENGTH, CONFIG.embed_dim))
  jacobian = jax.jit(jax.jacrev(logits))  # [S, V, S, E]
  return lambda mask: np.abs(jacobian(offset, mask)).max(axis=(1, 3))


def check_reach(mask, depth, given=None):
  """Checks that inputs reach just the outputs that the mask lets them reach.

  A layer passes a position's input on to itself, and to what attends to it.
  """
  sizes = input_gradients(depth)(mask if given is None else given)
  reach = np.linalg.matrix_power(mask | np.eye(LENGTH, dtype=bool), depth)
  assert not reach.all()
  np.testing.assert_array_equal(sizes > 0, reach)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_mask_is_what_is_attended_to(depth):
  rng = np.random.default_rng(1)
  thin = rng.uniform(size=(LENGTH, LENGTH)) < 0.2
  np.fill_diagonal(thin, True)  # what sees nothing attends to everything
  for mask in [thin, causal()[0]]:
    check_reach(mask, depth)
    broken = [mask.T, np.ones_like(mask), np.roll(mask, 1, axis=1)]
    for given in broken:
      with pytest.raises(AssertionError):
        check_reach(mask, depth, given)


SIZES = ("num_layers", "embed_dim", "num_heads", "head_dim", "mlp_dim")
GOOD = {name: getattr(CONFIG, name) for name in (*SIZES, "rope_base")}


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
