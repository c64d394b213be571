"""What every task must do, from its files to the answers read back."""

import functools
from typing import NamedTuple

import numpy as np

import cot_latent.tasks.bbh
import cot_latent.tasks.chain
import cot_latent.tasks.gsm8k  # noqa: F401
from cot_latent.data import examples

# In bytes; nothing is as long.
_PROMPT_LENGTH, _TARGET_LENGTH = 1 << 16, 2048

PAPER = (
  "Question: {}\nAnswer: Let's think step by step.\n",
  "Question: {}\nAnswer: The answer is {}. Let's think step by step.\n",
)
COMPACT = ("{}?\n", "{}? ({})\n")


class Row(NamedTuple):
  """One example, its tokens decoded again."""

  id: str
  question: str
  answer: str
  prompt: str
  guide: str
  targets: str
  extracted: str | None


@functools.cache
def load(name: str, split: str, data_dir: str | None = None) -> list[Row]:
  """Loads a split through SeqIO as the trainer does, and decodes it."""
  task = examples.open_task(name, data_dir)
  loaded = task.load(
    split, prompt_length=_PROMPT_LENGTH, target_length=_TARGET_LENGTH
  )

  def decode(array: np.ndarray) -> list[str]:
    return [task.vocabulary.decode(row[row != 0].tolist()) for row in array]

  targets = task.vocabulary.decode_rows(loaded.targets)
  columns = (
    *(loaded.ids, loaded.questions, loaded.answers),
    *(decode(loaded.prompts), decode(loaded.guides), targets),
    [task.extract(text) for text in targets],
  )
  return [Row(*row) for row in zip(*columns, strict=True)]


def check_pipeline(rows: list[Row], templates: tuple[str, str]) -> None:
  """Checks that answers are read back and that no byte of a prompt is lost."""
  prior, guide = templates
  for row in rows:
    assert row.extracted == row.answer
    assert row.prompt == prior.format(row.question)
    assert row.guide == guide.format(row.question, row.answer)
