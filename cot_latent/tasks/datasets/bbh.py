"""BIG-Bench Hard as a TensorFlow dataset: 27 tasks, each split 60/40.

Reference: Suzgun et al. 2022; the split is that of Phan et al. 2023, section 4.
"""

import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

import tensorflow_datasets as tfds

from cot_latent.data.answers import forms as answer_forms
from cot_latent.errors import UserError
from cot_latent.runtime import text_files
from cot_latent.tasks.datasets import checked

# Each task's number of rows, training and testing together.
TASKS = {
  "boolean_expressions": 250,
  "causal_judgement": 187,
  "date_understanding": 250,
  "disambiguation_qa": 250,
  "dyck_languages": 250,
  "formal_fallacies": 250,
  "geometric_shapes": 250,
  "hyperbaton": 250,
  "logical_deduction_five_objects": 250,
  "logical_deduction_seven_objects": 250,
  "logical_deduction_three_objects": 250,
  "movie_recommendation": 250,
  "multistep_arithmetic_two": 250,
  "navigate": 250,
  "object_counting": 250,
  "penguins_in_a_table": 146,
  "reasoning_about_colored_objects": 250,
  "ruin_names": 250,
  "salient_translation_error_detection": 250,
  "snarks": 178,
  "sports_understanding": 250,
  "temporal_sequences": 250,
  "tracking_shuffled_objects_five_objects": 250,
  "tracking_shuffled_objects_seven_objects": 250,
  "tracking_shuffled_objects_three_objects": 250,
  "web_of_lies": 250,
  "word_sorting": 250,
}
NUM_EXEMPLARS = 3

_TRIGGER = "\nA: Let's think step by step."
_ANSWER = re.compile(r"So the answer is ([^\n]+)\.\Z")


def _place(text: str) -> bytes:
  """Returns a question's place in the split's order, from its text alone."""
  return hashlib.sha256(b"bbh split v1\0" + text.encode()).digest()


def split_rows(rows: list[dict[str, str]]):
  """Cuts rows into floor(0.6 N) for training and the rest for testing.

  Equal questions go to one side together: to training if all of them still
  fit there. Later questions then fill it up.

  Returns:
    Two lists of (row number in the file, row).
  """
  order = sorted(enumerate(rows), key=lambda r: (_place(r[1]["input"]), r[0]))
  num_train = len(rows) * 6 // 10
  train: list[tuple[int, dict[str, str]]] = []
  test: list[tuple[int, dict[str, str]]] = []
  for _, equal in itertools.groupby(order, key=lambda r: r[1]["input"]):
    group = list(equal)
    side = train if len(train) + len(group) <= num_train else test
    side += group
  return train, test


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
  """Reads a task's file.

  Returns:
    Rows with `input` and `target`.

  Raises:
    UserError: If a row is malformed; names the file and the row.
  """
  content = text_files.parse_json(path, text_files.read_text(path))
  rows = content.get("examples") if isinstance(content, dict) else None
  if not isinstance(rows, list) or not rows:
    raise UserError(f"{path}: no rows under 'examples'")
  for number, row in enumerate(rows):
    place = f"examples[{number}]"
    text_files.require_strings(path, place, row, ("input", "target"))
  return rows


def read_exemplars(path: pathlib.Path) -> list[dict[str, str]]:
  """Reads a task's worked examples.

  Their file has a canary and a line of dashes, then the task's description and
  blocks of question and answer, each after an empty line.

  Returns:
    NUM_EXEMPLARS rows with `question`, `answer` and `targets`.

  Raises:
    UserError: If a block is malformed; names the file and the block.
  """
  _, _, body = text_files.read_text(path).partition("\n-----\n")
  blocks = body.removesuffix("\n").split("\n\nQ: ")[1:]
  rows = []
  for number, block in enumerate(blocks):
    question, _, rationale = block.partition(_TRIGGER)
    answer = _ANSWER.search(rationale)
    # The rationale continues in the same line, or begins in the next.
    if not question or answer is None or rationale[0] not in " \n":
      raise UserError(
        f"{path}, example {number + 1} of {len(blocks)}: it must continue with "
        f"{_TRIGGER[1:]!r} and end with 'So the answer is ...'"
      )
    rows.append(
      {"question": question, "answer": answer[1], "targets": rationale[1:]}
    )
  if len(rows) != NUM_EXEMPLARS:
    raise UserError(
      f"{path}: {len(rows)} worked examples instead of {NUM_EXEMPLARS}"
    )
  return rows


def make_examples(
  name: str, rows: list[dict[str, str]], split: str
) -> list[dict[str, str]]:
  """Makes the examples of `train` or `test`.

  Args:
    name: Name of the task, for the ids.
    rows: Rows of `read_rows`.
    split: Name of the split.

  Returns:
    Rows with `id`, `question`, `answer` and `targets`. There are no rationales,
    so a target is the sentence with the answer alone.
  """
  sides = dict(zip(("train", "test"), split_rows(rows), strict=True))
  examples = []
  for number, row in sides[split]:
    answer = row["target"].strip()
    examples.append(
      {
        "id": f"bbh/{name}/{number:05}",
        "question": row["input"],
        "answer": answer,
        "targets": answer_forms.close("sentence", answer),
      }
    )
  return examples


class Bbh(checked.CheckedBuilder):
  """One config per task; splits `train`, `test` and `exemplars`.

  The exemplars are the authors' worked examples, rationales included.
  """

  name = "cot_latent_bbh"  # TFDS has similar names of its own
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "1.0.0": "The authors' files of commit 9ee07bd.",
  }
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name=task, description=f"The task {task}.")
    for task in TASKS
  ]
  ABOUT: ClassVar[dict[str, str]] = {
    "description": (
      "Tasks of BIG-bench on which language models were worse than the average "
      "human rater. Training and test questions are the two sides of a fixed "
      "60/40 split, in which equal questions are on one side. A benchmark: do "
      "not publish its text where it may become training data; its files carry "
      "a canary for that reason."
    ),
    "homepage": "https://github.com/suzgunmirac/BIG-Bench-Hard",
    "license": "MIT",
    "citation": (
      "Mirac Suzgun, Nathan Scales, Nathanael Schaerli, Sebastian Gehrmann, "
      "Yi Tay, Hyung Won Chung, Aakanksha Chowdhery, Quoc V. Le, Ed H. Chi, "
      "Denny Zhou and Jason Wei: Challenging BIG-Bench Tasks and Whether "
      "Chain-of-Thought Can Solve Them. 2022, arXiv 2210.09261."
    ),
  }

  def parsers(self) -> dict[str, checked.Parser]:
    """Names the task's two files."""
    task = self.builder_config.name
    return {
      f"bbh/tasks/{task}.json": read_rows,
      f"bbh/cot-prompts/{task}.txt": read_exemplars,
    }

  def sizes(self) -> dict[str, int]:
    """Counts the rows of the three splits."""
    num_rows = TASKS[self.builder_config.name]
    num_train = num_rows * 6 // 10
    return {
      "train": num_train,
      "test": num_rows - num_train,
      "exemplars": NUM_EXEMPLARS,
    }

  def make_splits(
    self, paths: Mapping[str, pathlib.Path]
  ) -> dict[str, Iterable[checked.Row]]:
    """Makes the rows of the three splits."""
    task = self.builder_config.name
    rows_path, exemplars_path = (paths[name] for name in self.parsers())
    rows = read_rows(rows_path)
    return {
      "train": make_examples(task, rows, "train"),
      "test": make_examples(task, rows, "test"),
      "exemplars": [
        {"id": f"bbh/{task}/exemplar-{number}"} | row
        for number, row in enumerate(read_exemplars(exemplars_path))
      ],
    }
