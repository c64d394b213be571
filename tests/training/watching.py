"""Runs with outer loops of which every step is noted."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.em import outer_loops
from cot_latent.em.drawing import Drawer
from cot_latent.em.method import Method
from cot_latent.em.outer_loops import Pool
from cot_latent.em.weighted_rows import WeightedRows
from cot_latent.inference import baselines
from cot_latent.training import base, experiment, loops
from cot_latent.training.run import Run
from cot_latent.training.state import TrainState
from tests.training import toy

N = toy.SIZES["train"]
POOLED = baselines.rejection_sampling(pooled=True)


def looped(outer, num_draws=1, estimator=POOLED):
  """A method with outer loops."""
  return Method("x", estimator, "empty", num_draws, loops=outer)


def empty_pool(num_draws=1, loop=-1, length=toy.LENGTH[toy.CHAIN]):
  """A pool that nothing was drawn into."""
  return Pool(
    tokens=jnp.zeros((N, num_draws, length), jnp.int32),
    is_correct=jnp.zeros((N, num_draws), bool),
    capped_fraction=jnp.zeros(()),
    unparseable_fraction=jnp.zeros(()),
    loop=jnp.int32(loop),
    began_at=jnp.int32(0),
    ends_at=jnp.int32(0),
  )


class Before(NamedTuple):
  """What a step had, after its E-step and before its M-step.

  Attributes:
    state: Of the run, copied.
    rows: That the M-step differentiates.
    index: The minibatch.
    after: The state after the step.
    metrics: Of the step.
    filled_from: The parameters that drew the pool in this step, if one was.
    drawn: For each call of `draw_all`, whether it was hinted, and the verdicts.
  """

  state: TrainState
  rows: WeightedRows
  index: np.ndarray
  after: TrainState
  metrics: dict[str, float]
  filled_from: Any
  drawn: list[tuple[bool, np.ndarray]]


def copied(tree):
  """The M-step takes over its arguments' place in memory."""
  return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


class Watched(NamedTuple):
  config: experiment.Experiment
  report: dict[str, Any]
  steps: list[Before]


def watch(config):
  """Runs an experiment and notes what its steps had."""
  steps: list[Before] = []
  seen: dict[str, Any] = {}
  loop_step, step, collect = loops.step, Run.step, outer_loops.collect
  draw_all = Drawer.draw_all

  def noting_loop_step(*arguments):
    state, rows, info = loop_step(*arguments)
    seen.update(state=copied(state), rows=rows, index=arguments[4])
    return state, rows, info

  def noting_collect(e_step, params, *arguments):
    seen["filled_from"] = copied(params)
    return collect(e_step, params, *arguments)

  def noting_draw_all(drawer, *arguments, **settings):
    drawn = draw_all(drawer, *arguments, **settings)
    is_hinted = settings.get("prompts") is drawer.examples.guides
    seen.setdefault("drawn", []).append((is_hinted, drawn.is_correct.copy()))
    return drawn

  def noting_step(run, state):
    seen.clear()
    state, metrics = step(run, state)
    noted = {"filled_from": None, "drawn": []} | seen
    steps.append(Before(after=copied(state), metrics=metrics, **noted))
    seen.clear()
    return state, metrics

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loops, "step", noting_loop_step)
    patch.setattr(outer_loops, "collect", noting_collect)
    patch.setattr(Drawer, "draw_all", noting_draw_all)
    patch.setattr(Run, "step", noting_step)
    report = toy.run(config)
  return Watched(config, report, steps)


def quick(directory, method, **changes):
  """A run of 8 steps that evaluates little and saves at the end."""
  changes = {"steps": 8, "checkpoint_period": 100} | changes
  config = toy.make_experiment(directory, method=method, **changes)
  evaluation = experiment.EvaluationConfig(8, period=100, num_samples=0)
  return dataclasses.replace(
    config,
    evaluation=evaluation,
    base_dir=str(pathlib.Path(directory).parent / "bases"),
  )


def base_params(config):
  """What the run's base model is, fitted once more."""
  model, data = toy.make_model(config), toy.load(config)
  params = base.fit(model, config.base, data.base, config.seed, lambda _: None)
  return copied(params)
