"""Attention of whole sequences on TPUs, by JAX's splash attention.

Its scores stay on the chip, a block at a time. In memory they would be the
largest arrays of a long prompt, [B, H, S, C] float32. It computes what
`attention.attend` does, which remains for decoding steps, for local layers and
for other devices.

Symbols: B rows, S positions, C positions of a prefix that all rows share, H
heads, K heads of keys and values, D width of a head.

Reference: Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact
Attention with IO-Awareness".
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cot_latent.models import products
from cot_latent.models.attention import LayerCache
from cot_latent.models.partitioning import Layout

_LANES = 128  # a block's lengths are multiples of it
_BLOCKS = (512, 384, 256, 128)
_LEAST_LENGTH = 128  # shorter sequences have small scores


def is_faster(length: int, has_local_layers: bool) -> bool:
  """Whether to take this for sequences of S positions.

  Args:
    length: S.
    has_local_layers: Whether some layers see a window alone. A row has padding
      between prefix and prompt, so each row's window is another mask, and the
      kernel takes one mask for all rows.
  """
  is_long = length >= _LEAST_LENGTH and not has_local_layers
  return is_long and products.platform() == "tpu"


def attend(
  layout: Layout | None,
  query: jax.Array,
  own: LayerCache,
  shared: LayerCache | None,
  is_real: jax.Array,
  softcap: float | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Dot-product attention of sequences to themselves and a shared prefix.

  Each row gets a copy of the prefix, which its gradient keeps.

  Args:
    layout: Mesh and rules; None is one device.
    query: Queries [B, H, S, D], scaled.
    own: Keys and values of the same positions, [B, K, S, D].
    shared: Keys and values [K, C, D] before those of every row; or None.
    is_real: [B, S] bool, False on padding, which nothing attends to.
    softcap: Number c; scores become c tanh(score / c).
    interpret: Whether the kernel is computed step by step, on any device.

  Returns:
    [B, H, S, D]; arbitrary at a position that sees nothing.
  """
  parts = [*own]
  if shared is not None:
    # In float32 the gradients of all rows are summed in float32.
    parts += [part.astype(jnp.float32) for part in shared]
  run = functools.partial(_of_device, softcap, interpret)
  if layout is None:
    return run(query, is_real, *parts)
  heads, kv_heads = query.shape[1], own.keys.shape[1]
  sharding = layout.sharding_of(query.shape, "batch", "heads")
  over_rows, over_heads = sharding.spec
  if kv_heads % (heads // sharding.shard_shape(query.shape)[1]):
    # Each device needs the keys and values of its own queries' heads.
    times = heads // kv_heads
    parts = [jnp.repeat(part, times, axis=part.ndim - 3) for part in parts]
  of_rows = PartitionSpec(over_rows, over_heads)
  run = jax.shard_map(
    run,
    mesh=layout.mesh,
    in_specs=(
      of_rows,
      PartitionSpec(over_rows),
      *[of_rows] * 2,
      *[PartitionSpec(over_heads)] * (len(parts) - 2),
    ),
    out_specs=of_rows,
    check_vma=False,
  )
  return run(query, is_real, *parts)


def _of_device(
  softcap: float | None,
  interpret: bool,
  query: jax.Array,
  is_real: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  *shared: jax.Array,
) -> jax.Array:
  """Attends on one device."""
  rows, heads, length, _ = query.shape
  before = shared[0].shape[1] if shared else 0
  if shared:
    copies = [
      jnp.broadcast_to(part, (rows, *part.shape)).astype(keys.dtype)
      for part in shared
    ]
    keys, values = (
      jnp.concatenate(pair, axis=2)
      for pair in zip(copies, (keys, values), strict=True)
    )
  num_queries, num_keys = _up(length), _up(before + length)
  # Nothing sees a key of segment 0.
  segment = jnp.pad(
    is_real.astype(jnp.int32), ((0, 0), (before, num_keys - before - length))
  )
  segment = segment.at[:, :before].set(1)
  kernels, attention = _kernel(
    *(heads, num_queries, num_keys, before),
    attn_logits_soft_cap=softcap,
    interpret=interpret,
  )

  def of_row(query: Any, keys: Any, values: Any, segment: Any) -> jax.Array:
    ids = kernels.SegmentIds(jnp.ones(num_queries, jnp.int32), segment)
    return attention(query, keys, values, ids)

  attended = jax.vmap(of_row)(
    _padded(query, num_queries),
    _padded(keys, num_keys),
    _padded(values, num_keys),
    segment,
  )
  return attended[:, :, :length]


def _up(length: int) -> int:
  """Rounds a length up to whole blocks."""
  return -(-length // _LANES) * _LANES


def _padded(array: jax.Array, length: int) -> jax.Array:
  """Pads the positions of [B, H, S, D] with zeros."""
  missing = length - array.shape[2]
  return jnp.pad(array, ((0, 0), (0, 0), (0, missing), (0, 0)))


def _kernel(
  heads: int, num_queries: int, num_keys: int, before: int, **settings: Any
) -> tuple[Any, Any]:
  """Returns the kernels' module, and the kernel for these sizes."""
  # Not with the others: this import takes a second, and only TPUs need it.
  from jax.experimental.pallas.ops.tpu import splash_attention as kernels

  of_queries, of_keys = (
    next(size for size in _BLOCKS if length % size == 0)
    for length in (num_queries, num_keys)
  )
  mask = kernels.CausalMask((num_queries, num_keys), offset=before)
  attention = kernels.make_splash_mha(
    kernels.MultiHeadMask([mask] * heads),
    block_sizes=kernels.BlockSizes(
      block_q=of_queries,
      block_kv=of_keys,
      block_q_dkv=of_queries,
      block_kv_dkv=of_keys,
      block_q_dq=of_queries,
      block_kv_dq=of_keys,
    ),
    head_shards=1,
    q_seq_shards=1,
    **settings,
  )
  return kernels, attention
