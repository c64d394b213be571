"""Things of one sort counted among others.

`In the shed: two saws, a kite, four drills. How many tools?`

Level: 2 * level + 1 entries of one to five things each, level to level + 2 of
them of the sort that is asked for.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

from cot_latent.tasks.synthetic import draw
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

# All of them take `a` and form the plural with `s`.
SORTS = {
  "tools": (
    *("saw", "hammer", "spanner", "chisel"),
    *("drill", "shovel", "rake", "ladder"),
  ),
  "clothes": (
    *("shirt", "glove", "sock", "coat"),
    *("sweater", "belt", "cap", "jacket"),
  ),
  "dishes": (
    *("plate", "bowl", "cup", "jug"),
    *("saucer", "teapot", "mug", "platter"),
  ),
  "vehicles": (
    *("truck", "tram", "van", "scooter"),
    *("tractor", "canoe", "wagon", "bicycle"),
  ),
  "toys": (
    *("kite", "puzzle", "marble", "doll"),
    *("rattle", "yo-yo", "seesaw", "slingshot"),
  ),
}
_PLACES = ("shed", "cellar", "attic", "hall", "yard", "loft")
_NUMBERS = ("a", "two", "three", "four", "five")


class Entry(NamedTuple):
  """Some things of the list.

  Attributes:
    number: Number of things.
    noun: Name of the things, singular or plural, as a step repeats it.
    is_asked: Whether the question asks for their sort.
  """

  number: int
  noun: str
  is_asked: bool


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws a list and the sort to count."""
  sort = draw.choice(rng, tuple(SORTS))
  num_entries, num_asked = 2 * level + 1, level + draw.below(rng, 3)
  others = [noun for s, nouns in SORTS.items() if s != sort for noun in nouns]
  nouns = draw.sample(rng, SORTS[sort], num_asked)
  nouns += draw.sample(rng, others, num_entries - num_asked)
  entries = []
  for place in draw.shuffled(rng, range(num_entries)):
    number = 1 + draw.below(rng, len(_NUMBERS))
    noun = nouns[place] + "s" * (number > 1)
    entries.append(Entry(number, noun, place < num_asked))
  text = ", ".join(f"{_NUMBERS[e.number - 1]} {e.noun}" for e in entries)
  where = draw.choice(rng, _PLACES)
  return Problem(f"In the {where}: {text}. How many {sort}?", entries)


def results(counted: Iterable[Entry], slip: Slip) -> list[int]:
  """Lists the number of things after each entry; a slip is off by 1 or 2."""
  total, totals = 0, []
  for entry in counted:
    correct = total + entry.number
    incorrect = (correct + off for off in (-2, -1, 1, 2) if correct + off > 0)
    total = slip(correct, incorrect)
    totals.append(total)
  return totals


def solve(entries: list[Entry], slip: Slip) -> tuple[list[str], str]:
  """Adds up: `saws: 0 + 2 = 2`; a slip is off by 1 or 2."""
  counted = [entry for entry in entries if entry.is_asked]
  totals = results(counted, slip)
  steps = [
    f"{entry.noun}: {before} + {entry.number} = {total}"
    for entry, before, total in zip(
      counted, [0, *totals[:-1]], totals, strict=True
    )
  ]
  return steps, str(totals[-1])


def guess(rng: random.Random, entries: list[Entry]) -> str:
  """Draws a number that such a list can have."""
  return str(1 + draw.below(rng, 3 * len(entries)))


KIND = Kind("object_counting", "integer", make_problem, solve, guess)
