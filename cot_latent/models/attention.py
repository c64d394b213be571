"""Key-value caches, and attention over several of them at once.

Symbols: B rows, S positions of queries, C positions of keys, H heads, K heads
of keys and values, Q = H / K * S queries that read one of these heads, D width
of a head.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.models import products


class LayerCache(NamedTuple):
  """One layer's key-value cache.

  Layers are stored apart, not stacked, so that a decoding loop writes them in
  place; heads come before positions, so that a head's keys are next to each
  other (on a CPU one decoding step's attention takes a quarter of the time).

  Attributes:
    keys: [B, K, C, D]; for a prefix that all rows share, [K, C, D].
    values: Values, of the same shape.
  """

  keys: jax.Array
  values: jax.Array

  @property
  def length(self) -> int:
    """Returns the number of positions C."""
    return self.keys.shape[-2]

  def write(self, new: "LayerCache", column: jax.Array | int) -> "LayerCache":
    """Writes the keys and values of S positions, beginning at a column."""
    return LayerCache(
      keys=_written(self.keys, new.keys, column),
      values=_written(self.values, new.values, column),
    )


def _written(old: jax.Array, new: jax.Array, column: jax.Array | int):
  """Replaces positions of [B, K, C, D] from a column on."""
  update = functools.partial(
    jax.lax.dynamic_update_slice_in_dim, start_index=column, axis=2
  )
  if old.dtype != jnp.bfloat16 or products.platform() != "cpu":
    return update(old, new)
  # XLA's CPU compiler would convert the whole cache to float32 and back.
  as_bits = functools.partial(
    jax.lax.bitcast_convert_type, new_dtype=jnp.uint16
  )
  written = update(as_bits(old), as_bits(new))
  return jax.lax.bitcast_convert_type(written, old.dtype)


KVCache = tuple[LayerCache, ...]  # one for each layer


def empty_cache(
  num_layers: int, rows: int, num_kv_heads: int, length: int, width: int, dtype
) -> KVCache:
  """Makes a cache of zeros [rows, num_kv_heads, length, width] per layer."""
  empty = jnp.zeros((rows, num_kv_heads, length, width), dtype)
  return (LayerCache(empty, empty),) * num_layers


def attend(
  query: jax.Array,
  parts: list[tuple[LayerCache, jax.Array]],
  softcap: float | None = None,
) -> jax.Array:
  """Dot-product attention over several caches, one softmax in float32.

  Args:
    query: Queries [B, H, S, D], scaled.
    parts: Pairs of a cache and its attention mask [B, S, C] bool; keys
      [K, C, D] are the same for all rows and are read once.
    softcap: Number c; scores become c tanh(score / c).

  Returns:
    [B, H, S, D]; a position whose mask is all False gets a plain mean.
  """
  rows, _, length, width = query.shape
  num_kv = parts[0][0].keys.shape[-3]
  own = query.reshape(rows, num_kv, -1, width)  # [B, K, Q, D]
  # The shared part is one product for all rows, [K, B Q, ...]. Arrays as large
  # as the scores stay in that order, because transposing them takes longer than
  # computing them.
  heads_first = _heads_first(own)

  def by_row(x):
    if x.ndim == 4:
      return x
    return jnp.swapaxes(x.reshape(num_kv, rows, -1, x.shape[-1]), 0, 1)

  scores = [
    _masked_scores(
      heads_first if cache.keys.ndim == 3 else own,
      cache.keys,
      mask,
      length,
      softcap,
    )
    for cache, mask in parts
  ]
  # One softmax over all parts, without concatenating them.
  of_parts = [by_row(score.max(-1, keepdims=True)) for score in scores]
  highest = jax.lax.stop_gradient(functools.reduce(_larger, of_parts))
  total = attended = jnp.float32(0)
  for (cache, _), score in zip(parts, scores, strict=True):
    is_shared = cache.keys.ndim == 3
    share = jnp.exp(score - (_heads_first(highest) if is_shared else highest))
    total += by_row(share.sum(-1, keepdims=True))
    attended += by_row(_weighed(share.astype(query.dtype), cache.values))
  return (attended / total).astype(query.dtype).reshape(query.shape)


def _masked_scores(
  query: jax.Array,
  keys: jax.Array,
  mask: jax.Array,
  length: int,
  softcap: float | None,
) -> jax.Array:
  """Computes the scores of one part; masked scores are the lowest number.

  Args:
    query: Queries [B, K, Q, D], or [K, B Q, D] if the rows share the keys.
    keys: Keys [B, K, C, D], or [K, C, D].
    mask: Attention mask [B, S, C] bool.
    length: Number of positions S.
    softcap: Number c of `attend`.

  Returns:
    [B, K, Q, C] float32, or [K, B Q, C].
  """
  is_shared = keys.ndim == 3
  score = jnp.einsum(
    "kqd,kcd->kqc" if is_shared else "bkqd,bkcd->bkqc",
    query,
    keys,
    preferred_element_type=jnp.float32,
  )
  if softcap is not None:
    score = softcap * jnp.tanh(score / softcap)
  shape, rows, num_kv = score.shape, len(mask), keys.shape[-3]
  order = (num_kv, rows) if is_shared else (rows, num_kv)
  mask = mask[None, :, None] if is_shared else mask[:, None, None]
  score = score.reshape(*order, -1, length, shape[-1])
  lowest = jnp.finfo(jnp.float32).min
  return jnp.where(mask, score, lowest).reshape(shape)


def _larger(one: jax.Array, other: jax.Array) -> jax.Array:
  return jnp.maximum(one, other)


def _heads_first(x: jax.Array) -> jax.Array:
  """Reorders an array to [K, B Q, ...]."""
  return jnp.swapaxes(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])


def _weighed(share: jax.Array, values: jax.Array) -> jax.Array:
  """Sums values weighted by their shares, in float32."""
  if share.ndim == 4 and share.shape[2] == 1:
    # This only reads the cache. XLA's CPU compiler sums products with all
    # cores, but multiplies a matrix by a vector with one.
    product = share[:, :, 0, :, None] * values
    summed = product.sum(-2, dtype=jnp.float32)[:, :, None]
    # Without this barrier the next product is fused, and summed by one core.
    return jax.lax.optimization_barrier(summed)
  return jnp.einsum(
    "kqc,kcd->kqd" if share.ndim == 3 else "bkqc,bkcd->bkqd",
    share,
    values,
    preferred_element_type=jnp.float32,
  )
