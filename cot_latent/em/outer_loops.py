"""Outer loops: rationales of all questions, and then a fit to the right ones.

What STaR, ReST-EM and supervised fitting have in common: the rationales that a
step learns from were not drawn in that step but lie in a pool, which is filled
when a loop begins. N questions, K rationales each, T tokens.

Reference: Phan et al. 2023, appendix F, for STaR as adapted there; Zelikman et
al. 2022; Singh et al. 2024 (ReST-EM).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.data.task import Examples, Task
from cot_latent.em import estep
from cot_latent.em.method import Method, OuterLoops
from cot_latent.inference import estimators, memory, resampling, rng, transition
from cot_latent.models import partitioning
from cot_latent.models.api import PAD_ID
from cot_latent.models.language_model import LanguageModel


class Pool(NamedTuple):
  """The rationales that the steps of an outer loop learn from.

  N training questions, K rationales each, T tokens.

  Attributes:
    tokens: [N, K, T] int32.
    is_correct: [N, K] bool.
    capped_fraction: scalar, of the draws, those cut by T.
    unparseable_fraction: scalar, those without an answer.
    loop: scalar int32, the loop's number, from 0.
    ends_at: scalar int32, the step after which the next one begins.
  """

  tokens: jax.Array
  is_correct: jax.Array
  capped_fraction: jax.Array
  unparseable_fraction: jax.Array
  loop: jax.Array
  ends_at: jax.Array


def empty_pool(
  num_examples: int,
  num_draws: int,
  length: int,
  layout: partitioning.Layout | None = None,
) -> Pool:
  """Makes the pool before the first loop, which ends at once.

  Args:
    num_examples: N.
    num_draws: K.
    length: T.
    layout: where its rows lie.
  """
  zero, shape = np.zeros((), np.int32), (num_examples, num_draws)
  return _place_pool(
    layout,
    tokens=np.zeros((*shape, length), np.int32),
    is_correct=np.zeros(shape, bool),
    capped_fraction=np.zeros((), np.float32),
    unparseable_fraction=np.zeros((), np.float32),
    loop=zero - 1,
    ends_at=zero,
  )


def _place_pool(layout: partitioning.Layout | None, **parts: Any) -> Pool:
  """Makes a pool of the host's arrays and puts it where it belongs."""
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
    loops: the loops, if there are any.
    pool: the present loop's.
    step: steps taken, this one included.
    loss: of the minibatch, in nats a sequence.
    layout: where the pool's rows lie.

  Returns:
    The pool, which ends here or when it did before.
  """
  if loops is None or pool is None or loops.stop_loss is None:
    return pool
  if loss >= loops.stop_loss:
    return pool
  return pool._replace(ends_at=partitioning.place(layout, np.int32(step)))


def pool_step(
  examples: Examples,
  method: Method,
  chains: memory.MemoryState,
  pool: Pool,
  index: np.ndarray,
  seed: int,
  step: int,
  layout: partitioning.Layout | None = None,
) -> tuple[estep.WeightedRows, dict[str, Any]]:
  """Weighs a minibatch of a pool that is there.

  Args:
    examples: N training questions.
    method: says how.
    chains: what is remembered.
    pool: the loop's.
    index: [M] int32, distinct questions.
    seed: the run's.
    step: from 1.
    layout: where the pool's rows lie.

  Returns:
    The weighted rows, and metrics as those of `estep.e_step`; nothing is drawn.
  """
  offset = jax.random.uniform(rng.purpose_key(seed, "subsample", step))
  rows, num_valid = weighted_rows(examples, method, pool, index, offset, layout)
  return rows, {
    "chain/accept_rate": int(pool.is_correct.sum())
    / (len(examples) * method.num_draws),
    "memory/correct_fraction": int(chains.is_correct.sum()) / len(examples),
    "draws/capped_fraction": float(pool.capped_fraction),
    "draws/unparseable_fraction": float(pool.unparseable_fraction),
    "estimator/num_weighted": rows.num_weighted(),
    "estimator/num_valid": num_valid,
    "estimator/scale": 0.0,
    "memory/age": float(memory.mean_age(chains, step)),
    "time/sampling": 0.0,
    "time/checking": 0.0,
    "num_sampled": 0,
    "num_tokens": 0,
    "choices": estep.choices(index, rows.targets),
  }


@functools.partial(jax.jit, static_argnames="layout")
def remember(
  chains: memory.MemoryState,
  tokens: jax.Array,
  is_right: jax.Array,
  step: int,
  *,
  layout: partitioning.Layout | None = None,
) -> memory.MemoryState:
  """Writes the first right rationale of each question that has one.

  Args:
    chains: what was remembered.
    tokens: [N, K, T], a pool's.
    is_right: [N, K] bool.
    step: from 1.
    layout: where rows lie.
  """
  first = jnp.argmax(is_right, axis=1)
  chosen = jnp.take_along_axis(tokens, first[:, None, None], axis=1)[:, 0]
  accepted = is_right & (jnp.arange(is_right.shape[1]) == first[:, None])
  chains = memory.write(
    chains,
    jnp.arange(len(first)),
    chosen,
    is_right.any(axis=1),
    accepted,
    step,
  )
  return partitioning.constrain(layout, chains, "examples")


class Collected(NamedTuple):
  """The rationales of a loop.

  Attributes:
    checked: N x K rows, a question's one after the other.
    num_sampled: sequences drawn; more than the rows where some were hinted,
      and none where people wrote them.
  """

  checked: estep.Checked
  num_sampled: int

  def cost(self) -> dict[str, Any]:
    """Those metrics of `estep.e_step` that say what drawing took."""
    checked, is_drawn = self.checked, self.num_sampled > 0
    return {
      "time/sampling": checked.sampling_seconds,
      "time/checking": checked.checking_seconds,
      "num_sampled": self.num_sampled,
      "num_tokens": int((checked.tokens != PAD_ID).sum()) if is_drawn else 0,
    }


def collect(
  model: LanguageModel,
  task: Task,
  examples: Examples,
  method: Method,
  params,
  seed: int,
  loop: int,
  batch_size: int,
  report_done: Callable[[int], None],
) -> Collected:
  """Draws a loop's rationales, or takes those of the data.

  Args:
    model: the language model.
    task: says what an answer is.
    examples: N training questions; with targets where people wrote the
      rationales.
    method: says how many draws a question, and how.
    params: of the model as it is now, before any restart.
    seed: the run's.
    loop: the loop's number, from 0.
    batch_size: rows drawn together.
    report_done: called with the number of draws made.

  Returns:
    The rationales, right and wrong ones.
  """
  loops = method.loops
  assert loops is not None
  if loops.source == "human":
    return given(task, examples)
  rows = np.repeat(np.arange(len(examples)), method.num_draws)
  number = np.tile(np.arange(method.num_draws), len(examples))

  def draw(prompts, chosen, attempt, report):
    return estep.draw_all(
      model,
      task,
      params,
      prompts,
      examples,
      rows[chosen],
      number[chosen],
      rng.purpose_key(seed, "pool", loop, attempt),
      batch_size,
      0.0 if loops.source == "greedy" else 1.0,
      report,
    )

  drawn = draw(examples.prompts, slice(None), 0, report_done)
  failed = np.flatnonzero(~drawn.is_correct)
  if not loops.hint_on_failure or not len(failed):
    return Collected(drawn, len(rows))
  again = draw(examples.guides, failed, 1, None)
  drawn.tokens[failed] = again.tokens
  drawn.is_correct[failed] = again.is_correct
  checked = drawn._replace(
    sampling_seconds=drawn.sampling_seconds + again.sampling_seconds,
    checking_seconds=drawn.checking_seconds + again.checking_seconds,
  )
  return Collected(checked, len(rows) + len(failed))


def given(task: Task, examples: Examples) -> Collected:
  """Takes the rationales of the data, checked as the model's are."""
  texts = task.vocabulary.decode_rows(examples.targets)
  # One that was truncated to T tokens lacks its end.
  ended = (examples.targets == task.vocabulary.eos_id).any(axis=1)
  answers = [
    task.extract(text) if has_ended else None
    for text, has_ended in zip(texts, ended, strict=True)
  ]
  checked = estep.Checked(
    tokens=examples.targets,
    texts=texts,
    answers=answers,
    is_correct=np.array(
      [a == b for a, b in zip(answers, examples.answers, strict=True)]
    ),
    ended=ended,
    log_prob=np.zeros(len(texts), np.float32),
    sampling_seconds=0.0,
    checking_seconds=0.0,
  )
  return Collected(checked, 0)


def next_pool(
  old: Pool,
  collected: Collected,
  method: Method,
  step: int,
  num_steps: int,
  layout: partitioning.Layout | None = None,
) -> Pool:
  """Makes the pool of the loop that begins.

  Args:
    old: the last loop's.
    collected: the rationales of this one.
    method: says how many of them a question has, and how long a loop is.
    step: steps taken so far.
    num_steps: of the run, with which the loop ends at the latest.
    layout: where the pool's rows lie.
  """
  loops, loop, checked = method.loops, int(old.loop) + 1, collected.checked
  assert loops is not None
  shape = (-1, method.num_draws)
  return _place_pool(
    layout,
    tokens=checked.tokens.reshape(*shape, checked.tokens.shape[-1]),
    is_correct=checked.is_correct.reshape(shape),
    capped_fraction=1 - checked.ended.mean(dtype=np.float32),
    unparseable_fraction=np.mean(
      [a is None for a in checked.answers], dtype=np.float32
    ),
    loop=np.int32(loop),
    ends_at=np.int32(min(step + loops.loop_steps(loop, num_steps), num_steps)),
  )


def weighted_rows(
  examples: Examples,
  method: Method,
  pool: Pool,
  index: np.ndarray,
  offset: jax.Array,
  layout: partitioning.Layout | None = None,
) -> tuple[estep.WeightedRows, int]:
  """Weighs a minibatch's rationales of the pool.

  Args:
    examples: N training questions.
    method: says how.
    pool: the loop's.
    index: [M] int32, distinct questions.
    offset: scalar, uniform in [0, 1), for subsampling.
    layout: where the pool's rows lie.

  Returns:
    What the M-step differentiates, and how many of the questions have a right
    rationale.
  """
  moved, weights = _weigh(
    pool.tokens,
    pool.is_correct,
    index,
    offset,
    estimator=method.estimator,
    num_scored=method.num_scored,
    layout=layout,
  )
  rows = estep.gather_rows(examples.prompts[index], moved, np.asarray(weights))
  return rows, int(moved.is_correct.sum())


@functools.partial(
  jax.jit, static_argnames=("estimator", "num_scored", "layout")
)
def _weigh(tokens, is_correct, index, offset, *, estimator, num_scored, layout):
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
  weights = estimators.merge_accepted(moved, estimator(moved))
  if num_scored is not None:
    weights = resampling.subsample(weights, num_scored, offset)
  return partitioning.constrain(layout, (moved, weights))
