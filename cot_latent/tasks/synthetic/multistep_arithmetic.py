"""Arithmetic with + - *: `Compute: (3 - -4 * 2) + (5 - 1)`.

Level: 3 * level - 1 numbers from -9 to 9: one bracket of two, and brackets of
three, which are added or subtracted. Level 1 is two numbers without brackets.
"""

import random
from typing import Any, NamedTuple

from cot_latent.tasks.synthetic import draw, expressions
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

_OFF_BY = (-10, -2, -1, 1, 2, 10)


class Parts(NamedTuple):
  """The tree, and how many numbers it has."""

  tree: Any
  num_numbers: int


def _make_group(rng: random.Random, size: int) -> tuple[str, Any]:
  numbers = [draw.below(rng, 19) - 9 for _ in range(size)]
  operators = [draw.choice(rng, "+-*") for _ in numbers[1:]]
  text = str(numbers[0])
  for operator, number in zip(operators, numbers[1:], strict=True):
    text += f" {operator} {number}"
  return text, expressions.join(numbers, operators, "*")


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws a sum of brackets."""
  # At most three: a longer row, or a bracket of four, might be in BBH.
  sizes = draw.shuffled(rng, [2] + [3] * (level - 1))
  groups = [_make_group(rng, size) for size in sizes]
  operators = [draw.choice(rng, "+-") for _ in groups[1:]]
  text = groups[0][0] if level == 1 else f"({groups[0][0]})"
  for operator, group in zip(operators, groups[1:], strict=True):
    text += f" {operator} ({group[0]})"
  tree = expressions.join([group[1] for group in groups], operators, "*")
  return Problem(f"Compute: {text}", Parts(tree, sum(sizes)))


def solve(parts: Parts, slip: Slip) -> tuple[list[str], str]:
  """Evaluates the sum; a slip is off by 1, 2 or 10."""

  def work(operator: str, left: int, right: int) -> int:
    if operator == "+":
      result = left + right
    elif operator == "-":
      result = left - right
    else:
      result = left * right
    return slip(result, (result + off for off in _OFF_BY))

  steps, value = expressions.evaluate(parts.tree, work)
  return steps, str(value)


def guess(rng: random.Random, parts: Parts) -> str:
  """Draws a number that as many numbers can add up to."""
  most = 9 * parts.num_numbers
  return str(draw.below(rng, 2 * most + 1) - most)


KIND = Kind("multistep_arithmetic", "integer", make_problem, solve, guess)
