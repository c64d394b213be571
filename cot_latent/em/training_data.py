"""Training questions, and the report's section on data, for any trainer."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cot_latent.data import subsets
from cot_latent.data.examples import Examples
from cot_latent.data.source import TaskConfig
from cot_latent.data.task import Task
from cot_latent.em.method import Method
from cot_latent.em.plan import describe_callable
from cot_latent.errors import UserError
from cot_latent.models.api import PAD_ID


def load_train(task: Task, settings: TaskConfig, method: Method) -> Examples:
  """Loads the training questions, with rationales if the method needs them.

  Args:
    task: An opened task.
    settings: Task settings of the run.
    method: Method of the run.

  Raises:
    UserError: If the task has no rationales, and as in `Task.load`.
  """
  split, loops = settings.train_split, method.loops
  is_human = loops is not None and loops.source == "human"
  has_targets = (
    task.prompts.is_direct
    or subsets.parse(split).split in task.rationale_splits
  )
  if is_human and not has_targets:
    raise UserError(
      f"task {task.name!r} has no rationales in split {split!r}, which method "
      f"{method.name!r} learns from"
    )
  return task.load(
    split,
    prompt_length=settings.prompt_length,
    target_length=settings.max_length if is_human else None,
    over_long=settings.over_long,
  )


def common_beginning(
  longer: Sequence[np.ndarray],
  rows: Sequence[np.ndarray],
  bos_id: int | None,
) -> np.ndarray:
  """Finds the tokens by which all prompts of a task are longer than others.

  A soft prompt that begins with these tokens makes the short prompts equivalent
  to the longer ones.

  Args:
    longer: N prompts, [P] int32 each.
    rows: N prompts of the same questions.
    bos_id: BOS, which is not among the tokens if the short prompts begin with
      it too.

  Returns:
    [L] int32, the tokens.

  Raises:
    UserError: If they are not longer by the same tokens, or if they are of
      other questions.
  """
  begins = set() if len(longer) == len(rows) else {()}
  for long, short in zip(longer, rows, strict=False):
    number = len(long) - len(short)
    start = int(bos_id is not None and short[:1].tolist() == [bos_id])
    fits = long[start + number :].tolist() == short[start:].tolist()
    begins.add(tuple(long[start : start + number].tolist()) if fits else ())
  if len(begins) != 1 or () in begins:
    raise UserError(
      "SoftPrompt.source: its prompts must be the task's own with the same "
      "worked examples before each (for a mixture, whose tasks have different "
      "examples, give SoftPrompt a text, path or length)"
    )
  return np.asarray(begins.pop(), np.int32)


def describe_splits(
  task: Task,
  base_task: Task | None,
  splits: Mapping[str, Examples],
) -> dict[str, Any]:
  """Writes the report's section on some data.

  Args:
    task: Vocabulary and answers.
    base_task: The task to which the base model is fitted, if any.
    splits: Examples by the name of the split in the report.
  """

  def split(examples: Examples) -> dict[str, Any]:
    return {
      "num_examples": len(examples),
      "num_left_out": examples.num_left_out,
      "num_truncated": examples.num_truncated,
      "longest_prompt": int((examples.prompts != PAD_ID).sum(axis=1).max()),
      "ids_sha256": hashlib.sha256(
        "\n".join(examples.ids).encode()
      ).hexdigest(),
      "fingerprint": examples.fingerprint(),
    }

  return {
    "task": task.name,
    "base_task": base_task and base_task.name,
    "vocabulary": task.vocabulary.name,
    # Stored completions are scored by this. None: the task has its own checker.
    "answers": {
      "form": task.form,
      "kinds": dict(task.kinds),
      "is_direct": task.prompts.is_direct,
    },
    **({"stop": list(task.stop)} if task.stop else {}),
    **({"check": describe_callable(task.check)} if task.check else {}),
    "splits": {name: split(part) for name, part in splits.items()},
  }
