"""Longer lists of things, one or a few of each, for pretrained models.

`In the shed I see a saw, two hammers and a kite. How many tools do I see?`

A step repeats the things and gives the number so far: `two hammers 3`. Such
rationales are short, about 40 tokens, so that a laptop can sample many.

Level: level + 1 kinds of things. In four lists of five all of them are of the
sort that is asked for; in the fifth list one or two are not, but at least one
is.
"""

import random

from cot_latent.tasks.synthetic import draw
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip
from cot_latent.tasks.synthetic.object_counting import Entry, results

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
    words = _words(nouns[place], number)
    entries.append(Entry(number, words, is_asked))
  *before, last = (entry.noun for entry in entries)
  things = f"{', '.join(before)} and {last}"
  question = draw.choice(rng, _WORDINGS).format(
    place=draw.choice(rng, _PLACES), things=things, sort=sort
  )
  return Problem(question, entries)


def solve(entries: list[Entry], slip: Slip) -> tuple[list[str], str]:
  """Counts: `two hammers 3`; a slip is off by 1 or 2."""
  counted = [entry for entry in entries if entry.is_asked]
  totals = results(counted, slip)
  steps = [
    f"{entry.noun} {total}"
    for entry, total in zip(counted, totals, strict=True)
  ]
  return steps, str(totals[-1])


def guess(rng: random.Random, entries: list[Entry]) -> str:
  """Draws a number that such a list can have."""
  return str(1 + draw.below(rng, 2 * len(entries)))


KIND = Kind("inventory", "integer", make_problem, solve, guess)
