"""Outer loops inside T5X.

When one begins, a pool of rationales is drawn with T5X's parameters, and the
fit begins from the state that the run began with, parameters and optimizer.
That is kept in the run's folder and read again each time: no device has to
hold it, and a run that goes on reads the same. (Of T5X's checkpoints, among
which it is the first one, T5X deletes the old.)

Reference: see `cot_latent.em.outer_loops`, which has the method.
"""

from typing import Any

import jax
import numpy as np

from cot_latent.em import outer_loops
from cot_latent.em.estep import EStep
from cot_latent.em.outer_loops import Pool
from cot_latent.errors import UserError
from cot_latent.runtime.progress import Progress
from cot_latent.t5x import storage
from cot_latent.t5x.latent import Chains, Latent

# Steps of a run whose end only T5X's train knows.
_ENDLESS = int(np.iinfo(np.int32).max)


def empty_pool(latent: Latent) -> Pool | None:
  """The pool before the first step; None for a method without loops."""
  method = latent.method
  if method.loops is None:
    return None
  return outer_loops.empty_pool(
    len(latent.examples), method.num_draws, latent.config.max_length
  )


def keep_first(latent: Latent, train_state: Any) -> None:
  """Keeps what fits begin from, if there may be a second one.

  Args:
    latent: The experiment.
    train_state: T5X's before the run's first step.
  """
  if latent.method.loops is not None and latent.method.loops.begins_anew():
    storage.keep_state(_first(latent), train_state.state_dict())


def check(latent: Latent, chains: Chains) -> None:
  """Checks that a run that goes on has what its loops need.

  Args:
    latent: The experiment.
    chains: As a checkpoint had them.

  Raises:
    UserError: If the pool is another method's, or what fits begin from is
      lost.
  """
  method, pool, empty = latent.method, chains.pool, empty_pool(latent)
  if (pool and pool.tokens.shape) != (empty and empty.tokens.shape):
    raise UserError(
      f"the checkpoint's memory is not that of method {method.name!r} with "
      f"{method.num_draws} draws a question: choose another MODEL_DIR"
    )
  if (chains.fit is not None) != method.is_fitted():
    raise UserError(
      f"the checkpoint is not that of method {method.name!r}: only one of the "
      "two has a fitted control variate; choose another MODEL_DIR"
    )
  if method.loops is None or not method.loops.begins_anew():
    return
  if not storage.absolute(_first(latent)).is_dir():
    raise UserError(
      f"{_first(latent)} is lost, from which method {method.name!r} begins "
      "each outer loop: choose another MODEL_DIR"
    )


def begin(
  latent: Latent,
  chains: Chains,
  e_step: EStep,
  train_state: Any,
  step: int,
) -> tuple[Any, outer_loops.Collected | None]:
  """Where a loop begins, fills the pool and starts the fit again.

  Args:
    latent: The experiment.
    chains: Gets the new pool, and the memory of it.
    e_step: Draws.
    train_state: T5X's before the step, whose parameters draw; where a fit is
      started again it is used up.
    step: T5X's, of the steps taken so far.

  Returns:
    T5X's state to continue with, and what was drawn; None where no loop
    begins.

  Raises:
    RunError: If what fits begin from cannot be read.
  """
  method, pool = latent.method, chains.pool
  own_step = step - chains.began_at
  if pool is None or method.loops is None:
    return train_state, None
  if not pool.ends(method.loops, own_step):
    return train_state, None
  assert chains.memory is not None
  loop = int(pool.loop) + 1
  total = len(latent.examples) * method.num_draws
  collected = outer_loops.collect(
    e_step, train_state.params, loop, Progress(f"loop {loop}", total)
  )
  pool = outer_loops.next_pool(e_step, pool, collected, own_step, _ENDLESS)
  chains.memory = outer_loops.remember(
    chains.memory, pool.tokens, pool.is_correct, own_step + 1
  )
  chains.pool = pool
  if loop > 0:  # the first one begins as the run does
    train_state = _begin_fit(train_state, _first(latent), method.loops.restart)
  return train_state, collected


def is_over(latent: Latent, chains: Chains, step: int) -> bool:
  """Whether the last loop was over before a step, so that nothing is fitted.

  Args:
    latent: The experiment.
    chains: With the pool.
    step: T5X's, of the steps taken before.
  """
  loops, pool = latent.method.loops, chains.pool
  if loops is None or pool is None:
    return False
  return pool.is_over(loops, step - chains.began_at)


def end(latent: Latent, chains: Chains, step: int, loss: float) -> None:
  """Ends the loop if a minibatch is fitted well enough.

  Args:
    latent: The experiment.
    chains: With the pool.
    step: T5X's, this one included.
    loss: Of the step, in nats a sequence.
  """
  own_step = step - chains.began_at
  chains.pool = outer_loops.end_early(
    latent.method.loops, chains.pool, own_step, loss
  )


def _begin_fit(train_state: Any, first: str, restart: bool) -> Any:
  """Begins a fit as the run began, but that T5X's step goes on.

  Args:
    train_state: T5X's, of which nothing may be used any more.
    first: Where the first state is kept.
    restart: Whether parameters begin anew too, and not the optimizer alone.

  Returns:
    T5X's state, which lies where the old one does.
  """
  now = train_state.state_dict()
  like = storage.described(now)
  if not restart:
    like["target"] = jax.tree.map(lambda leaf: storage.NOT_READ, like["target"])
  replaced = [now["state"]["param_states"]] + [now["target"]] * restart
  # As T5X's step does, give the place away: there may be none for two states.
  jax.tree.map(lambda array: array.delete(), replaced)
  state = storage.kept_state(first, like)
  state["state"]["step"] = now["state"]["step"]
  if not restart:
    state["target"] = now["target"]
  return train_state.restore_state(state)


def _first(latent: Latent) -> str:
  return str(storage.absolute(latent.model_dir) / "first_state")
