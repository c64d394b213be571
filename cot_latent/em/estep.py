"""The E-step as it is run: draw, check, update the memory, weigh.

M questions in a minibatch, N in all, K draws each, P prompt tokens, T target
tokens.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em.drawing import Checked, Drawer
from cot_latent.em.drawn_parts import Phase
from cot_latent.em.method import Method
from cot_latent.em.step_info import StepInfo, Visits
from cot_latent.em.weighing import Noise, move_and_weigh
from cot_latent.em.weighted_rows import WeightedRows, gather_rows
from cot_latent.errors import UserError
from cot_latent.inference import (
  estimators,
  fitting,
  memory,
  rng,
  transition,
)
from cot_latent.models import partitioning
from cot_latent.models.api import Sampler
from cot_latent.runtime import files


class Guide(NamedTuple):
  """A hinted guide of its own, in place of the model under hinted questions.

  Attributes:
    prompts: [N, P'] int32, the hinted questions with all that precedes them.
    params: Function from the current parameters to those that draw.
  """

  prompts: np.ndarray
  params: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class EStep:
  """Everything that an E-step needs, except parameters, memory and step.

  A trainer of any kind calls `start_memory` once and `step` in each step, and
  differentiates the rows that it gets:

    e_step = EStep(sampler, task, examples, method, seed=0, max_length=256)
    memory = e_step.start_memory(params)
    for step in range(1, num_steps + 1):
      index = rng.minibatch(0, "order", step - 1, len(examples), batch_size)
      memory, rows, info = e_step.step(params, memory, index, step)
      params = ascend(params, rows.prompts, rows.targets, rows.weights)

  Attributes:
    sampler: Anything with a method `sample` (models/api.py). It gets the
      parameters that `start_memory` and `step` get.
    task: Vocabulary, and what an answer is.
    examples: The N training questions.
    method: How rationales are drawn and weighed.
    seed: The run's seed; all draws derive from it.
    max_length: Maximum tokens T of a rationale. A sampler may return fewer
      columns, and not more.
    batch_size: Rows decoded at once when rationales are drawn for all
      questions.
    layout: Where the memory's rows are kept; None is one device.
    part_batches: Batches that one call of the sampler draws when rationales are
      drawn for all questions.
    guide: Draws hinted rationales; None is the model itself, from the examples'
      own guides.
  """

  sampler: Sampler
  task: Task
  examples: Examples
  method: Method
  seed: int
  max_length: int
  batch_size: int = 64
  layout: partitioning.Layout | None = None
  part_batches: int = 64
  guide: Guide | None = None

  def __post_init__(self):
    if self.method.scores_answers() and getattr(self, "scorer", None) is None:
      raise UserError(
        "EStep: Method.likelihood is answer_given_rationale: use "
        "em/scored_step.ScoredEStep with a scorer"
      )

  @property
  def drawer(self) -> Drawer:
    """Draws for the training questions, and checks."""
    return Drawer(
      self.sampler,
      self.task,
      self.examples,
      self.batch_size,
      self.part_batches,
      self.max_length,
    )

  def empty_memory(self) -> memory.MemoryState:
    """Makes a memory without rationales."""
    return empty_memory(self.layout, len(self.examples), self.max_length)

  def hinted(self, params: Any) -> tuple[Any, np.ndarray]:
    """Returns what draws hinted rationales: parameters and [N, P'] prompts.

    Args:
      params: Current parameters of the model.
    """
    if self.guide is None:
      return params, self.examples.guides
    return self.guide.params(params), self.guide.prompts

  def start_memory(
    self,
    params: Any,
    report_done: Callable[..., None] | None = None,
    parts: Phase | None = None,
  ) -> memory.MemoryState:
    """Draws every question's first rationale (Algorithm 1, lines 2-3).

    Args:
      params: Parameters of the base model.
      report_done: As for `Sampler.sample`, over all questions.
      parts: Phase whose parts are kept; None keeps nothing.

    Returns:
      The memory, with incorrect rationales marked as such.
    """
    examples, start = self.examples, self.method.memory_start
    state = self.empty_memory()
    if start == "empty":
      return state
    index, done, prompts = np.arange(len(examples)), 0, examples.prompts
    if start == "guide":
      params, prompts = self.hinted(params)
    for drawn in self.drawer.draw_batches(
      params,
      index,
      np.zeros_like(index),
      rng.purpose_key(self.seed, "memory"),
      prompts=prompts,
      report_done=report_done,
      parts=parts,
    ):
      written = index[done : done + len(drawn.tokens)]
      state = _start(
        *(state, written, drawn.tokens, self.is_valid(drawn)),
        layout=self.layout,
      )
      done += len(written)
    return state

  def step(
    self,
    params: Any,
    state: memory.MemoryState,
    index: np.ndarray,
    step: int,
    fit: fitting.Fit | None = None,
  ) -> tuple[memory.MemoryState, WeightedRows, StepInfo]:
    """Updates the memory of a minibatch and weighs its sequences.

    Args:
      params: Current parameters; draws, weights and gradient all use them.
      state: The memory before the step; the new one takes its place.
      index: [M] int32, distinct questions.
      step: Number of the step, from 1.
      fit: Fit of a fitted control variate to the earlier steps
        (`fitting.begin()` at first); None for other estimators. If the rows
        have terms, the trainer passes what it measures to `fitting.update`.

    Returns:
      The memory after the step, the weighted rows, and the measurements.

    Raises:
      ValueError: If a fitted estimator is given no fit.
    """
    method, shape = self.method, (len(index), self.method.num_draws)
    checked = self.draw(params, index, step)
    if method.is_fitted() and fit is None:
      raise ValueError("a fitted estimator needs a fit: fitting.begin()")
    state, moved, weighed = move_and_weigh(
      state,
      index,
      checked.tokens.reshape(*shape, -1),
      checked.is_correct.reshape(shape),
      step,
      self.noise(step),
      None if fit is None else np.float32(fit.eta()),
      weighing=method.weighing,
      is_fitting=method.fits_at(step),
      layout=self.layout,
    )
    log_prob = checked.log_prob
    log_prob = None if log_prob is None else log_prob.reshape(shape)
    rows = gather_rows(
      self.examples.prompts[index],
      moved,
      np.asarray(weighed.weights),
      log_prob,
      None if weighed.terms is None else np.asarray(weighed.terms),
    )
    info = StepInfo(
      accept_rate=float(checked.is_correct.mean()),
      unparseable_fraction=float(
        np.mean([answer is None for answer in checked.answers])
      ),
      num_valid=int(moved.is_correct.sum()),
      choices=choices(index, checked.tokens, checked.is_correct),
      visits=Visits(
        index,
        method.num_draws,
        checked.is_correct.reshape(shape).sum(axis=1),
        np.asarray(moved.is_correct),
        _accepted_log_prob(moved, log_prob),
      ),
      **self.measured(state, step, checked, rows, weighed.scale),
    )
    return state, rows, info

  def draw(self, params: Any, index: np.ndarray, step: int) -> Checked:
    """Draws and checks a step's rationales, [M K] rows, question by question.

    Args:
      params: Current parameters.
      index: [M] int32, distinct questions.
      step: Number of the step, from 1.
    """
    num_draws = self.method.num_draws
    return self.drawer.draw_and_check(
      params,
      np.repeat(index, num_draws),
      np.tile(np.arange(num_draws), len(index)),
      rng.purpose_key(self.seed, "draw", step),
    )

  def measured(
    self,
    state: memory.MemoryState,
    step: int,
    drawn: Checked,
    rows: WeightedRows,
    scale: Any,
  ) -> dict[str, Any]:
    """Returns the fields of a `StepInfo` that every likelihood has.

    Args:
      state: The memory after the step.
      step: Number of the step, from 1.
      drawn: The step's draws.
      rows: The weighted rows.
      scale: Mean scale of the control variate, of an estimator that has one.
    """
    has_scale = estimators.has_scale(self.method.estimator)
    return {
      "memory_correct": self.memory_correct(state),
      "memory_age": float(memory.mean_age(state, step)),
      "capped_fraction": 1.0 - float(drawn.ended.mean()),
      "num_weighted": rows.num_weighted(),
      "scale": float(scale) if has_scale else None,
      "num_sampled": len(drawn.tokens),
      "num_tokens": drawn.num_tokens(),
      "sampling_seconds": drawn.sampling_seconds,
      "checking_seconds": drawn.checking_seconds,
    }

  def is_valid(self, drawn: Checked) -> np.ndarray:
    """Marks the draws that start a chain, [R] bool."""
    return drawn.is_correct

  def noise(self, step: int) -> Noise:
    """The random numbers of a step's weights."""
    return Noise(
      jax.random.uniform(rng.purpose_key(self.seed, "subsample", step)),
      estimators.own_key(self.method.estimator, self.seed, step),
    )

  def memory_correct(self, state: memory.MemoryState) -> float:
    """Share of the questions whose remembered rationale is correct."""
    return int(state.is_correct.sum()) / len(self.examples)


def empty_memory(
  layout: partitioning.Layout | None, num_examples: int, length: int
) -> memory.MemoryState:
  """Makes an empty memory, no device having more than its own rows.

  Args:
    layout: Where rows are kept; they are padded to a number that can be
      sharded evenly, with rows that no question has.
    num_examples: N.
    length: T.
  """
  size = partitioning.padded(layout, "examples", num_examples)
  if layout is None:
    return memory.init(size, length)
  sharding = layout.sharding("examples")
  make = jax.jit(memory.init, static_argnums=(0, 1), out_shardings=sharding)
  return make(size, length)


@functools.partial(jax.jit, static_argnames="layout", donate_argnames="state")
def _start(state, index, tokens, is_correct, *, layout):
  state = memory.start(state, index, tokens, is_correct)
  return partitioning.constrain(layout, state, "examples")


def choices(*arrays: np.ndarray) -> str:
  """A short hash that is the same in runs that made the same choices.

  Args:
    *arrays: What was drawn, and for which questions.
  """
  content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
  return files.sha256(content)[:16]


def _accepted_log_prob(
  moved: transition.Transition, log_prob: np.ndarray | None
) -> np.ndarray:
  """[M] nats of the draws that were accepted, by the sampler; else NaN."""
  accepted = np.asarray(moved.accepted)
  if log_prob is None:
    return np.full(len(accepted), np.nan)
  found = np.where(accepted, log_prob, 0).sum(axis=1)
  return np.where(accepted.any(axis=1), found, np.nan)
