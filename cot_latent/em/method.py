"""How rationales are drawn and weighed, as plain data. Gin fills it in.

M questions per minibatch, K draws per question, L sequences scored per step.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax

from cot_latent.em.likelihood import AnswerGivenRationale, Likelihood
from cot_latent.errors import UserError
from cot_latent.inference import estimators, scored, transition
from cot_latent.runtime.validation import (
  check_positive,
  check_types,
  check_within,
)


@dataclasses.dataclass(frozen=True)
class OuterLoops:
  """Outer loops: rationales of all questions, then a fit to the correct ones.

  Attributes:
    source: "sample" draws them at temperature 1, "greedy" decodes them, "human"
      takes those of the data.
    hint_on_failure: If the answer is incorrect, draw once more from the
      question with its answer as a hint.
    restart: Begin every fit from the base model, not where the last fit ended.
    first_steps: Steps of the first loop; None is one loop of all steps.
    growth: Factor from each loop's steps to those of the next.
    max_steps: Maximum steps of a loop.
    max_loops: Maximum number of loops of a run; the steps after the last loop
      fit nothing. None is as many as the steps need.
    stop_loss: End a loop when a minibatch's loss, in nats per sequence, is
      below it; the next loop then begins with the next step. None ends no loop
      early.
  """

  source: Literal["sample", "greedy", "human"]
  hint_on_failure: bool = False
  restart: bool = False
  first_steps: int | None = None
  growth: float = 1.0
  max_steps: int | None = None
  max_loops: int | None = None
  stop_loss: float | None = None

  def __post_init__(self):
    check_types(self)
    check_within(self, "growth", 1, math.inf)
    for name in ("first_steps", "max_steps", "max_loops"):
      if getattr(self, name) is not None:
        check_positive(self, name)
    if self.source == "human" and (self.hint_on_failure or self.first_steps):
      raise UserError(
        "OuterLoops.source = 'human' is one loop without hints: leave "
        "hint_on_failure and first_steps out"
      )
    if self.first_steps is None and (self.growth, self.max_steps) != (1, None):
      raise UserError(
        "OuterLoops.growth and max_steps have no effect without first_steps: "
        "set it, or leave them out"
      )

  def loop_steps(self, loop: int, num_steps: int) -> int:
    """Returns the steps of a loop, from 0, in a run of `num_steps` or fewer.

    Reference: Phan et al. 2023, appendix F: 40, growing by 20% up to 200.

    Example:

      >>> loops = OuterLoops("sample", first_steps=10, growth=1.5)
      >>> [loops.loop_steps(loop, num_steps=20) for loop in range(3)]
      [10, 15, 20]
    """
    if self.first_steps is None:
      return num_steps
    try:
      steps = round(self.first_steps * self.growth**loop)
    except OverflowError:
      steps = num_steps
    return min(steps, self.max_steps or steps, num_steps)

  def may_begin_again(self) -> bool:
    """Whether a second loop may follow, with a new optimizer state."""
    return self.first_steps is not None or self.stop_loss is not None

  def num_loops(self, num_steps: int) -> int:
    """Returns the number of loops in a run, if no loop ends early.

    Example:

      >>> OuterLoops("sample", first_steps=10, growth=1.5).num_loops(20)
      2
    """
    loops, done = 0, 0
    while done < num_steps and loops != self.max_loops:
      done += self.loop_steps(loops, num_steps)
      loops += 1
    return loops


@dataclasses.dataclass(frozen=True)
class Weighing:
  """How a minibatch's sequences get their weights; see `Method`."""

  estimator: Callable
  num_scored: int | None = None
  always_subsample: bool = False


@dataclasses.dataclass(frozen=True)
class Method:
  """How rationales are drawn, and what weight they get.

  Attributes:
    name: Name for the report.
    estimator: Any hashable callable, Transition -> weights [M, 1 + K]: a
      function, a functools.partial, a frozen dataclass with __call__, a jitted
      function (inference/estimators.py). With a likelihood that the model
      computes, Scored -> weights [M, 1 + K, 2] of rationales and answers
      (inference/scored_estimators.py). One with an attribute `purpose` is
      called with a random key as well.
    memory_start: The prompt that the first rationales are drawn from: "guide"
      (the question with its answer as a hint), "prior" (the question alone),
      or "empty", to start without any.
    num_draws: Number of draws K per question.
    num_scored: Number L of sequences scored per step, or None to score every
      sequence that has weight.
    always_subsample: Whether L are drawn even if no more have weight, as in the
      paper's Algorithm 1; scoring all of them is exact.
    loops: Outer loops, within which nothing is drawn; None draws in every step.
    likelihood: How likely a rationale makes the known answer
      (em/likelihood.py).
  """

  name: str
  estimator: Callable
  memory_start: Literal["guide", "prior", "empty"] = "guide"
  num_draws: int = 1
  num_scored: int | None = None
  always_subsample: bool = False
  loops: OuterLoops | None = None
  likelihood: Likelihood = dataclasses.field(default_factory=Likelihood)

  def __post_init__(self):
    check_types(self)
    check_positive(self, "num_draws")
    if self.scores_answers() and self.loops is not None:
      raise UserError(
        "Method.likelihood: outer loops keep the rationales that a checker "
        "found correct; with answer_given_rationale set loops = None"
      )
    if self.loops is not None:
      if self.memory_start != "empty":
        raise UserError(
          "Method.memory_start must be 'empty' with outer loops, which fill "
          "the memory themselves"
        )
      if self.loops.source == "human" and self.num_draws != 1:
        raise UserError(
          "there is one human rationale per question: set num_draws = 1"
        )
    if self.num_scored is not None:
      check_positive(self, "num_scored")
    elif self.always_subsample:
      raise UserError(
        "Method.always_subsample needs num_scored, the sequences to draw"
      )
    self._check_estimator()
    if self.loops is not None and self.is_fitted():
      raise UserError(
        "Method.estimator: a fitted control variate needs fresh draws in every "
        "step, and outer loops have none: set loops = None"
      )

  @property
  def weighing(self) -> Weighing:
    """How sequences get their weights."""
    return Weighing(self.estimator, self.num_scored, self.always_subsample)

  def scores_answers(self) -> bool:
    """Whether the likelihood is a probability that the model computes."""
    return isinstance(self.likelihood, AnswerGivenRationale)

  def has_reference(self) -> bool:
    """Whether the estimator needs the base model's log-probabilities."""
    return self.scores_answers() and self.estimator.has_reference  # type: ignore[attr-defined]

  def is_fitted(self) -> bool:
    """Whether the estimator has a factor that is fitted during the run."""
    return isinstance(self.estimator, estimators.FittedControlVariate)

  def fits_at(self, step: int) -> bool:
    """Whether that factor is fitted in a step, counted from 1."""
    estimator = self.estimator
    return isinstance(
      estimator, estimators.FittedControlVariate
    ) and estimator.is_due(step)

  def _check_estimator(self) -> None:
    try:
      hash(self.estimator)
    except TypeError as error:
      raise UserError(
        f"Method.estimator: {error}, and compiled functions are cached by it: "
        "make it a frozen dataclass, or give it a __hash__"
      ) from None
    is_of_answers = hasattr(self.estimator, "has_reference")
    if is_of_answers != self.scores_answers():
      raise UserError(
        "Method.estimator is for answer_given_rationale, and Method.likelihood "
        "is indicator: set LIKELIHOOD = @likelihood.answer_given_rationale()"
        if is_of_answers
        else "Method.estimator needs a checker's verdicts, and "
        "Method.likelihood is answer_given_rationale: use "
        "gin/methods/trice_mh.gin or another with an estimator of "
        "inference/scored_estimators.py"
      )
    # On shapes alone, so that an error is found before anything is computed.
    example: Any
    expected: tuple[int, ...] = (2, 1 + self.num_draws)
    if is_of_answers:
      example, expected = scored.shapes(2, self.num_draws), (*expected, 2)
    else:
      example = transition.shapes(2, self.num_draws, length=1)
    try:
      key = estimators.own_key(self.estimator, 0, 1)
      weights = jax.eval_shape(
        functools.partial(estimators.weigh, self.estimator), example, key
      )
    except ValueError as error:
      raise UserError(f"Method.estimator: {error}") from None
    except TypeError as error:
      raise UserError(
        f"Method.estimator: {error}; in gin, write it with (), as in "
        "@estimators.basic()"
      ) from None
    if getattr(weights, "shape", None) != expected:
      shape = "[M, 1 + K, 2]" if is_of_answers else "[M, 1 + K]"
      raise UserError(f"Method.estimator must return weights {shape}")

  def drawn_by_loop(self, num_train: int) -> int:
    """Returns the most sequences that an outer loop draws for N questions."""
    if self.loops is None or self.loops.source == "human":
      return 0
    # Only some questions need the hint.
    return num_train * self.num_draws * (1 + self.loops.hint_on_failure)

  def drawn_by_steps(self, steps: int, batch_size: int, num_train: int) -> int:
    """Returns the most sequences that the steps of a run draw.

    If a loop ends early (`OuterLoops.stop_loss`), one more may begin, and a run
    may draw more.
    """
    if self.loops is None:
      return steps * batch_size * self.num_draws
    return self.loops.num_loops(steps) * self.drawn_by_loop(num_train)

  def max_scored(self, batch_size: int) -> int:
    """Returns the maximum of sequences that one step differentiates.

    Example:

      >>> Method("trice", estimators.basic(), num_draws=2).max_scored(8)
      24
      >>> Method("trice", estimators.basic(), num_scored=10).max_scored(8)
      10
    """
    everything = batch_size * (1 + self.num_draws)
    return min(self.num_scored or everything, everything)
