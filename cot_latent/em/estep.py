"""The E-step as it is run: draw, check, update the memory, weigh.

M questions, K draws each, P prompt tokens, T target tokens.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.data.task import Examples, Task
from cot_latent.em.method import Method
from cot_latent.inference import estimators, memory, resampling, rng, transition
from cot_latent.models import partitioning
from cot_latent.models.api import PAD_ID
from cot_latent.models.language_model import LanguageModel
from cot_latent.runtime import files

_BATCHES = 64  # drawn before what was drawn is put away


class WeightedRows(NamedTuple):
  """What the M-step differentiates: the sequences that have weight, if any.

  Attributes:
    prompts: [S, P] int32, the question alone for every row.
    targets: [S, T] int32.
    weights: [S] float32; trailing zeros fill up to one of few sizes, each of
      which is compiled once.
    sampled: [S] float32 nats by the sampler, of the sequences that have weight
      and are fresh draws; nan of others.
  """

  prompts: np.ndarray
  targets: np.ndarray
  weights: np.ndarray
  sampled: np.ndarray

  def num_weighted(self) -> int:
    """How many sequences have weight."""
    return int(np.count_nonzero(self.weights))


class Checked(NamedTuple):
  """Draws with their verdicts, on the host.

  Attributes:
    tokens: [B, T] int32.
    texts: B strings.
    answers: B extracted answers, None where there is none.
    is_correct: [B] bool. A sequence cut by the length limit is wrong.
    ended: [B] bool.
    log_prob: [B] float32 nats, by the sampler.
    sampling_seconds: to draw.
    checking_seconds: to decode and compare.
  """

  tokens: np.ndarray
  texts: list[str]
  answers: list[str | None]
  is_correct: np.ndarray
  ended: np.ndarray
  log_prob: np.ndarray
  sampling_seconds: float
  checking_seconds: float


def draw_and_check(
  model: LanguageModel,
  task: Task,
  params,
  prompts: np.ndarray,
  rng_keys: jax.Array,
  answers: list[str],
  temperature: float = 1.0,
  **settings: Any,
) -> Checked:
  """Draws one completion for each of B prompts and checks its answer.

  Args:
    model: the language model.
    task: says what an answer is.
    params: the model's.
    prompts: [B, P] int32.
    rng_keys: [B] keys.
    answers: B known answers.
    temperature: 1 draws from the model itself, 0 is greedy.
    **settings: of `LanguageModel.sample`.

  Returns:
    The completions and their verdicts.
  """
  began = time.perf_counter()
  draws = model.sample(params, prompts, rng_keys, temperature, **settings)
  tokens, ended = np.asarray(draws.tokens), np.asarray(draws.ended)
  sampled = time.perf_counter()
  texts = task.vocabulary.decode_rows(tokens)
  extracted = [
    task.extract(text) if has_ended else None
    for text, has_ended in zip(texts, ended, strict=True)
  ]
  is_correct = np.array(
    [got == want for got, want in zip(extracted, answers, strict=True)], bool
  )
  return Checked(
    tokens=tokens,
    texts=texts,
    answers=extracted,
    is_correct=is_correct,
    ended=ended,
    log_prob=np.asarray(draws.log_prob).sum(axis=1),
    sampling_seconds=sampled - began,
    checking_seconds=time.perf_counter() - sampled,
  )


def draw_batches(
  model: LanguageModel,
  task: Task,
  params,
  prompts: np.ndarray,
  examples: Examples,
  rows: np.ndarray,
  number: np.ndarray,
  rng_key: jax.Array,
  batch_size: int,
  temperature: float = 1.0,
  report_done: Callable[[int], None] | None = None,
) -> Iterator[Checked]:
  """Draws for any number R of rows, and yields them as soon as there are many.

  Args:
    model: the language model.
    task: says what an answer is.
    params: the model's.
    prompts: [N, P] int32, of all examples.
    examples: N questions.
    rows: [R] integers, the example of each row; R > 0.
    number: [R] integers, which of the example's draws the row is.
    rng_key: of the purpose.
    batch_size: rows written at once; those that end give way to the next.
    temperature: as for `draw_and_check`.
    report_done: called with the number of rows done.

  Yields:
    Completions and their verdicts, in the order of the rows.
  """
  for start in range(0, len(rows), _BATCHES * batch_size):
    part = slice(start, start + _BATCHES * batch_size)
    chosen = rows[part]
    yield draw_and_check(
      model,
      task,
      params,
      prompts[chosen],
      rng.row_keys(rng_key, examples.words[chosen], number[part]),
      [examples.answers[i] for i in chosen],
      temperature,
      num_slots=batch_size,
      report_done=_add(start, report_done),
    )


def draw_all(*arguments: Any, **settings: Any) -> Checked:
  """Draws as `draw_batches` does, and gives all R rows at once."""
  parts = list(draw_batches(*arguments, **settings))
  return Checked(
    tokens=np.concatenate([part.tokens for part in parts]),
    texts=list(itertools.chain(*(part.texts for part in parts))),
    answers=list(itertools.chain(*(part.answers for part in parts))),
    is_correct=np.concatenate([part.is_correct for part in parts]),
    ended=np.concatenate([part.ended for part in parts]),
    log_prob=np.concatenate([part.log_prob for part in parts]),
    sampling_seconds=sum(part.sampling_seconds for part in parts),
    checking_seconds=sum(part.checking_seconds for part in parts),
  )


def _add(start: int, report_done: Callable[[int], None] | None):
  return report_done and (lambda done: report_done(start + done))


def empty_memory(
  layout: partitioning.Layout | None, num_examples: int, length: int
) -> memory.MemoryState:
  """Makes an empty memory, no device having more than its own rows.

  Args:
    layout: where rows lie; they are filled up to a number that can be cut
      evenly with rows that no question has.
    num_examples: N.
    length: T.
  """
  size = partitioning.padded(layout, "examples", num_examples)
  if layout is None:
    return memory.init(size, length)
  sharding = layout.sharding("examples")
  make = jax.jit(memory.init, static_argnums=(0, 1), out_shardings=sharding)
  return make(size, length)


def start_memory(
  model: LanguageModel,
  task: Task,
  examples: Examples,
  method: Method,
  params,
  seed: int,
  batch_size: int,
  max_length: int,
  report_done: Callable[[int], None],
) -> memory.MemoryState:
  """Draws every question's first rationale (Algorithm 1, lines 2-3).

  Args:
    model: the language model.
    task: says what an answer is.
    examples: N training questions.
    method: says which prompt to draw from.
    params: of the base model.
    seed: the run's.
    batch_size: rows drawn together; the last batch is filled up.
    max_length: T.
    report_done: called with the number of questions done.

  Returns:
    The memory, with wrong rationales marked as such.
  """
  state = empty_memory(model.layout, len(examples), max_length)
  if method.memory_start == "empty":
    return state
  index, done = np.arange(len(examples)), 0
  for drawn in draw_batches(
    model,
    task,
    params,
    examples.guides if method.memory_start == "guide" else examples.prompts,
    examples,
    index,
    np.zeros_like(index),
    rng.purpose_key(seed, "memory"),
    batch_size,
    report_done=report_done,
  ):
    written = index[done : done + len(drawn.tokens)]
    state = _start(
      state, written, drawn.tokens, drawn.is_correct, layout=model.layout
    )
    done += len(written)
  return state


@functools.partial(jax.jit, static_argnames="layout", donate_argnames="state")
def _start(state, index, tokens, is_correct, *, layout):
  state = memory.start(state, index, tokens, is_correct)
  return partitioning.constrain(layout, state, "examples")


def e_step(
  model: LanguageModel,
  task: Task,
  examples: Examples,
  method: Method,
  params,
  state: memory.MemoryState,
  index: np.ndarray,
  seed: int,
  step: int,
) -> tuple[memory.MemoryState, WeightedRows, dict[str, Any]]:
  """Updates the memory of a minibatch and weighs its sequences.

  Args:
    model: the language model.
    task: says what an answer is.
    examples: N training questions.
    method: how to draw and weigh.
    params: current parameters; draws, weights and gradient all use them.
    state: the memory before the step, whose place the new one takes.
    index: [M] int32, distinct questions.
    seed: the run's.
    step: from 1.

  Returns:
    The memory after the step, the weighted rows, and metrics.
  """
  num_draws = method.num_draws
  repeated = np.repeat(index, num_draws)
  keys = rng.row_keys(
    rng.purpose_key(seed, "draw", step),
    examples.words[repeated],
    np.tile(np.arange(num_draws), len(index)),
  )
  checked = draw_and_check(
    model,
    task,
    params,
    examples.prompts[repeated],
    keys,
    [examples.answers[i] for i in repeated],
  )
  offset = jax.random.uniform(rng.purpose_key(seed, "subsample", step))
  state, moved, weights, scale = move_and_weigh(
    state,
    index,
    checked.tokens.reshape(len(index), num_draws, -1),
    checked.is_correct.reshape(len(index), num_draws),
    step,
    offset,
    estimator=method.estimator,
    num_scored=method.num_scored,
    layout=model.layout,
  )
  rows = gather_rows(
    examples.prompts[index],
    moved,
    np.asarray(weights),
    checked.log_prob.reshape(len(index), num_draws),
  )
  metrics = {
    "chain/accept_rate": float(checked.is_correct.mean()),
    "memory/correct_fraction": int(state.is_correct.sum()) / len(examples),
    "draws/capped_fraction": 1.0 - float(checked.ended.mean()),
    "draws/unparseable_fraction": float(
      np.mean([answer is None for answer in checked.answers])
    ),
    "estimator/num_weighted": rows.num_weighted(),
    "estimator/num_valid": int(moved.is_correct.sum()),
    "estimator/scale": float(scale),
    "memory/age": float(memory.mean_age(state, step)),
    "time/sampling": checked.sampling_seconds,
    "time/checking": checked.checking_seconds,
    "num_sampled": len(repeated),
    "num_tokens": int((checked.tokens != PAD_ID).sum()),
    "choices": choices(index, checked.tokens, checked.is_correct),
  }
  return state, rows, metrics


def choices(*arrays: np.ndarray) -> str:
  """A short hash by which two runs see whether they chose the same.

  Args:
    *arrays: what was drawn, and for which questions.
  """
  content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
  return files.sha256(content)[:16]


@functools.partial(
  jax.jit,
  static_argnames=("estimator", "num_scored", "layout"),
  donate_argnames="state",
)
def move_and_weigh(
  state: memory.MemoryState,
  index: jax.Array,
  draw_tokens: jax.Array,
  draw_is_correct: jax.Array,
  step: int,
  offset: jax.Array,
  *,
  estimator: estimators.Estimator,
  num_scored: int | None,
  layout: partitioning.Layout | None = None,
) -> tuple[memory.MemoryState, transition.Transition, jax.Array, jax.Array]:
  """Does all of the E-step that needs neither model nor text.

  Args:
    state: the memory before the step, whose place the new one takes.
    index: [M] int32, distinct questions.
    draw_tokens: [M, K, T] int32, fresh draws.
    draw_is_correct: [M, K] bool.
    step: from 1.
    offset: scalar, uniform in [0, 1), for subsampling.
    estimator: gives the weights.
    num_scored: L, or None to score every sequence that has weight.
    layout: where the memory's rows lie; the minibatch's are gathered, so that
      every process has the same weights.

  Returns:
    The memory after the step, the transition, weights [M, 1 + K] of which
    those of accepted draws have moved to the memory, and the mean scale of the
    control variate over the valid rows: what the weights lack of 1. (For an
    estimator whose baseline is the mean reward that is always 1.)
  """
  tokens, is_correct = partitioning.constrain(
    layout, (state.tokens[index], state.is_correct[index])
  )
  moved = transition.independence(
    tokens, is_correct, draw_tokens, draw_is_correct
  )
  state = memory.write(
    state, index, moved.tokens, moved.is_correct, moved.accepted, step
  )
  weights = estimator(moved)
  # Weights add up to the mean of 1 - beta_m over the valid rows.
  scale = jnp.where(moved.is_correct.any(), 1 - weights.sum(), 0.0)
  weights = estimators.merge_accepted(moved, weights)
  if num_scored is not None:
    weights = resampling.subsample(weights, num_scored, offset)
  state = partitioning.constrain(layout, state, "examples")
  return state, *partitioning.constrain(layout, (moved, weights, scale))


def gather_rows(
  prompts: np.ndarray,
  moved: transition.Transition,
  weights: np.ndarray,
  log_prob: np.ndarray | None = None,
) -> WeightedRows:
  """Collects the sequences whose weight is not zero.

  Args:
    prompts: [M, P] int32.
    moved: the minibatch's transition.
    weights: [M, 1 + K].
    log_prob: [M, K] nats of the draws, by the sampler, if that is known.

  Returns:
    S rows, S the next multiple of M / 2: few sizes, so few compilations.
  """
  batch_size, columns = weights.shape
  sequences = np.concatenate(
    [np.asarray(moved.tokens)[:, None], np.asarray(moved.draw_tokens)], axis=1
  ).reshape(batch_size * columns, -1)
  flat = weights.ravel().astype(np.float32)
  chosen = np.flatnonzero(flat)
  bucket = max(1, batch_size // 2)
  size = max(bucket, -(-len(chosen) // bucket) * bucket)
  place = np.zeros(size, np.int32)
  place[: len(chosen)] = chosen
  filled = np.zeros(size, np.float32)
  filled[: len(chosen)] = flat[chosen]
  sampled = np.full(weights.shape, np.nan, np.float32)
  if log_prob is not None:
    sampled[:, 1:] = log_prob
    # A remembered one that was accepted just now is a fresh draw too.
    accepted = np.asarray(moved.accepted)
    is_new = accepted.any(axis=1)
    sampled[is_new, 0] = log_prob[is_new, accepted[is_new].argmax(axis=1)]
  sampled = np.where(filled != 0, sampled.ravel()[place], np.nan)
  return WeightedRows(
    prompts[place // columns], sequences[place], filled, sampled
  )
