"""Formulas with not, and, or: `Simplify: not (True or False) and True`.

Level: level + 2 truth values, joined two or three at a time. A joined formula
  is
in brackets when it is a part. A third of the parts are negated.
"""

import functools
import random
from typing import Any

from cot_latent.tasks.synthetic import draw, expressions
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip


def _negate_some(rng: random.Random, text: str, tree: Any) -> tuple[str, Any]:
  if rng.random() < 1 / 3:
    return f"not {text}", ("not", tree)
  return text, tree


def _make_part(rng: random.Random, size: int) -> tuple[str, Any]:
  """Makes a formula of `size` truth values that can be a member of another."""
  if size == 1:
    value = rng.random() < 0.5
    return _negate_some(rng, str(value), value)
  text, tree = _make_formula(rng, size)
  return _negate_some(rng, f"({text})", tree)


def _make_formula(rng: random.Random, size: int) -> tuple[str, Any]:
  """Joins two or three formulas of `size` >= 2 truth values together."""
  # At most three: a longer row without brackets might be in BBH.
  num_cuts = 1 + draw.below(rng, min(2, size - 1))
  cuts = sorted(draw.sample(rng, range(1, size), num_cuts))
  sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
  parts = [_make_part(rng, part_size) for part_size in sizes]
  operators = [draw.choice(rng, ("and", "or")) for _ in cuts]
  text = parts[0][0]
  for operator, part in zip(operators, parts[1:], strict=True):
    text += f" {operator} {part[0]}"
  tree = expressions.join([part[1] for part in parts], operators, "and")
  return text, tree


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws a formula."""
  text, tree = _make_formula(rng, level + 2)
  return Problem(f"Simplify: {text}", tree)


def work_out(
  slip: Slip, operator: str, value: bool, other: bool = False
) -> bool:
  """Works out `not value`, or `value and other`; a slip is the other value."""
  if operator == "not":
    correct = not value
  elif operator == "and":
    correct = value and other
  else:
    correct = value or other
  return slip(correct, (not correct,))


def solve(tree: Any, slip: Slip) -> tuple[list[str], str]:
  """Evaluates the formula; a slip is the other truth value."""
  steps, value = expressions.evaluate(tree, functools.partial(work_out, slip))
  return steps, str(value)


def guess(rng: random.Random, tree: Any) -> str:
  """Draws True or False."""
  del tree
  return draw.choice(rng, ("True", "False"))


KIND = Kind(
  "boolean_expressions", ("True", "False"), make_problem, solve, guess
)
