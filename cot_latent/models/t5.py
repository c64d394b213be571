"""An encoder-decoder transformer, as T5, Flan-T5, ByT5 and mT5 are.

RMSNorm, relative positions that are learned biases of the attention's scores,
and no scale of these scores.

Symbols: B rows, S positions fed in, C positions that can be attended to, H
heads, D width of a head, E width of the model, R buckets of relative positions,
V vocabulary.

Reference: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer"; Shazeer 2020, "GLU Variants Improve
Transformer", for version 1.1.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.errors import UserError
from cot_latent.models import partitioning
from cot_latent.models.decoder import Cache, DType, LayerCache, RMSNorm
from cot_latent.models.lora import Lora, Projection
from cot_latent.runtime.validation import check_positive, check_types


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and options of an encoder-decoder.

  Attributes:
    num_encoder_layers: blocks of the encoder.
    num_decoder_layers: blocks of the decoder.
    embed_dim: E.
    num_heads: H.
    head_dim: D.
    mlp_dim: width inside the MLP.
    num_buckets: R, even.
    max_distance: from which on relative positions share the last bucket.
    norm_eps: added to the mean square.
    activation: "gelu_tanh" of the MLP's gate, as in version 1.1; "relu" of an
      MLP without one, as in 1.0.
    tie_embeddings: the input embedding is the output layer too, as in 1.0.
    scale_outputs: multiply what the decoder gives by E ** -0.5, as in 1.0.
    dtype: of activations; logits and softmax are float32 always.
    param_dtype: of the parameters as they are kept.
    remat: keep a block's input alone for the gradient and compute the rest
      again: less memory for a third more time.
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
    check_types(self)
    check_positive(self, "num_encoder_layers", "num_decoder_layers")
    check_positive(self, "embed_dim", "num_heads", "head_dim", "mlp_dim")
    check_positive(self, "norm_eps")
    if self.num_buckets < 4 or self.num_buckets % 2:
      raise UserError(
        f"T5Config.num_buckets = {self.num_buckets} must be even and at least "
        "4: the encoder has half of them on each side"
      )
    if self.max_distance <= self.num_buckets // 2:
      raise UserError(
        f"T5Config.max_distance = {self.max_distance} must be above half of "
        f"num_buckets = {self.num_buckets}: so many buckets are one distance"
      )


class Sight(NamedTuple):
  """What each position attends to, and how far away that is.

  Attributes:
    mask: [B, S, C] bool; B and S may be 1 for all.
    offset: [B, S, C] int32, a key's position less the query's; B may be 1 for
      all.
  """

  mask: jax.Array | np.ndarray
  offset: jax.Array | np.ndarray


class Seen(NamedTuple):
  """The same for the heads of one stack.

  Attributes:
    mask: [B, S, C] bool.
    bias: [B, H, S, C] float32, of the scores, or None.
  """

  mask: jax.Array | np.ndarray
  bias: jax.Array | None


def distance_buckets(
  num_buckets: int, max_distance: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
  """[max_distance + 1] int32, the bucket of each distance on one side.

  The first half of the buckets are a distance each, the others grow as powers
  do, and the last one has all that is beyond. Computed in float32, as the
  checkpoints were trained.
  """
  exact = num_buckets // 2
  distance = np.arange(max_distance + 1)
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  share = np.log(ratio) / np.float32(math.log(max_distance / exact))
  wide = exact + (share * np.float32(num_buckets - exact)).astype(np.int32)
  bucket = np.where(distance < exact, distance, wide)
  return np.minimum(bucket, num_buckets - 1).astype(np.int32)


def relative_bias(
  config: T5Config,
  table: jax.Array,
  offset: jax.Array | np.ndarray,
  is_causal: bool,
) -> jax.Array:
  """Looks up the biases of relative positions.

  Args:
    config: says which positions share a bucket.
    table: [R, H].
    offset: [B, S, C] int32, a key's position less the query's.
    is_causal: keys are never behind queries, and all buckets are for those
      before; else half of them are.

  Returns:
    [B, H, S, C] float32.
  """
  number = config.num_buckets if is_causal else config.num_buckets // 2
  buckets = distance_buckets(number, config.max_distance)
  distance = -offset if is_causal else jnp.abs(offset)
  bucket = jnp.asarray(buckets)[jnp.clip(distance, 0, config.max_distance)]
  if not is_causal:
    bucket += jnp.where(offset > 0, number, 0)
  return jnp.moveaxis(table.astype(jnp.float32)[bucket], -1, 1)


def attend(query: jax.Array, cache: LayerCache, seen: Seen) -> jax.Array:
  """Dot-product attention, its softmax in float32.

  Args:
    query: [B, H, S, D].
    cache: keys and values [B, H, C, D].
    seen: what is seen of them.

  Returns:
    [B, H, S, D]; a position that sees nothing gets a plain mean.
  """
  score = jnp.einsum(
    "bhsd,bhcd->bhsc", query, cache.keys, preferred_element_type=jnp.float32
  )
  if seen.bias is not None:
    score += seen.bias
  lowest = jnp.finfo(jnp.float32).min
  share = jax.nn.softmax(jnp.where(seen.mask[:, None], score, lowest))
  return jnp.einsum("bhsc,bhcd->bhsd", share.astype(query.dtype), cache.values)


class Attention(nn.Module):
  """Attention behind a norm, added to its input."""

  config: T5Config
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(self, x, source, seen, column=None):
    """Lets S positions look at others, or at themselves.

    Args:
      x: [B, S, E].
      source: [B, C, E], whose keys and values are looked at; None is x; a
        LayerCache has them already.
      seen: Seen of them.
      column: scalar, where in the LayerCache, a ring, those of x are written
        first; None leaves it as it is.

    Returns:
      [B, S, E], and the keys and values that were looked at.
    """
    config = self.config

    def dense(x, name, out_shape, names):
      # The scores have no scale, and so the first queries have it.
      gain = config.head_dim**-0.5 if name == "query" else 1.0
      return _dense(self, x, name, out_shape, names, gain)

    def heads(x, name):
      shape = (config.num_heads, config.head_dim)
      projected = dense(x, name, shape, ("embed", "heads", "kv"))
      return partitioning.constrain(
        self.layout, jnp.swapaxes(projected, 1, 2), "batch", "heads"
      )

    normed = _norm(config, "norm")(x)
    query = heads(normed, "query")
    cache = source
    if not isinstance(source, LayerCache) or column is not None:
      of = normed if source is None or column is not None else source
      cache = LayerCache(heads(of, "key"), heads(of, "value"))
    if column is not None:
      write = jax.lax.dynamic_update_slice_in_dim
      cache = LayerCache(
        *(
          write(old, new, column, 2)
          for old, new in zip(source, cache, strict=True)
        )
      )
    cache = partitioning.constrain(self.layout, cache, "batch", "heads")
    attended = attend(query, cache, seen)
    attended = jnp.swapaxes(attended, 1, 2).reshape(*x.shape[:2], -1)
    out = dense(attended, "output", (config.embed_dim,), ("heads", "embed"))
    return x + out, cache


class MLP(nn.Module):
  """An MLP behind a norm, added to its input."""

  config: T5Config
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(self, x):
    """Gives [B, S, E], for x [B, S, E]."""
    config = self.config
    wide = ((config.mlp_dim,), ("embed", "mlp"))
    normed = _norm(config, "norm")(x)
    inner = _dense(self, normed, "up", *wide)
    if config.activation == "relu":
      inner = jax.nn.relu(inner)
    else:
      inner *= jax.nn.gelu(_dense(self, normed, "gate", *wide))
    inner = partitioning.constrain(self.layout, inner, "batch", None, "mlp")
    return x + _dense(
      self, inner, "down", (config.embed_dim,), ("mlp", "embed")
    )


class Block(nn.Module):
  """Attention, in a decoder attention to the encoder's, and MLP."""

  config: T5Config
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(self, x, seen, cache, column, encoded=None, encoded_seen=None):
    """Runs one block; see `Stack`.

    Returns:
      [B, S, E], and its keys and values of its own positions and of the
      encoder's.
    """
    parts = (self.config, self.lora, self.layout)
    x, own = Attention(*parts, name="attention")(x, cache, seen, column)
    cross = None
    if encoded is not None:
      x, cross = Attention(*parts, name="cross_attention")(
        x, encoded, encoded_seen
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
    sight,
    cache=None,
    column=None,
    encoded=None,
    encoded_mask=None,
  ):
    """Feeds S positions in, given what was fed in earlier.

    Args:
      x: [B, S, E].
      sight: Sight of the cache's C positions, or of the S.
      cache: of C positions, a ring, or None.
      column: scalar, where the S positions go in the cache.
      encoded: for a decoder the encoder's C' positions, [B, C', E] or the
        Cache of them.
      encoded_mask: [B, C'] bool, False on padding.

    Returns:
      [B, S, E], behind the last norm; the cache with the S positions written,
      without a cache their keys and values; the Cache of the encoder's.
    """
    config = self.config
    number = (
      config.num_decoder_layers if self.is_causal else config.num_encoder_layers
    )
    # All layers have the first one's.
    table: Any = self.param(
      "relative_bias",
      nn.with_logical_partitioning(
        nn.initializers.normal(config.embed_dim**-0.5), (None, "heads")
      ),
      (config.num_buckets, config.num_heads),
      config.param_dtype,
    )

    bias = relative_bias(config, table, sight.offset, self.is_causal)
    own_seen = Seen(sight.mask, bias)
    encoded_seen = None
    if encoded is not None:
      encoded_seen = Seen(encoded_mask[:, None], None)
    block_class = nn.remat(Block) if config.remat else Block
    x = partitioning.constrain(self.layout, x, "batch")
    own, cross = [], []
    for layer in range(number):
      block = block_class(config, self.lora, self.layout, name=f"layer_{layer}")
      x, layer_own, layer_cross = block(
        x,
        own_seen,
        cache and cache[layer],
        column,
        encoded[layer] if isinstance(encoded, tuple) else encoded,
        encoded_seen,
      )
      own.append(layer_own)
      cross.append(layer_cross)
    return _norm(config, "final_norm")(x), tuple(own), tuple(cross)


class T5(nn.Module):
  """All but the output layer, which is `unembed`."""

  config: T5Config
  vocab_size: int
  lora: Lora | None = None
  layout: partitioning.Layout | None = None

  def setup(self):
    """Names the parts."""
    config = self.config
    self.embed = nn.Embed(
      self.vocab_size,
      config.embed_dim,
      param_dtype=config.param_dtype,
      embedding_init=nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ("vocab", "embed")
      ),
    )
    if not config.tie_embeddings:
      self.unembedding = self.param(
        "unembedding",
        nn.with_logical_partitioning(
          nn.linear.default_kernel_init, ("embed", "vocab")
        ),
        (config.embed_dim, self.vocab_size),
        config.param_dtype,
      )
    parts = (self.lora, self.layout)
    self.encoder = Stack(config, False, *parts)
    self.decoder = Stack(config, True, *parts)

  def __call__(self, tokens):
    """Runs all parts, for tokens [B, S] int32, to make their parameters."""
    is_real = jnp.ones(tokens.shape, bool)
    encoded = self.encode(tokens, is_real)
    offset = jnp.zeros((1, *tokens.shape[1:] * 2), jnp.int32)
    sight = Sight(jnp.ones(offset.shape, bool), offset)
    return self.decode(tokens, encoded, is_real, sight)

  def encode(self, tokens, is_real, soft=None, is_soft=None):
    """Runs the encoder.

    Args:
      tokens: [B, S] int32.
      is_real: [B, S] bool, False on padding.
      soft: [B, S, E], soft tokens, or None.
      is_soft: [B, S] bool, where they take the place of tokens.

    Returns:
      [B, S, E].
    """
    x = self.embed(tokens)
    if soft is not None:
      x = jnp.where(is_soft[..., None], soft.astype(x.dtype), x)
    place = np.arange(tokens.shape[1])
    sight = Sight(is_real[:, None], (place - place[:, None])[None])
    return self.encoder(x.astype(self.config.dtype), sight)[0]

  def decode(self, tokens, encoded, encoded_mask, sight, **fields):
    """Runs the decoder, for tokens [B, S] int32; see `Stack`."""
    x = self.embed(tokens).astype(self.config.dtype)
    return self.decoder(
      x, sight, encoded=encoded, encoded_mask=encoded_mask, **fields
    )


def unembed(
  config: T5Config,
  params: Any,
  x: jax.Array,
  layout: partitioning.Layout | None = None,
) -> jax.Array:
  """The output layer.

  Args:
    config: of the model.
    params: its parameters.
    x: [..., E], what the decoder gives.
    layout: where things lie.

  Returns:
    [..., V] float32 logits.
  """
  kernel = params.get("unembedding")
  kernel = params["embed"]["embedding"].T if kernel is None else kernel
  if config.scale_outputs:
    x *= jnp.asarray(config.embed_dim**-0.5, x.dtype)
  logits = jnp.einsum(
    "...e,ev->...v",
    x,
    kernel.astype(x.dtype),
    preferred_element_type=jnp.float32,
  )
  if layout is None or logits.ndim < 3:
    return logits
  return partitioning.constrain(layout, logits, "batch", None, "vocab")


def empty_ring(config: T5Config, rows: int, length: int) -> Cache:
  """A cache of the decoder's own positions, [rows, H, length, D] zeros."""
  shape = (rows, config.num_heads, length, config.head_dim)
  empty = jnp.zeros(shape, config.dtype)
  return (LayerCache(empty, empty),) * config.num_decoder_layers


def _norm(config: T5Config, name: str) -> RMSNorm:
  return RMSNorm(config.norm_eps, 0.0, config.param_dtype, name=name)


def _dense(module, x, name, out_shape, names, gain=1.0):
  """Projects x [B, S, I] to [B, S, *out_shape], with the module's LoRA."""
  lora = module.lora if module.lora and name in module.lora.targets else None
  projection = Projection(
    out_shape,
    names,
    module.config.param_dtype,
    lora,
    gain=gain,
    name=name,
  )
  # Layers see rows and positions as one axis: XLA's CPU gradient of a product
  # that contracts over two axes takes four times as long.
  flat = projection(x.reshape(-1, x.shape[-1]))
  return flat.reshape(*x.shape[:2], *out_shape)
