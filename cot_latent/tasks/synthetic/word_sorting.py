"""Made-up words to be put in alphabetical order: `Sort: kelro balgo kelda`.

Level: 2 * level + 1 words with level + 2 beginnings, so that at higher levels
more words differ only near their end.
"""

import random

from cot_latent.tasks.synthetic import draw, words
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws words."""
  heads = draw.sample(rng, words.HEADS, min(level + 2, len(words.HEADS)))
  drawn = words.make_words(rng, 2 * level + 1, heads)
  return Problem(f"Sort: {' '.join(drawn)}", drawn)


def solve(unsorted: list[str], slip: Slip) -> tuple[list[str], str]:
  """Inserts each word into a sorted list, written out each time.

  A slip inserts at another place; later words go before the first word that is
  greater.
  """
  done, steps = unsorted[:1], []
  for word in unsorted[1:]:
    correct = next((i for i, w in enumerate(done) if w > word), len(done))
    incorrect = (i for i in range(len(done) + 1) if i != correct)
    done.insert(slip(correct, incorrect), word)
    steps.append(" ".join(done))
  return steps, " ".join(done)


def guess(rng: random.Random, unsorted: list[str]) -> str:
  """Draws any order."""
  return " ".join(draw.shuffled(rng, unsorted))


KIND = Kind("word_sorting", "words", make_problem, solve, guess)
