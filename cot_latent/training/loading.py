"""The data of a run."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cot_latent.data import examples as data
from cot_latent.data.vocabularies import Vocabulary
from cot_latent.errors import UserError
from cot_latent.models import huggingface
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
    soft_task: the task with the worked examples that a soft prompt begins as,
      where the run has to draw them; else None.
  """

  task: data.Task
  base_task: data.Task | None
  base: data.Examples | None
  train: data.Examples
  test: data.Examples
  soft_tokens: np.ndarray | None = None
  soft_task: data.Task | None = None


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
  train = load_train(task, settings, config.method)
  if isinstance(config.base, experiment.Checkpoint):
    _check_checkpoint(config.base.path, task.vocabulary)
  base_task, base = _load_base(config, task, open_task)
  soft_tokens, soft_task = _soft_tokens(config, task, open_task)
  loaded = Data(
    task=task,
    base_task=base_task,
    base=base,
    train=train,
    test=task.load(
      settings.test_split,
      prompt_length=settings.prompt_length,
      over_long=settings.over_long,
    ),
    soft_tokens=soft_tokens,
    soft_task=soft_task,
  )
  _check_size(settings.train_split, loaded.train, config.batch_size)
  return loaded


def load_train(
  task: data.Task, settings: experiment.TaskConfig, method: experiment.Method
) -> data.Examples:
  """Loads the training questions, with rationales if the method needs them.

  Args:
    task: opened.
    settings: of the run.
    method: of the run.

  Raises:
    UserError: if the task has no rationales, and as `Task.load` does.
  """
  split, refit = settings.train_split, method.refit
  is_human = refit is not None and refit.source == "human"
  has_targets = task.prompts.is_direct or split in task.rationale_splits
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


def _check_checkpoint(folder: str, vocabulary: Vocabulary) -> None:
  size = huggingface.vocab_size(folder)
  if size != vocabulary.size:
    raise UserError(
      f"{folder} has a vocabulary of {size}, and the task's "
      f"({vocabulary.name}) has {vocabulary.size}: set VOCABULARY to the "
      "folder of the checkpoint"
    )


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


def _soft_tokens(config, task: data.Task, open_task):
  """Finds what a soft prompt begins as: tokens, or a task to draw them for."""
  tuning = config.tuning
  if not isinstance(tuning, SoftPrompt):
    return None, None
  if tuning.text is not None:
    return np.asarray(task.vocabulary.encode(tuning.text), np.int32), None
  if tuning.source is None:
    return None, None
  source_task = open_task(tuning.source)
  if source_task.vocabulary.size != task.vocabulary.size:
    raise UserError(
      f"SoftPrompt.source has another vocabulary "
      f"({source_task.vocabulary.name}) than the task ({task.vocabulary.name})"
    )
  if source_task.prompts.exemplars == "bootstrapped":
    if task.prompts.exemplars == "bootstrapped":
      raise UserError(
        "the worked examples that the run draws become the soft prompt or "
        "stand before each question: SoftPrompt.source and the task both want "
        "them"
      )
    return None, source_task
  split = config.task.train_split
  tokens = common_beginning(
    source_task.read(split).prompts,
    task.read(split).prompts,
    task.vocabulary.bos_id,
  )
  return tokens, None


def common_beginning(
  longer: Sequence[np.ndarray],
  rows: Sequence[np.ndarray],
  bos_id: int | None,
) -> np.ndarray:
  """Finds the tokens by which all prompts of a task are longer than others.

  A soft prompt that begins as them makes the short prompts count as the longer
  ones do.

  Args:
    longer: N prompts, [P] int32 each.
    rows: N prompts of the same questions.
    bos_id: which, where the short prompts begin with it too, is not among the
      tokens.

  Returns:
    [L] int32.

  Raises:
    UserError: if they are not longer by the same tokens.
  """
  begins = set()
  for long, short in zip(longer, rows, strict=True):
    number = len(long) - len(short)
    start = int(bos_id is not None and short[:1].tolist() == [bos_id])
    fits = long[start + number :].tolist() == short[start:].tolist()
    begins.add(tuple(long[start : start + number].tolist()) if fits else ())
  if len(begins) != 1 or () in begins:
    raise UserError(
      "SoftPrompt.source: its prompts must be the task's own with the same "
      "worked examples before each (for a mixture, whose tasks have others "
      "each, give SoftPrompt a text, path or length)"
    )
  return np.asarray(begins.pop(), np.int32)


def _check_size(split: str, examples: data.Examples, batch_size: int) -> None:
  if len(examples) < batch_size:
    raise UserError(
      f"a minibatch of {batch_size} does not fit the {len(examples)} "
      f"examples of split {split!r}: set a smaller BATCH_SIZE"
    )


def describe_data(config: experiment.Experiment, loaded: Data) -> dict:
  """Writes the report's section on the data."""
  splits = {
    config.task.train_split: loaded.train,
    config.task.test_split: loaded.test,
  }
  if isinstance(config.base, experiment.BaseConfig) and loaded.base:
    splits = {f"{config.base.split} (base model)": loaded.base, **splits}
  return describe_splits(loaded.task, loaded.base_task, splits)


def describe_splits(
  task: data.Task,
  base_task: data.Task | None,
  splits: Mapping[str, data.Examples],
) -> dict[str, Any]:
  """Writes the report's section on some data.

  Args:
    task: vocabulary and answers.
    base_task: the task that the base model is fitted to, if it is.
    splits: questions by the name that they have in the report.
  """

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
    "task": task.name,
    "base_task": base_task and base_task.name,
    "vocabulary": task.vocabulary.name,
    # By which stored completions are scored again. None: a checker of its own.
    "answers": {
      "form": task.form,
      "kinds": dict(task.kinds),
      "is_direct": task.prompts.is_direct,
    },
    "splits": {name: split(part) for name, part in splits.items()},
  }
