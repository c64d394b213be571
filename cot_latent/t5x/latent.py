"""The experiment inside T5X: questions, method, and their state.

T5X saves and restores its training iterator with each checkpoint; the rationale
memory is stored as part of that iterator. The data that a step learns from are
made in the step itself, from the current parameters. The iterator only returns
features of the correct shapes.

M questions per minibatch, N training questions, P prompt tokens, T target
tokens.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import seqio
from clu.data import dataset_iterator
from etils import epath
from t5x import models

from cot_latent.data.open import open_task
from cot_latent.data.source import Source, TaskConfig
from cot_latent.em import training_data
from cot_latent.em.method import Method
from cot_latent.em.outer_loops import Pool
from cot_latent.errors import UserError
from cot_latent.inference.fitting import Fit
from cot_latent.inference.memory import MemoryState
from cot_latent.runtime import arrays
from cot_latent.t5x import checks, features, one_line, storage
from cot_latent.t5x.features import Features
from cot_latent.tasks import common, vocabularies

_SUFFIX = ".memory.npz"
_POOL = "pool_"  # prefix of the names of a pool's arrays
_FIT = "fit_"  # prefix of the names of a fit's numbers


@dataclasses.dataclass
class Chains:
  """The memory, and the step to which it belongs.

  Attributes:
    memory: One chain per training question; None before it is made.
    began_at: T5X's step when it was made; T5X counts on from the pretrained
      checkpoint's step.
    step: T5X's step to which it belongs.
    pool: Rationales of the current outer loop; None without such loops.
    fit: State of a fitted control variate; None without one.
  """

  memory: MemoryState | None = None
  began_at: int = 0
  step: int = 0
  pool: Pool | None = None
  fit: Fit | None = None


class RationaleIterator(dataset_iterator.DatasetIterator):
  """Returns empty batches, and carries the chains through checkpoints.

  Attributes:
    chains: The memory.
    before_saving: Called with T5X's step and the sha256 of the chains as they
      are stored.
  """

  def __init__(self, empty: Features, fingerprint: str, model_dir: str):
    """Makes an iterator whose chains are still to be made.

    Args:
      empty: Features of this process's part of a minibatch.
      fingerprint: Hash of the training questions and the length of rationales.
      model_dir: The run's folder. Its own checkpoints must have the memory. A
        checkpoint elsewhere is an initial model, whose memory is not read.
    """
    self.chains = Chains()
    self.before_saving: Callable[[int, str], None] | None = None
    self._empty = empty
    self._fingerprint = fingerprint
    self._model_dir = storage.absolute(model_dir)

  def __next__(self) -> Features:
    return dict(self._empty)

  def reset(self) -> None:
    """Does nothing: all batches are the same."""

  @property
  def element_spec(self) -> Any:
    """The shapes and types of a batch."""
    return {
      name: dataset_iterator.ArraySpec(array.dtype, array.shape)
      for name, array in self._empty.items()
    }

  def save(self, filename) -> None:
    """Writes the chains into a checkpoint, if there are any."""
    if self.chains.memory is None:
      return
    pool = {} if self.chains.pool is None else self.chains.pool._asdict()
    fit = {} if self.chains.fit is None else self.chains.fit._asdict()
    stream = io.BytesIO()
    np.savez_compressed(
      stream,
      allow_pickle=False,
      fingerprint=np.array(self._fingerprint),
      began_at=np.array(self.chains.began_at),
      step=np.array(self.chains.step),
      **jax.tree.map(np.asarray, self.chains.memory._asdict()),
      **{_POOL + name: np.asarray(array) for name, array in pool.items()},
      **{_FIT + name: number for name, number in fit.items()},
    )
    content = stream.getvalue()
    if self.before_saving:
      sha256 = hashlib.sha256(content).hexdigest()
      self.before_saving(self.chains.step, sha256)
    epath.Path(f"{filename}{_SUFFIX}").write_bytes(content)

  def restore(self, filename) -> None:
    """Reads the chains of the run's own checkpoint.

    The chains of another run are not read: a run that begins with its model
    makes new ones.

    Raises:
      UserError: If the checkpoint has no chains, or those of other questions,
        or if they are damaged.
    """
    file = storage.absolute(f"{filename}{_SUFFIX}")
    if self._model_dir not in file.parents:
      return
    path = _find(file)
    if path is None:
      raise UserError(
        f"no rationale memory in {file.parent}: this is not a checkpoint of "
        "such a run, or part of it is lost; choose another MODEL_DIR"
      )
    content = io.BytesIO(path.read_bytes())
    try:
      with arrays.open_archive(content, is_compressed=True) as stored:
        found = dict(stored)
        fingerprint = str(found.pop("fingerprint"))
        chains = _chains(found)
    except ValueError as error:
      raise UserError(
        f"the memory in {path} is damaged ({error!s:.80}): choose another "
        "MODEL_DIR"
      ) from None
    if fingerprint != self._fingerprint:
      raise UserError(
        f"the memory in {path} is of other questions, or of rationales of "
        "another length: choose another MODEL_DIR"
      )
    self.chains = chains


class Latent:
  """The replacement for the dataset of T5X's `train`.

  T5X calls it for the training iterator; `LatentTrainer` reads from it what the
  E-step needs.

  Attributes:
    config: The questions and their lengths.
    task: Vocabulary and answers.
    examples: N training questions.
    method: How rationales are drawn and weighed.
    seed: Seed of all randomness.
    batch_size: Questions M in a minibatch.
    converter: Makes T5X's features.
    iterator: T5X's training iterator, with the memory; None before T5X asks for
      it.
    model_dir: The run's folder.
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
      model: Model of T5X, to be checked; T5X builds one of its own.
      task: The questions.
      method: Method of the E-step.
      seed: Seed of the run; also T5X's random_seed.
      batch_size: Questions M in a minibatch.
      model_dir: The run's folder.

    Raises:
      UserError: If T5X would compute something else than the method.
    """
    one_line.install()
    checks.check_command()
    checks.check_model(model)
    checks.check_settings(checks.gin_settings(), seed)
    storage.check_absolute("MODEL_DIR", model_dir)
    checks.check_lengths(task.prompt_length, task.max_length)
    checks.check_checkpoint(model_dir)
    if task.length_factor is not None:
      raise UserError(
        "TaskConfig.length_factor is for the embedded trainer: T5X's lengths "
        "are made from MAX_LENGTH; leave it out"
      )
    if method.scores_answers():
      raise UserError(
        "LIKELIHOOD = @likelihood.answer_given_rationale() is for the embedded "
        "trainer: inside T5X use a method with a checker, such as "
        "gin/methods/trice.gin"
      )
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
    """Returns T5X's training iterator; see `t5x.utils.GetDatasetCallable`.

    Raises:
      UserError: If T5X has another minibatch size.
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
  """Returns the vocabulary of model and task.

  Args:
    path: Path of a SentencePiece model, or of a checkpoint's folder; None is
      bytes.
  """
  checks.check_command()  # T5X's own training calls nothing else of these
  return vocabularies.load(path)


def task_name(source: Source) -> str:
  """Returns the SeqIO task of T5X's evaluation, the same as in training.

  Args:
    source: The task and its form.

  Returns:
    The task's name; a form that is not the registered one gets a new name.

  Raises:
    UserError: If there is no such task, or it does not exist in this form.
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


def _chains(stored: dict[str, Any]) -> Chains:
  """Makes chains of the arrays that were saved."""
  pool, fit = (_taken(stored, prefix) for prefix in (_POOL, _FIT))
  return Chains(
    began_at=int(stored.pop("began_at")),
    step=int(stored.pop("step")),
    pool=Pool(**pool) if pool else None,
    fit=Fit(**fit) if fit else None,
    memory=MemoryState(**stored),
  )


def _taken(stored: dict[str, Any], prefix: str) -> dict[str, Any]:
  """Takes out the arrays with this prefix; returns them without the prefix."""
  names = [name for name in stored if name.startswith(prefix)]
  return {name.removeprefix(prefix): stored.pop(name) for name in names}


def _find(path: epath.Path) -> epath.Path | None:
  """Finds the file, or that of another process: all of them have the same data.

  Its name has the number of processes, which may have changed.
  """
  if path.exists():
    return path
  for folder in (path.parent, path.parent.parent):
    for pattern in (f"*{_SUFFIX}", f"process_*/*{_SUFFIX}"):
      if found := sorted(folder.glob(pattern)):
        return found[0]
  return None
