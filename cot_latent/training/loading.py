"""The data of a run."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cot_latent.data import examples as data
from cot_latent.errors import UserError
from cot_latent.training import experiment


class Data(NamedTuple):
  """What a run reads.

  Attributes:
    task: vocabulary and answers.
    base_task: the task that the base model is fitted to.
    base: what the base model is fitted to, with targets.
    train: N questions with a memory.
    test: held-out questions.
  """

  task: data.Task
  base_task: data.Task
  base: data.Examples
  train: data.Examples
  test: data.Examples


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
  settings, base_settings = config.task, config.base
  task = open_task(settings.source)
  base_task = (
    task
    if base_settings.source == settings.source
    else open_task(base_settings.source)
  )
  if base_task.vocabulary.name != task.vocabulary.name:
    raise UserError(
      f"the base model's task {base_task.name!r} has another vocabulary "
      f"({base_task.vocabulary.name}) than {task.name!r} "
      f"({task.vocabulary.name})"
    )

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

  loaded = Data(
    task=task,
    base_task=base_task,
    base=base_task.load(
      base_settings.split,
      prompt_length=settings.prompt_length,
      target_length=settings.max_length,
      over_long=base_settings.over_long,
    ),
    train=load(settings.train_split, with_targets=is_human),
    test=load(settings.test_split),
  )
  for name, examples, batch_size in (
    (base_settings.split, loaded.base, base_settings.batch_size),
    (settings.train_split, loaded.train, config.batch_size),
  ):
    if len(examples) < batch_size:
      raise UserError(
        f"a minibatch of {batch_size} does not fit the {len(examples)} "
        f"examples of split {name!r}: set a smaller BATCH_SIZE"
      )
  return loaded


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
    "base_task": loaded.base_task.name,
    "vocabulary": loaded.task.vocabulary.name,
    # By which stored completions are scored again. None: a checker of its own.
    "answers": {
      "form": loaded.task.form,
      "kinds": dict(loaded.task.kinds),
      "is_direct": loaded.task.prompts.is_direct,
    },
    "splits": {
      config.base.split + " (base model)": split(loaded.base),
      config.task.train_split: split(loaded.train),
      config.task.test_split: split(loaded.test),
    },
  }
