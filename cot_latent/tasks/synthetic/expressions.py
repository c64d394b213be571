"""Formulas as trees, evaluated from the leaves up.

A tree is a value, or a tuple of an operator and one or two trees.
"""

from collections.abc import Callable, Sequence
from typing import Any


def join(members: Sequence[Any], operators: Sequence[str], tight: str) -> Any:
  """Makes a tree, such as that of `a + b * c`.

  Args:
    members: Trees.
    operators: Operators between them.
    tight: The operator that binds first. Equal operators bind from left to
      right.
  """
  terms, loose = [members[0]], []
  for operator, member in zip(operators, members[1:], strict=True):
    if operator == tight:
      terms[-1] = (operator, terms[-1], member)
    else:
      loose.append(operator)
      terms.append(member)
  tree = terms[0]
  for operator, term in zip(loose, terms[1:], strict=True):
    tree = (operator, tree, term)
  return tree


def evaluate(tree: Any, work: Callable[..., Any]) -> tuple[list[str], Any]:
  """Evaluates a tree, its left side first.

  Args:
    tree: Tree whose values `str` can write.
    work: (operator, value or two values) -> the result.

  Returns:
    A step for each operator, `3 * -4 = -12` or `not True = False`, and the
    value.
  """
  steps: list[str] = []

  def visit(tree):
    if not isinstance(tree, tuple):
      return tree
    operator, *parts = tree
    values = [visit(part) for part in parts]
    result = work(operator, *values)
    *before, last = values
    written = " ".join(map(str, (*before, operator, last)))
    steps.append(f"{written} = {result}")
    return result

  return steps, visit(tree)
