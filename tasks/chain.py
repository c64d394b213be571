"""Chained arithmetic modulo MODULUS: a synthetic task that needs its rationale.

`base` holds flawed rationales, each with the answer that it reaches: what an
untuned model might have learnt from. `train` and `test` hold other questions,
with right answers; their rationales are right too and no method but the
supervised one reads them.
"""

import random
from collections.abc import Iterator

from cot_latent.data import checkers, prompts
from cot_latent.tasks import common

SPLITS = {"base": 4000, "train": 1000, "test": 200}
MIN_TERMS, MAX_TERMS = 3, 4
MODULUS, SIGNS = 7, "+"
# Of the flawed rationales: no steps at all, and a wrong result in each step.
GUESS_RATE, SLIP_RATE = 0.6, 0.1

Steps = list[tuple[str, int]]


def _below(rng: random.Random, n: int) -> int:
  """An integer in [0, n); only `random()` itself is the same everywhere."""
  return int(rng.random() * n)


def make_question(rng: random.Random) -> tuple[int, Steps]:
  """Draws a first term and the operations on it."""
  num_steps = MIN_TERMS - 1 + _below(rng, MAX_TERMS - MIN_TERMS + 1)
  steps = [
    (SIGNS[_below(rng, len(SIGNS))], _below(rng, MODULUS))
    for _ in range(num_steps)
  ]
  return _below(rng, MODULUS), steps


def write_question(first: int, steps: Steps) -> str:
  """Writes a question: `3+6+2 mod 7`."""
  terms = "".join(f"{sign}{term}" for sign, term in steps)
  return f"{first}{terms} mod {MODULUS}"


def write_rationale(first: int, steps: Steps, slips: list[int]):
  """Writes a rationale and the answer that it reaches.

  Args:
    first: the first term.
    steps: the operations.
    slips: for each step what is added to its right result.

  Returns:
    The text, `3+6=2, 2+2=4. The answer is 4.`, and the answer.
  """
  value, parts = first, []
  for (sign, term), slip in zip(steps, slips, strict=True):
    result = (value + (term if sign == "+" else -term) + slip) % MODULUS
    parts.append(f"{value}{sign}{term}={result}")
    value = result
  return f"{', '.join(parts)}. The answer is {value}.", str(value)


def flawed_rationale(first: int, steps: Steps, rng: random.Random):
  """Writes a rationale as an untuned model might: a guess, or with slips."""
  if rng.random() < GUESS_RATE:
    guess = str(_below(rng, MODULUS))
    return f"The answer is {guess}.", guess
  slips = [
    1 + _below(rng, MODULUS - 1) if rng.random() < SLIP_RATE else 0
    for _ in steps
  ]
  return write_rationale(first, steps, slips)


def examples(split: str) -> Iterator[dict[str, str]]:
  """Makes a split's examples.

  No question of `train` or `test` comes twice or stands in `base`, which may
  repeat its own.
  """
  rng = random.Random("chain")
  seen: set[str] = set()
  for name in ("test", "train", "base"):
    number = 0
    while number < SPLITS[name]:
      first, steps = make_question(rng)
      question = write_question(first, steps)
      if question in seen:
        continue
      if name == "base":
        targets, answer = flawed_rationale(first, steps, rng)
      else:
        seen.add(question)
        targets, answer = write_rationale(first, steps, [0] * len(steps))
      if name == split:
        yield {
          "id": f"chain/{name}/{number:05}",
          "question": question,
          "answer": answer,
          "targets": targets,
        }
      number += 1


common.register(
  "chain",
  examples,
  list(SPLITS),
  checkers.answer_sentence,
  prompts.COMPACT,
)
