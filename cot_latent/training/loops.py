"""Outer loops in the embedded trainer: when they begin, and from what state."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.em import outer_loops
from cot_latent.em.drawn_parts import Phase
from cot_latent.em.estep import EStep
from cot_latent.em.outer_loops import Pool
from cot_latent.em.step_info import StepInfo
from cot_latent.em.weighted_rows import WeightedRows
from cot_latent.models import partitioning
from cot_latent.runtime.progress import DrawingProgress
from cot_latent.training.experiment import Experiment
from cot_latent.training.state import TrainState


def first_state(
  config: Experiment,
  state: TrainState,
  layout: partitioning.Layout | None = None,
) -> TrainState:
  """Adds a pool that the first step fills, if there are outer loops.

  And a copy of the base model's parameters, where the method needs them.

  Args:
    config: The run.
    state: The state before any step.
    layout: Placement of the pool's rows on the devices.
  """
  method = config.method
  if method.has_reference():
    base = jax.tree.map(jnp.copy, state.params)
    return state._replace(base_params=base)
  if method.loops is None:
    return state
  num_examples, length = len(state.memory.tokens), config.task.max_length
  pool = outer_loops.empty_pool(num_examples, method.num_draws, length, layout)
  # A copy, because the M-step donates the parameters.
  base = jax.tree.map(jnp.copy, state.params) if method.loops.restart else None
  return state._replace(pool=pool, base_params=base)


def loop_steps(config: Experiment, pool: Pool | None) -> int:
  """Returns the steps of the current loop, or of the run without loops."""
  loops = config.method.loops
  if loops is None or pool is None:
    return config.steps
  return loops.loop_steps(int(pool.loop), config.steps)


def step(
  e_step: EStep,
  config: Experiment,
  init_optimizer: Callable[[Any], Any],
  state: TrainState,
  index: np.ndarray,
  begin_phase: Callable[[], Phase],
) -> tuple[TrainState, WeightedRows, StepInfo]:
  """Weighs a minibatch of the pool; if a loop begins, fills the pool first.

  Args:
    e_step: The run's E-step.
    config: The run.
    init_optimizer: Parameters -> initial optimizer state.
    state: The state before the step.
    index: [M] int32, distinct questions.
    begin_phase: Makes the phase that stores a loop's draws.

  Returns:
    The state (if a loop begins, with new pool, memory, parameters and optimizer
    state); the weighted rows; and the measurements.
  """
  pool, collected, outer = state.pool, None, config.method.loops
  assert pool is not None
  assert outer is not None
  if pool.ends(outer, state.step):
    loop = int(pool.loop) + 1
    collected = outer_loops.collect(
      e_step,
      state.model_params(),
      loop,
      functools.partial(
        DrawingProgress, f"loop {loop}", longest=e_step.max_length
      ),
      None if outer.source == "human" else begin_phase(),
    )
    pool = outer_loops.next_pool(
      e_step, pool, collected, state.step, config.steps
    )
    state = _begin_loop(state, pool, init_optimizer, e_step.layout)
  rows, info = outer_loops.pool_step(
    e_step, state.memory, pool, index, state.step + 1
  )
  return state, rows, collected.charged_to(info) if collected else info


def _begin_loop(
  state: TrainState,
  pool: Pool,
  init_optimizer: Callable[[Any], Any],
  layout: partitioning.Layout | None,
) -> TrainState:
  """Installs a new pool, and restarts the fit if the loops ask for it."""
  chains = outer_loops.remember(
    state.memory, pool.tokens, pool.is_correct, state.step + 1, layout=layout
  )
  params = state.params
  if state.base_params is not None:
    params = jax.tree.map(jnp.copy, state.base_params)
  return state._replace(
    params=params,
    opt_state=init_optimizer(params),
    memory=chains,
    pool=pool,
  )
