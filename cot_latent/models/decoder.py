"""A decoder-only transformer: Llama, Qwen and Gemma.

RMSNorm, rotary positions, gated MLP; the rest are options. Their defaults make
the model that is trained from scratch.

Symbols: B rows, S positions fed in, C positions that can be attended to, H
heads, K heads of keys and values, D width of a head, E width of the model, V
vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cot_latent.errors import UserError
from cot_latent.models import (
  attention,
  layers,
  partitioning,
  rotary,
  scanned,
  splash,
)
from cot_latent.models.attention import LayerCache
from cot_latent.models.layers import DType, RMSNorm, check_sizes, project
from cot_latent.models.lora import Lora
from cot_latent.models.rotary import RopeScaling
from cot_latent.runtime.validation import check_positive


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and options of a decoder.

  Attributes:
    num_layers: Number of transformer blocks.
    embed_dim: Width of the model, E.
    num_heads: Number of heads, H.
    head_dim: Width of a head, D, even: rotary positions rotate pairs.
    mlp_dim: Width inside the gated MLP.
    rope_base: Base of the rotary positions' wavelengths, in positions.
    num_kv_heads: Heads of keys and values, K, a divisor of H; None is H.
    norm_eps: Number added to the mean square.
    norm_offset: Number added to a norm's scales; Gemma's are stored minus 1.
    activation: Activation of the MLP's gate.
    tie_embeddings: Whether the input embedding is the output layer too.
    scale_embeddings: Whether embeddings are multiplied by the square root of E.
    qkv_bias: Whether queries, keys and values have a bias.
    qk_norm: Whether each head's query and key have an RMSNorm.
    post_norms: Whether there is a norm after attention and MLP too.
    query_scale: Factor of queries; None is D ** -0.5.
    attention_softcap: Number c; scores become c tanh(score / c).
    final_softcap: The same for the logits.
    sliding_window: Positions that a local layer sees, its own included.
    local_layers: Numbers of the layers that are local.
    local_rope_base: Base in the local layers; None is `rope_base`.
    rope_scaling: Scaling of positions in the layers that are not local.
    dtype: Type of activations; logits and softmax are float32 always.
    param_dtype: Type of the parameters as they are stored.
    remat: Whether only a block's input is stored for the gradient and the rest
      is computed again: less memory for a third more time.
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
    check_sizes(self, "num_layers", "rope_base")
    if self.head_dim % 2:
      raise UserError(
        f"DecoderConfig.head_dim = {self.head_dim} must be even: rotary "
        "positions rotate pairs of coordinates"
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
    """Returns the number of heads of keys and values, K."""
    return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


class LayerMasks(NamedTuple):
  """Attention masks of the two kinds of layers.

  Attributes:
    everywhere: [B, S, C] bool, of layers that see all positions.
    locally: [B, S, C] bool, of local layers; None where there are none.
  """

  everywhere: jax.Array
  locally: jax.Array | None


def layer_masks(
  config: DecoderConfig,
  mask: jax.Array,
  positions: jax.Array,
  key_positions: jax.Array,
) -> LayerMasks:
  """Narrows an attention mask to the sliding window of local layers.

  Args:
    config: Config of the model, which has the window.
    mask: Attention mask [B, S, C] bool, before the window.
    positions: Positions of the queries, [B, S] int32.
    key_positions: Positions of the keys, [B, C] int32.
  """
  if config.sliding_window is None:
    return LayerMasks(mask, None)
  distance = positions[:, :, None] - key_positions[:, None, :]
  return LayerMasks(mask, mask & (distance < config.sliding_window))


def rotary_frequencies(config: DecoderConfig, is_local: bool) -> jax.Array:
  """Returns [D / 2] float32 radians per position, for one kind of layers."""
  if not is_local:
    base, scaling = config.rope_base, config.rope_scaling
  else:
    base, scaling = config.local_rope_base or config.rope_base, None
  return rotary.frequencies(config.head_dim, base, scaling)


_ACTIVATIONS: dict[str, Callable] = {
  "silu": jax.nn.silu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def _norm(config: DecoderConfig, name: str) -> RMSNorm:
  return RMSNorm(
    config.norm_eps, config.norm_offset, config.param_dtype, name=name
  )


class Block(nn.Module):
  """Attention and gated MLP, each after a norm and added to its input."""

  config: DecoderConfig
  lora: Lora | None
  layout: partitioning.Layout | None
  is_fused: bool

  @nn.compact
  def __call__(self, x, angles, mask, earlier, cache, column):
    """Runs one block; see `Decoder`.

    Args:
      x: Activations [B, S, E].
      angles: Rotary sines and cosines at the S positions.
      mask: Attention mask [B, S, C] bool.
      earlier: Pairs of this layer's keys and values and a mask [B, S, C'] bool.
      cache: This layer's cache of C positions; None attends to the S alone.
      column: Column of the cache for the first of the S positions, a scalar.

    Returns:
      [B, S, E], and the cache with the S positions written; without a cache,
      their keys and values.
    """
    config, shape = self.config, x.shape
    # Layers see rows and positions as one axis: XLA's CPU gradient of a product
    # that contracts over two axes takes four times as long.
    x = x.reshape(-1, x.shape[-1])
    attended, cache = self._attention(
      _norm(config, "attention_norm")(x),
      *(shape, angles, mask, earlier, cache, column),
    )
    if config.post_norms:
      attended = _norm(config, "post_attention_norm")(attended)
    x += attended
    out = self._mlp(_norm(config, "mlp_norm")(x))
    if config.post_norms:
      out = _norm(config, "post_mlp_norm")(out)
    return self._constrain((x + out).reshape(shape), "batch"), cache

  def _attention(self, x, shape, angles, mask, earlier, cache, column):
    """Attends from x [B S, E], the activations' shape being [B, S, E]."""
    config = self.config
    if self.is_fused:
      query, key, value = self._fused_heads(x, shape)
    else:
      query = self._heads(x, shape, "query", config.num_heads, "heads")
      key = self._heads(x, shape, "key", config.kv_heads, "kv_heads")
      value = self._heads(x, shape, "value", config.kv_heads, "kv_heads")
    if config.qk_norm:
      query = _norm(config, "query_norm")(query)
      key = _norm(config, "key_norm")(key)
    query, key = rotary.rotate(query, angles), rotary.rotate(key, angles)
    scale = config.query_scale or config.head_dim**-0.5
    new = LayerCache(key, value)
    if cache is None:
      cache = self._constrain(new, "batch", "kv_heads")
      attended = self._attend_whole(query * scale, earlier, cache, mask)
    else:
      axes = partitioning.cache_axes(self.layout, config.kv_heads)
      cache = self._constrain(cache.write(new, column), *axes)
      # A device with a part of the positions computes all heads' scores of it.
      query = query if "kv_heads" in axes else self._constrain(query, "batch")
      parts = [*earlier, (cache, mask)]
      attended = attention.attend(
        query * scale, parts, config.attention_softcap
      )
    attended = jnp.swapaxes(attended, 1, 2).reshape(len(x), -1)
    names = ("heads", "embed")
    return project(self, attended, "output", (config.embed_dim,), names), cache

  def _attend_whole(self, query, earlier, own, mask):
    """Attends from S positions to the same, and those before all rows."""
    softcap = self.config.attention_softcap
    if not splash.is_faster(query.shape[2], bool(self.config.local_layers)):
      return attention.attend(query, [*earlier, (own, mask)], softcap)
    shared = earlier[0][0] if earlier else None
    # The last position sees all that are not padding.
    is_real = mask[:, -1]
    return splash.attend(self.layout, query, own, shared, is_real, softcap)

  def _heads(self, x, shape, name, number, axis):
    """Projects x [B S, E] to [B, number, S, D]."""
    projected = project(
      self,
      x,
      name,
      (number, self.config.head_dim),
      ("embed", axis, "kv"),
      use_bias=self.config.qkv_bias,
    )
    projected = projected.reshape(*shape[:2], number, self.config.head_dim)
    return self._constrain(jnp.swapaxes(projected, 1, 2), "batch", axis)

  def _fused_heads(self, x, shape):
    """Queries, keys and values of x [B S, E], by one product."""
    config = self.config
    heads, kv_heads = config.num_heads, config.kv_heads
    projected = project(
      self,
      x,
      "query_key_value",
      ((heads + 2 * kv_heads) * config.head_dim,),
      ("embed", "heads"),
      use_bias=config.qkv_bias,
    )
    projected = projected.reshape(*shape[:2], -1, config.head_dim)
    by_head = jnp.swapaxes(projected, 1, 2)
    return jnp.split(by_head, (heads, heads + kv_heads), axis=1)

  def _mlp(self, x):
    """Runs the gated MLP on x [B S, E]."""
    config = self.config
    if self.is_fused:
      both = project(
        self, x, "gate_up", (2 * config.mlp_dim,), ("embed", "mlp")
      )
      gate, up = jnp.split(both, 2, axis=1)
    else:
      wide = ((config.mlp_dim,), ("embed", "mlp"))
      gate = project(self, x, "gate", *wide)
      up = project(self, x, "up", *wide)
    inner = _ACTIVATIONS[config.activation](gate) * up
    inner = self._constrain(inner, "batch", "mlp")
    return project(self, inner, "down", (config.embed_dim,), ("mlp", "embed"))

  def _constrain(self, tree, *names):
    return partitioning.constrain(self.layout, tree, *names)


class Decoder(nn.Module):
  """The network without the output layer, which is `layers.unembed`."""

  config: DecoderConfig
  vocab_size: int
  lora: Lora | None = None
  layout: partitioning.Layout | None = None
  is_fused: bool = False

  @nn.compact
  def __call__(
    self,
    tokens,
    positions,
    masks,
    earlier=(),
    cache=None,
    column=0,
    soft_prompt=None,
  ):
    """Feeds S positions in, given what was fed in earlier.

    Args:
      tokens: Tokens [B, S] int32.
      positions: Positions [B, S] int32.
      masks: LayerMasks of the cache's C positions, or of the S.
      earlier: Pairs of a cache that is read and not written, and its
        LayerMasks.
      cache: KVCache of C positions, or None.
      column: Column of the cache for the first of the S positions, a scalar.
      soft_prompt: Soft tokens [L, E] before each row's; S counts them.

    Returns:
      [B, S, E], after the last norm, and the cache with the S positions
      written; without a cache, their keys and values.
    """
    x = self._embed(tokens, soft_prompt)
    angles = self._angles(positions, x.shape[1], earlier, cache)
    run = self._looped if self._is_looped(cache) else self._unrolled
    x, written = run(x, angles, masks, earlier, cache, column)
    return _norm(self.config, "final_norm")(x), written

  def _is_looped(self, cache) -> bool:
    """Whether one loop runs all layers.

    A decoding step has no loop, which would copy its caches and weights: its
    layers are compiled one by one, and use both where they are.
    """
    if cache is not None or self.is_initializing():
      return False
    first = self.variables["params"]["layer_0"]
    return scanned.is_worth_it(self.layout, first)

  def _unrolled(self, x, angles, masks, earlier, cache, column):
    """Runs the layers one after the other."""
    config = self.config
    block_class = nn.remat(Block) if config.remat else Block
    written = []
    for number in range(config.num_layers):
      block = block_class(
        *(config, self.lora, self.layout, self.is_fused),
        name=f"layer_{number}",
      )
      kind = int(number in config.local_layers)
      x, layer_cache = block(
        x,
        angles[kind],
        masks[kind],
        [(seen[number], its_masks[kind]) for seen, its_masks in earlier],
        cache and cache[number],
        column,
      )
      written.append(layer_cache)
    return x, tuple(written)

  def _looped(self, x, angles, masks, earlier, cache, column):
    """Runs the layers in a loop, without a cache to write to."""
    config, own = self.config, self.variables["params"]
    block = Block(config, self.lora, self.layout, self.is_fused, parent=None)

    def run(x, layer):
      params, is_local, seen = layer

      def of_kind(kinds):
        return scanned.choose(is_local, *kinds[: len(angles)])

      its_earlier = [
        (part, of_kind(kinds))
        for part, (_, kinds) in zip(seen, earlier, strict=True)
      ]
      of_layer = of_kind(angles), of_kind(masks), its_earlier
      return block.apply({"params": params}, x, *of_layer, cache, column)

    own_parts = [
      (
        own[f"layer_{number}"],
        number in config.local_layers,
        [part[number] for part, _ in earlier],
      )
      for number in range(config.num_layers)
    ]
    return scanned.loop(run, x, own_parts, config.remat)

  def _embed(self, tokens, soft_prompt):
    """[B, S, E] of tokens, after soft tokens if there are any."""
    config = self.config
    spread = config.embed_dim**-0.5
    embed = layers.embedding(config, self.vocab_size, spread, "embed")
    if not config.tie_embeddings:
      layers.add_unembedding(self, config, self.vocab_size)
    x = embed(tokens)
    if soft_prompt is not None:
      soft = jnp.broadcast_to(soft_prompt, (x.shape[0], *soft_prompt.shape))
      x = jnp.concatenate([soft.astype(x.dtype), x], axis=1)
    x = x.astype(config.dtype)
    if config.scale_embeddings:
      # Rounded as the activations are, as Gemma was trained.
      x *= jnp.asarray(config.embed_dim**0.5, config.dtype)
    return partitioning.constrain(self.layout, x, "batch")

  def _angles(self, positions, length, earlier, cache):
    """Rotary sines and cosines of each kind of layers."""
    # No position is above the number of all that can be seen together.
    end = length if cache is None else cache[0].length
    end += sum(seen[0].length for seen, _ in earlier)
    kinds = (False, True) if self.config.local_layers else (False,)
    return [
      rotary.sin_cos(rotary_frequencies(self.config, is_local), positions, end)
      for is_local in kinds
    ]
