"""A decoder-only transformer: RMSNorm, rotary positions, gated MLP.

Symbols: B rows, S positions fed in, C positions that can be attended to,
H heads, D width of a head, E width of the model, V vocabulary.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cot_latent.errors import UserError
from cot_latent.models import partitioning
from cot_latent.validation import check_positive, check_types


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes of a decoder.

  Attributes:
    num_layers: transformer blocks.
    embed_dim: E.
    num_heads: H.
    head_dim: D, even (rotary positions turn pairs).
    mlp_dim: width inside the gated MLP.
    rope_base: the rotary positions' base, in positions.
  """

  num_layers: int
  embed_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  rope_base: float = 10_000.0

  def __post_init__(self):
    check_types(self)
    check_positive(self, *(f.name for f in dataclasses.fields(self)))
    if self.head_dim % 2:
      raise UserError(
        f"DecoderConfig.head_dim = {self.head_dim} must be even: rotary "
        "positions turn pairs of coordinates"
      )


class LayerCache(NamedTuple):
  """One layer's keys and values of the positions seen so far.

  Layers are kept apart, not stacked, so that a decoding loop writes them in
  place; heads come before positions, so that a head's keys lie together (on a
  CPU one decoding step's attention takes a quarter of the time).

  Attributes:
    keys: [B, H, C, D].
    values: [B, H, C, D].
  """

  keys: jax.Array
  values: jax.Array


Cache = tuple[LayerCache, ...]


def empty_cache(config: DecoderConfig, rows: int, length: int) -> Cache:
  """Makes a cache for B rows and C positions."""
  zeros = jnp.zeros((rows, config.num_heads, length, config.head_dim))
  return (LayerCache(zeros, zeros),) * config.num_layers


def rotate(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
  """Applies rotary position embedding.

  Args:
    x: [B, H, S, D].
    positions: [B, S] int32.
    base: of the geometric series of wavelengths.

  Returns:
    [B, H, S, D].

  Reference: Su et al. 2021, "RoFormer"; halves are paired, as in Llama.
  """
  half = x.shape[-1] // 2
  frequency = base ** (-jnp.arange(half) / half)
  angle = positions[:, None, :, None] * frequency
  first, second = x[..., :half], x[..., half:]
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


def attend(query, keys, values, mask) -> jax.Array:
  """Scaled dot-product attention, the softmax in float32.

  Args:
    query: [B, H, S, D].
    keys: [B, H, C, D].
    values: [B, H, C, D].
    mask: [B, S, C] bool; a position that sees nothing gets a plain mean.

  Returns:
    [B, H, S, D].
  """
  scores = jnp.einsum("bhsd,bhcd->bhsc", query, keys)
  scores = scores.astype(jnp.float32) * query.shape[-1] ** -0.5
  scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
  shares = jax.nn.softmax(scores).astype(values.dtype)
  return jnp.einsum("bhsc,bhcd->bhsd", shares, values)


def _init(*names: str):
  """Flax's usual first values of a kernel, whose axes get names."""
  return nn.with_logical_partitioning(nn.linear.default_kernel_init, names)


class Block(nn.Module):
  """Attention and gated MLP, each behind an RMSNorm and added to its input."""

  config: DecoderConfig
  layout: partitioning.Layout | None = None

  @nn.compact
  def __call__(self, x, positions, mask, cache, index):
    """Runs one block, writing its keys and values at `index`.

    Args:
      x: [B, S, E].
      positions: [B, S] int32.
      mask: [B, S, C] bool, what each position attends to.
      cache: this layer's, of C positions.
      index: scalar, the place of the first of the S positions in the cache.

    Returns:
      [B, S, E], and the cache with the S positions written.
    """
    config = self.config
    heads = (config.num_heads, config.head_dim)
    # Layers see rows and positions as one axis: XLA's CPU gradient of a product
    # that contracts over two axes takes four times as long.
    shape, x = x.shape, x.reshape(-1, x.shape[-1])

    def constrain(tree, *names):
      return partitioning.constrain(self.layout, tree, *names)

    def project(name):
      projected = nn.DenseGeneral(
        heads,
        use_bias=False,
        kernel_init=_init("embed", "heads", "kv"),
        name=name,
      )(normed)
      projected = jnp.swapaxes(projected.reshape(*shape[:2], *heads), 1, 2)
      return constrain(projected, "batch", "heads")

    normed = nn.RMSNorm(name="attention_norm")(x)
    query = rotate(project("query"), positions, config.rope_base)
    key = rotate(project("key"), positions, config.rope_base)
    write = jax.lax.dynamic_update_slice_in_dim
    cache = LayerCache(
      keys=write(cache.keys, key, index, axis=2),
      values=write(cache.values, project("value"), index, axis=2),
    )
    cache = constrain(cache, "batch", "heads")
    attended = attend(query, cache.keys, cache.values, mask)
    attended = jnp.swapaxes(attended, 1, 2).reshape(-1, *heads)
    x += nn.DenseGeneral(
      config.embed_dim,
      axis=(-2, -1),
      use_bias=False,
      kernel_init=_init("heads", "kv", "embed"),
      name="output",
    )(attended)

    normed = nn.RMSNorm(name="mlp_norm")(x)

    def dense(width, name, *names):
      return nn.Dense(
        width, use_bias=False, kernel_init=_init(*names), name=name
      )

    gate = dense(config.mlp_dim, "gate", "embed", "mlp")(normed)
    up = dense(config.mlp_dim, "up", "embed", "mlp")(normed)
    down = dense(config.embed_dim, "down", "mlp", "embed")
    inner = constrain(jax.nn.silu(gate) * up, "batch", "mlp")
    x = (x + down(inner)).reshape(shape)
    return constrain(x, "batch"), cache


class Decoder(nn.Module):
  """The language model; its input embedding is its output layer too."""

  config: DecoderConfig
  vocab_size: int
  layout: partitioning.Layout | None = None

  @nn.compact
  def __call__(self, tokens, positions, mask, cache, index, logits_from=0):
    """Feeds S positions in, given what the cache holds.

    Args:
      tokens: [B, S] int32.
      positions: [B, S] int32.
      mask: [B, S, C] bool.
      cache: of C positions.
      index: scalar, where the S positions go in the cache.
      logits_from: static; earlier positions get no logits.

    Returns:
      [B, S - logits_from, V] float32 logits, and the cache with the S
      positions written.
    """
    config = self.config
    embed = nn.Embed(
      self.vocab_size,
      config.embed_dim,
      embedding_init=nn.with_logical_partitioning(
        nn.initializers.normal(config.embed_dim**-0.5), ("vocab", "embed")
      ),
      name="embed",
    )
    x = embed(tokens) * config.embed_dim**0.5
    x = partitioning.constrain(self.layout, x, "batch")
    written = []
    for number, layer_cache in enumerate(cache):
      block = Block(config, self.layout, name=f"layer_{number}")
      x, layer_cache = block(x, positions, mask, layer_cache, index)
      written.append(layer_cache)
    x = nn.RMSNorm(name="final_norm")(x[:, logits_from:])
    logits = embed.attend(x)
    logits = partitioning.constrain(self.layout, logits, "batch", None, "vocab")
    return logits, tuple(written)
