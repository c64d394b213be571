"""The data of a run."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cot_latent.data import examples as data
from cot_latent.errors import UserError
from cot_latent.training import experiment
from cot_latent.training.tuning import SoftPrompt


class Data(NamedTuple):
  """What a run reads.

  Attributes:
    task: vocabulary and answers.
    base_task: the task that the base model is fitted to; None where it is
      pretrained.
    base: what the base model is fitted to, with targets, or None.
    train: N questions with a memory.
    test: held-out questions.
    soft_tokens: [L] int32, that a soft prompt begins as; None if nothing says.
  """

  task: data.Task
  base_task: data.Task | None
  base: data.Examples | None
  train: data.Examples
  test: data.Examples
  soft_tokens: np.ndarray | None = None


def load_data(
  config: experiment.Experiment,
  open_task: Callable[[data.Source], data.Task] = data.open_task,
) -> Data:
  """Loads the three splits of the experiment's task.

  Args:
    config: the experiment.
    open_task: opens its tasks.

  Raises:
    UserError: if the data are missing, malformed, too long or too few.
  """
  settings = config.task
  task = open_task(settings.source)

  def load(split: str, with_targets: bool = False) -> data.Examples:
    return task.load(
      split,
      prompt_length=settings.prompt_length,
      target_length=settings.max_length if with_targets else None,
      over_long=settings.over_long,
    )

  refit = config.method.refit
  is_human = refit is not None and refit.source == "human"
  has_targets = (
    task.prompts.is_direct or settings.train_split in task.rationale_splits
  )
  if is_human and not has_targets:
    raise UserError(
      f"task {task.name!r} has no rationales in split "
      f"{settings.train_split!r}, which method {config.method.name!r} learns "
      "from"
    )

  base_task, base = _load_base(config, task, open_task)
  loaded = Data(
    task=task,
    base_task=base_task,
    base=base,
    train=load(settings.train_split, with_targets=is_human),
    test=load(settings.test_split),
    soft_tokens=_soft_tokens(config, task, open_task),
  )
  _check_size(settings.train_split, loaded.train, config.batch_size)
  return loaded


def _load_base(config, task: data.Task, open_task):
  """Loads what the base model is fitted to, if it is."""
  base = config.base
  if not isinstance(base, experiment.BaseConfig):
    return None, None
  is_same = base.source == config.task.source
  base_task = task if is_same else open_task(base.source)
  if base_task.vocabulary.name != task.vocabulary.name:
    raise UserError(
      f"the base model's task {base_task.name!r} has another vocabulary "
      f"({base_task.vocabulary.name}) than {task.name!r} "
      f"({task.vocabulary.name})"
    )
  examples = base_task.load(
    base.split,
    prompt_length=config.task.prompt_length,
    target_length=config.task.max_length,
    over_long=base.over_long,
  )
  _check_size(base.split, examples, base.batch_size)
  return base_task, examples


def _soft_tokens(config, task: data.Task, open_task) -> np.ndarray | None:
  """Finds the tokens that a soft prompt begins as."""
  tuning = config.tuning
  if not isinstance(tuning, SoftPrompt):
    return None
  if tuning.text is not None:
    return np.asarray(task.vocabulary.encode(tuning.text), np.int32)
  if tuning.source is None:
    return None
  rows = open_task(tuning.source).read(config.task.train_split).prompts
  longest = min(map(len, rows))
  begins = np.stack([row[:longest] for row in rows])
  is_same = (begins == begins[0]).all(axis=0)
  return begins[0, : longest if is_same.all() else int(is_same.argmin())]


def _check_size(split: str, examples: data.Examples, batch_size: int) -> None:
  if len(examples) < batch_size:
    raise UserError(
      f"a minibatch of {batch_size} does not fit the {len(examples)} "
      f"examples of split {split!r}: set a smaller BATCH_SIZE"
    )


def describe_data(config: experiment.Experiment, loaded: Data) -> dict:
  """Writes the report's section on the data."""

  def split(examples: data.Examples) -> dict[str, Any]:
    return {
      "num_examples": len(examples),
      "num_left_out": examples.num_left_out,
      "num_truncated": examples.num_truncated,
      "longest_prompt": int((examples.prompts != 0).sum(axis=1).max()),
      "ids_sha256": hashlib.sha256(
        "\n".join(examples.ids).encode()
      ).hexdigest(),
      "fingerprint": examples.fingerprint(),
    }

  return {
    "task": loaded.task.name,
    "base_task": loaded.base_task and loaded.base_task.name,
    "vocabulary": loaded.task.vocabulary.name,
    # By which stored completions are scored again. None: a checker of its own.
    "answers": {
      "form": loaded.task.form,
      "kinds": dict(loaded.task.kinds),
      "is_direct": loaded.task.prompts.is_direct,
    },
    "splits": {
      **(
        {config.base.split + " (base model)": split(loaded.base)}
        if isinstance(config.base, experiment.BaseConfig) and loaded.base
        else {}
      ),
      config.task.train_split: split(loaded.train),
      config.task.test_split: split(loaded.test),
    },
  }
