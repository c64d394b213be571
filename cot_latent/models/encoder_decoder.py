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
from cot_latent.models.api import PAD_ID, Params
from cot_latent.models.decoder import Cache
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
    target: of the T positions of the decoder's start and what is drawn, but
      for the last, which is never fed in; used as a ring.
  """

  encoded: Cache
  is_real: jax.Array
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
    variables = {"params": without_soft_prompt(params)}
    return module.apply(variables, *arguments, **fields)

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

  def feed(params, kept, tokens, encoded, age, column):
    """Feeds in tokens [B] of ages [B], the start's being -1."""
    # How old the tokens in the ring's columns are, seen from the newest; the
    # same in all rows, but some rows have not so many.
    back = (column - jnp.arange(max_length)) % max_length
    is_own = back <= age[:, None] + 1
    x, ring, cross = decode(
      params,
      tokens[:, None],
      encoded,
      kept.is_real,
      t5.Sight(is_own[:, None], -back[None, None]),
      cache=kept.target,
      column=column % max_length,
    )
    logits = t5.unembed(config, params, x[:, 0], layout)
    return logits, Kept(cross, kept.is_real, ring)

  def start(params, shared, prompts, column):
    encoded, is_real = encode(params, shared, prompts)
    rows = len(prompts)
    ring = t5.empty_ring(config, rows, max_length)
    ring = partitioning.constrain(layout, ring, "batch", "heads")
    return feed(
      params,
      Kept((), is_real, ring),
      jnp.full(rows, PAD_ID, jnp.int32),
      encoded,
      jnp.full(rows, -1, jnp.int32),
      column - 1,
    )

  def advance(params, shared, kept, tokens, age, column):
    del shared  # is encoded in what rows keep
    return feed(params, kept, tokens, kept.encoded, age, column)

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
