"""A decoder-only model: prefix, prompt and target are one sequence.

Prompts stand to the right of their padding, so that every row's first new
token has the same place. What all rows begin with, soft tokens and the prefix,
is fed in once, and its keys and values are read by all rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.models import decoder, partitioning
from cot_latent.models.api import Params
from cot_latent.models.lora import Lora
from cot_latent.models.network import (
  SOFT_PROMPT,
  Network,
  prompt_mask,
  score,
  target_mask,
  without_soft_prompt,
)


class Shared(NamedTuple):
  """What all rows begin with.

  Attributes:
    cache: of keys [K, C, D], C soft tokens and tokens of the prefix; empty
      where there are none.
  """

  cache: decoder.Cache = ()

  @property
  def length(self) -> int:
    """C."""
    return self.cache[0].keys.shape[1] if self.cache else 0


class Kept(NamedTuple):
  """What rows keep while they are written.

  Attributes:
    prompt: keys and values of the prompts' P positions.
    is_real: [B, P] bool, False on padding.
    target: of the T positions, used as a ring.
  """

  prompt: decoder.Cache
  is_real: jax.Array
  target: decoder.Cache


def build(
  config: decoder.DecoderConfig,
  vocab_size: int,
  eos_id: int,
  max_length: int,
  lora: Lora | None,
  layout: partitioning.Layout | None,
) -> Network:
  """Builds the functions; see `language_model.build`."""
  module = decoder.Decoder(config, vocab_size, lora, layout)

  def apply(params, *arguments, **fields):
    variables = {"params": without_soft_prompt(params)}
    return module.apply(variables, *arguments, **fields)

  def init(rng_key):
    tokens = jnp.ones((1, 1), jnp.int32)
    seen = jnp.ones((1, 1, 1), bool)
    return module.init(rng_key, tokens, tokens, decoder.Sight(seen, seen))[
      "params"
    ]

  def sight(can_be_seen, positions, key_positions):
    return decoder.sight(config, can_be_seen, positions, key_positions)

  def see_all(length, positions):
    """Sight of a prefix's C positions, for positions [B, S]."""
    can_be_seen = jnp.ones((*positions.shape, length), bool)
    return sight(can_be_seen, positions, jnp.arange(length)[None])

  def earlier(shared, positions):
    if not shared.length:
      return []
    return [(shared.cache, see_all(shared.length, positions))]

  def forward(params, shared, tokens, is_real, before=None):
    """Runs whole rows at once; is_real [B, S] is False on padding."""
    positions = _positions(is_real, shared.length)
    length = is_real.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    can_be_seen = causal & is_real[:, None, :]
    return apply(
      params,
      tokens,
      positions,
      sight(can_be_seen, positions, positions),
      earlier(shared, positions),
      before=before,
    )

  def begin(params: Params, prefix: jax.Array) -> Shared:
    before = params.get(SOFT_PROMPT)
    length = len(prefix) + (0 if before is None else len(before))
    if not length:
      return Shared()
    is_real = jnp.ones((1, length), bool)
    _, cache = forward(params, Shared(), prefix[None], is_real, before)
    return Shared(jax.tree.map(lambda x: x[0], cache))

  def log_prob(params, shared, prompts, targets):
    tokens = jnp.concatenate([prompts, targets], axis=1)[:, :-1]
    is_real = jnp.concatenate(
      [prompt_mask(prompts), jnp.ones_like(targets, bool)], axis=1
    )[:, :-1]
    x, _ = forward(params, shared, tokens, is_real)
    x = x[:, prompts.shape[1] - 1 :]

    def unembed(x):
      return decoder.unembed(config, params, x, layout)

    chosen = score(unembed, x, targets)
    return jnp.where(target_mask(targets, eos_id), chosen, 0)

  def start(params, shared, prompts, column):
    del column  # prompts lie elsewhere
    is_real = prompt_mask(prompts)
    x, cache = forward(params, shared, prompts, is_real)
    logits = decoder.unembed(config, params, x[:, -1], layout)
    shape = (len(prompts), config.kv_heads, max_length, config.head_dim)
    empty = jnp.zeros(shape, config.dtype)
    ring = (decoder.LayerCache(empty, empty),) * config.num_layers
    ring = partitioning.constrain(layout, ring, "batch", "kv_heads")
    return logits, Kept(cache, is_real, ring)

  def advance(params, shared, kept, tokens, age, column):
    num_real = kept.is_real.sum(axis=1, dtype=jnp.int32)
    first = (shared.length + num_real)[:, None]
    positions = first + age[:, None]
    ring_column = column % max_length
    # Ages of the tokens in the ring's columns, seen from this row's newest.
    back = (ring_column - jnp.arange(max_length)) % max_length
    key_age = age[:, None] - back
    x, ring = apply(
      params,
      tokens[:, None],
      positions,
      sight((key_age >= 0)[:, None], positions, first + key_age),
      [
        *earlier(shared, positions),
        (
          kept.prompt,
          sight(
            kept.is_real[:, None],
            positions,
            _positions(kept.is_real, shared.length),
          ),
        ),
      ],
      kept.target,
      ring_column,
    )
    logits = decoder.unembed(config, params, x[:, 0], layout)
    return logits, kept._replace(target=ring)

  return Network(init, begin, start, advance, log_prob)


def _positions(is_real: jax.Array, start: int) -> jax.Array:
  """[B, S] int32, counted from each row's first real token."""
  counted = jnp.cumsum(is_real, axis=1, dtype=jnp.int32) - 1
  return start + jnp.maximum(counted, 0)
