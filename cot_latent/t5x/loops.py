"""Outer loops inside T5X.

When a loop begins, T5X's parameters draw a pool of rationales. The fit then
begins from the initial state of the run, parameters and optimizer. That state
is stored in the run's folder and read again each time: no device has to hold
it, and a resumed run reads the same state. (T5X deletes its own old
checkpoints, of which that state would be the first.)

Reference: see `cot_latent.em.outer_loops`, which has the method.
"""

import functools
from typing import Any

import jax
import numpy as np

from cot_latent.em import outer_loops
from cot_latent.em.estep import EStep
from cot_latent.em.outer_loops import Pool
from cot_latent.errors import UserError
from cot_latent.runtime.progress import DrawingProgress
from cot_latent.t5x import storage
from cot_latent.t5x.latent import Chains, Latent

# Steps of a run whose end only T5X's train knows.
_ENDLESS = int(np.iinfo(np.int32).max)


def empty_pool(latent: Latent) -> Pool | None:
  """Returns the pool before the first step; None without loops."""
  method = latent.method
  if method.loops is None:
    return None
  return outer_loops.empty_pool(
    len(latent.examples), method.num_draws, latent.config.max_length
  )


def keep_first(latent: Latent, train_state: Any) -> None:
  """Stores the state that fits begin from, if there may be a second fit.

  Args:
    latent: The experiment.
    train_state: T5X's state before the run's first step.
  """
  if latent.method.loops is not None and latent.method.loops.may_begin_again():
    storage.keep_state(_first(latent), train_state.state_dict())


def check(latent: Latent, chains: Chains) -> None:
  """Checks that a resumed run has what its loops need.

  Args:
    latent: The experiment.
    chains: Chains from a checkpoint.

  Raises:
    UserError: If the pool is another method's, or if the state that fits begin
      from is lost.
  """
  method, pool, empty = latent.method, chains.pool, empty_pool(latent)
  if (pool and pool.tokens.shape) != (empty and empty.tokens.shape):
    raise UserError(
      f"the checkpoint's memory is not that of method {method.name!r} with "
      f"{method.num_draws} draws per question: choose another MODEL_DIR"
    )
  if (chains.fit is not None) != method.is_fitted():
    raise UserError(
      f"the checkpoint is not that of method {method.name!r}: only one of the "
      "two has a fitted control variate; choose another MODEL_DIR"
    )
  if method.loops is None or not method.loops.may_begin_again():
    return
  if not storage.absolute(_first(latent)).is_dir():
    raise UserError(
      f"{_first(latent)} is lost, but method {method.name!r} begins each "
      "outer loop from it: choose another MODEL_DIR"
    )


def begin(
  latent: Latent,
  chains: Chains,
  e_step: EStep,
  train_state: Any,
  step: int,
) -> tuple[Any, outer_loops.Collected | None]:
  """If a loop begins, fills the pool and restarts the fit.

  Args:
    latent: The experiment.
    chains: Chains; they get the new pool and its memory.
    e_step: Draws the rationales.
    train_state: T5X's state before the step, whose parameters draw; donated if
      a fit is restarted.
    step: T5X's count of the steps taken so far.

  Returns:
    T5X's state to continue with, and the rationales; None if no loop begins.

  Raises:
    RunError: If the state that fits begin from cannot be read.
  """
  method, pool = latent.method, chains.pool
  own_step = step - chains.began_at
  if pool is None or method.loops is None:
    return train_state, None
  if not pool.ends(method.loops, own_step):
    return train_state, None
  assert chains.memory is not None
  loop = int(pool.loop) + 1
  collected = outer_loops.collect(
    e_step,
    train_state.params,
    loop,
    functools.partial(
      DrawingProgress, f"loop {loop}", longest=e_step.max_length
    ),
  )
  pool = outer_loops.next_pool(e_step, pool, collected, own_step, _ENDLESS)
  chains.memory = outer_loops.remember(
    chains.memory, pool.tokens, pool.is_correct, own_step + 1
  )
  chains.pool = pool
  if loop > 0:  # the first loop begins with the run's own state
    train_state = _begin_fit(train_state, _first(latent), method.loops.restart)
  return train_state, collected


def is_over(latent: Latent, chains: Chains, step: int) -> bool:
  """Whether the last loop was over before a step, so that no more is fitted.

  Args:
    latent: The experiment.
    chains: Chains with the pool.
    step: T5X's count of the steps taken before.
  """
  loops, pool = latent.method.loops, chains.pool
  if loops is None or pool is None:
    return False
  return pool.is_over(loops, step - chains.began_at)


def end(latent: Latent, chains: Chains, step: int, loss: float) -> None:
  """Ends the loop if a minibatch is fitted well enough.

  Args:
    latent: The experiment.
    chains: Chains with the pool.
    step: T5X's count of the steps taken, this one included.
    loss: Loss of the step, in nats per sequence.
  """
  own_step = step - chains.began_at
  chains.pool = outer_loops.end_early(
    latent.method.loops, chains.pool, own_step, loss
  )


def _begin_fit(train_state: Any, first: str, restart: bool) -> Any:
  """Begins a fit from the run's initial state, but keeps T5X's step.

  Args:
    train_state: T5X's state; donated, so that it cannot be used any more.
    first: Path of the initial state.
    restart: Whether the parameters restart too, and not the optimizer alone.

  Returns:
    T5X's state, with the shardings of the old one.
  """
  now = train_state.state_dict()
  like = storage.described(now)
  if not restart:
    like["target"] = jax.tree.map(lambda leaf: storage.NOT_READ, like["target"])
  replaced = [now["state"]["param_states"]] + [now["target"]] * restart
  # Donates the old state, as T5X's step does: two may not fit in memory.
  jax.tree.map(lambda array: array.delete(), replaced)
  state = storage.kept_state(first, like)
  state["state"]["step"] = now["state"]["step"]
  if not restart:
    state["target"] = now["target"]
  return train_state.restore_state(state)


def _first(latent: Latent) -> str:
  return str(storage.absolute(latent.model_dir) / "first_state")
