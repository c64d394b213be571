"""Chained arithmetic modulo MODULUS: a synthetic task that needs its rationale.

`base` holds flawed rationales, each with the answer that it reaches: an untuned
model might have learnt from such text. `train` and `test` hold other questions,
with correct answers and rationales; of the methods only `cot_supervised` reads
these rationales.

`chain` is for the quickstart. `chain_guesses` is for the study: its base
rationales are mostly guesses, and its train split is as small as those of
BIG-Bench Hard.
"""

import functools
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cot_latent.data import prompts
from cot_latent.tasks import common

NUM_TERMS, MODULUS = 4, 7
SLIP_RATE = 0.1  # of an incorrect result in each step of a flawed rationale


class Kind(NamedTuple):
  """A task.

  Attributes:
    sizes: Sizes of the splits.
    guess_rate: The share of base rationales that have no steps at all.
  """

  sizes: Mapping[str, int]
  guess_rate: float


KINDS = {
  "chain_v1": Kind({"base": 4_000, "train": 1_000, "test": 200}, 0.6),
  "chain_guesses_v1": Kind({"base": 16_000, "train": 150, "test": 200}, 0.8),
}


def _below(rng: random.Random, n: int) -> int:
  """Draws an integer in [0, n); only `random()` is the same everywhere."""
  return int(rng.random() * n)


def make_question(rng: random.Random) -> list[int]:
  """Draws the terms of a sum."""
  return [_below(rng, MODULUS) for _ in range(NUM_TERMS)]


def write_question(terms: list[int]) -> str:
  """Writes a question: `3+6+2+5 mod 7`."""
  return f"{'+'.join(map(str, terms))} mod {MODULUS}"


def write_rationale(terms: list[int], slips: list[int]) -> tuple[str, str]:
  """Writes a rationale and the answer that it reaches.

  Args:
    terms: Terms of the sum.
    slips: For each term after the first, the number added to its correct
      result.

  Returns:
    The text, `3+6=2, 2+2=4, 4+5=2. The answer is 2.`, and the answer.
  """
  value, parts = terms[0], []
  for term, slip in zip(terms[1:], slips, strict=True):
    result = (value + term + slip) % MODULUS
    parts.append(f"{value}+{term}={result}")
    value = result
  return f"{', '.join(parts)}. The answer is {value}.", str(value)


def flawed_rationale(
  terms: list[int], guess_rate: float, rng: random.Random
) -> tuple[str, str]:
  """Writes a rationale as an untuned model might: a guess, or with slips."""
  if rng.random() < guess_rate:
    guess = str(_below(rng, MODULUS))
    return f"The answer is {guess}.", guess
  slips = [
    1 + _below(rng, MODULUS - 1) if rng.random() < SLIP_RATE else 0
    for _ in terms[1:]
  ]
  return write_rationale(terms, slips)


def examples(split: str, kind: Kind) -> Iterator[dict[str, str]]:
  """Makes a split's examples.

  No question of `train` or `test` is repeated, or is in `base`. Questions of
  `base` may be repeated.

  Args:
    split: One of base, train and test.
    kind: The task.
  """
  rng = random.Random("chain")
  seen: set[str] = set()
  for name in ("test", "train", "base"):
    number = 0
    while number < kind.sizes[name]:
      terms = make_question(rng)
      question = write_question(terms)
      if question in seen:
        continue
      if name == "base":
        targets, answer = flawed_rationale(terms, kind.guess_rate, rng)
      else:
        seen.add(question)
        targets, answer = write_rationale(terms, [0] * (NUM_TERMS - 1))
      if name == split:
        yield {
          "id": f"chain/{name}/{number:05}",
          "question": question,
          "answer": answer,
          "targets": targets,
        }
      number += 1


for _name, _kind in KINDS.items():
  common.register(
    _name,
    common.rows_source(
      functools.partial(examples, kind=_kind), list(_kind.sizes)
    ),
    functools.partial(dict, _kind.sizes),
    answer="integer",
    prompts=prompts.COMPACT,
    rationale_splits=list(_kind.sizes),
  )
