"""Draws from a network: a batch at once, or many rows through a few slots.

Rationales differ in length. If there are more rows than slots, finished rows
leave their slots to the next rows; when none are left, the number of slots
shrinks. The draws of a row depend on its prompt and key alone, up to rounding.

Symbols: N rows, B slots, P prompt tokens, P' prefix tokens, T target tokens, V
vocabulary.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cot_latent.models import pace, partitioning, slots, threefry
from cot_latent.models.api import PAD_ID, Array, Draws, Params
from cot_latent.models.network import Network, log_prob_of


class DecodeState(NamedTuple):
  """The state of the decoding loop, for the rows in B slots.

  Attributes:
    draws: Draws so far.
    key_data: Data of the rows' random keys, [B, ...] uint32.
    slot_position: Tokens drawn so far in each slot, [B] int32.
    read: State in which `Ending.advance` has read the draws; None where there
      are no stop strings.
    cache: The network's cache of the rows.
    column: Column of the cache's ring for the next token, a scalar int32.
  """

  draws: Draws
  key_data: jax.Array
  slot_position: jax.Array
  read: jax.Array | None
  cache: Any
  column: jax.Array


@dataclasses.dataclass(frozen=True)
class DecodingLoop:
  """The steps of sampling, as pure functions to be compiled.

  Attributes:
    network: The network that is drawn from.
  """

  network: Network

  def is_done(self, state: DecodeState) -> jax.Array:
    """Returns [B] bool, True for rows that are finished."""
    is_full = state.slot_position == self.network.max_length
    return state.draws.ended | is_full

  def draw(
    self, state: DecodeState, logits: jax.Array, temperature: jax.Array
  ) -> DecodeState:
    """Draws each row's next token, given its logits [B, V]."""
    draws, slot_position = state.draws, state.slot_position
    is_done = self.is_done(state)
    noisy = add_noise(logits, state.key_data, slot_position, temperature)
    token = jnp.argmax(noisy, axis=-1)
    token = jnp.where(is_done, PAD_ID, token).astype(jnp.int32)
    chosen = jnp.where(is_done, 0, log_prob_of(logits, token))
    # Finished rows read padding, which changes nothing.
    read, is_end = self.network.ending.advance(state.read, token)
    rows = jnp.arange(len(slot_position))
    # Finished rows write outside, that is, nothing.
    place = jnp.where(is_done, self.network.max_length, slot_position)
    return state._replace(
      draws=Draws(
        tokens=draws.tokens.at[rows, place].set(token, mode="drop"),
        ended=draws.ended | (~is_done & is_end),
        log_prob=draws.log_prob.at[rows, place].set(chosen, mode="drop"),
      ),
      slot_position=jnp.where(is_done, slot_position, slot_position + 1),
      read=read,
    )

  def prefill(
    self,
    params: Params,
    shared: Any,
    prompts: jax.Array,
    key_data: jax.Array,
    temperature: jax.Array,
    column: jax.Array | None = None,
  ) -> DecodeState:
    """Fills slots with rows, and draws their first tokens."""
    column = jnp.int32(0) if column is None else column
    logits, cache = self.network.prefill(params, shared, prompts, column)
    rows, max_length = len(prompts), self.network.max_length
    draws = Draws(
      tokens=jnp.full((rows, max_length), PAD_ID, jnp.int32),
      ended=jnp.zeros(rows, bool),
      log_prob=jnp.zeros((rows, max_length)),
    )
    draws = self._constrain(draws, "batch")
    position = jnp.zeros(rows, jnp.int32)
    read = self.network.ending.start(rows)
    state = DecodeState(draws, key_data, position, read, cache, column)
    return self.draw(state, logits, temperature)

  def decode(
    self,
    params: Params,
    shared: Any,
    state: DecodeState,
    temperature: jax.Array,
    until: jax.Array | int,
    most: jax.Array | None = None,
  ) -> DecodeState:
    """Draws token after token until so many rows are done, or `most` tokens."""
    last = None if most is None else state.column + most

    def continues(state):
      is_wanted = self.is_done(state).sum() < until
      return is_wanted if last is None else is_wanted & (state.column < last)

    def step(state):
      newest = state.slot_position - 1
      token = state.draws.tokens[jnp.arange(len(newest)), newest]
      logits, cache = self.network.decode_step(
        params, shared, state.cache, token, newest, state.column
      )
      state = state._replace(cache=cache, column=state.column + 1)
      return self.draw(state, logits, temperature)

    return jax.lax.while_loop(continues, step, state)

  def decode_and_report(
    self,
    params: Params,
    shared: Any,
    state: DecodeState,
    temperature: jax.Array,
    until: jax.Array,
    most: jax.Array,
  ) -> tuple[DecodeState, tuple[Draws, jax.Array]]:
    """As `decode`; draws and `is_done` come to every device too."""
    state = self.decode(params, shared, state, temperature, until, most)
    return state, self._constrain((state.draws, self.is_done(state)))

  def sample_batch(
    self,
    params: Params,
    prefix: jax.Array,
    prompts: jax.Array,
    key_data: jax.Array,
    temperature: jax.Array,
  ) -> Draws:
    """Draws whole rows; only the functions for that are compiled."""
    shared = self.network.encode_prefix(params, prefix)
    state = self.prefill(params, shared, prompts, key_data, temperature)
    state = self.decode(params, shared, state, temperature, len(prompts))
    return self._constrain(state.draws)

  def refill(
    self,
    params: Params,
    shared: Any,
    state: DecodeState,
    prompts: jax.Array,
    key_data: jax.Array,
    where: jax.Array,
    temperature: jax.Array,
  ) -> DecodeState:
    """Puts rows into the slots of these numbers; others stay as they are."""
    column = state.column
    new = self.prefill(params, shared, prompts, key_data, temperature, column)

    def put(old, new):
      return old.at[where].set(new, mode="drop")

    return _map_rows(put, state, new)

  def shrink(self, state: DecodeState, where: jax.Array) -> DecodeState:
    """Leaves the slots of these numbers alone."""

    def take(x):
      return partitioning.constrain_rows(self.network.layout, x[where])

    return _map_rows(take, state)

  def _constrain(self, tree, *names):
    return partitioning.constrain(self.network.layout, tree, *names)


def _map_rows(
  function: Callable[..., jax.Array], state: DecodeState, *others: DecodeState
) -> DecodeState:
  """Maps all arrays but the column, which is that of the first state."""
  rows = [one[:-1] for one in (state, *others)]
  draws, key_data, slot_position, read, cache = jax.tree.map(function, *rows)
  return DecodeState(draws, key_data, slot_position, read, cache, state.column)


def add_noise(
  logits: jax.Array,
  key_data: jax.Array,
  slot_position: jax.Array,
  temperature: jax.Array,
) -> jax.Array:
  """Adds noise to logits, so that the largest is a draw at this temperature.

  Args:
    logits: [B, V] float32.
    key_data: Data of the rows' random keys, [B, ...] uint32.
    slot_position: Tokens drawn so far in each slot, [B] int32.
    temperature: Factor of the noise, a scalar; 0 is greedy decoding, which
      draws no noise.

  Returns:
    [B, V] float32.
  """

  def noisy():
    noise = row_noise(key_data, slot_position, logits.shape[-1])
    return logits + temperature * noise

  # The branch also keeps XLA's CPU compiler from computing noise and largest
  # logit in one loop, which has no vector instructions.
  return jax.lax.cond(temperature > 0, noisy, lambda: logits)


def row_noise(
  key_data: jax.Array, slot_position: jax.Array, vocab_size: int
) -> jax.Array:
  """Draws Gumbel noise for each row's next token.

  A row's noise depends on its key and slot position alone, never on the slot.

  Args:
    key_data: Data of the rows' random keys, [B, ...] uint32.
    slot_position: Tokens drawn so far in each slot, [B] int32.
    vocab_size: V.

  Returns:
    [B, V] float32.
  """
  keys = jax.random.wrap_key_data(key_data, impl=threefry.impl())
  # The default noise never draws a token rarer than about 1e-7, and a large
  # vocabulary has many.
  return jax.vmap(
    lambda key: jax.random.gumbel(key, (vocab_size,), mode="high")
  )(jax.vmap(jax.random.fold_in)(keys, slot_position))


class SlotSampler:
  """Samples from one network; each shape compiles once.

  Attributes:
    split: `Network.split_for_sampling`.
    adapt: `Network.params_for_sampling`, compiled, as those below.
    encode_prefix: `Network.encode_prefix`.
    sample_batch: `DecodingLoop.sample_batch`.
    prefill: `DecodingLoop.prefill`.
    decode: `DecodingLoop.decode_and_report`.
    refill: `DecodingLoop.refill`.
    shrink: `DecodingLoop.shrink`.
  """

  def __init__(self, network: Network):
    """Compiles nothing yet.

    Args:
      network: The network that is drawn from.
    """
    self.split = network.split_for_sampling
    self.adapt = jax.jit(network.params_for_sampling)
    network = network.for_sampling()
    loop = DecodingLoop(network)
    self._network, self._pace = network, pace.Pace()
    self.encode_prefix = jax.jit(network.encode_prefix)
    self.sample_batch = jax.jit(loop.sample_batch)
    self.prefill = jax.jit(loop.prefill)
    self.decode = jax.jit(loop.decode_and_report, donate_argnames="state")
    self.refill = jax.jit(loop.refill, donate_argnames="state")
    self.shrink = jax.jit(loop.shrink)

  def sample(
    self,
    params: Params,
    prefix: Array,
    prompts: Array,
    rng_keys: jax.Array,
    temperature: float = 1.0,
    num_slots: int | None = None,
    report_done: Callable[..., None] | None = None,
  ) -> Draws:
    """Draws one continuation of each prompt.

    Args:
      params: Parameters of the model.
      prefix: Tokens [P'] int32 that all prompts begin with.
      prompts: The rest of the prompts, [N, P] int32, padded on the left.
      rng_keys: One random key for each row, [N].
      temperature: Divisor of the logits; 0 is greedy decoding.
      num_slots: Largest number of rows to decode at once; None is all N.
      report_done: Called now and then with the number of rows done so far, of
        tokens drawn for all rows, and of rows that ended by themselves.

    Returns:
      Draws on the host, the same on every process.
    """
    params = self._adapted(params)
    prompts, total = np.asarray(prompts), len(prompts)
    key_data = np.asarray(jax.random.key_data(rng_keys))
    layout, max_length = self._network.layout, self._network.max_length
    planned = slots.plan(layout, total, num_slots, max_length)
    if planned.few is not None:
      queue = slots.Queue(prompts, key_data, planned, layout, max_length)
      return self._through_slots(
        params, prefix, queue, temperature, report_done
      )
    rows = [partitioning.place_rows(layout, x) for x in (prompts, key_data)]
    draws = self.sample_batch(params, prefix, *rows, temperature)
    draws = jax.tree.map(lambda x: np.asarray(x)[:total], draws)
    if report_done:
      report_done(total, *pace.count(draws, slice(None)))
    return draws

  def _adapted(self, params: Params) -> Params:
    """Changes the parameters that need it; the others are not copied."""
    changed, ready = self.split(params)
    if not ready:
      return self.adapt(params)
    changed = self.adapt(changed) if changed else {}
    flatten = traverse_util.flatten_dict
    return traverse_util.unflatten_dict(flatten(ready) | flatten(changed))

  def _through_slots(self, params, prefix, queue, temperature, report_done):
    """Draws the rows of a queue."""
    shared = self.encode_prefix(params, prefix)
    first = queue.rows(0, len(queue.owner))
    state = self.prefill(params, shared, *first, temperature)
    while queue.num_decoding:
      num_waiting, enough = queue.num_waiting, queue.enough()
      began = time.monotonic()
      state, (draws, is_done) = self.decode(
        *(params, shared, state, temperature),
        *(np.int32(enough), np.int32(self._pace.tokens)),
      )
      is_done = np.asarray(is_done)
      if self._pace.is_over(began) and report_done:
        report_done(*queue.so_far(draws, is_done))
      if is_done.sum() < enough:
        continue
      queue.put_away(draws, is_done)
      for rows, where in queue.refills(is_done):
        state = self.refill(params, shared, state, *rows, where, temperature)
      if not num_waiting and queue.can_shrink:
        state = self.shrink(state, queue.shrink())
    if report_done:
      report_done(*queue.so_far())
    return queue.done
