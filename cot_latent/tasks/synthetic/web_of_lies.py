"""Chains of people who each judge the person before: is the last one honest?

Level: level + 2 people.
"""

import random
from typing import NamedTuple

from cot_latent.tasks.synthetic import draw, words
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

_IS = {True: "is honest", False: "is a liar"}


class Parts(NamedTuple):
  """A chain of people.

  Attributes:
    names: Names of the people.
    claims: Whether a person is said to be honest: the first person by the
      question, each following person by the next.
  """

  names: list[str]
  claims: list[bool]


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws the people and what they say."""
  names = words.make_names(rng, level + 2)
  claims = [rng.random() < 0.5 for _ in names]
  text = f"{names[0]} {_IS[claims[0]]}."
  for about, name, claim in zip(names, names[1:], claims[1:], strict=False):
    text += f" {name} says {about} {_IS[claim]}."
  return Problem(f"{text} Is {names[-1]} honest?", Parts(names, claims))


def solve(parts: Parts, slip: Slip) -> tuple[list[str], str]:
  """Judges each person in order, `Bex is honest`; a slip judges incorrectly."""
  is_honest, steps = True, []  # the question itself is honest
  for name, claim in zip(parts.names, parts.claims, strict=True):
    correct = is_honest == claim
    is_honest = slip(correct, (not correct,))
    steps.append(f"{name} {_IS[is_honest]}")
  return steps, "Yes" if is_honest else "No"


def guess(rng: random.Random, parts: Parts) -> str:
  """Draws Yes or No."""
  del parts
  return draw.choice(rng, ("Yes", "No"))


KIND = Kind("web_of_lies", ("Yes", "No"), make_problem, solve, guess)
