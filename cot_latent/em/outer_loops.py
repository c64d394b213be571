"""Outer loops: rationales of all questions, then a fit to the correct ones.

STaR, ReST-EM and supervised fitting have this in common: a step does not draw
the rationales that it learns from. They are in a pool, which is filled when a
loop begins. N questions, K rationales each, T tokens.

Reference: Phan et al. 2023, appendix F, for STaR as adapted there; Zelikman et
al. 2022; Singh et al. 2024 (ReST-EM).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em import drawing, estep
from cot_latent.em.drawing import Checked
from cot_latent.em.drawn_parts import Phase
from cot_latent.em.estep import EStep
from cot_latent.em.method import OuterLoops
from cot_latent.em.step_info import StepInfo
from cot_latent.em.weighing import Noise, subsampled
from cot_latent.em.weighted_rows import WeightedRows, gather_rows
from cot_latent.inference import estimators, memory, rng, transition
from cot_latent.models import partitioning


class Pool(NamedTuple):
  """The rationales that the steps of an outer loop learn from.

  N training questions, K rationales each, T tokens.

  Attributes:
    tokens: [N, K, T] int32, the rationales.
    is_correct: [N, K] bool, their correctness.
    capped_fraction: Scalar, share of the draws that were cut at T.
    unparseable_fraction: Scalar, share of the draws without an answer.
    loop: Scalar int32, the loop's number, from 0.
    began_at: Scalar int32, the steps taken before it.
    ends_at: Scalar int32, the step after which the next loop begins.
  """

  tokens: jax.Array
  is_correct: jax.Array
  capped_fraction: jax.Array
  unparseable_fraction: jax.Array
  loop: jax.Array
  began_at: jax.Array
  ends_at: jax.Array

  def ends(self, loops: OuterLoops, step: int) -> bool:
    """Whether the loop is over after `step` steps, and another begins."""
    return step == int(self.ends_at) and not self.is_last(loops)

  def is_over(self, loops: OuterLoops, step: int) -> bool:
    """Whether the last loop is over, so that no more is fitted."""
    return step >= int(self.ends_at) and self.is_last(loops)

  def is_last(self, loops: OuterLoops) -> bool:
    """Whether no further loop is allowed."""
    return int(self.loop) + 1 == loops.max_loops


def empty_pool(
  num_examples: int,
  num_draws: int,
  length: int,
  layout: partitioning.Layout | None = None,
) -> Pool:
  """Makes the pool before the first loop, which ends at once.

  Args:
    num_examples: Number of questions N.
    num_draws: Number of rationales K per question.
    length: Rationale length T.
    layout: Placement of its rows on the devices.
  """
  zero, shape = np.zeros((), np.int32), (num_examples, num_draws)
  return _place_pool(
    layout,
    tokens=np.zeros((*shape, length), np.int32),
    is_correct=np.zeros(shape, bool),
    capped_fraction=np.zeros((), np.float32),
    unparseable_fraction=np.zeros((), np.float32),
    loop=zero - 1,
    began_at=zero,
    ends_at=zero,
  )


def _place_pool(layout: partitioning.Layout | None, **parts: Any) -> Pool:
  """Makes a pool of the host's arrays, and places it on the devices."""
  return Pool(
    tokens=partitioning.place_rows(layout, parts.pop("tokens"), "examples"),
    is_correct=partitioning.place_rows(
      layout, parts.pop("is_correct"), "examples", repeat=False
    ),
    **partitioning.place(layout, parts),
  )


def end_early(
  loops: OuterLoops | None,
  pool: Pool | None,
  step: int,
  loss: float,
  layout: partitioning.Layout | None = None,
) -> Pool | None:
  """Ends the loop after a step if its minibatch is fitted well enough.

  Args:
    loops: The loops, if there are any.
    pool: Pool of the current loop.
    step: Steps taken, this one included.
    loss: Loss of the minibatch, in nats per sequence.
    layout: Placement of the pool's rows on the devices.

  Returns:
    The pool, which ends here or as before.
  """
  if loops is None or pool is None or loops.stop_loss is None:
    return pool
  if loss >= loops.stop_loss:
    return pool
  return pool._replace(ends_at=partitioning.place(layout, np.int32(step)))


def pool_step(
  e_step: EStep,
  chains: memory.MemoryState,
  pool: Pool,
  index: np.ndarray,
  step: int,
) -> tuple[WeightedRows, StepInfo]:
  """Weighs a minibatch of an existing pool.

  Args:
    e_step: The run's E-step.
    chains: The memory.
    pool: Pool of the loop.
    index: [M] int32, distinct questions.
    step: The training step, from 1.

  Returns:
    The weighted rows, and the measurements; nothing is drawn.
  """
  rows, num_valid = weighted_rows(e_step, pool, index, e_step.noise(step))
  num_pooled = len(e_step.examples) * e_step.method.num_draws
  return rows, StepInfo(
    accept_rate=int(pool.is_correct.sum()) / num_pooled,
    memory_correct=e_step.memory_correct(chains),
    memory_age=float(memory.mean_age(chains, step)),
    capped_fraction=float(pool.capped_fraction),
    unparseable_fraction=float(pool.unparseable_fraction),
    num_weighted=rows.num_weighted(),
    num_valid=num_valid,
    scale=None,
    num_sampled=0,
    num_tokens=0,
    choices=estep.choices(index, rows.targets),
  )


@functools.partial(jax.jit, static_argnames="layout")
def remember(
  chains: memory.MemoryState,
  tokens: jax.Array,
  is_correct: jax.Array,
  step: int,
  *,
  layout: partitioning.Layout | None = None,
) -> memory.MemoryState:
  """Writes the first correct rationale of each question that has one.

  Args:
    chains: The memory.
    tokens: [N, K, T], a pool's.
    is_correct: [N, K] bool, their correctness.
    step: The training step, from 1.
    layout: Placement of rows on the devices.
  """
  first = jnp.argmax(is_correct, axis=1)
  chosen = jnp.take_along_axis(tokens, first[:, None, None], axis=1)[:, 0]
  accepted = is_correct & (jnp.arange(is_correct.shape[1]) == first[:, None])
  chains = memory.write(
    chains,
    jnp.arange(len(first)),
    chosen,
    is_correct.any(axis=1),
    accepted,
    step,
  )
  return partitioning.constrain(layout, chains, "examples")


class Collected(NamedTuple):
  """The rationales of a loop: R = N x K rows, those of a question together.

  Attributes:
    tokens: [R, T] int32, the rationales.
    is_correct: [R] bool, their correctness.
    written: All rationales that were written for it: the first draws and, if
      some of these failed, the hinted ones; or those of people.
    is_drawn: Whether the model wrote them.
    seconds_before: Time of earlier processes for draws that were read.
  """

  tokens: np.ndarray
  is_correct: np.ndarray
  written: Sequence[Checked]
  is_drawn: bool = True
  seconds_before: float = 0.0

  def charged_to(self, info: StepInfo) -> StepInfo:
    """Adds the cost of drawing to the step in which the loop begins."""
    if not self.is_drawn:
      return info
    seconds = sum(checked.sampling_seconds for checked in self.written)
    return info._replace(
      num_sampled=sum(len(checked.tokens) for checked in self.written),
      num_tokens=sum(checked.num_tokens() for checked in self.written),
      sampling_seconds=seconds + self.seconds_before,
      checking_seconds=sum(c.checking_seconds for c in self.written),
      seconds_before=self.seconds_before,
    )

  def fractions(self) -> tuple[np.float32, np.float32]:
    """Returns the shares of `written` that were cut and without an answer."""
    ended = np.concatenate([checked.ended for checked in self.written])
    answers = [answer for checked in self.written for answer in checked.answers]
    return (
      1 - ended.mean(dtype=np.float32),
      np.mean([answer is None for answer in answers], dtype=np.float32),
    )


def collect(
  e_step: EStep,
  params: Any,
  loop: int,
  progress: Callable[[int], Callable[..., None]] | None = None,
  parts: Phase | None = None,
) -> Collected:
  """Draws a loop's rationales, or takes those of the data.

  Args:
    e_step: The run's E-step; its questions have targets if people wrote the
      rationales.
    params: Parameters of the model now, before any restart.
    loop: The loop's number, from 0.
    progress: Number of rows to draw -> the `report_done` of `Sampler.sample`;
      called once more for hinted draws. None reports nothing.
    parts: Phase that stores the draws; None stores nothing.

  Returns:
    The rationales, correct and incorrect ones.
  """
  method, examples = e_step.method, e_step.examples
  loops = method.loops
  assert loops is not None
  if loops.source == "human":
    return given(e_step.task, examples)
  rows = np.repeat(np.arange(len(examples)), method.num_draws)
  number = np.tile(np.arange(method.num_draws), len(examples))

  def draw(params, prompts, chosen, attempt):
    return e_step.drawer.draw_all(
      params,
      rows[chosen],
      number[chosen],
      rng.purpose_key(e_step.seed, "pool", loop, attempt),
      temperature=0.0 if loops.source == "greedy" else 1.0,
      report_done=progress and progress(len(rows[chosen])),
      prompts=prompts,
      parts=parts,
    )

  drawn = draw(params, examples.prompts, slice(None), 0)
  tokens, is_correct, written = drawn.tokens, drawn.is_correct, [drawn]
  failed = np.flatnonzero(~is_correct)
  if loops.hint_on_failure and len(failed):
    again = draw(*e_step.hinted(params), failed, 1)
    tokens, is_correct = tokens.copy(), is_correct.copy()
    tokens[failed], is_correct[failed] = again.tokens, again.is_correct
    written.append(again)
  seconds_before = parts.seconds_read if parts else 0.0
  return Collected(tokens, is_correct, written, True, seconds_before)


def given(task: Task, examples: Examples) -> Collected:
  """Takes the rationales of the data, checked as the model's are."""
  # A rationale that was truncated to T tokens lacks its end.
  _, ended = task.ending.lengths(examples.targets)
  checked = drawing.check(task, examples.targets, ended, examples.answers)
  return Collected(
    checked.tokens, checked.is_correct, (checked,), is_drawn=False
  )


def next_pool(
  e_step: EStep, old: Pool, collected: Collected, step: int, num_steps: int
) -> Pool:
  """Makes the pool of the next loop.

  Args:
    e_step: The run's E-step.
    old: Pool of the previous loop.
    collected: The rationales of the next loop.
    step: Steps taken so far.
    num_steps: Steps of the run; the loop ends with the run at the latest.
  """
  method, loop, tokens = e_step.method, int(old.loop) + 1, collected.tokens
  assert method.loops is not None
  shape = (-1, method.num_draws)
  ends_at = step + method.loops.loop_steps(loop, num_steps)
  capped_fraction, unparseable_fraction = collected.fractions()
  return _place_pool(
    e_step.layout,
    tokens=tokens.reshape(*shape, tokens.shape[-1]),
    is_correct=collected.is_correct.reshape(shape),
    capped_fraction=capped_fraction,
    unparseable_fraction=unparseable_fraction,
    loop=np.int32(loop),
    began_at=np.int32(step),
    ends_at=np.int32(min(ends_at, num_steps)),
  )


def weighted_rows(
  e_step: EStep, pool: Pool, index: np.ndarray, noise: Noise
) -> tuple[WeightedRows, int]:
  """Weighs a minibatch's rationales of the pool.

  Args:
    e_step: The run's E-step.
    pool: Pool of the loop.
    index: [M] int32, distinct questions.
    noise: The step's random numbers.

  Returns:
    The rows that the M-step differentiates, and how many of the questions have
    a correct rationale.
  """
  moved, weights = _weigh(
    pool.tokens,
    pool.is_correct,
    index,
    noise,
    weighing=e_step.method.weighing,
    layout=e_step.layout,
  )
  rows = gather_rows(e_step.examples.prompts[index], moved, np.asarray(weights))
  return rows, int(moved.is_correct.sum())


@functools.partial(jax.jit, static_argnames=("weighing", "layout"))
def _weigh(tokens, is_correct, index, noise, *, weighing, layout):
  """Weighs rows of [N, K, T] tokens as the draws of a step without memory."""
  tokens, is_correct = partitioning.constrain(
    layout, (tokens[index], is_correct[index])
  )
  moved = transition.independence(
    jnp.zeros_like(tokens[:, 0]),
    jnp.zeros_like(is_correct[:, 0]),
    tokens,
    is_correct,
  )
  weights = estimators.weigh(weighing.estimator, moved, noise.key)
  weights = subsampled(moved, weights, weighing, noise)
  return partitioning.constrain(layout, (moved, weights))
