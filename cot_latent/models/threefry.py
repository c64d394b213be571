"""JAX's random bits, for CPUs computed in one pass.

JAX rolls threefry's 20 rounds into a loop on CPUs, so that it compiles faster.
Each iteration then reads and writes arrays of the result's size: for the
noise of 100 rows and 49,152 tokens that takes eight times as long as the
arithmetic. Here the rounds are written out. The bits are the same.

Reference: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".
"""

import math
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp

from cot_latent.models import products

JAX = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def impl() -> Any:
  """Returns the generator for keys whose data are those of JAX's threefry."""
  is_default = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
  return _WRITTEN_OUT if is_default and products.platform() == "cpu" else JAX


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]):
  """Draws bits as JAX does: each is a function of the key and its place."""
  size = math.prod(shape)
  if width != 32 or size >= 2**32:
    return jax.extend.random.threefry_prng_impl.random_bits(key, width, shape)
  place = jax.lax.iota(jnp.uint32, size).reshape(shape)
  one, other = _rounds(key[0], key[1], jnp.uint32(0), place)
  return one ^ other


def _rounds(first, second, one, other):
  """Encrypts a pair of words by a pair of keys, in 20 rounds."""
  keys = first, second, first ^ second ^ jnp.uint32(_PARITY)
  one, other = one + keys[0], other + keys[1]
  for number in range(5):
    for by in _ROTATIONS[number % 2]:
      one += other
      rotated = (other << jnp.uint32(by)) | (other >> jnp.uint32(32 - by))
      other = one ^ rotated
    one += keys[(number + 1) % 3]
    other += keys[(number + 2) % 3] + jnp.uint32(number + 1)
  return one, other


_THEIRS = jax.extend.random.threefry_prng_impl
_WRITTEN_OUT = jax.extend.random.define_prng_impl(
  key_shape=_THEIRS.key_shape,
  seed=_THEIRS.seed,
  split=_THEIRS.split,
  random_bits=_random_bits,
  fold_in=_THEIRS.fold_in,
  name="threefry2x32_written_out",
  tag="fryw",
)
