"""The data of a run."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.open import open_task
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.em import training_data
from cot_latent.errors import UserError
from cot_latent.models.api import PAD_ID
from cot_latent.models.hf import config as hf_config
from cot_latent.models.vocabularies import Vocabulary
from cot_latent.training import experiment
from cot_latent.training.tuning import SoftPrompt


class Data(NamedTuple):
  """The data of a run.

  Attributes:
    task: The task, with vocabulary and answers.
    base_task: The task to which the base model is fitted; None if it is not
      fitted.
    base: Examples with targets to which the base model is fitted, or None.
    train: N questions with a memory.
    test: Held-out questions.
    soft_tokens: [L] int32, initial tokens of a soft prompt; None if there are
      none.
    soft_task: The task with the worked examples as which a soft prompt begins,
      if the run has to draw them; otherwise None.
    hinted: [N, P'] int32, the training questions' guides with these examples,
      hinted as well; None if a soft prompt is made of no examples, or until
      they are drawn.
  """

  task: Task
  base_task: Task | None
  base: Examples | None
  train: Examples
  test: Examples
  soft_tokens: np.ndarray | None = None
  soft_task: Task | None = None
  hinted: np.ndarray | None = None

  def draws_exemplars(self) -> bool:
    """Whether the run draws worked examples, for prompts or a soft prompt."""
    is_soft = self.soft_task is not None
    return is_soft or self.task.prompts.exemplars == "bootstrapped"

  def room(self, prompt_length: int) -> int:
    """Counts the tokens that worked examples may take before every question.

    Args:
      prompt_length: Maximum tokens of a prompt.
    """
    if self.soft_task is not None:
      return np.iinfo(np.int32).max  # embeddings take no tokens of the prompt
    return prompt_length - max(
      int(_num_tokens(array).max())
      for examples in (self.train, self.test)
      for array in (examples.prompts, examples.guides)
    )


class _Soft(NamedTuple):
  """How a soft prompt begins.

  Attributes:
    tokens: [L] int32, or None.
    drawn_for: A task for which the run draws worked examples, or None.
    stop: Stop strings of its prompts.
    examples: The training questions after the same worked examples, or None.
  """

  tokens: np.ndarray | None = None
  drawn_for: Task | None = None
  stop: tuple[str, ...] = ()
  examples: Examples | None = None


def load_data(
  config: experiment.Experiment,
  open_task: Callable[[Source], Task] = open_task,
) -> Data:
  """Loads the three splits of the experiment's task.

  Args:
    config: The experiment.
    open_task: Opens its tasks.

  Raises:
    UserError: If the data are missing, malformed, too long or too few.
  """
  settings = config.task
  task = open_task(settings.source)
  train = training_data.load_train(task, settings, config.method)
  if pretrained := experiment.pretrained(config):
    _check_pretrained(pretrained.path, task.vocabulary)
  base_task, base = _load_base(config, task, open_task)
  soft = _soft_prompt(config, task, open_task)
  stop = settings.stop
  if stop is None:
    stop = task.prompts.stop or soft.stop
  loaded = Data(
    task=task.ending_at(stop),
    base_task=base_task,
    base=base,
    train=train,
    test=task.load(
      settings.test_split,
      prompt_length=settings.prompt_length,
      over_long=settings.over_long,
    ),
    soft_tokens=soft.tokens,
    soft_task=soft.drawn_for and soft.drawn_for.ending_at(stop),
    hinted=None
    if soft.examples is None
    else soft.examples.guides[_places(task, settings.train_split, train)],
  )
  _check_size(settings.train_split, loaded.train, config.batch_size)
  if loaded.draws_exemplars():
    _check_room(loaded, settings.prompt_length)
  return loaded


def _check_room(data: Data, prompt_length: int) -> None:
  """Checks that the shortest worked examples that there can be have room."""
  wanted = (data.soft_task or data.task).prompts.num_exemplars
  train = data.train
  own = np.maximum(_num_tokens(train.prompts), _num_tokens(train.guides))
  least = wanted * int(own.min())
  if (room := data.room(prompt_length)) < least:
    raise UserError(
      f"PROMPT_LENGTH = {prompt_length} leaves {max(room, 0)} tokens for "
      f"worked examples before the longest question, and {wanted} need more "
      f"than {least}: set a larger PROMPT_LENGTH or a smaller "
      "Prompts.num_exemplars"
    )


def _num_tokens(rows: np.ndarray) -> np.ndarray:
  """Counts the tokens of rows [N, P] without padding: [N]."""
  return (rows != PAD_ID).sum(axis=1)


def _check_pretrained(folder: str, vocabulary: Vocabulary) -> None:
  size = hf_config.vocab_size(folder)
  if size != vocabulary.size:
    raise UserError(
      f"{folder} has a vocabulary of {size} tokens, and the task's "
      f"({vocabulary.name}) has {vocabulary.size}: set VOCABULARY to the "
      "folder of the checkpoint"
    )


def _load_base(config, task: Task, open_task):
  """Loads the examples to which the base model is fitted, if it is."""
  base = config.base
  if not isinstance(base, experiment.BaseConfig):
    return None, None
  is_same = base.source == config.task.source
  base_task = task if is_same else open_task(base.source)
  if base_task.vocabulary.name != task.vocabulary.name:
    raise UserError(
      f"the base model's task {base_task.name!r} and the task {task.name!r} "
      f"have different vocabularies ({base_task.vocabulary.name} and "
      f"{task.vocabulary.name})"
    )
  examples = base_task.load(
    base.split,
    prompt_length=config.task.prompt_length,
    target_length=config.task.max_length,
    over_long=base.over_long,
  )
  _check_size(base.split, examples, base.batch_size)
  return base_task, examples


def _soft_prompt(config, task: Task, open_task) -> _Soft:
  """Finds a soft prompt's initial tokens, or a task to draw them for."""
  tuning = config.tuning
  if not isinstance(tuning, SoftPrompt):
    return _Soft()
  if tuning.text is not None:
    return _Soft(np.asarray(task.vocabulary.encode(tuning.text), np.int32))
  if tuning.source is None:
    return _Soft()
  source_task = open_task(tuning.source)
  if source_task.vocabulary.size != task.vocabulary.size:
    raise UserError(
      f"SoftPrompt.source and the task have different vocabularies "
      f"({source_task.vocabulary.name} and {task.vocabulary.name})"
    )
  if source_task.prompts.exemplars == "bootstrapped":
    if task.prompts.exemplars == "bootstrapped":
      raise UserError(
        "the worked examples that the run draws either become the soft prompt "
        "or come before each question, but SoftPrompt.source and the task both "
        "use them: leave one out"
      )
    return _Soft(drawn_for=source_task, stop=source_task.prompts.stop)
  split = config.task.train_split
  tokens = training_data.common_beginning(
    source_task.rows(split).prompts,
    task.rows(split).prompts,
    task.vocabulary.bos_id,
  )
  stop = source_task.prompts.stop
  return _Soft(tokens, stop=stop, examples=source_task.load(split))


def _places(task: Task, split: str, examples: Examples) -> list[int]:
  """Returns examples' places in their split, some of which may be left out."""
  places = {name: place for place, name in enumerate(task.rows(split).ids)}
  return [places[name] for name in examples.ids]


def _check_size(split: str, examples: Examples, batch_size: int) -> None:
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
  described = training_data.describe_splits(
    loaded.task, loaded.base_task, splits
  )
  if pretrained := experiment.pretrained(config):
    accepted = hf_config.accepted_settings(pretrained.path)
    described["settings_not_read"] = accepted  # of config.json
  return described
