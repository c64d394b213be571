"""A task whose answers have thousands of forms, learnt without a checker.

Sums modulo 7, as in the task `chain`, whose answer is told by somebody:
"The answer is five, says Kiv." The number is a digit, a word or a roman
numeral, and the name is made up. So a draw with the correct number is hardly
ever the known answer itself, and a checker of the whole answer accepts almost
nothing. The probability of the known answer after a rationale still tells a
good rationale from a bad one.

  t5x train --gin_file=gin/runs/quickstart.gin \
    --gin_file=gin/methods/trice_isir.gin \
    --gin.TASK_MODULE="'examples.many_forms'" --gin.TASK="'many_forms'" \
    --gin.MAX_LENGTH=56 --gin.PROMPT_LENGTH=48 \
    --gin.MODEL_DIR="'runs/many_forms'"
  python -m examples.many_forms runs/many_forms

The second command counts correct numbers, in any form, in the outputs.
"""

import json
import pathlib
import random
import sys
from collections.abc import Iterator

from cot_latent.data import prompts
from cot_latent.tasks import chain, common

SIZES = chain.KINDS["chain_v1"].sizes
_WORDS = ("zero", "one", "two", "three", "four", "five", "six")
_ROMAN = ("O", "I", "II", "III", "IV", "V", "VI")


def form(number: int, rng: random.Random) -> str:
  """Writes an answer: a number as somebody tells it."""
  told = rng.choice((str(number), _WORDS[number], _ROMAN[number]))
  consonants, vowels = "bdfgklmnprstvz", "aeiou"
  name = rng.choice(consonants) + rng.choice(vowels) + rng.choice(consonants)
  return f"{told}, says {name.title()}"


def number_of(text: str) -> int | None:
  """Reads the number of an answer or of a completion, in any form."""
  told = text.rpartition("he answer is ")[2].partition(",")[0]
  for names in (_WORDS, _ROMAN, tuple("0123456")):
    if told in names:
      return names.index(told)
  return None


def rows(split: str) -> Iterator[common.Row]:
  """Makes a split of `chain_v1`, with answers in a form each."""
  rng = random.Random(f"many forms {split}")
  for row in chain.examples(split, chain.KINDS["chain_v1"]):
    before, words, _ = row["targets"].rpartition("The answer is ")
    answer = form(int(row["answer"]), rng)
    targets = f"{before}{words}{answer}."
    yield {**row, "answer": answer, "targets": targets}


def accuracy(path: pathlib.Path) -> float:
  """Counts the correct numbers in a file of a run's outputs.

  Args:
    path: A file of the folder `outputs`.

  Returns:
    Share of the questions, 0 to 1.
  """
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  is_correct = [
    number_of(line["completion"].rstrip(".")) == number_of(line["target"])
    for line in lines
  ]
  return sum(is_correct) / len(is_correct)


common.register(
  "many_forms",
  common.rows_source(rows, list(SIZES)),
  lambda: dict(SIZES),
  prompts=prompts.COMPACT,
  rationale_splits=["base"],
)

if __name__ == "__main__":
  for folder in map(pathlib.Path, sys.argv[1:]):
    for path in sorted((folder / "outputs").glob("*-greedy.jsonl")):
      print(f"{path}: {accuracy(path):.3f} correct numbers")
