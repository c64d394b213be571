"""Longer lists of things, one or a few of each, for pretrained models.

`In the shed I see a saw, two hammers and a kite. How many tools do I see?`

Level: level + 1 kinds of things. In four lists of five all of them are of the
sort that is asked for; in the fifth list one or two are not, but at least one
is.
"""

import random
from typing import NamedTuple

from cot_latent.tasks.synthetic import draw
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

# An irregular plural stands after a slash.
SORTS = {
  "tools": (
    *("saw", "hammer", "spanner", "chisel", "drill", "shovel", "rake"),
    *(
      "ladder",
      "axe",
      "file",
      "wrench/wrenches",
      "crowbar",
      "pickaxe",
      "clamp",
    ),
  ),
  "clothes": (
    *("shirt", "glove", "sock", "coat", "sweater", "belt", "cap", "jacket"),
    *("scarf/scarves", "dress/dresses", "apron", "skirt", "hat", "blouse"),
  ),
  "dishes": (
    *("plate", "bowl", "cup", "jug", "saucer", "teapot", "mug", "platter"),
    *("glass/glasses", "pan", "ladle", "knife/knives", "fork", "spoon"),
  ),
  "vehicles": (
    *("truck", "tram", "van", "scooter", "tractor", "canoe", "wagon"),
    *(
      "bicycle",
      "bus/buses",
      "ferry/ferries",
      "airplane",
      "helicopter",
      "sled",
    ),
    *("ambulance",),
  ),
  "toys": (
    *("kite", "puzzle", "marble", "doll", "rattle", "yo-yo", "seesaw"),
    *("slingshot", "balloon", "teddy", "robot", "spinning top", "hula hoop"),
    *("jigsaw",),
  ),
}
_WORDINGS = (
  "In the {place} I see {things}. How many {sort} do I see?",
  "We keep {things} in the {place}. How many {sort} do we keep there?",
  "She packed {things}. How many {sort} did she pack?",
  "They bought {things} for the {place}. How many {sort} did they buy?",
)
_PLACES = ("shed", "cellar", "attic", "hall", "yard", "loft")
_NUMBERS = ("a", "two", "three", "four", "five")


class Entry(NamedTuple):
  """Some things of the list.

  Attributes:
    text: Words for them, such as `two saws`.
    number: Number of things.
    is_asked: Whether the question asks for their sort.
  """

  text: str
  number: int
  is_asked: bool


def _words(noun: str, number: int) -> str:
  """Writes some things: `a saw`, `an axe`, `two knives`."""
  singular, _, plural = noun.partition("/")
  if number > 1:
    return f"{_NUMBERS[number - 1]} {plural or singular + 's'}"
  return f"{'an' if singular[0] in 'aeiou' else 'a'} {singular}"


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws a list and the sort to count."""
  sort = draw.choice(rng, tuple(SORTS))
  num_entries = level + 1
  num_others = 0
  if rng.random() < 1 / 5:
    num_others = min(1 + draw.below(rng, 2), num_entries - 1)
  others = [noun for s, nouns in SORTS.items() if s != sort for noun in nouns]
  nouns = draw.sample(rng, SORTS[sort], num_entries - num_others)
  nouns += draw.sample(rng, others, num_others)
  entries = []
  for place in draw.shuffled(rng, range(num_entries)):
    # Most things are there once.
    number = 1 if rng.random() < 0.6 else 1 + draw.below(rng, len(_NUMBERS))
    is_asked = place < num_entries - num_others
    entries.append(Entry(_words(nouns[place], number), number, is_asked))
  *before, last = (entry.text for entry in entries)
  things = f"{', '.join(before)} and {last}"
  question = draw.choice(rng, _WORDINGS).format(
    place=draw.choice(rng, _PLACES), things=things, sort=sort
  )
  return Problem(question, entries)


def solve(entries: list[Entry], slip: Slip) -> tuple[list[str], str]:
  """Adds up: `two saws: 1 + 2 = 3`; a slip is off by 1 or 2."""
  total, steps = 0, []
  for text, number, is_asked in entries:
    if is_asked:
      right = total + number
      wrong = (right + off for off in (-2, -1, 1, 2) if right + off > 0)
      result = slip(right, wrong)
      steps.append(f"{text}: {total} + {number} = {result}")
      total = result
  return steps, str(total)


def guess(rng: random.Random, entries: list[Entry]) -> str:
  """Draws a number that such a list can have."""
  return str(1 + draw.below(rng, 2 * len(entries)))


KIND = Kind("inventory", "integer", make_problem, solve, guess)
