"""The experiment inside T5X: which questions, which method, and their state.

M questions a minibatch, N training questions, P prompt tokens, T target tokens.
"""

import functools
from typing import Any

import seqio
from t5x import models

from cot_latent.data.open import open_task
from cot_latent.data.source import Source, TaskConfig
from cot_latent.em import training_data
from cot_latent.em.method import Method
from cot_latent.errors import UserError
from cot_latent.t5x import checks, features, one_line, paths
from cot_latent.t5x.dataset import RationaleIterator
from cot_latent.tasks import common


class Latent:
  """What T5X's `train` is given in place of its data set.

  T5X calls it for the training iterator; `LatentTrainer` finds in it what the
  E-step needs.

  Attributes:
    config: the questions and their lengths.
    task: vocabulary and answers.
    examples: N training questions.
    method: how rationales are drawn and weighed.
    seed: all randomness derives from it.
    batch_size: M.
    converter: makes T5X's features.
    iterator: what T5X trains on, with the memory; None before T5X asks for it.
    model_dir: the run's folder.
  """

  def __init__(
    self,
    model: models.BaseTransformerModel,
    task: TaskConfig,
    method: Method,
    seed: int,
    batch_size: int,
    model_dir: str,
  ):
    """Checks all that can be checked and loads the questions.

    Args:
      model: T5X's, to be checked; T5X builds one of its own.
      task: the questions.
      method: the E-step.
      seed: T5X's random_seed as well.
      batch_size: M.
      model_dir: the run's folder.

    Raises:
      UserError: if T5X would compute something else than the method.
    """
    one_line.install()
    checks.check_model(model)
    checks.check_settings(checks.gin_settings(), seed)
    paths.check_absolute("MODEL_DIR", model_dir)
    self.config = task
    self.method, self.seed, self.batch_size = method, seed, batch_size
    self.task = open_task(task.source).ending_at(task.stop)
    self.examples = training_data.load_train(self.task, task, method)
    if len(self.examples) < batch_size:
      raise UserError(
        f"a minibatch of {batch_size} does not fit the {len(self.examples)} "
        f"examples of split {task.train_split!r}: set a smaller BATCH_SIZE"
      )
    width = self.examples.prompts.shape[1]
    if method.memory_start != "empty" or (
      method.loops is not None and method.loops.hint_on_failure
    ):
      width = max(width, self.examples.guides.shape[1])
    self.converter = features.converter(model, width, task.max_length)
    checks.check_loss_draws_nothing(model, self.converter.zeros(1))
    self.iterator: RationaleIterator | None = None
    self.model_dir = model_dir

  def __call__(
    self,
    cfg: Any,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any,
    **settings: Any,
  ) -> RationaleIterator:
    """Gives T5X its training iterator; see `t5x.utils.GetDatasetCallable`.

    Raises:
      UserError: if T5X was given another size of a minibatch.
    """
    del shard_id, feature_converter_cls, settings
    if cfg.batch_size != self.batch_size:
      raise UserError(
        f"train/utils.DatasetConfig.batch_size = {cfg.batch_size} is not "
        f"BATCH_SIZE = {self.batch_size}: leave it to BATCH_SIZE"
      )
    self.iterator = RationaleIterator(
      self.converter.zeros(self.batch_size // num_shards),
      f"{self.examples.fingerprint()} {self.config.max_length}",
      self.model_dir,
    )
    return self.iterator


@functools.cache
def vocabulary(path: str | None = None) -> seqio.Vocabulary:
  """The vocabulary of model and task.

  Args:
    path: a SentencePiece model, or the folder of a checkpoint; None is bytes.
  """
  return common.load_vocabulary(path)


def task_name(source: Source) -> str:
  """The SeqIO task that T5X's evaluation asks: the same one.

  Args:
    source: which, and in what form.

  Returns:
    Its name; a form that is not the registered one gets a name of its own.

  Raises:
    UserError: if there is no such task, or it cannot be had in this form.
  """
  from cot_latent.data import seqio_task

  seqio_task.import_module(source.module)
  name = common.resolve(source.task)
  form = (source.prompts, source.vocabulary, source.data_dir, source.bos)
  if form == (None,) * 4:
    return name
  return common.variant(
    name,
    f"{name}_in_t5x",
    prompts=source.prompts,
    vocabulary=source.vocabulary,
    data_dir=source.data_dir,
    bos=source.bos,
  )
