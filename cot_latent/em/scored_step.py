"""The E-step whose likelihood the model computes: draw, score, move, weigh.

A rationale is drawn up to the words that an answer follows, and the known
answer's probability after it is its likelihood. The memory's is computed again
in each step, because the parameters moved.

M questions in a minibatch, N in all, K draws each, P prompt tokens, T tokens of
a rationale, A of an answer.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.em import estep
from cot_latent.em.answers import Answers, Joined
from cot_latent.em.drawing import Checked
from cot_latent.em.estep import EStep
from cot_latent.em.step_info import StepInfo
from cot_latent.em.weighted_rows import WeightedRows, gather
from cot_latent.inference import (
  estimators,
  fitting,
  memory,
  resampling,
  rng,
  scored,
)
from cot_latent.inference.scored import Scored
from cot_latent.models import partitioning, token_rows

MOVE = "likelihood/move"  # the purpose of the numbers that move chains
NO_ANSWER = -30.0  # nats, as which a likelihood of 0 counts in what is reported


class Nats(NamedTuple):
  """Log-probabilities of R rationales and their answers.

  Attributes:
    rationale: [R] float32, log p(z|x).
    answer: [R] float32, log p(y|x, z); -inf where there is no answer.
  """

  rationale: np.ndarray
  answer: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerScorer:
  """Scores rationales and the known answers after them.

  Attributes:
    model: A language model whose sequences end with tokens alone.
    answers: The known answers.
    prompts: [N, P] int32, of the questions.
    rows_at_once: Rows that are scored together, at most.
  """

  model: Any
  answers: Answers
  prompts: np.ndarray
  rows_at_once: int = 64

  def score(
    self, params: Any, rationales: np.ndarray, question: np.ndarray
  ) -> tuple[Nats, Joined]:
    """Computes log p(z|x) and log p(y|x, z).

    Args:
      params: Parameters of the model.
      rationales: [R, T] int32.
      question: [R] integers, the question of each rationale.

    Returns:
      The nats, and the sequences that were scored.
    """
    joined = self.answers.join(rationales, question)
    layout = self.model.layout
    prefix, prompts = token_rows.compact_prompts(self.prompts[question])
    size = min(self.rows_at_once, len(question))
    size = partitioning.padded(layout, "batch", size)
    run = _scoring(self.model)
    shared = run.begin(params, partitioning.place(layout, prefix))
    lengths = joined.is_rationale.sum(axis=1) + joined.is_answer.sum(axis=1)
    order = np.argsort(-lengths, kind="stable")
    found = np.zeros((len(order), 2), np.float32)
    masks = np.stack([joined.is_rationale, joined.is_answer], axis=1)
    for start in range(0, len(order), size):
      rows = order[start : start + size]
      filled = np.pad(rows, (0, size - len(rows)), mode="edge")
      width = token_rows.width_of(int(lengths[rows].max()))
      nats = run.score(
        params,
        shared,
        partitioning.place_rows(layout, prompts[filled]),
        partitioning.place_rows(layout, joined.targets[filled, :width]),
        partitioning.place_rows(layout, masks[filled, :, :width]),
      )
      found[rows] = np.asarray(nats)[: len(rows)]
    of_answers = np.where(joined.has_answer(), found[:, 1], -np.inf)
    return Nats(found[:, 0], of_answers.astype(np.float32)), joined


class _Scoring(NamedTuple):
  begin: Any
  score: Any


@functools.lru_cache(maxsize=8)
def _scoring(model: Any) -> _Scoring:
  """Compiles a model's scoring, once each."""
  layout = model.layout

  def score(params, shared, prompts, targets, masks):
    log_prob = model.log_prob(params, prompts, targets, shared)
    return jnp.where(masks, log_prob[:, None], 0).sum(axis=-1)

  everywhere = None if layout is None else layout.sharding()
  return _Scoring(
    jax.jit(model.encode_prefix), jax.jit(score, out_shardings=everywhere)
  )


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredEStep(EStep):
  """An E-step whose method has a likelihood that the model computes.

  The sampler ends a rationale as `scorer.answers.ending` says. A row's tokens
  are weighted apart (`WeightedRows.token_weights`).

  Attributes:
    scorer: Scores the training questions' rationales.
    reference: The base model's parameters, where the estimator has a use for
      them.
  """

  scorer: AnswerScorer | None = None
  reference: Any = None

  def is_valid(self, drawn: Checked) -> np.ndarray:
    """Marks the draws that reach an answer, [R] bool."""
    assert self.scorer is not None
    return self.scorer.answers.reaches(drawn.tokens)

  def step(
    self,
    params: Any,
    state: memory.MemoryState,
    index: np.ndarray,
    step: int,
    fit: fitting.Fit | None = None,
  ) -> tuple[memory.MemoryState, WeightedRows, StepInfo]:
    """Moves the chains of a minibatch and weighs its sequences.

    Args:
      params: Current parameters; draws, likelihoods and gradient all use them.
      state: The memory before the step; the new one takes its place.
      index: [M] int32, distinct questions.
      step: Number of the step, from 1.
      fit: None, because no estimator of answers is fitted.

    Returns:
      The memory after the step, the weighted rows, and what was measured.
    """
    assert self.scorer is not None
    method, num_draws = self.method, self.method.num_draws
    checked = self.draw(params, index, step)
    rationales = _with_memory(state, index, checked.tokens, self.layout)
    shape = rationales.shape[:2]
    flat = rationales.reshape(-1, rationales.shape[-1])
    question = np.repeat(index, 1 + num_draws)
    nats, joined = self.scorer.score(params, flat, question)
    is_memory = np.arange(len(flat)) % shape[1] == 0
    is_valid = joined.has_answer()
    log_l = nats.answer.reshape(shape)
    ratio = None
    if self.reference is not None:
      base, _ = self.scorer.score(
        self.reference, flat[~is_memory], question[~is_memory]
      )
      ratio = (nats.rationale[~is_memory] - base.rationale).reshape(
        len(index), -1
      )
    uniform = rng.row_uniform(
      rng.purpose_key(self.seed, MOVE, step), self.examples.words[index]
    )
    state, weighed = _move_and_weigh(
      *(state, index, rationales, is_valid.reshape(shape), log_l, ratio),
      *(uniform, step, self.noise(step)),
      weighing=method.weighing,
      layout=self.layout,
    )
    weights = np.asarray(weighed.weights, np.float32)
    rows = gather(
      self.examples.prompts[index],
      joined.targets.reshape(*shape, -1),
      np.abs(weights).sum(axis=2),
      ~is_memory.reshape(shape),
      _expected(weights, checked.log_prob, nats, shape),
      token_weights=_by_token(weights, joined),
    )
    info = StepInfo(
      accept_rate=float(weighed.accept_rate),
      unparseable_fraction=1.0 - float(is_valid[~is_memory].mean()),
      num_valid=int(is_valid.reshape(shape).any(axis=1).sum()),
      choices=estep.choices(
        index, checked.tokens, np.asarray(weighed.taken, np.int32)
      ),
      log_likelihood=float(log_mean(log_l[:, 1:]).mean()),
      **self.measured(state, step, checked, rows, weighed.scale),
    )
    return state, rows, info


def log_mean(log_likelihood: np.ndarray) -> np.ndarray:
  """Averages likelihoods of a question's rationales.

  Args:
    log_likelihood: [N, S] nats, -inf without an answer.

  Returns:
    [N] nats, log (1/S) sum l; at least NO_ANSWER. Its mean over draws is at
    most log p(y|x), and the nearer to it the larger S is.

  Example of two rationales, of which one reaches no answer:

    >>> log_mean(np.array([[np.log(0.5), -np.inf]])).round(3).tolist()
    [-1.386]
  """
  nats = np.maximum(log_likelihood.astype(np.float64), -1e9)
  found = np.logaddexp.reduce(nats, axis=1) - np.log(nats.shape[1])
  return np.maximum(found, NO_ANSWER)


def _with_memory(state, index, draws, layout) -> np.ndarray:
  """[M, 1 + K, T] the memories and their draws, on the host."""
  tokens = _gathered(state.tokens, index, layout=layout)
  old = np.asarray(tokens)[:, None]
  return np.concatenate([old, draws.reshape(len(index), -1, old.shape[-1])], 1)


@functools.partial(jax.jit, static_argnames="layout")
def _gathered(tokens, index, *, layout):
  return partitioning.constrain(layout, tokens[index])


class _Weighed(NamedTuple):
  """What the estimator gives: weights [M, 1 + K, 2], and what moved."""

  weights: jax.Array
  scale: jax.Array
  accept_rate: jax.Array
  taken: jax.Array  # [M] columns


@functools.partial(
  jax.jit,
  static_argnames=("weighing", "layout"),
  donate_argnames="state",
)
def _move_and_weigh(
  state,
  index,
  rationales,
  is_valid,
  log_likelihood,
  log_ratio,
  uniform,
  step,
  noise,
  *,
  weighing,
  layout,
):
  """Does the part of the E-step that needs neither model nor text."""
  estimator, num_scored = weighing.estimator, weighing.num_scored
  nats = Scored(log_likelihood, log_ratio)
  weights = estimators.weigh(estimator, nats, noise.key)
  moves = estimator.kernel(log_likelihood)
  taken = scored.pick(moves, uniform)
  rows = jnp.arange(len(index))
  accepted = jnp.arange(1, moves.shape[1]) == taken[:, None]
  state = memory.write(
    state, index, rationales[rows, taken], is_valid[rows, taken], accepted, step
  )
  state = partitioning.constrain(layout, state, "examples")
  valid = is_valid.any(axis=1)
  scale = jnp.where(valid.any(), 1 - weights[..., 0].sum(), 0.0)
  if num_scored is not None:
    sizes = jnp.abs(weights).max(axis=2)
    times = resampling.multipliers(
      sizes, num_scored, noise.offset, weighing.always_subsample
    )
    weights = weights * times[..., None]
  weighed = _Weighed(weights, scale, moves[:, 1:].sum(axis=1).mean(), taken)
  return state, partitioning.constrain(layout, weighed)


def _expected(weights, sampled, nats: Nats, shape) -> np.ndarray | None:
  """[M, 1 + K] nats that the M-step should find for the tokens with weight.

  The nats of a draw's rationale are the sampler's.
  """
  if sampled is None:
    return None
  of_rationale = nats.rationale.reshape(shape).copy()
  of_rationale[:, 1:] = sampled.reshape(len(of_rationale), -1)
  of_answer = np.where(np.isfinite(nats.answer), nats.answer, 0).reshape(shape)
  is_weighted = weights != 0
  return of_rationale * is_weighted[..., 0] + of_answer * is_weighted[..., 1]


def _by_token(weights: np.ndarray, joined: Joined) -> np.ndarray:
  """[M, 1 + K, T + A] float32 weights of tokens."""
  flat = weights.reshape(-1, 2)
  by_token = (
    flat[:, :1] * joined.is_rationale + flat[:, 1:] * joined.is_answer
  ).astype(np.float32)
  return by_token.reshape(*weights.shape[:2], -1)
