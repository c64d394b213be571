"""The length limit of rationales, from a task's worked examples.

Reference: Phan et al. 2023, page 17: 1.25 times the longest rationale of the
worked examples.
"""

import dataclasses
import math
from collections.abc import Callable

from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.errors import UserError
from cot_latent.training.experiment import Experiment
from cot_latent.training.tuning import SoftPrompt


def limited(
  config: Experiment, open_task: Callable[[Source], Task]
) -> Experiment:
  """Cuts the length limit of a run to what its worked examples need.

  Args:
    config: The run.
    open_task: Opens its task, for the vocabulary.

  Returns:
    The run; with a `length_factor`, `task.max_length` is changed.

  Raises:
    UserError: If the task is a cache, which has no worked examples.
  """
  factor, source = config.task.length_factor, config.task.source
  if factor is None:
    return config
  if source.cache is not None:
    raise UserError(
      "TaskConfig.length_factor needs the task's worked examples, and a cache "
      "has none: set LENGTH_FACTOR = None and MAX_LENGTH"
    )
  from cot_latent.tasks import common  # starts TensorFlow

  tuning, task = config.tuning, open_task(source)
  shown = tuning.source if isinstance(tuning, SoftPrompt) else None
  prompts = (shown or source).prompts
  texts = common.worked_rationales(source.task, prompts, source.data_dir)
  longest = max(len(task.vocabulary.encode(text)) for text in texts)
  length = min(math.ceil(factor * longest), config.task.max_length)
  return dataclasses.replace(
    config, task=dataclasses.replace(config.task, max_length=length)
  )
