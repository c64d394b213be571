"""What a language model is made of, whatever its architecture.

Symbols: B rows, P prompt tokens, P' prefix tokens, T target tokens, V
vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.models.api import PAD_ID, Params

SOFT_PROMPT = "soft_prompt"  # the parameter of that name, [L, E]

_CHUNK_BYTES = 2**27


class Network(NamedTuple):
  """Functions of parameters, to be compiled by who uses them.

  Attributes:
    init: rng_key -> params, with the names of their axes.
    begin: (params, prefix [P']) -> what all rows share, which `start`,
      `advance` and `log_prob` take.
    start: (params, shared, prompts [B, P], column) -> logits [B, V] of the
      first new token, and what the rows keep, every array of which has rows
      first. `column` is what `advance` will be given for this token.
    advance: (params, shared, kept, tokens [B], age [B], column) -> logits
      [B, V] and what the rows keep, when a row's token of number `age` is fed
      in. Rows may differ in age; `column` is one more at each call, and says
      where in a ring the kept things of this token go.
    log_prob: (params, shared, prompts [B, P], targets [B, T]) -> [B, T] nats.
  """

  init: Callable[[jax.Array], Params]
  begin: Callable[..., Any]
  start: Callable[..., tuple[jax.Array, Any]]
  advance: Callable[..., tuple[jax.Array, Any]]
  log_prob: Callable[..., jax.Array]


def without_soft_prompt(params: Params) -> Params:
  """The parameters of the network itself, as its module takes them."""
  return {name: v for name, v in params.items() if name != SOFT_PROMPT}


def prompt_mask(prompts: jax.Array) -> jax.Array:
  """[B, P] bool, False on the padding before each prompt.

  An empty prompt keeps one padding token, as something to start from: a
  position that sees nothing would attend to the tokens after it too.
  """
  return (jnp.cumsum(prompts != PAD_ID, axis=1) > 0).at[:, -1].set(True)


def target_mask(targets: jax.Array, eos_id: int) -> jax.Array:
  """Marks the tokens that belong to a sequence: up to its first EOS.

  Args:
    targets: [..., T] int32.
    eos_id: the token that ends a sequence.

  Returns:
    [..., T] bool; all True for a sequence without EOS, cut by the limit.
  """
  is_end = targets == eos_id
  return jnp.cumsum(is_end, axis=-1) - is_end == 0


def log_prob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """[...] nats of tokens [...] under logits [..., V], in float32."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def score(
  unembed: Callable[[jax.Array], jax.Array], x: jax.Array, tokens: jax.Array
) -> jax.Array:
  """Scores tokens, bit by bit where their logits would take much memory.

  Args:
    unembed: [B, t, E] -> [B, t, V] logits.
    x: [B, T, E].
    tokens: [B, T] int32.

  Returns:
    [B, T] nats.
  """
  rows, length, _ = x.shape
  vocab_size = jax.eval_shape(unembed, x).shape[-1]
  size = max(1, _CHUNK_BYTES // (4 * rows * vocab_size))
  if size >= length:
    return log_prob_of(unembed(x), tokens)
  number = -(-length // size)
  missing = number * size - length

  def chunks(array):
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    padded = jnp.pad(array, widths)
    parts = padded.reshape(rows, number, size, *array.shape[2:])
    return jnp.moveaxis(parts, 1, 0)

  @jax.checkpoint
  def one(part):
    return log_prob_of(unembed(part[0]), part[1])

  scored = jax.lax.map(one, (chunks(x), chunks(tokens)))
  return jnp.moveaxis(scored, 0, 1).reshape(rows, -1)[:, :length]
