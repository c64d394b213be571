"""BIG-Bench Hard: 27 tasks, each split 60/40 as in the TRICE paper.

There are no rationales for training questions: a target is the sentence with
the answer alone. The authors' three worked examples of each task can be put
before its questions (gin/prompts/few_shot.gin).

Reference: Suzgun et al. 2022; Phan et al. 2023, section 4.
"""

import functools
import os
import pathlib
from typing import NamedTuple

from cot_latent.data.answers import checkers
from cot_latent.data.answers.checkers import Kind
from cot_latent.tasks import common
from cot_latent.tasks.datasets import bbh, source

_YES_NO: Kind = ("Yes", "No")


class _Task(NamedTuple):
  """A task of the benchmark.

  Attributes:
    kind: Kind of its answers.
    is_algorithmic: Whether its authors count it as algorithmic; the other tasks
      are about natural language (their Table 2).
  """

  kind: Kind
  is_algorithmic: bool


TASKS = {
  "boolean_expressions": _Task(("True", "False"), True),
  "causal_judgement": _Task(_YES_NO, False),
  "date_understanding": _Task("choice", False),
  "disambiguation_qa": _Task("choice", False),
  "dyck_languages": _Task("brackets", True),
  "formal_fallacies": _Task(("valid", "invalid"), False),
  "geometric_shapes": _Task("choice", True),
  "hyperbaton": _Task("choice", False),
  "logical_deduction_five_objects": _Task("choice", True),
  "logical_deduction_seven_objects": _Task("choice", True),
  "logical_deduction_three_objects": _Task("choice", True),
  "movie_recommendation": _Task("choice_or_text", False),  # text once
  "multistep_arithmetic_two": _Task("integer", True),
  "navigate": _Task(_YES_NO, True),
  "object_counting": _Task("integer", True),
  "penguins_in_a_table": _Task("choice", False),
  "reasoning_about_colored_objects": _Task("choice", False),
  "ruin_names": _Task("choice_or_text", False),  # text twice
  "salient_translation_error_detection": _Task("choice", False),
  "snarks": _Task("choice", False),
  "sports_understanding": _Task(("yes", "no"), False),
  "temporal_sequences": _Task("choice", True),
  "tracking_shuffled_objects_five_objects": _Task("choice", True),
  "tracking_shuffled_objects_seven_objects": _Task("choice", True),
  "tracking_shuffled_objects_three_objects": _Task("choice", True),
  "web_of_lies": _Task(_YES_NO, True),
  "word_sorting": _Task("words", True),
}


def sizes(num_rows: int) -> dict[str, int]:
  """Returns the sizes of the splits: floor(0.6 N) training questions."""
  num_train = num_rows * 6 // 10
  return {"train": num_train, "test": num_rows - num_train}


def register(
  name: str, path: str | os.PathLike[str], answer: Kind = "text"
) -> None:
  """Registers a task of your own whose file has BIG-Bench Hard's format.

  Args:
    name: The task's name.
    path: A JSON file, `{"examples": [{"input": ..., "target": ...}]}`. It is
      split 60/40 like the benchmark's own files.
    answer: Kind of the answers (`checkers.Kind`): "choice", "integer",
      "text", ..., or the possible answers, such as ("Yes", "No"). A row with
      another answer is an error.

  Raises:
    UserError: For a bad name or kind; for a fault of the file when it is read.
  """
  file = pathlib.Path(path)

  @functools.cache
  def rows() -> list[dict[str, str]]:
    read = bbh.read_rows(file)
    answers = [
      (f"examples[{number}]", row["target"].strip())
      for number, row in enumerate(read)
    ]
    checkers.check_answers(file, answers, answer)
    return read

  common.register(
    name,
    common.rows_source(
      lambda split: bbh.make_examples(name, rows(), split), ["train", "test"]
    ),
    lambda: sizes(len(rows())),
    answer=answer,
  )


def _register(name: str) -> None:
  tfds_name = f"{bbh.Bbh.name}/{name}"

  def read_exemplars(data_dir: str | None):
    return source.read_rows(tfds_name, "exemplars", data_dir)

  common.register(
    f"bbh_{name}_v1",
    lambda data_dir: source.make_source(tfds_name, ["train", "test"], data_dir),
    lambda: sizes(bbh.TASKS[name]),
    answer=TASKS[name].kind,
    exemplars=read_exemplars,
  )


for _name in TASKS:
  _register(_name)
for _mixture, _wanted in (
  ("bbh_v1", (True, False)),
  ("bbh_algorithmic_v1", (True,)),
  ("bbh_nlp_v1", (False,)),
):
  common.register_mixture(
    _mixture,
    [
      f"bbh_{_name}_v1"
      for _name, _task in TASKS.items()
      if _task.is_algorithmic in _wanted
    ],
  )
