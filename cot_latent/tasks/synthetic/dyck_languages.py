"""Brackets still open, to be closed: `Close what is open: [{()<`.

Level: 1 to level + 2 brackets stay open, and 3 * level - 2 are closed again.
The question writes them without spaces: with spaces, BBH's runs of brackets
could be among ours. The answer has spaces.
"""

import random

from cot_latent.tasks.synthetic import draw
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
_OPENING = tuple(_CLOSING)


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws brackets."""
  brackets = [
    draw.choice(rng, _OPENING) for _ in range(1 + draw.below(rng, level + 2))
  ]
  for _ in range(3 * level - 2):
    place = draw.below(rng, len(brackets) + 1)
    opening = draw.choice(rng, _OPENING)
    brackets[place:place] = opening, _CLOSING[opening]
  text = "".join(brackets)
  return Problem(f"Close what is open: {text}", text)


def solve(brackets: str, slip: Slip) -> tuple[list[str], str]:
  """Writes the open brackets after each bracket: `) [{`, or `) -` for none.

  A slip notes another bracket, forgets to remove one, or takes the next bracket
  for another. So something is always left to close.
  """
  left, steps = "", []
  for bracket in brackets:
    if bracket in _CLOSING:
      before, correct = left, left + bracket
      incorrect = []
    else:
      # After a slip the removed bracket need not match.
      before, correct = left[:-2], left[:-1]
      incorrect = [left]
    if correct:
      tops = (before + top for top in _OPENING)
      incorrect += [other for other in tops if other != correct]
    left = slip(correct, incorrect)
    steps.append(f"{bracket} {left or '-'}")
  return steps, " ".join(_CLOSING[bracket] for bracket in reversed(left))


def guess(rng: random.Random, brackets: str) -> str:
  """Draws as many closing brackets as needed."""
  num_open = sum(1 if bracket in _CLOSING else -1 for bracket in brackets)
  closing = tuple(_CLOSING.values())
  return " ".join(draw.choice(rng, closing) for _ in range(num_open))


KIND = Kind("dyck_languages", "brackets", make_problem, solve, guess)
