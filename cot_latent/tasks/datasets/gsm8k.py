"""GSM8K as a TensorFlow dataset: word problems with human rationales.

Reference: Cobbe et al. 2021; the target's form is that of Phan et al. 2023.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import ClassVar

import tensorflow_datasets as tfds

from cot_latent.data.answers import checkers
from cot_latent.data.answers import forms as answer_forms
from cot_latent.errors import UserError
from cot_latent.runtime import text_files
from cot_latent.tasks.datasets import checked

SPLITS = {"train": 7473, "test": 1319}


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
  """Reads the file of a split.

  Returns:
    Rows with `question`, `answer` (the number, without commas) and `targets`
    (the rationale as it is, and the answer in tags).

  Raises:
    UserError: If a row is malformed; names the file and the line.
  """
  rows = []
  for place, row in text_files.read_jsonl(path):
    text_files.require_strings(path, place, row, ("question", "answer"))
    rationale, mark, gold = row["answer"].rpartition("\n#### ")
    answer = checkers.normalize_number(gold)
    if not mark or answer is None:
      raise UserError(f"{path}, {place}: no number after '#### '")
    rows.append(
      {
        "question": row["question"],
        "answer": answer,
        "targets": f"{rationale}\n{answer_forms.close('tag', answer)}",
      }
    )
  return rows


class Gsm8k(checked.CheckedBuilder):
  """The authors' splits `train` and `test`."""

  name = "cot_latent_gsm8k"  # TFDS has a gsm8k of its own
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "1.0.0": "The authors' files of commit 3101c7d.",
  }
  ABOUT: ClassVar[dict[str, str]] = {
    "description": (
      "Problems of grade-school mathematics, each with a solution that a "
      "person wrote and the number that it comes to. The solutions keep their "
      "calculator marks."
    ),
    "homepage": "https://github.com/openai/grade-school-math",
    "license": "MIT",
    "citation": (
      "Karl Cobbe, Vineet Kosaraju, Mohammad Bavarian, Mark Chen, Heewoo Jun, "
      "Lukasz Kaiser, Matthias Plappert, Jerry Tworek, Jacob Hilton, Reiichiro "
      "Nakano, Christopher Hesse and John Schulman: Training Verifiers to "
      "Solve Math Word Problems. 2021, arXiv 2110.14168."
    ),
  }

  def parsers(self) -> dict[str, checked.Parser]:
    """Names the files of the splits."""
    return {f"gsm8k/{split}.jsonl": read_rows for split in SPLITS}

  def sizes(self) -> dict[str, int]:
    """Counts the rows of both splits."""
    return SPLITS

  def make_splits(
    self, paths: Mapping[str, pathlib.Path]
  ) -> dict[str, Iterable[checked.Row]]:
    """Makes the rows of both splits."""
    return {
      split: [
        {"id": f"gsm8k/{split}/{number:05}"} | row
        for number, row in enumerate(read_rows(path))
      ]
      for split, path in zip(SPLITS, paths.values(), strict=True)
    }
