"""Relative positions as learned biases of the attention's scores, as in T5.

Symbols: B rows, S positions of queries, C positions of keys, H heads, R
buckets of relative positions.

Reference: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer", section 2.1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def distance_buckets(
  num_buckets: int, max_distance: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
  """Sorts the distances on one side into buckets.

  In the first half each distance has its own bucket. The other buckets grow
  exponentially, and the last has all greater distances. Computed in float32, as
  in the training of the checkpoints.

  Args:
    num_buckets: Number of buckets of one side.
    max_distance: Distance from which on keys share the last bucket.

  Returns:
    [max_distance + 1] int32, the bucket of each distance.
  """
  exact = num_buckets // 2
  distance = np.arange(max_distance + 1)
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  share = np.log(ratio) / np.float32(math.log(max_distance / exact))
  wide = exact + (share * np.float32(num_buckets - exact)).astype(np.int32)
  bucket = np.where(distance < exact, distance, wide)
  return np.minimum(bucket, num_buckets - 1).astype(np.int32)


def relative_bias(
  table: jax.Array,
  offset: jax.Array | np.ndarray,
  max_distance: int,
  is_causal: bool,
) -> jax.Array:
  """Looks up the biases of relative positions.

  Args:
    table: Bias of each bucket and head, [R, H].
    offset: Position of a key minus that of the query, [B, S, C] int32.
    max_distance: Distance from which on keys share the last bucket.
    is_causal: Whether keys never come after queries, so that all buckets are
      for earlier keys; otherwise half of them are.

  Returns:
    [B, H, S, C] float32.
  """
  number = len(table) if is_causal else len(table) // 2
  buckets = distance_buckets(number, max_distance)
  distance = -offset if is_causal else jnp.abs(offset)
  bucket = jnp.asarray(buckets)[jnp.clip(distance, 0, max_distance)]
  if not is_causal:
    bucket += jnp.where(offset > 0, number, 0)
  return jnp.moveaxis(table.astype(jnp.float32)[bucket], -1, 1)
