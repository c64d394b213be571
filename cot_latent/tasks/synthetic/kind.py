"""A kind of synthetic task, and how its rationales are written."""

import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

from cot_latent.data.answers import checkers
from cot_latent.tasks.synthetic import draw

T = TypeVar("T")


class Slip(Protocol):
  """Decides the result of a step."""

  def __call__(self, correct: T, incorrect: Iterable[T]) -> T:
    """Returns the correct result or an incorrect one.

    Args:
      correct: The result that follows from the steps before.
      incorrect: One or more other results.
    """


class Problem(NamedTuple):
  """A question.

  Attributes:
    question: Text of the question.
    parts: Content of the question, in a form of the kind's own.
  """

  question: str
  parts: Any


class Kind(NamedTuple):
  """A kind of task.

  Attributes:
    name: Name in `KINDS`.
    answer: Kind of the answers.
    make_problem: (rng, level) -> a problem; any level from 1 on.
    solve: (parts, slip) -> the steps, one line each, and the answer that they
      reach. Each step's result goes through `slip` once.
    guess: (rng, parts) -> a random answer of the correct form.
  """

  name: str
  answer: checkers.Kind
  make_problem: Callable[[random.Random, int], Problem]
  solve: Callable[[Any, Slip], tuple[list[str], str]]
  guess: Callable[[random.Random, Any], str]


def no_slip(correct: T, incorrect: Iterable[T]) -> T:
  """The `Slip` of correct rationales."""
  del incorrect
  return correct


def slips(rng: random.Random, rate: float) -> Slip:
  """Makes a `Slip` that is incorrect with probability `rate`."""

  def slip(correct: T, incorrect: Iterable[T]) -> T:
    if rng.random() < rate:
      return draw.choice(rng, tuple(incorrect))
    return correct

  return slip


def write(steps: Iterable[str], answer: str) -> str:
  """Writes a rationale, one line per step."""
  return "\n".join([*steps, f"So the answer is {answer}."])


def correct_rationale(kind: Kind, problem: Problem) -> tuple[str, str]:
  """Writes the correct rationale and the answer."""
  steps, answer = kind.solve(problem.parts, no_slip)
  return write(steps, answer), answer


def flawed_rationale(
  kind: Kind,
  problem: Problem,
  rng: random.Random,
  guess_rate: float,
  slip_rate: float,
) -> tuple[str, str]:
  """Writes a rationale as an untuned model might: a guess, or with slips.

  Args:
    kind: Kind of the problem.
    problem: The problem to solve.
    rng: Generator that decides on the flaws.
    guess_rate: Probability that the rationale is a bare guess.
    slip_rate: Probability that a step of any other rationale is incorrect. The
      steps after it use its result.

  Returns:
    The rationale and the answer that it reaches.
  """
  if rng.random() < guess_rate:
    answer = kind.guess(rng, problem.parts)
    return write([], answer), answer
  steps, answer = kind.solve(problem.parts, slips(rng, slip_rate))
  return write(steps, answer), answer
