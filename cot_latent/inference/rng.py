"""Random choices as pure functions of their purpose.

No generator state is carried along. A key is derived from the run's seed, a
purpose, and the numbers that identify the choice (step, example, draw). So a
resumed run draws the same things, and no two choices share a key.
"""

import functools
import hashlib
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# The derivation of keys, for the report.
RULE = (
  "threefry2x32: the seed's key, folded in turn with the crc32 of the purpose "
  "and the choice's numbers; for a row also with the first two words of the "
  "sha256 of its example's id, and the draw's number"
)
# The purposes of this package. A method may have purposes of its own, whose
# names contain a slash; those of the package's own methods begin with
# "likelihood/".
PURPOSES = frozenset(
  {
    "params",  # initial parameters of the model
    "base_order",  # minibatches of the base model's training
    "bootstrap",  # worked examples drawn from the base model
    "order",  # minibatches of the method's training
    "memory",  # the rationales that the memory starts with
    "draw",  # fresh rationales
    "pool",  # rationales of an outer loop
    "subsample",  # the offset of systematic resampling
    "evaluate",  # samples for self-consistency
  }
)


def purpose_key(seed: int, purpose: str, *numbers: int) -> jax.Array:
  """Derives the key of one choice.

  Args:
    seed: The run's seed.
    purpose: A member of PURPOSES, or a name with a slash for your own purpose
      ("my_method/noise").
    *numbers: Non-negative integers below 2**32 that identify the choice.

  Returns:
    A scalar threefry key.

  Raises:
    ValueError: If the purpose is unknown and has no slash.

  Example:
    >>> key = purpose_key(0, "my_method/noise", 7)  # of step 7
    >>> jax.random.normal(key, (2,)).shape
    (2,)
  """
  if purpose not in PURPOSES and "/" not in purpose:
    raise ValueError(
      f"unknown purpose {purpose!r}; known: {sorted(PURPOSES)}; a purpose of "
      f"your own has a slash in its name, as in 'my_method/{purpose}'"
    )
  rng_key = jax.random.key(seed, impl="threefry2x32")
  rng_key = jax.random.fold_in(rng_key, zlib.crc32(purpose.encode()))
  for number in numbers:
    rng_key = jax.random.fold_in(rng_key, number)
  return rng_key


def id_words(ids: Sequence[str]) -> np.ndarray:
  """Turns example ids into words that keys can be derived from.

  Args:
    ids: N strings.

  Returns:
    [N, 2] uint32, the first 64 bits of each id's sha256. Unlike 32 bits, these
    do not collide within a data set.
  """
  digests = (hashlib.sha256(text.encode()).digest()[:8] for text in ids)
  flat = np.fromiter(digests, np.dtype("S8"), len(ids))
  return flat.view(">u4").reshape(-1, 2).astype(np.uint32)


@jax.jit
def row_keys(rng_key: jax.Array, words: jax.Array, draw: jax.Array):
  """Derives one key per row, from the example alone and not from its place.

  Args:
    rng_key: The key of the purpose (and step).
    words: [B, 2] uint32 of `id_words`.
    draw: [B] integer, index of the row among the example's draws.

  Returns:
    [B] keys.
  """

  def one(word, number):
    key = jax.random.fold_in(rng_key, word[0])
    key = jax.random.fold_in(key, word[1])
    return jax.random.fold_in(key, number)

  return jax.vmap(one)(words, jnp.asarray(draw))


def row_uniform(rng_key: jax.Array, words: jax.Array) -> jax.Array:
  """Draws one number per row, from the example alone and not from its place.

  Args:
    rng_key: Key of the purpose and step.
    words: [B, 2] uint32 of `id_words`.

  Returns:
    [B] float32, uniform in [0, 1).
  """
  keys = row_keys(rng_key, words, jnp.zeros(len(words), jnp.int32))
  return _uniform(keys)


@jax.jit
def _uniform(keys: jax.Array) -> jax.Array:
  return jax.vmap(jax.random.uniform)(keys)


def minibatch(
  seed: int, purpose: str, step: int, num_examples: int, batch_size: int
) -> np.ndarray:
  """Picks the examples of one step.

  Each epoch is a new permutation, cut into whole minibatches. The remainder is
  left out, so the indices of a minibatch are always distinct. (Two copies of
  one memory row would make the leave-one-out scale depend on its own draw.)

  Args:
    seed: The run's seed.
    purpose: "order" or "base_order" (`purpose_key`).
    step: The step, from 0.
    num_examples: Number of examples N.
    batch_size: Minibatch size M, at most N.

  Returns:
    [M] int32 indices into the examples.

  Example of seven examples, of which each epoch leaves out one:

    >>> batches = [minibatch(0, "order", step, 7, 3) for step in range(3)]
    >>> len({*batches[0].tolist(), *batches[1].tolist()})  # one epoch
    6
    >>> batches[2].shape  # of the next epoch
    (3,)
  """
  per_epoch = num_examples // batch_size
  epoch, place = divmod(step, per_epoch)
  start = place * batch_size
  order = _epoch(seed, purpose, epoch, num_examples)
  return order[start : start + batch_size].copy()


@functools.lru_cache(maxsize=2)  # millions of examples take seconds to permute
def _epoch(
  seed: int, purpose: str, epoch: int, num_examples: int
) -> np.ndarray:
  """[N] int32, the order of the examples in an epoch."""
  rng_key = purpose_key(seed, purpose, epoch)
  return np.asarray(jax.random.permutation(rng_key, num_examples), np.int32)


def test_vectors(seed: int) -> dict[str, list[int]]:
  """Returns the first words of the keys of PURPOSES, to identify a generator.

  Args:
    seed: The run's seed.
  """
  return {
    purpose: jax.random.bits(purpose_key(seed, purpose, 1), (4,)).tolist()
    for purpose in sorted(PURPOSES)
  }
