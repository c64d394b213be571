"""A decoder-only transformer, as Llama, Qwen and Gemma are.

RMSNorm, rotary positions, gated MLP; the rest is a matter of options, whose
defaults make the model that is fitted from scratch.

Symbols: B rows, S positions fed in, C positions that can be attended to, H
heads, K heads of keys and values, D width of a head, E width of the model, V
vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cot_latent.errors import UserError
from cot_latent.models import partitioning
from cot_latent.models.lora import Lora, Projection
from cot_latent.runtime.validation import check_positive, check_types

DType = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary positions are stretched beyond the length of pretraining.

  Attributes:
    kind: "linear" divides all frequencies by `factor`; "llama3" only those
      whose wavelength is long, with a smooth passage between.
    factor: of the stretch.
    low_freq_factor: wavelengths over original_length / this are long.
    high_freq_factor: wavelengths under original_length / this are kept.
    original_length: positions of pretraining.

  Reference: Llama 3.1's configuration.
  """

  kind: Literal["linear", "llama3"]
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_length: int = 8192

  def __post_init__(self):
    check_types(self)
    check_positive(self, "factor", "low_freq_factor", "original_length")
    if self.high_freq_factor <= self.low_freq_factor:
      raise UserError(
        f"RopeScaling.high_freq_factor = {self.high_freq_factor} must be more "
        f"than low_freq_factor = {self.low_freq_factor}"
      )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and options of a decoder.

  Attributes:
    num_layers: transformer blocks.
    embed_dim: E.
    num_heads: H.
    head_dim: D, even (rotary positions turn pairs).
    mlp_dim: width inside the gated MLP.
    rope_base: the rotary positions' base, in positions.
    num_kv_heads: K, a divisor of H; None is H.
    norm_eps: added to the mean square.
    norm_offset: added to a norm's scales; Gemma's are stored less 1.
    activation: of the MLP's gate.
    tie_embeddings: the input embedding is the output layer too.
    scale_embeddings: multiply them by the square root of E.
    qkv_bias: of queries, keys and values.
    qk_norm: an RMSNorm over each head's query and key.
    post_norms: a norm behind attention and MLP too.
    query_scale: multiplies queries; None is D ** -0.5.
    attention_softcap: c, by which scores become c tanh(score / c).
    final_softcap: the same of the logits.
    sliding_window: positions that a local layer sees, its own included.
    local_layers: numbers of the layers that are local.
    local_rope_base: of the local layers; None is `rope_base`.
    rope_scaling: of the layers that are not local.
    dtype: of activations; logits and softmax are float32 always.
    param_dtype: of the parameters as they are kept.
    remat: keep a block's input alone for the gradient and compute the rest
      again: less memory for a third more time.
  """

  num_layers: int
  embed_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  rope_base: float = 10_000.0
  num_kv_heads: int | None = None
  norm_eps: float = 1e-6
  norm_offset: float = 0.0
  activation: Literal["silu", "gelu_tanh"] = "silu"
  tie_embeddings: bool = True
  scale_embeddings: bool = True
  qkv_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  query_scale: float | None = None
  attention_softcap: float | None = None
  final_softcap: float | None = None
  sliding_window: int | None = None
  local_layers: tuple[int, ...] = ()
  local_rope_base: float | None = None
  rope_scaling: RopeScaling | None = None
  dtype: DType = "float32"
  param_dtype: DType = "float32"
  remat: bool = False

  def __post_init__(self):
    check_types(self)
    sizes = ("num_layers", "embed_dim", "num_heads", "head_dim", "mlp_dim")
    check_positive(self, *sizes, "rope_base", "norm_eps")
    if self.head_dim % 2:
      raise UserError(
        f"DecoderConfig.head_dim = {self.head_dim} must be even: rotary "
        "positions turn pairs of coordinates"
      )
    for name in (
      "num_kv_heads",
      "query_scale",
      "attention_softcap",
      "final_softcap",
      "sliding_window",
      "local_rope_base",
    ):
      if getattr(self, name) is not None:
        check_positive(self, name)
    if self.num_heads % self.kv_heads:
      raise UserError(
        f"DecoderConfig.num_kv_heads = {self.num_kv_heads} must divide "
        f"num_heads = {self.num_heads}"
      )
    if self.local_layers and self.sliding_window is None:
      raise UserError(
        "DecoderConfig.local_layers need a sliding_window: set both or none"
      )

  @property
  def kv_heads(self) -> int:
    """K."""
    return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


class LayerCache(NamedTuple):
  """One layer's keys and values of the positions seen so far.

  Layers are kept apart, not stacked, so that a decoding loop writes them in
  place; heads come before positions, so that a head's keys lie together (on a
  CPU one decoding step's attention takes a quarter of the time).

  Attributes:
    keys: [B, K, C, D]; of a prefix that all rows share, [K, C, D].
    values: the same.
  """

  keys: jax.Array
  values: jax.Array


Cache = tuple[LayerCache, ...]


class Sight(NamedTuple):
  """What each position attends to.

  Attributes:
    everywhere: [B, S, C] bool.
    locally: the same for local layers; None where there are none.
  """

  everywhere: jax.Array
  locally: jax.Array | None


def sight(
  config: DecoderConfig,
  can_be_seen: jax.Array,
  positions: jax.Array,
  key_positions: jax.Array,
) -> Sight:
  """Narrows down what can be seen to what local layers see.

  Args:
    config: says how far they see.
    can_be_seen: [B, S, C] bool.
    positions: [B, S] int32, of those that look.
    key_positions: [B, C] int32, of those that are looked at.
  """
  if config.sliding_window is None:
    return Sight(can_be_seen, None)
  distance = positions[:, :, None] - key_positions[:, None, :]
  return Sight(can_be_seen, can_be_seen & (distance < config.sliding_window))


def _frequencies(config: DecoderConfig, is_local: bool) -> jax.Array:
  """[D / 2] float32, radians a position."""
  half = config.head_dim // 2
  base = config.rope_base
  if is_local and config.local_rope_base is not None:
    base = config.local_rope_base
  frequency = base ** (-jnp.arange(half) / half)
  scaling = config.rope_scaling
  if scaling is None or is_local:
    return frequency
  if scaling.kind == "linear":
    return frequency / scaling.factor
  # The share of the unscaled frequency, 1 for short wavelengths.
  turns = scaling.original_length * frequency / (2 * jnp.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  share = jnp.clip((turns - low) / (high - low), 0, 1)
  return frequency * (share + (1 - share) / scaling.factor)


class Turn(NamedTuple):
  """By how much rotary positions turn, [B, S, D / 2] float32 each."""

  sin: jax.Array
  cos: jax.Array


def turn(
  config: DecoderConfig, positions: jax.Array, end: int, is_local: bool
) -> Turn:
  """Looks up what turns queries and keys.

  Args:
    config: says by how much.
    positions: [B, S] int32, below `end`.
    end: how many positions there are.
    is_local: for local layers.
  """
  angle = jnp.arange(end)[:, None] * _frequencies(config, is_local)
  # From a table: XLA's CPU would compute the sines of each row anew in every
  # layer and head, for it fuses them with what needs them.
  return Turn(jnp.sin(angle)[positions], jnp.cos(angle)[positions])


def rotate(x: jax.Array, by: Turn) -> jax.Array:
  """Applies rotary position embedding.

  Args:
    x: [B, H, S, D].
    by: at the S positions.

  Returns:
    [B, H, S, D].

  Reference: Su et al. 2021, "RoFormer"; halves are paired, as in Llama.
  """
  half = x.shape[-1] // 2
  first, second = x[..., :half], x[..., half:]
  sin, cos = by.sin[:, None], by.cos[:, None]
  turned = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return turned.astype(x.dtype)


def attend(
  query: jax.Array,
  parts: list[tuple[LayerCache, jax.Array]],
  softcap: float | None = None,
) -> jax.Array:
  """Dot-product attention over several parts, one softmax in float32.

  Args:
    query: [B, H, S, D], scaled.
    parts: keys and values, and a mask [B, S, C] bool of them; keys [K, C, D]
      are the same for all rows and are read once.
    softcap: c, by which scores become c tanh(score / c).

  Returns:
    [B, H, S, D]; a position that sees nothing gets a plain mean.
  """
  rows, _, length, width = query.shape
  num_kv = parts[0][0].keys.shape[-3]
  own = query.reshape(rows, num_kv, -1, width)  # the queries of each K: Q
  # What is shared is one product for all rows, [K, B Q, ...]; what is as large
  # as the scores stays in that order, for to turn it takes longer than to
  # compute it.
  heads_first = _heads_first(own)

  def by_row(x):
    if x.ndim == 4:
      return x
    return jnp.swapaxes(x.reshape(num_kv, rows, -1, x.shape[-1]), 0, 1)

  scores = []
  for cache, mask in parts:
    is_shared = cache.keys.ndim == 3
    score = jnp.einsum(
      "kqd,kcd->kqc" if is_shared else "bkqd,bkcd->bkqc",
      heads_first if is_shared else own,
      cache.keys,
      preferred_element_type=jnp.float32,
    )
    if softcap is not None:
      score = softcap * jnp.tanh(score / softcap)
    shape = score.shape
    order = (num_kv, rows) if is_shared else (rows, num_kv)
    mask = mask[None, :, None] if is_shared else mask[:, None, None]
    score = score.reshape(*order, -1, length, shape[-1])
    lowest = jnp.finfo(jnp.float32).min
    scores.append(jnp.where(mask, score, lowest).reshape(shape))
  # The softmax over all parts, which are not put together for it.
  of_parts = [by_row(score.max(-1, keepdims=True)) for score in scores]
  highest = jax.lax.stop_gradient(functools.reduce(_larger, of_parts))
  total = attended = jnp.float32(0)
  for (cache, _), score in zip(parts, scores, strict=True):
    is_shared = cache.keys.ndim == 3
    share = jnp.exp(score - (_heads_first(highest) if is_shared else highest))
    total += by_row(share.sum(-1, keepdims=True))
    attended += by_row(_weighed(share.astype(query.dtype), cache.values))
  return (attended / total).astype(query.dtype).reshape(query.shape)


def _larger(one: jax.Array, other: jax.Array) -> jax.Array:
  return jnp.maximum(one, other)


def _heads_first(x: jax.Array) -> jax.Array:
  """[K, B Q, ...] of [B, K, Q, ...]."""
  return jnp.swapaxes(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])


def _weighed(share: jax.Array, values: jax.Array) -> jax.Array:
  """Sums values by their shares, in float32."""
  if share.ndim == 4 and share.shape[2] == 1:
    # This does nothing but read the cache. XLA's CPU sums products with all
    # cores, and multiplies a matrix by a vector with one.
    product = share[:, :, 0, :, None] * values
    summed = product.sum(-2, dtype=jnp.float32)[:, :, None]
    # The next product, fused with this, would be summed by one core.
    return jax.lax.optimization_barrier(summed)
  return jnp.einsum(
    "kqc,kcd->kqd" if share.ndim == 3 else "bkqc,bkcd->bkqd",
    share,
    values,
    preferred_element_type=jnp.float32,
  )


def _init(*names: str):
  """Flax's usual first values of a kernel, whose axes get names."""
  return nn.with_logical_partitioning(nn.linear.default_kernel_init, names)


class RMSNorm(nn.Module):
  """x / rms(x) * (offset + scale), in float32.

  Reference: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
  """

  eps: float
  offset: float
  param_dtype: Any

  @nn.compact
  def __call__(self, x):
    """Normalizes the last axis."""
    first = nn.initializers.constant(1 - self.offset)
    scale = self.param("scale", first, x.shape[-1:], self.param_dtype)
    wide = x.astype(jnp.float32)
    square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    scale = self.offset + scale.astype(jnp.float32)
    return (wide * (jax.lax.rsqrt(square + self.eps) * scale)).astype(x.dtype)


_ACTIVATIONS: dict[str, Callable] = {
  "silu": jax.nn.silu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class Block(nn.Module):
  """Attention and gated MLP, each behind a norm and added to its input."""

  config: DecoderConfig
  lora: Lora | None
  layout: partitioning.Layout | None

  @nn.compact
  def __call__(self, x, turned, mask, earlier, cache, index):
    """Runs one block; see `Decoder`.

    Args:
      x: [B, S, E].
      turned: Turn at the S positions.
      mask: [B, S, C] bool.
      earlier: this layer's keys and values, and masks [B, S, C'] bool of them.
      cache: this layer's, of C positions; None attends to the S alone.
      index: scalar, the place of the first of the S positions in the cache.

    Returns:
      [B, S, E], and the cache with the S positions written; without a cache,
      their keys and values.
    """
    config, rows = self.config, x.shape[0]
    # Layers see rows and positions as one axis: XLA's CPU gradient of a product
    # that contracts over two axes takes four times as long.
    shape, x = x.shape, x.reshape(-1, x.shape[-1])

    def constrain(tree, *names):
      return partitioning.constrain(self.layout, tree, *names)

    def norm(name):
      return RMSNorm(
        *(config.norm_eps, config.norm_offset, config.param_dtype), name=name
      )

    def dense(x, name, out_shape, names, use_bias=False):
      lora = self.lora if self.lora and name in self.lora.targets else None
      return Projection(
        *(out_shape, names, config.param_dtype, lora, use_bias), name=name
      )(x)

    def heads(name, number, axis):
      projected = dense(
        normed,
        name,
        (number, config.head_dim),
        ("embed", axis, "kv"),
        config.qkv_bias,
      )
      projected = projected.reshape(*shape[:2], number, config.head_dim)
      return constrain(jnp.swapaxes(projected, 1, 2), "batch", axis)

    normed = norm("attention_norm")(x)
    query = heads("query", config.num_heads, "heads")
    key = heads("key", config.kv_heads, "kv_heads")
    value = heads("value", config.kv_heads, "kv_heads")
    if config.qk_norm:
      query, key = norm("query_norm")(query), norm("key_norm")(key)
    query, key = rotate(query, turned), rotate(key, turned)
    scale = config.query_scale or config.head_dim**-0.5
    if cache is None:
      cache = LayerCache(key, value)
    else:
      write = jax.lax.dynamic_update_slice_in_dim
      cache = LayerCache(
        keys=write(cache.keys, key, index, axis=2),
        values=write(cache.values, value, index, axis=2),
      )
    cache = constrain(cache, "batch", "kv_heads")
    parts = [*earlier, (cache, mask)]
    attended = attend(query * scale, parts, config.attention_softcap)
    attended = jnp.swapaxes(attended, 1, 2).reshape(rows * shape[1], -1)
    attended = dense(
      attended, "output", (config.embed_dim,), ("heads", "embed")
    )
    if config.post_norms:
      attended = norm("post_attention_norm")(attended)
    x += attended

    normed = norm("mlp_norm")(x)
    width = (config.mlp_dim,)
    gate = dense(normed, "gate", width, ("embed", "mlp"))
    up = dense(normed, "up", width, ("embed", "mlp"))
    inner = _ACTIVATIONS[config.activation](gate) * up
    inner = constrain(inner, "batch", "mlp")
    out = dense(inner, "down", (config.embed_dim,), ("mlp", "embed"))
    if config.post_norms:
      out = norm("post_mlp_norm")(out)
    return constrain((x + out).reshape(shape), "batch"), cache


class Decoder(nn.Module):
  """All but the output layer, which is `unembed`."""

  config: DecoderConfig
  vocab_size: int
  lora: Lora | None = None
  layout: partitioning.Layout | None = None

  @nn.compact
  def __call__(
    self, tokens, positions, mask, earlier=(), cache=None, index=0, before=None
  ):
    """Feeds S positions in, given what was fed in earlier.

    Args:
      tokens: [B, S] int32.
      positions: [B, S] int32.
      mask: Sight of the cache's C positions, or of the S.
      earlier: caches that are seen and not written, and Sight of each.
      cache: of C positions, or None.
      index: scalar, where the S positions go in the cache.
      before: [L, E], soft tokens before each row's; S counts them.

    Returns:
      [B, S, E], behind the last norm, and the cache with the S positions
      written; without a cache, their keys and values.
    """
    config = self.config
    embed = nn.Embed(
      self.vocab_size,
      config.embed_dim,
      param_dtype=config.param_dtype,
      embedding_init=nn.with_logical_partitioning(
        nn.initializers.normal(config.embed_dim**-0.5), ("vocab", "embed")
      ),
      name="embed",
    )
    if not config.tie_embeddings:
      self.param(
        "unembedding",
        _init("embed", "vocab"),
        (config.embed_dim, self.vocab_size),
        config.param_dtype,
      )
    x = embed(tokens)
    if before is not None:
      before = jnp.broadcast_to(before, (x.shape[0], *before.shape))
      x = jnp.concatenate([before.astype(x.dtype), x], axis=1)
    x = x.astype(config.dtype)
    if config.scale_embeddings:
      # Rounded as the activations are, as Gemma was trained.
      x *= jnp.asarray(config.embed_dim**0.5, config.dtype)
    x = partitioning.constrain(self.layout, x, "batch")
    block_class = nn.remat(Block) if config.remat else Block
    kinds = (False, True) if config.local_layers else (False,)
    # Nothing stands further back than all that can be seen together.
    end = x.shape[1] if cache is None else cache[0].keys.shape[-2]
    end += sum(seen[0].keys.shape[-2] for seen, _ in earlier)
    turns = [turn(config, positions, end, is_local) for is_local in kinds]
    written = []
    for number in range(config.num_layers):
      block = block_class(
        *(config, self.lora, self.layout), name=f"layer_{number}"
      )
      which = int(number in config.local_layers)
      x, layer_cache = block(
        x,
        turns[which],
        mask[which],
        [(seen[number], sight[which]) for seen, sight in earlier],
        cache and cache[number],
        index,
      )
      written.append(layer_cache)
    norm = RMSNorm(
      *(config.norm_eps, config.norm_offset, config.param_dtype),
      name="final_norm",
    )
    return norm(x), tuple(written)


def unembed(
  config: DecoderConfig,
  params: Any,
  x: jax.Array,
  layout: partitioning.Layout | None = None,
) -> jax.Array:
  """The output layer.

  Args:
    config: of the decoder.
    params: its parameters.
    x: [..., E], what `Decoder` gives.
    layout: where things lie.

  Returns:
    [..., V] float32 logits.
  """
  kernel = params.get("unembedding")
  kernel = params["embed"]["embedding"].T if kernel is None else kernel
  logits = jnp.einsum(
    "...e,ev->...v",
    x,
    kernel.astype(x.dtype),
    preferred_element_type=jnp.float32,
  )
  if config.final_softcap is not None:
    logits = config.final_softcap * jnp.tanh(logits / config.final_softcap)
  if layout is None or logits.ndim < 3:
    return logits
  return partitioning.constrain(layout, logits, "batch", None, "vocab")
