"""An encoder-decoder: the encoder reads a prompt, the decoder writes a target.

Prompts are padded on the left, before the common beginning of all rows. An
encoder attends in both directions, so that its outputs for a common beginning
depend on the rest: rows can share only the beginning's tokens.

The decoder starts from the padding token, as in T5. So a row's token at slot
position t has position t + 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.models import partitioning, t5
from cot_latent.models.api import PAD_ID, Params
from cot_latent.models.attention import KVCache, empty_cache
from cot_latent.models.network import SOFT_PROMPT, Network, prompt_mask


class Shared(NamedTuple):
  """The common beginning of all rows.

  Attributes:
    prefix: Tokens [P'] int32.
    soft: Soft tokens [L, E] before it, or None.
  """

  prefix: jax.Array
  soft: jax.Array | None


class RowCache(NamedTuple):
  """Keys and values of each row.

  Attributes:
    encoded: Cache of the encoder's C positions, for the decoder.
    is_real: [B, C] bool, False on padding.
    target: Cache of T positions, used as a ring: for the start token and the
      drawn tokens, except the last, which is never fed in.
  """

  encoded: KVCache
  is_real: jax.Array
  target: KVCache


@dataclasses.dataclass(frozen=True)
class EncoderDecoderNetwork(Network):
  """T5's functions of its parameters."""

  config: t5.T5Config

  @property
  def module(self) -> t5.T5:
    """The Flax module, without the output layer."""
    return t5.T5(self.config, self.vocab_size, self.lora, self.layout)

  def init(self, rng_key: jax.Array) -> Params:
    """Draws parameters, boxed with the names of their axes."""
    return self.module.init(rng_key, jnp.ones((1, 1), jnp.int32))["params"]

  def encode_prefix(self, params: Params, prefix: jax.Array) -> Shared:
    """Stores the prefix and the soft prompt; each row encodes them."""
    return Shared(prefix, params.get(SOFT_PROMPT))

  def prefill(
    self,
    params: Params,
    shared: Shared,
    prompts: jax.Array,
    column: jax.Array,
  ) -> tuple[jax.Array, RowCache]:
    """Encodes prompts and feeds the start in; see `Network.prefill`."""
    encoded, is_real = self._encode(params, shared, prompts)
    config, rows = self.config, len(prompts)
    ring = empty_cache(
      config.num_decoder_layers,
      rows,
      config.num_heads,
      self.max_length,
      config.head_dim,
      config.dtype,
    )
    ring = partitioning.constrain(self.layout, ring, "batch", "heads")
    return self._feed(
      params,
      RowCache((), is_real, ring),
      jnp.full(rows, PAD_ID, jnp.int32),
      encoded,
      jnp.full(rows, -1, jnp.int32),
      column - 1,
    )

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
    del shared  # each row's cache has it encoded
    return self._feed(
      params, cache, tokens, cache.encoded, slot_position, column
    )

  def log_prob(
    self, params: Params, shared: Shared, prompts: jax.Array, targets: jax.Array
  ) -> jax.Array:
    """Scores targets; see `Network.log_prob`."""
    encoded, is_real = self._encode(params, shared, prompts)
    tokens = jnp.pad(targets, ((0, 0), (1, 0)), constant_values=PAD_ID)
    mask = t5.causal_mask(targets.shape[1])
    x, _, _ = self._decode(params, tokens[:, :-1], encoded, is_real, mask)
    return self.score_targets(params, x, targets)

  def unembed(self, params: Params, x: jax.Array) -> jax.Array:
    """Computes logits [..., V] from the decoder's outputs [..., E]."""
    return t5.unembed(self.config, params, x, self.layout)

  def _encode(self, params, shared, prompts):
    """Returns [B, C, E], and [B, C] bool, False on padding."""
    tokens, place = _after_padding(shared, prompts)
    soft, is_soft = None, None
    if shared.soft is not None:
      last = len(shared.soft) - 1
      soft = shared.soft[jnp.clip(place, 0, last)]
      is_soft = (place >= 0) & (place <= last)
    is_real = place >= 0
    encoded = self.apply(
      params, tokens, is_real, soft, is_soft, method="encode"
    )
    return encoded, is_real

  def _decode(self, params, *arguments, **fields):
    return self.apply(params, *arguments, **fields, method="decode")

  def _feed(self, params, cache, tokens, encoded, slot_position, column):
    """Feeds in tokens [B] at slot positions [B]; the start token's is -1."""
    # How far back the tokens in the ring's columns are. It is the same in all
    # rows, but a row that began later has fewer tokens.
    back = (column - jnp.arange(self.max_length)) % self.max_length
    is_own = back <= slot_position[:, None] + 1
    x, ring, cross = self._decode(
      params,
      tokens[:, None],
      encoded,
      cache.is_real,
      t5.MaskAndOffset(is_own[:, None], -back[None, None]),
      cache=cache.target,
      column=column % self.max_length,
    )
    logits = self.unembed(params, x[:, 0])
    return logits, RowCache(cross, cache.is_real, ring)


def _after_padding(
  shared: Shared, prompts: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Puts the common beginning between each row's padding and its prompt.

  Args:
    shared: The C - P soft tokens and tokens of the prefix.
    prompts: Tokens [B, P] int32.

  Returns:
    Tokens [B, C] int32, arbitrary at soft tokens; and their positions [B, C]
    int32, counted from a row's beginning and negative on its padding.
  """
  rows, longest = prompts.shape
  num_soft = 0 if shared.soft is None else len(shared.soft)
  before = jnp.pad(shared.prefix, (num_soft, 0), constant_values=PAD_ID)
  num_padding = longest - prompt_mask(prompts).sum(axis=1, dtype=jnp.int32)
  column = jnp.arange(len(before) + longest)
  place = column - num_padding[:, None]
  if not len(before):
    return prompts, place
  tokens = jnp.concatenate(
    [jnp.broadcast_to(before, (rows, len(before))), prompts], axis=1
  )
  # After the beginning, the prompts stay where they are in `tokens`.
  source = jnp.where(place < len(before), jnp.maximum(place, 0), column)
  return jnp.take_along_axis(tokens, source, axis=1), place
