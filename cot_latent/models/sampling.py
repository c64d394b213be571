"""Draws from a network: a batch at once, or many rows through a few slots.

Rationales differ in length. Where there are more rows than slots, those that
have ended leave their slots to the next ones, and when none are left, the slots
become fewer. What is drawn depends on a row's key and on nothing else, but for
rounding.

Symbols: N rows, B slots, P prompt tokens, T target tokens, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.models import partitioning
from cot_latent.models.api import PAD_ID, Draws
from cot_latent.models.network import Network, log_prob_of

# A batch in which this part alone is not over yet is cut down to it, if that
# makes up for compiling once more.
_SHRINK, _WORTH_SHRINKING = 4, 2**12


class Slots(NamedTuple):
  """Rows that are being written.

  Attributes:
    draws: so far.
    keys: [B, ...] uint32, the data of the rows' keys.
    age: [B] int32, tokens drawn so far.
    kept: what the network keeps of rows.
    column: scalar int32, where it keeps the next.
  """

  draws: Draws
  keys: jax.Array
  age: jax.Array
  kept: Any
  column: jax.Array


def build(
  network: Network,
  eos_id: int,
  max_length: int,
  layout: partitioning.Layout | None,
) -> Callable[..., Draws]:
  """Builds the sampler.

  Args:
    network: the model's.
    eos_id: the token that ends a sequence.
    max_length: T, where sampling stops.
    layout: where rows lie.

  Returns:
    (params, prefix [P'], prompts [N, P], keys [N], temperature, number of
    slots, function that is called with the number of rows done) -> Draws on
    the host, the same on every process. Temperature 0 is greedy.
  """

  def is_over(slots):
    return slots.draws.ended | (slots.age == max_length)

  def draw(slots, logits, temperature):
    """Adds each row's next token, given its logits [B, V]."""
    draws, age = slots.draws, slots.age
    over = is_over(slots)
    keys = jax.random.wrap_key_data(slots.keys, impl="threefry2x32")
    # The default noise never draws a token rarer than about 1e-7, and a large
    # vocabulary has many. Greedy decoding only scales the noise by 0.
    noise = jax.vmap(
      lambda key: jax.random.gumbel(key, logits.shape[-1:], mode="high")
    )(jax.vmap(jax.random.fold_in)(keys, age))
    token = jnp.argmax(logits + temperature * noise, axis=-1)
    token = jnp.where(over, PAD_ID, token).astype(jnp.int32)
    chosen = jnp.where(over, 0, log_prob_of(logits, token))
    rows = jnp.arange(len(age))
    place = jnp.where(over, max_length, age)  # outside, where nothing goes
    return slots._replace(
      draws=Draws(
        tokens=draws.tokens.at[rows, place].set(token, mode="drop"),
        ended=draws.ended | (~over & (token == eos_id)),
        log_prob=draws.log_prob.at[rows, place].set(chosen, mode="drop"),
      ),
      age=jnp.where(over, age, age + 1),
    )

  def fresh(params, shared, prompts, keys, column, temperature):
    """Fills slots with rows, and draws their first tokens."""
    logits, kept = network.start(params, shared, prompts, column)
    rows = len(prompts)
    draws = Draws(
      tokens=jnp.full((rows, max_length), PAD_ID, jnp.int32),
      ended=jnp.zeros(rows, bool),
      log_prob=jnp.zeros((rows, max_length)),
    )
    draws = partitioning.constrain(layout, draws, "batch")
    slots = Slots(draws, keys, jnp.zeros(rows, jnp.int32), kept, column)
    return draw(slots, logits, temperature)

  def advance(params, shared, slots, temperature, until):
    """Draws until so many rows are over."""

    def goes_on(slots):
      return is_over(slots).sum() < until

    def step(slots):
      newest = slots.age - 1
      token = slots.draws.tokens[jnp.arange(len(newest)), newest]
      logits, kept = network.advance(
        params, shared, slots.kept, token, newest, slots.column
      )
      slots = slots._replace(kept=kept, column=slots.column + 1)
      return draw(slots, logits, temperature)

    return jax.lax.while_loop(goes_on, step, slots)

  def whole(params, shared, prompts, keys, temperature):
    """All tokens of a batch, and no more than that is compiled for it."""
    slots = fresh(params, shared, prompts, keys, jnp.int32(0), temperature)
    return advance(params, shared, slots, temperature, len(prompts)).draws

  def everywhere(tree):
    return partitioning.constrain(layout, tree)

  jit = functools.partial(jax.jit, donate_argnames="slots")
  begin = jax.jit(lambda params, prefix: network.begin(params, prefix))

  @jax.jit
  def sample_batch(params, prefix, prompts, keys, temperature):
    shared = network.begin(params, prefix)
    return everywhere(whole(params, shared, prompts, keys, temperature))

  @jax.jit
  def fill(params, shared, prompts, keys, temperature):
    return fresh(params, shared, prompts, keys, jnp.int32(0), temperature)

  @jit
  def go_on(params, shared, slots, temperature, until):
    slots = advance(params, shared, slots, temperature, until)
    return slots, everywhere((slots.draws, is_over(slots)))

  @jit
  def refill(params, shared, slots, prompts, keys, where, temperature):
    """Puts rows into the slots of these numbers; others stay as they are."""
    new = fresh(params, shared, prompts, keys, slots.column, temperature)
    column = slots.column

    def put(old, new):
      return old.at[where].set(new, mode="drop")

    mixed = jax.tree.map(
      put, slots._replace(column=None), new._replace(column=None)
    )
    return mixed._replace(column=column)

  @jax.jit
  def shrink(slots, where):
    kept = jax.tree.map(lambda x: x[where], slots._replace(column=None))
    kept = partitioning.constrain(layout, kept, "batch")
    return kept._replace(column=slots.column)

  def place(array):
    return partitioning.place_rows(layout, array)

  def sample(
    params,
    prefix,
    prompts,
    keys,
    temperature=1.0,
    num_slots=None,
    report_done=None,
  ):
    prompts = np.asarray(prompts)
    keys = np.asarray(jax.random.key_data(keys))
    total = len(prompts)
    size = partitioning.padded(layout, "batch", min(total, num_slots or total))
    is_worth = size * max_length >= _WORTH_SHRINKING
    if total <= size and not is_worth:
      draws = sample_batch(
        params, prefix, place(prompts), place(keys), temperature
      )
      draws = jax.tree.map(lambda x: np.asarray(x)[:total], draws)
      if report_done:
        report_done(total)
      return draws

    shared = begin(params, prefix)
    few = partitioning.padded(layout, "batch", max(1, size // _SHRINK))

    def some(start, number):
      """Rows from a place in the queue; behind its end the last one."""
      rows = np.minimum(np.arange(start, start + number), total - 1)
      return place(prompts[rows]), place(keys[rows])

    slots = fill(params, shared, *some(0, size), temperature)
    # The row that each slot has; none is -1.
    owner = np.where(np.arange(size) < total, np.arange(size), -1)
    waiting = min(size, total)
    done = Draws(
      np.zeros((total, max_length), np.int32),
      np.zeros(total, bool),
      np.zeros((total, max_length), np.float32),
    )
    while (owner >= 0).any():
      num_waiting = total - waiting
      # How many must be over before anything else is worth while.
      until = len(owner)
      if num_waiting:
        until = min(few, num_waiting)
      elif is_worth and len(owner) > few:
        until = len(owner) - few
      slots, (draws, over) = go_on(
        params, shared, slots, temperature, np.int32(until)
      )
      over = np.asarray(over)
      ended = over & (owner >= 0)
      for whole_array, part in zip(done, draws, strict=True):
        whole_array[owner[ended]] = np.asarray(part)[ended]
      owner[ended] = -1
      if report_done:
        report_done(waiting - int((owner >= 0).sum()))
      free = np.flatnonzero(over)
      # As long as all that a filling has room for can be taken.
      while waiting < total and len(free) >= min(few, total - waiting):
        taken = min(few, total - waiting)
        # Places outside take nothing.
        where = np.full(few, len(owner), np.int32)
        where[:taken], free = free[:taken], free[taken:]
        slots = refill(
          params, shared, slots, *some(waiting, few), where, temperature
        )
        owner[where[:taken]] = np.arange(waiting, waiting + taken)
        waiting += taken
      if not num_waiting and is_worth and len(owner) > few:
        order = np.argsort(owner < 0, kind="stable")[:few]
        slots, owner = shrink(slots, order.astype(np.int32)), owner[order]
    return done

  return sample
