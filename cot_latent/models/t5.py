"""An encoder-decoder transformer: T5, Flan-T5, ByT5 and mT5.

RMSNorm, relative positions that are learned biases of the attention's scores,
and no scaling of these scores.

Symbols: B rows, S positions fed in, C positions that can be attended to, H
heads, D width of a head, E width of the model, R buckets of relative positions,
V vocabulary.

Reference: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer"; Shazeer 2020, "GLU Variants Improve
Transformer", for version 1.1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.errors import UserError
from cot_latent.models import gathering, layers, partitioning, relative
from cot_latent.models.attention import LayerCache
from cot_latent.models.layers import DType, RMSNorm, check_sizes
from cot_latent.models.lora import Lora


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and options of an encoder-decoder.

  Attributes:
    num_encoder_layers: Blocks of the encoder.
    num_decoder_layers: Blocks of the decoder.
    embed_dim: Width of the model, E.
    num_heads: Number of heads, H.
    head_dim: Width of a head, D.
    mlp_dim: Width inside the MLP.
    num_buckets: Buckets of relative positions, R, even.
    max_distance: Distance from which on keys share the last bucket.
    norm_eps: Number added to the mean square.
    activation: "gelu_tanh" for an MLP with a gate, as in version 1.1; "relu"
      for an MLP without a gate, as in 1.0.
    tie_embeddings: Whether the input embedding is also the output layer, as in
      1.0.
    scale_outputs: Whether the decoder's outputs are multiplied by E ** -0.5, as
      in 1.0.
    dtype: Type of activations; logits and softmax are always float32.
    param_dtype: Type of stored parameters.
    remat: Whether only a block's input is stored for the gradient and the rest
      is computed again: less memory for a third more time.
  """

  num_encoder_layers: int
  num_decoder_layers: int
  embed_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_buckets: int = 32
  max_distance: int = 128
  norm_eps: float = 1e-6
  activation: Literal["gelu_tanh", "relu"] = "gelu_tanh"
  tie_embeddings: bool = False
  scale_outputs: bool = False
  dtype: DType = "float32"
  param_dtype: DType = "float32"
  remat: bool = False

  def __post_init__(self):
    check_sizes(self, "num_encoder_layers", "num_decoder_layers")
    if self.num_buckets < 4 or self.num_buckets % 2:
      raise UserError(
        f"T5Config.num_buckets = {self.num_buckets} must be even and at least "
        "4: the encoder has half of them on each side"
      )
    if self.max_distance <= self.num_buckets // 2:
      raise UserError(
        f"T5Config.max_distance = {self.max_distance} must be above half of "
        f"num_buckets = {self.num_buckets}: that many buckets have one "
        "distance each"
      )


class MaskAndOffset(NamedTuple):
  """The attention mask of a stack's own positions, and the keys' offsets.

  Attributes:
    mask: Attention mask [B, S, C] bool; B and S may be 1 for all.
    offset: Position of a key minus that of the query, [B, S, C] int32; B may be
      1 for all.
  """

  mask: jax.Array | np.ndarray
  offset: jax.Array | np.ndarray


class MaskAndBias(NamedTuple):
  """The attention mask, and the bias of each head's scores.

  Attributes:
    mask: Attention mask [B, S, C] bool; B and S may be 1 for all.
    bias: Bias [B, H, S, C] float32, or None.
  """

  mask: jax.Array | np.ndarray
  bias: jax.Array | None


def causal_mask(length: int) -> MaskAndOffset:
  """Returns the causal attention mask of S positions fed in at once."""
  place = np.arange(length)
  offset = (place - place[:, None])[None]
  return MaskAndOffset(offset <= 0, offset)


def attend(
  query: jax.Array, cache: LayerCache, masked: MaskAndBias
) -> jax.Array:
  """Dot-product attention, its softmax in float32.

  Args:
    query: Queries [B, H, S, D].
    cache: Keys and values [B, H, C, D].
    masked: Attention mask and bias of the scores.

  Returns:
    [B, H, S, D]; a position whose mask is all False gets a plain mean.
  """
  score = jnp.einsum(
    "bhsd,bhcd->bhsc", query, cache.keys, preferred_element_type=jnp.float32
  )
  if masked.bias is not None:
    score += masked.bias
  lowest = jnp.finfo(jnp.float32).min
  share = jax.nn.softmax(jnp.where(masked.mask[:, None], score, lowest))
  return jnp.einsum("bhsc,bhcd->bhsd", share.astype(query.dtype), cache.values)


class Attention(nn.Module):
  """Attention after a norm, added to its input."""

  config: T5Config
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(self, x, source, masked, column=None):
    """Lets S positions attend to other positions, or to themselves.

    Args:
      x: Activations [B, S, E].
      source: Activations [B, C, E] to attend to, or a LayerCache of their keys
        and values; None is x.
      masked: MaskAndBias of the source.
      column: Column of the LayerCache, a ring, where the keys and values of x
        are written first, a scalar; None leaves the cache unchanged.

    Returns:
      [B, S, E], and the keys and values that were attended to.
    """
    config = self.config
    normed = _norm(config, "norm")(x)
    # The scores are not scaled, so the initial queries include the scale.
    query = self._heads(normed, "query", config.head_dim**-0.5)
    cache = source
    if not isinstance(source, LayerCache) or column is not None:
      of = normed if source is None or column is not None else source
      cache = LayerCache(self._heads(of, "key"), self._heads(of, "value"))
    if column is not None:
      cache = source.write(cache, column)
    cache = partitioning.constrain(self.layout, cache, "batch", "heads")
    attended = attend(query, cache, masked)
    attended = jnp.swapaxes(attended, 1, 2).reshape(*x.shape[:2], -1)
    names = ("heads", "embed")
    out = _project(self, attended, "output", (config.embed_dim,), names)
    return x + out, cache

  def _heads(self, x, name, gain=1.0):
    """Projects x [B, S, E] to [B, H, S, D]."""
    shape = (self.config.num_heads, self.config.head_dim)
    names = ("embed", "heads", "kv")
    projected = _project(self, x, name, shape, names, gain=gain)
    return partitioning.constrain(
      self.layout, jnp.swapaxes(projected, 1, 2), "batch", "heads"
    )


class MLP(nn.Module):
  """An MLP after a norm, added to its input."""

  config: T5Config
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(self, x):
    """Runs the MLP on activations x [B, S, E]."""
    config = self.config
    wide = ((config.mlp_dim,), ("embed", "mlp"))
    normed = _norm(config, "norm")(x)
    inner = _project(self, normed, "up", *wide)
    if config.activation == "relu":
      inner = jax.nn.relu(inner)
    else:
      inner *= jax.nn.gelu(_project(self, normed, "gate", *wide))
    inner = partitioning.constrain(self.layout, inner, "batch", None, "mlp")
    return x + _project(
      self, inner, "down", (config.embed_dim,), ("mlp", "embed")
    )


class Block(nn.Module):
  """Attention, in a decoder attention to the encoder, and MLP."""

  config: T5Config
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(
    self, x, masked, cache, column, encoded=None, encoded_masked=None
  ):
    """Runs one block; see `Stack`.

    Returns:
      [B, S, E], and the keys and values of its own positions and of the
      encoder's.
    """
    parts = (self.config, self.lora, self.layout)
    x, own = Attention(*parts, name="attention")(x, cache, masked, column)
    cross = None
    if encoded is not None:
      x, cross = Attention(*parts, name="cross_attention")(
        x, encoded, encoded_masked
      )
    x = MLP(*parts, name="mlp")(x)
    return partitioning.constrain(self.layout, x, "batch"), own, cross


class Stack(nn.Module):
  """An encoder or a decoder, without embedding and output layer."""

  config: T5Config
  is_causal: bool
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(
    self,
    x,
    own_mask,
    cache=None,
    column=None,
    encoded=None,
    encoded_mask=None,
  ):
    """Feeds in S positions, after those fed in earlier.

    Args:
      x: Activations [B, S, E].
      own_mask: MaskAndOffset of the cache's C positions, or of the S positions.
      cache: KVCache of C positions, a ring, or None.
      column: Column of the cache for the first of the S positions, a scalar.
      encoded: For a decoder, the encoder's C' positions [B, C', E], or their
        KVCache.
      encoded_mask: Attention mask [B, C'] bool, False on padding.

    Returns:
      [B, S, E], after the last norm; the cache with the S positions written, or
      without a cache their keys and values; the KVCache of the encoder's
      positions.
    """
    config = self.config
    number = (
      config.num_decoder_layers if self.is_causal else config.num_encoder_layers
    )
    # All layers use the first layer's biases.
    table: Any = self.param(
      "relative_bias",
      nn.with_logical_partitioning(
        nn.initializers.normal(config.embed_dim**-0.5), (None, "heads")
      ),
      (config.num_buckets, config.num_heads),
      config.param_dtype,
    )

    names = None, "heads"
    table = gathering.gathered(self.layout, table, table.dtype, *names)
    bias = relative.relative_bias(
      table, own_mask.offset, config.max_distance, self.is_causal
    )
    own_masked = MaskAndBias(own_mask.mask, bias)
    encoded_masked = None
    if encoded is not None:
      encoded_masked = MaskAndBias(encoded_mask[:, None], None)
    block_class = nn.remat(Block) if config.remat else Block
    x = partitioning.constrain(self.layout, x, "batch")
    own, cross = [], []
    for layer in range(number):
      block = block_class(config, self.lora, self.layout, name=f"layer_{layer}")
      x, layer_own, layer_cross = block(
        x,
        own_masked,
        cache and cache[layer],
        column,
        encoded[layer] if isinstance(encoded, tuple) else encoded,
        encoded_masked,
      )
      own.append(layer_own)
      cross.append(layer_cross)
    return _norm(config, "final_norm")(x), tuple(own), tuple(cross)


class T5(nn.Module):
  """The network without the output layer, which is `unembed`."""

  config: T5Config
  vocab_size: int
  lora: Lora | None = None
  layout: partitioning.Layout | None = None

  def setup(self):
    """Defines the parts."""
    config = self.config
    self.embed = layers.embedding(config, self.vocab_size, 1.0)
    if not config.tie_embeddings:
      layers.add_unembedding(self, config, self.vocab_size)
    parts = (self.lora, self.layout)
    self.encoder = Stack(config, False, *parts)
    self.decoder = Stack(config, True, *parts)

  def __call__(self, tokens):
    """Runs all parts, for tokens [B, S] int32, to make their parameters."""
    is_real = jnp.ones(tokens.shape, bool)
    encoded = self.encode(tokens, is_real)
    offset = jnp.zeros((1, *tokens.shape[1:] * 2), jnp.int32)
    mask = MaskAndOffset(jnp.ones(offset.shape, bool), offset)
    return self.decode(tokens, encoded, is_real, mask)

  def encode(self, tokens, is_real, soft=None, is_soft=None):
    """Runs the encoder.

    Args:
      tokens: Tokens [B, S] int32.
      is_real: [B, S] bool, False on padding.
      soft: Soft tokens [B, S, E], or None.
      is_soft: [B, S] bool, True where they replace tokens.

    Returns:
      [B, S, E].
    """
    x = self.embed(tokens)
    if soft is not None:
      x = jnp.where(is_soft[..., None], soft.astype(x.dtype), x)
    place = np.arange(tokens.shape[1])
    offset = (place - place[:, None])[None]
    mask = MaskAndOffset(is_real[:, None], offset)
    return self.encoder(x.astype(self.config.dtype), mask)[0]

  def decode(self, tokens, encoded, encoded_mask, own_mask, **fields):
    """Runs the decoder, for tokens [B, S] int32; see `Stack`."""
    x = self.embed(tokens).astype(self.config.dtype)
    return self.decoder(
      x, own_mask, encoded=encoded, encoded_mask=encoded_mask, **fields
    )


def unembed(
  config: T5Config,
  params: Mapping[str, Any],
  x: jax.Array,
  layout: partitioning.Layout | None = None,
) -> jax.Array:
  """Computes logits.

  Args:
    config: Config of the model.
    params: Parameters of the model.
    x: Outputs of the decoder, [..., E].
    layout: Mesh and rules; None is one device.

  Returns:
    [..., V] float32 logits.
  """
  if config.scale_outputs:
    x *= jnp.asarray(config.embed_dim**-0.5, x.dtype)
  return layers.unembed(params, x, layout)


def _norm(config: T5Config, name: str) -> RMSNorm:
  return RMSNorm(config.norm_eps, 0.0, config.param_dtype, name=name)


def _project(module, x, name, out_shape, names, gain=1.0):
  """Projects x [B, S, I] to [B, S, *out_shape], with the module's LoRA."""
  # Layers see rows and positions as one axis, because XLA's CPU gradient of a
  # product that contracts over two axes takes four times as long.
  flat = x.reshape(-1, x.shape[-1])
  flat = layers.project(module, flat, name, out_shape, names, gain=gain)
  return flat.reshape(*x.shape[:2], *out_shape)
