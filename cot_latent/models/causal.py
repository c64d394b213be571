"""A decoder-only model: prefix, prompt and target are one sequence.

Prompts are padded on the left, so that every row's first new token is in the
same column. The common beginning of all rows (soft tokens and the prefix) is
fed in once, and all rows read its keys and values.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.models import decoder, fused, layers, partitioning
from cot_latent.models.api import Params
from cot_latent.models.attention import KVCache, empty_cache
from cot_latent.models.decoder import LayerMasks
from cot_latent.models.network import SOFT_PROMPT, Network, prompt_mask


class Shared(NamedTuple):
  """The common beginning of all rows.

  Attributes:
    cache: Keys and values [K, C, D] of the C soft tokens and tokens of the
      prefix; empty where there are none.
  """

  cache: KVCache = ()

  @property
  def length(self) -> int:
    """Returns the number of positions C."""
    return self.cache[0].length if self.cache else 0


class RowCache(NamedTuple):
  """Keys and values of each row's own tokens.

  Attributes:
    prompt: Cache of the prompts' P positions.
    is_real: [B, P] bool, False on padding.
    target: Cache of T positions, used as a ring.
  """

  prompt: KVCache
  is_real: jax.Array
  target: KVCache


@dataclasses.dataclass(frozen=True)
class CausalNetwork(Network):
  """A decoder's functions of its parameters.

  Attributes:
    is_fused: Whether kernels are concatenated, as in models/fused.py.
  """

  config: decoder.DecoderConfig
  is_fused: bool = False

  @property
  def module(self) -> decoder.Decoder:
    """The Flax module, all but the output layer."""
    return decoder.Decoder(
      self.config, self.vocab_size, self.lora, self.layout, self.is_fused
    )

  def for_sampling(self) -> "CausalNetwork":
    """The network with fewer products; see `Network.for_sampling`."""
    network = super().for_sampling()
    return dataclasses.replace(network, is_fused=self.layout is None)

  def params_for_sampling(self, params: Params) -> Params:
    """Puts kernels together too; see `Network.params_for_sampling`."""
    params = super().params_for_sampling(params)
    if self.layout is not None:
      return params
    params = fused.fuse(params)
    if self.config.tie_embeddings and self.config.dtype != "float32":
      table = params["embed"]["embedding"].astype(self.config.dtype)
      params["unembedding"] = table.T
    return params

  def init(self, rng_key: jax.Array) -> Params:
    """Draws parameters, boxed with the names of their axes."""
    tokens = jnp.ones((1, 1), jnp.int32)
    mask = jnp.ones((1, 1, 1), bool)
    variables = self.module.init(
      rng_key, tokens, tokens, LayerMasks(mask, mask)
    )
    return variables["params"]

  def encode_prefix(self, params: Params, prefix: jax.Array) -> Shared:
    """Computes the key-value cache of the soft prompt and the prefix."""
    soft_prompt = params.get(SOFT_PROMPT)
    length = len(prefix) + (0 if soft_prompt is None else len(soft_prompt))
    if not length:
      return Shared()
    is_real = jnp.ones((1, length), bool)
    _, cache = self._forward(
      params, Shared(), prefix[None], is_real, soft_prompt
    )
    return Shared(jax.tree.map(lambda x: x[0], cache))

  def prefill(
    self,
    params: Params,
    shared: Shared,
    prompts: jax.Array,
    column: jax.Array,
  ) -> tuple[jax.Array, RowCache]:
    """Feeds prompts in; see `Network.prefill`."""
    del column  # prompts have a cache of their own
    is_real = prompt_mask(prompts)
    x, cache = self._forward(params, shared, prompts, is_real)
    logits = self.unembed(params, x[:, -1])
    config = self.config
    ring = empty_cache(
      config.num_layers,
      len(prompts),
      config.kv_heads,
      self.max_length,
      config.head_dim,
      config.dtype,
    )
    axes = partitioning.cache_axes(self.layout, config.kv_heads)
    cache, ring = partitioning.constrain(self.layout, (cache, ring), *axes)
    return logits, RowCache(cache, is_real, ring)

  def decode_step(
    self,
    params: Params,
    shared: Shared,
    cache: RowCache,
    tokens: jax.Array,
    slot_position: jax.Array,
    column: jax.Array,
  ) -> tuple[jax.Array, RowCache]:
    """Feeds one new token of each row in; see `Network.decode_step`."""
    num_real = cache.is_real.sum(axis=1, dtype=jnp.int32)
    first = (shared.length + num_real)[:, None]
    positions = first + slot_position[:, None]
    ring_column = column % self.max_length
    # Slot positions of the tokens in the ring's columns; a negative one belongs
    # to the row that had the slot before.
    back = (ring_column - jnp.arange(self.max_length)) % self.max_length
    key_position = slot_position[:, None] - back
    is_own = (key_position >= 0)[:, None]
    x, ring = self.apply(
      params,
      tokens[:, None],
      positions,
      self._masks(is_own, positions, first + key_position),
      [
        *self._shared_part(shared, positions),
        (
          cache.prompt,
          self._masks(
            cache.is_real[:, None],
            positions,
            _positions(cache.is_real, shared.length),
          ),
        ),
      ],
      cache.target,
      ring_column,
    )
    logits = self.unembed(params, x[:, 0])
    return logits, cache._replace(target=ring)

  def log_prob(
    self, params: Params, shared: Shared, prompts: jax.Array, targets: jax.Array
  ) -> jax.Array:
    """Scores targets; see `Network.log_prob`."""
    tokens = jnp.concatenate([prompts, targets], axis=1)[:, :-1]
    is_real = jnp.concatenate(
      [prompt_mask(prompts), jnp.ones_like(targets, bool)], axis=1
    )[:, :-1]
    x, _ = self._forward(params, shared, tokens, is_real)
    return self.score_targets(params, x[:, prompts.shape[1] - 1 :], targets)

  def unembed(self, params: Params, x: jax.Array) -> jax.Array:
    """Computes logits [..., V] from the decoder's outputs [..., E]."""
    softcap = self.config.final_softcap
    return layers.unembed(params, x, self.layout, softcap)

  def _forward(self, params, shared, tokens, is_real, soft_prompt=None):
    """Feeds whole rows in at once; is_real [B, S] is False on padding."""
    positions = _positions(is_real, shared.length)
    length = is_real.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    mask = causal & is_real[:, None, :]
    return self.apply(
      params,
      tokens,
      positions,
      self._masks(mask, positions, positions),
      self._shared_part(shared, positions),
      soft_prompt=soft_prompt,
    )

  def _shared_part(self, shared, positions):
    """The shared cache, if any, and its masks for positions [B, S]."""
    if not shared.length:
      return []
    mask = jnp.ones((*positions.shape, shared.length), bool)
    key_positions = jnp.arange(shared.length)[None]
    return [(shared.cache, self._masks(mask, positions, key_positions))]

  def _masks(self, mask, positions, key_positions) -> LayerMasks:
    return decoder.layer_masks(self.config, mask, positions, key_positions)


def _positions(is_real: jax.Array, start: int) -> jax.Array:
  """[B, S] int32, counted from each row's first real token."""
  counted = jnp.cumsum(is_real, axis=1, dtype=jnp.int32) - 1
  return start + jnp.maximum(counted, 0)
