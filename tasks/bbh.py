"""BIG-Bench Hard: 27 tasks, each split 60/40 as in the TRICE paper.

There are no rationales for training questions. The split `base` therefore
deals the training answers out at random: a model fitted to it learns what an
answer looks like, and nothing about which one is right.

Reference: Suzgun et al. 2022; Phan et al. 2023, section 4.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator

from cot_latent.data import checkers
from cot_latent.errors import UserError
from cot_latent.tasks import common

TASKS = (
  "boolean_expressions",
  "causal_judgement",
  "date_understanding",
  "disambiguation_qa",
  "dyck_languages",
  "formal_fallacies",
  "geometric_shapes",
  "hyperbaton",
  "logical_deduction_five_objects",
  "logical_deduction_seven_objects",
  "logical_deduction_three_objects",
  "movie_recommendation",
  "multistep_arithmetic_two",
  "navigate",
  "object_counting",
  "penguins_in_a_table",
  "reasoning_about_colored_objects",
  "ruin_names",
  "salient_translation_error_detection",
  "snarks",
  "sports_understanding",
  "temporal_sequences",
  "tracking_shuffled_objects_five_objects",
  "tracking_shuffled_objects_seven_objects",
  "tracking_shuffled_objects_three_objects",
  "web_of_lies",
  "word_sorting",
)


def _place(text: str) -> bytes:
  """Where a question stands in the split's order: a function of its text."""
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


def read_rows(name: str) -> list[dict[str, str]]:
  """Reads bbh/tasks/<name>.json.

  Raises:
    UserError: naming the file and the row of a fault.
  """
  path, text = common.read_file("bbh", "tasks", f"{name}.json")
  content = common.parse_json(path, text)
  rows = content.get("examples") if isinstance(content, dict) else None
  if not isinstance(rows, list) or not rows:
    raise UserError(f"{path}: no rows under 'examples'")
  for number, row in enumerate(rows):
    place = f"examples[{number}]"
    common.require_strings(path, place, row, ("input", "target"))
  return rows


def examples(name: str, split: str) -> Iterator[dict[str, str]]:
  """Makes the examples of one split (base, train or test) of one task."""
  train, test = split_rows(read_rows(name))
  chosen = test if split == "test" else train
  answers = [row["target"].strip() for _, row in chosen]
  if split == "base":
    # Not shuffle(), which may change with Python's version.
    rng = random.Random(name)
    answers.sort(key=lambda _: rng.random())
  for (number, row), answer in zip(chosen, answers, strict=True):
    yield {
      "id": f"bbh/{name}/{number:05}",
      "question": row["input"],
      "answer": answer,
      "targets": f"So the answer is {answer}.",
    }


def _register(name: str) -> None:
  common.register(
    f"bbh_{name}",
    lambda split: examples(name, split),
    ["base", "train", "test"],
    checkers.answer_sentence,
  )


for _name in TASKS:
  _register(_name)
