"""Formulas, rewritten until a truth value is left, for pretrained models.

`Simplify: not True and ( False or not not True )`

A step rewrites the whole formula with one operator less:
`False and ( False or not not True )`. So it is a copy except at one place.

Level: level + 2 truth values and 2 * level + 3 operators at most. A third of
the parts are negated, some of them more than once, and a single value may be in
brackets.
"""

import functools
import random
from collections.abc import Callable
from typing import Any

from cot_latent.tasks.synthetic import draw, expressions
from cot_latent.tasks.synthetic.boolean_expressions import guess, work_out
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

_GROUP = "()"  # the operator of brackets


def _make_part(rng: random.Random, size: int) -> Any:
  """Makes a formula of `size` values that can be a member of another."""
  tree: Any = rng.random() < 0.5 if size == 1 else _make_formula(rng, size)
  if size > 1 or rng.random() < 0.2:
    tree = (_GROUP, tree)
  while rng.random() < 1 / 3:
    tree = ("not", tree)
  return tree


def _make_formula(rng: random.Random, size: int) -> Any:
  """Joins two or three formulas of `size` >= 2 truth values together."""
  num_cuts = 1 + draw.below(rng, min(2, size - 1))
  cuts = sorted(draw.sample(rng, range(1, size), num_cuts))
  sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
  parts = [_make_part(rng, part_size) for part_size in sizes]
  operators = [draw.choice(rng, ("and", "or")) for _ in cuts]
  return expressions.join(parts, operators, "and")


def _write(tree: Any) -> str:
  if not isinstance(tree, tuple):
    return str(tree)
  operator, *parts = tree
  if operator == _GROUP:
    return f"( {_write(parts[0])} )"
  *before, last = map(_write, parts)
  return " ".join([*before, operator, last])


def _count(tree: Any) -> int:
  """Counts the operators, except brackets."""
  if not isinstance(tree, tuple):
    return 0
  operator, *parts = tree
  return (operator != _GROUP) + sum(map(_count, parts))


def _open(tree: Any) -> Any:
  """Removes the brackets around single values."""
  if not isinstance(tree, tuple):
    return tree
  operator, *parts = tree[0], *map(_open, tree[1:])
  if operator == _GROUP and not isinstance(parts[0], tuple):
    return parts[0]
  return (operator, *parts)


def _reduce(tree: Any, work: Callable[..., bool]) -> Any:
  """Works out the first operator whose members are values."""
  operator, *parts = tree
  for place, part in enumerate(parts):
    if isinstance(part, tuple):
      parts[place] = _reduce(part, work)
      return (operator, *parts)
  return work(operator, *parts)


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws a formula."""
  tree = _make_formula(rng, level + 2)
  while _count(tree) > 2 * level + 3:
    tree = _make_formula(rng, level + 2)
  return Problem(f"Simplify: {_write(tree)}", tree)


def solve(tree: Any, slip: Slip) -> tuple[list[str], str]:
  """Rewrites the formula; a slip works out the other truth value."""
  work = functools.partial(work_out, slip)
  steps, tree = [], _open(tree)
  while isinstance(tree, tuple):
    tree = _open(_reduce(tree, work))
    steps.append(_write(tree))
  return steps, str(tree)


KIND = Kind("formula", ("True", "False"), make_problem, solve, guess)
