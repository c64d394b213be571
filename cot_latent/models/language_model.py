"""A model as functions of its parameters: init, sample, log_prob.

Prompts stand to the right of their padding, so that every row's first new
token has the same place. What is sampled is exactly what is scored: the
distribution is neither truncated nor otherwise changed, a sequence ends with
its first EOS, and one that reaches the length limit is scored as it was drawn.

Symbols: B rows, P prompt tokens, T target tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.models import decoder, partitioning

PAD_ID = 0  # as in SeqIO

Params = Any  # a pytree of arrays


class Draws(NamedTuple):
  """Sampled continuations.

  Attributes:
    tokens: [B, T] int32; 0 after the end.
    ended: [B] bool; False where the length limit cut the sequence.
    log_prob: [B, T] float32, nats, at temperature 1; 0 after the end.
  """

  tokens: jax.Array
  ended: jax.Array
  log_prob: jax.Array


class LanguageModel(NamedTuple):
  """What training needs of a model; every function is pure and compiled.

  Attributes:
    init: rng_key -> params.
    sample: (params, prompts [B, P], keys [B], temperature) -> Draws.
      Temperature 0 is greedy decoding.
    log_prob: (params, prompts [S, P], targets [S, T]) -> [S, T] nats.
    layout: where parameters and rows lie; None is one device. With one,
      `sample` takes and gives arrays of the host.
  """

  init: Callable[[jax.Array], Params]
  sample: Callable[..., Draws]
  log_prob: Callable[[Params, jax.Array, jax.Array], jax.Array]
  layout: partitioning.Layout | None = None


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


def build(
  config: decoder.DecoderConfig,
  vocab_size: int,
  eos_id: int,
  max_length: int,
  layout: partitioning.Layout | None = None,
) -> LanguageModel:
  """Builds a decoder-only language model.

  Args:
    config: its sizes.
    vocab_size: V.
    eos_id: the token that ends a sequence.
    max_length: T, where sampling stops.
    layout: where its parameters and rows lie; None is one device.

  Returns:
    The model's functions.

  Raises:
    UserError: if the model cannot be cut as the layout says.
  """
  network = decoder.Decoder(config, vocab_size, layout)

  def init_with_names(rng_key):
    tokens = jnp.ones((1, 1), jnp.int32)
    cache = decoder.empty_cache(config, 1, 1)
    mask = jnp.ones((1, 1, 1), bool)
    return network.init(rng_key, tokens, tokens, mask, cache, 0)["params"]

  def init(rng_key):
    return nn.unbox(init_with_names(rng_key))

  def forward(params, tokens, is_real, logits_from):
    """Runs whole rows at once; is_real [B, S] is False on padding."""
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return network.apply(
      {"params": params},
      tokens,
      _positions(is_real),
      causal & is_real[:, None, :],
      decoder.empty_cache(config, *tokens.shape),
      0,
      logits_from,
    )

  def log_prob(params, prompts, targets):
    prompt_is_real = _prompt_mask(prompts)
    tokens = jnp.concatenate([prompts, targets], axis=1)[:, :-1]
    is_real = jnp.concatenate(
      [prompt_is_real, jnp.ones_like(targets, bool)], axis=1
    )[:, :-1]
    logits, _ = forward(params, tokens, is_real, prompts.shape[1] - 1)
    chosen = _log_prob_of(logits, targets)
    return jnp.where(target_mask(targets, eos_id), chosen, 0)

  def sample(params, prompts, keys, temperature=1.0):
    rows, prompt_length = prompts.shape
    is_real = _prompt_mask(prompts)
    num_real = is_real.sum(axis=1, dtype=jnp.int32)
    logits, cache = forward(params, prompts, is_real, prompt_length - 1)
    # The last token is never fed in, so it needs no place.
    room = max_length - 1
    cache = jax.tree.map(
      lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, room), (0, 0))), cache
    )
    place = jnp.arange(prompt_length + room)
    prompt_can_be_seen = jnp.pad(is_real, ((0, 0), (0, room)))

    def draw(t, logits, draws):
      """Adds the t-th token, given its logits [B, V]."""
      # The default noise never draws a token rarer than about 1e-7, and a large
      # vocabulary has many. Greedy decoding only scales the noise by 0.
      noise = jax.vmap(
        lambda key: jax.random.gumbel(key, logits.shape[-1:], mode="high")
      )(jax.vmap(jax.random.fold_in, (0, None))(keys, t))
      token = jnp.argmax(logits + temperature * noise, axis=-1)
      token = jnp.where(draws.ended, PAD_ID, token).astype(jnp.int32)
      chosen = _log_prob_of(logits[:, None], token[:, None])[:, 0]
      chosen = jnp.where(draws.ended, 0, chosen)
      return Draws(
        tokens=draws.tokens.at[:, t].set(token),
        ended=draws.ended | (token == eos_id),
        log_prob=draws.log_prob.at[:, t].set(chosen),
      )

    def goes_on(carry):
      t, draws, _ = carry
      return (t < max_length) & ~draws.ended.all()

    def step(carry):
      """Feeds the token before the t-th in, and draws the t-th."""
      t, draws, cache = carry
      newest = prompt_length + t - 1
      is_new = (place >= prompt_length) & (place <= newest)
      logits, cache = network.apply(
        {"params": params},
        draws.tokens[:, t - 1, None],
        (num_real + t - 1)[:, None],
        (prompt_can_be_seen | is_new)[:, None],
        cache,
        newest,
      )
      return t + 1, draw(t, logits[:, 0], draws), cache

    nothing = Draws(
      tokens=jnp.full((rows, max_length), PAD_ID, jnp.int32),
      ended=jnp.zeros(rows, bool),
      log_prob=jnp.zeros((rows, max_length)),
    )
    nothing = partitioning.constrain(layout, nothing, "batch")
    carry = (1, draw(0, logits[:, 0], nothing), cache)
    return jax.lax.while_loop(goes_on, step, carry)[1]

  if layout is None:
    return LanguageModel(jax.jit(init), jax.jit(sample), jax.jit(log_prob))

  @jax.jit
  def sample_parts(params, prompts, key_data, temperature):
    keys = jax.random.wrap_key_data(key_data, impl="threefry2x32")
    draws = sample(params, prompts, keys, temperature)
    return partitioning.constrain(layout, draws)  # each process gets them all

  def sample_rows(params, prompts, keys, temperature=1.0):
    draws = sample_parts(
      params,
      partitioning.place_rows(layout, prompts),
      partitioning.place_rows(layout, jax.random.key_data(keys)),
      temperature,
    )
    return jax.tree.map(lambda x: np.asarray(x)[: len(prompts)], draws)

  shardings = partitioning.param_shardings(
    layout, jax.eval_shape(init_with_names, jax.random.key(0))
  )
  return LanguageModel(
    jax.jit(init, out_shardings=shardings),
    sample_rows,
    jax.jit(log_prob),
    layout,
  )


def _prompt_mask(prompts: jax.Array) -> jax.Array:
  """[B, P] bool, False on the padding before each prompt.

  An empty prompt keeps one padding token, as something to start from: a
  position that sees nothing would attend to the tokens after it too.
  """
  return (jnp.cumsum(prompts != PAD_ID, axis=1) > 0).at[:, -1].set(True)


def _positions(is_real: jax.Array) -> jax.Array:
  """[B, S] int32, counted from each row's first real token."""
  return jnp.maximum(jnp.cumsum(is_real, axis=1, dtype=jnp.int32) - 1, 0)


def _log_prob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """[B, S] nats of tokens [B, S] under logits [B, S, V], in float32."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
