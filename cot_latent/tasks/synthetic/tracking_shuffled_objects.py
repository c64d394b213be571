"""Things that change hands: who has which in the end?

Level: level + 2 people, seven at most, and 2 * level - 1 swaps.
"""

import itertools
import random
from typing import NamedTuple

from cot_latent.tasks.synthetic import draw, words
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

THINGS = (
  *("pin", "jar", "rod", "bag", "key", "mat", "pan", "nut"),
  *("lid", "fan", "wig", "bow", "cog", "hat", "peg"),
)
_LETTERS = "ABCDEFG"


class Parts(NamedTuple):
  """People by name, swaps by place, and the person asked about, by place."""

  names: list[str]
  swaps: list[list[int]]
  asked: int


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws the people, their things and the swaps."""
  num_people = min(level + 2, len(_LETTERS))
  names = words.make_names(rng, num_people)
  things = draw.sample(rng, THINGS, num_people)
  swaps = [draw.sample(rng, range(num_people), 2) for _ in range(2 * level - 1)]
  asked = draw.below(rng, num_people)
  has = [f"{n} has a {t}" for n, t in zip(names, things, strict=True)]
  swapped = [f"{names[i]} and {names[j]} swap." for i, j in swaps]
  options = [f"({c}) {t}" for c, t in zip(_LETTERS, things, strict=False)]
  lines = [
    f"{', '.join(has)}. {' '.join(swapped)} Now {names[asked]} has a",
    "Options:",
    *options,
  ]
  return Problem("\n".join(lines), Parts(names, swaps, asked))


def _swapped(state: str, i: int, j: int) -> str:
  things = list(state)
  things[i], things[j] = things[j], things[i]
  return "".join(things)


def solve(parts: Parts, slip: Slip) -> tuple[list[str], str]:
  """Writes the options' letters in the order of the people after each swap.

  `Bex Dov: BAC` is a swap after which the first person has (B). A slip swaps
  other people; in the last step, `Dov has A`, it reads another person's thing.
  """
  names, swaps, asked = parts
  pairs = list(itertools.combinations(range(len(names)), 2))
  state, steps = _LETTERS[: len(names)], []
  for i, j in swaps:
    correct = _swapped(state, i, j)
    incorrect = (_swapped(state, *p) for p in pairs if set(p) != {i, j})
    state = slip(correct, incorrect)
    steps.append(f"{names[i]} {names[j]}: {state}")
  correct = state[asked]
  letter = slip(correct, (other for other in state if other != correct))
  steps.append(f"{names[asked]} has {letter}")
  return steps, f"({letter})"


def guess(rng: random.Random, parts: Parts) -> str:
  """Draws an option."""
  return f"({draw.choice(rng, _LETTERS[: len(parts.names)])})"


KIND = Kind("tracking_shuffled_objects", "choice", make_problem, solve, guess)
