"""Threefry's rounds written out give JAX's bits."""

import jax
import numpy as np
import pytest

from cot_latent.models import products, threefry

SHAPES = [(), (1,), (7,), (2, 33), (3, 0), (2, 5, 9)]


def keys_of(seed, impl):
  data = np.random.default_rng(seed).integers(0, 2**32, (4, 2), np.uint32)
  return jax.random.wrap_key_data(data, impl=impl)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
  "draw",
  [
    lambda key, shape: jax.random.gumbel(key, shape, mode="high"),
    lambda key, shape: jax.random.bits(key, shape, "uint32"),
    lambda key, shape: jax.random.bits(key, shape, "uint8"),
    lambda key, shape: jax.random.key_data(jax.random.fold_in(key, 5)),
    lambda key, shape: jax.random.key_data(jax.random.split(key, shape)),
  ],
  ids=["gumbel", "words", "bytes", "fold_in", "split"],
)
def test_every_draw_is_jax_s(draw, shape):
  own, theirs = (
    jax.jit(jax.vmap(lambda key: draw(key, shape)))(keys_of(0, impl))
    for impl in (threefry.impl(), threefry.JAX)
  )
  assert threefry.impl() != threefry.JAX
  assert own.dtype == theirs.dtype
  np.testing.assert_array_equal(own, theirs)


@pytest.mark.parametrize(
  ("key", "counter", "expected"),
  [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
    (
      (0x13198A2E, 0x03707344),
      (0x243F6A88, 0x85A308D3),
      (0xC4923A9C, 0x483DF7A0),
    ),
  ],
)
def test_the_authors_vectors(key, counter, expected):
  """Those of Random123, the authors' library."""
  words = [np.full(1, word, np.uint32) for word in (*key, *counter)]
  found = jax.jit(threefry._rounds)(*words)
  assert [int(word[0]) for word in found] == list(expected)


def test_elsewhere_it_is_jax_s_own():
  with products.compiling_for("tpu"):
    assert threefry.impl() == threefry.JAX
  name = "jax_threefry_partitionable"
  jax.config.update(name, False)
  try:
    assert threefry.impl() == threefry.JAX
  finally:
    jax.config.update(name, True)
