"""An encoder-decoder: the encoder reads a prompt, the decoder writes a target.

Prompts stand to the right of their padding, behind what all rows begin with. An
encoder looks both ways, so that what it makes of a common beginning hangs on
the rest: nothing of that can be shared but the tokens.

The decoder starts from padding's token, as T5 does; a row's token of number
`age` thus has the position age + 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.models import partitioning, t5
from cot_latent.models.decoder import Cache
from cot_latent.models.lora import Lora
from cot_latent.models.network import (
  PAD_ID,
  SOFT_PROMPT,
  Network,
  Params,
  prompt_mask,
  score,
  target_mask,
)


class Shared(NamedTuple):
  """What all rows begin with.

  Attributes:
    prefix: [P'] int32.
    soft: [L, E], soft tokens before it, or None.
  """

  prefix: jax.Array
  soft: jax.Array | None


class Kept(NamedTuple):
  """What rows keep while they are written.

  Attributes:
    encoded: keys and values of the encoder's C positions, for the decoder.
    is_real: [B, C] bool, False on padding.
    first: of the decoder's start.
    target: of the T positions behind it, used as a ring.
  """

  encoded: Cache
  is_real: jax.Array
  first: Cache
  target: Cache


def build(
  config: t5.T5Config,
  vocab_size: int,
  eos_id: int,
  max_length: int,
  lora: Lora | None,
  layout: partitioning.Layout | None,
) -> Network:
  """Builds the functions; see `language_model.build`."""
  module = t5.T5(config, vocab_size, lora, layout)

  def apply(params, *arguments, **fields):
    own = {k: v for k, v in params.items() if k != SOFT_PROMPT}
    return module.apply({"params": own}, *arguments, **fields)

  def init(rng_key):
    return module.init(rng_key, jnp.ones((1, 1), jnp.int32))["params"]

  def begin(params: Params, prefix: jax.Array) -> Shared:
    return Shared(prefix, params.get(SOFT_PROMPT))

  def encode(params, shared, prompts):
    """Gives [B, C, E], and [B, C] bool, False on padding."""
    tokens, place = _behind_padding(shared, prompts)
    soft, is_soft = None, None
    if shared.soft is not None:
      last = len(shared.soft) - 1
      soft = shared.soft[jnp.clip(place, 0, last)]
      is_soft = (place >= 0) & (place <= last)
    is_real = place >= 0
    encoded = apply(params, tokens, is_real, soft, is_soft, method="encode")
    return encoded, is_real

  def decode(params, *arguments, **fields):
    return apply(params, *arguments, **fields, method="decode")

  def log_prob(params, shared, prompts, targets):
    encoded, is_real = encode(params, shared, prompts)
    tokens = jnp.pad(targets, ((0, 0), (1, 0)), constant_values=PAD_ID)
    place = np.arange(targets.shape[1])
    offset = (place - place[:, None])[None]
    sight = t5.Sight(offset <= 0, offset)
    x, _, _ = decode(params, tokens[:, :-1], encoded, is_real, sight)

    def unembed(x):
      return t5.unembed(config, params, x, layout)

    chosen = score(unembed, x, targets)
    return jnp.where(target_mask(targets, eos_id), chosen, 0)

  def start(params, shared, prompts):
    encoded, is_real = encode(params, shared, prompts)
    tokens = jnp.full((len(prompts), 1), PAD_ID, jnp.int32)
    itself = np.zeros((1, 1, 1), np.int32)
    x, first, cross = decode(
      params, tokens, encoded, is_real, t5.Sight(itself == 0, itself)
    )
    logits = t5.unembed(config, params, x[:, 0], layout)
    ring = t5.empty_ring(config, len(prompts), max_length)
    ring = partitioning.constrain(layout, ring, "batch", "heads")
    return logits, Kept(cross, is_real, first, ring)

  def advance(params, shared, kept, tokens, age, column):
    del shared  # is encoded in what rows keep
    ring_column = column % max_length
    # How old the tokens in the ring's columns are, seen from the newest; the
    # same in all rows, but some rows have not so many.
    back = (ring_column - jnp.arange(max_length)) % max_length
    is_own = back <= age[:, None]
    to_first = -(age[:, None, None] + 1)
    x, ring, _ = decode(
      params,
      tokens[:, None],
      kept.encoded,
      kept.is_real,
      t5.Sight(is_own[:, None], -back[None, None]),
      earlier=[(kept.first, t5.Sight(to_first < 0, to_first))],
      cache=kept.target,
      column=ring_column,
    )
    logits = t5.unembed(config, params, x[:, 0], layout)
    return logits, kept._replace(target=ring)

  return Network(init, begin, start, advance, log_prob)


def _behind_padding(
  shared: Shared, prompts: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Puts what all rows begin with between their padding and their prompts.

  Args:
    shared: C - P soft tokens and tokens of the prefix.
    prompts: [B, P] int32.

  Returns:
    [B, C] int32, tokens, any where soft ones belong; [B, C] int32, their
    places, counted from a row's beginning and below 0 on its padding.
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
  # Behind it the prompts stand where they do in this.
  source = jnp.where(place < len(before), jnp.maximum(place, 0), column)
  return jnp.take_along_axis(tokens, source, axis=1), place
