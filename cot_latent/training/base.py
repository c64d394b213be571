"""The base model: loaded, or fitted to a task's rationales."""

import contextlib
import functools
import io
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cot_latent.data.task import Examples
from cot_latent.em.plan import as_dict
from cot_latent.errors import RunError, UserError
from cot_latent.inference import rng
from cot_latent.models import digests, partitioning
from cot_latent.models.api import PAD_ID
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.language_model import LanguageModel
from cot_latent.models.vocabularies import Vocabulary
from cot_latent.runtime import arrays, files, lock, processes
from cot_latent.runtime.progress import Progress
from cot_latent.training import mstep
from cot_latent.training.experiment import (
  BaseConfig,
  Experiment,
  Given,
  Pretrained,
  trains_all,
)
from cot_latent.training.loading import Data


def fit(
  model: LanguageModel,
  config: BaseConfig,
  examples: Examples,
  seed: int,
  report_step: Callable[[int], None],
  params: Any = None,
):
  """Fits a model to the targets of a split, correct or not.

  Half of each minibatch is under the hinted prompt, so that the model learns
  to write rationales towards a given answer, with which the memory starts.

  Args:
    model: The language model.
    config: Settings of the fit.
    examples: N examples with targets; each answer is the one that its target
      reaches.
    seed: Seed of the order of examples, and of new parameters.
    report_step: Function called with the number of steps done.
    params: Initial parameters; None makes new ones. They are donated.

  Returns:
    The fitted parameters.

  Raises:
    RunError: If a gradient is not finite.
  """
  if params is None:
    params = model.init(rng.purpose_key(seed, "params"))
  optimizer = mstep.build_optimizer(config.optimizer)
  learning_rate = mstep.learning_rate(config.optimizer, config.steps)
  opt_state = mstep.init_optimizer(model, optimizer, params)
  step_fn = mstep.build_step(model, optimizer)
  batch_size = config.batch_size
  weights = np.full(batch_size, 1 / batch_size, np.float32)
  length = max(examples.guides.shape[1], examples.prompts.shape[1])
  hinted, plain = (
    np.pad(x, ((0, 0), (length - x.shape[1], 0)), constant_values=PAD_ID)
    for x in (examples.guides, examples.prompts)
  )
  is_finite: Any = True
  is_hinted = np.arange(batch_size)[:, None] % 2 == 1
  for step in range(config.steps):
    index = rng.minibatch(seed, "base_order", step, len(examples), batch_size)
    prompts = np.where(is_hinted, hinted[index], plain[index])
    updated = step_fn(
      params,
      opt_state,
      None,
      learning_rate(step),
      prompts,
      examples.targets[index],
      weights,
    )
    params, opt_state = updated.params, updated.opt_state
    is_finite = updated.is_finite & is_finite
    report_step(step + 1)
  if not is_finite:
    raise RunError(
      "the base model's gradient is not finite: try a lower learning rate, in "
      "another MODEL_DIR"
    )
  return params


def fit_once(
  folder: pathlib.Path | None,
  model: LanguageModel,
  config: Experiment,
  examples: Examples,
  report_step: Callable[[int], None],
  start: Any = None,
) -> tuple[Any, bool]:
  """Fits the base model of a run, or reads it if another run has fitted it.

  Args:
    folder: Folder of base models, each named by a hash of all that makes it;
      None stores none.
    model: The language model.
    config: The run.
    examples: N examples with targets.
    report_step: Function called with the number of steps done.
    start: Pretrained parameters to begin with; None makes new ones.

  Returns:
    The fitted parameters, and whether they were read.

  Raises:
    RunError: If a gradient is not finite.
    UserError: If the file is damaged, or the folder is not a folder.
  """
  base = config.base
  assert isinstance(base, BaseConfig)
  seed = config.seed if base.seed is None else base.seed
  if folder is not None:
    path = folder / f"{_name(config, examples, start)}.npz"
    if processes.value_on_first(path.is_file()):
      return _read(path, model.init(rng.purpose_key(0, "params"))), True
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
      raise UserError(
        f"BASE_DIR {folder} is a file or is inside one: give a folder"
      ) from None
    is_first = processes.is_first()
    with (
      lock.wait(path, "another run fits the same base model; waiting")
      if is_first
      else contextlib.nullcontext()
    ):
      # The other run may have fitted it by now.
      if processes.value_on_first(path.is_file()):
        return _read(path, model.init(rng.purpose_key(0, "params"))), True
      params = fit(model, base, examples, seed, report_step, start)
      whole = partitioning.to_host(params)
      if is_first:
        _write(path, whole)
      return params, False
  return fit(model, base, examples, seed, report_step, start), False


def make_base(
  folder: pathlib.Path | None,
  model: LanguageModel,
  config: Experiment,
  data: Data,
) -> tuple[Any, bool]:
  """Fits, reads or loads the base model, as the configuration asks.

  Args:
    folder: Folder of base models, as in `fit_once`.
    model: The language model, without anything that is added to it.
    config: The run.
    data: Data of the run.

  Returns:
    All parameters, and whether they existed already.

  Raises:
    RunError: If a gradient is not finite.
    UserError: If a file cannot be used.
  """
  if isinstance(config.base, BaseConfig):
    assert data.base is not None
    progress = Progress("base model", config.base.steps)
    start = _start(config, config.base, data, model)
    return fit_once(folder, model, config, data.base, progress, start)
  if isinstance(config.base, Given):
    return model.init(jax.random.key(0)), True
  vocabulary, layout = data.task.vocabulary, model.layout
  return load(config, config.base, vocabulary, layout), True


def folder_of(
  config: Experiment, directory: pathlib.Path
) -> pathlib.Path | None:
  """Returns the folder of a run's base model; None if it is not stored.

  Args:
    config: The run.
    directory: The run's folder.
  """
  if config.base_dir is not None:
    return pathlib.Path(config.base_dir)
  # No checkpoint holds frozen parameters, so they must be found again.
  return None if trains_all(config) else directory / "base"


def read(
  directory: pathlib.Path, model: LanguageModel, config: Experiment, data: Data
) -> Any:
  """Reads the base model of a run; never fits one.

  Args:
    directory: The run's folder.
    model: The language model, without anything that is added to it.
    config: The run, whose base model was fitted and is frozen.
    data: Data of the run.

  Returns:
    All parameters.

  Raises:
    UserError: If it is not stored, or is damaged.
  """
  base, folder = config.base, folder_of(config, directory)
  assert isinstance(base, BaseConfig)
  assert data.base is not None
  assert folder is not None
  start = _start(config, base, data, model)
  path = folder / f"{_name(config, data.base, start)}.npz"
  if not path.is_file():
    raise UserError(
      f"the base model of the run in {directory} is not in {folder}: `t5x "
      "train` of the same configuration fits it again"
    )
  return _read(path, model.init(rng.purpose_key(0, "params")))


def _start(
  config: Experiment, base: BaseConfig, data: Data, model: LanguageModel
) -> Any:
  """Loads the parameters that a fit begins with; None is a new model."""
  if base.start is None:
    return None
  return load(config, base.start, data.task.vocabulary, model.layout)


def load(
  config: Experiment,
  pretrained: Pretrained,
  vocabulary: Vocabulary,
  layout: partitioning.Layout | None = None,
) -> Any:
  """Loads a pretrained model, its rows in the order of the vocabulary.

  Args:
    config: The run, whose model it is.
    pretrained: Where it is stored.
    vocabulary: Vocabulary of the task.
    layout: Placement of arrays on the devices; None is one device.

  Returns:
    All parameters.

  Raises:
    UserError: If a file cannot be used.
  """
  assert not isinstance(config.model, Given)
  folder = pathlib.Path(pretrained.path)
  params = hf_weights.load(folder, config.model, vocabulary.size, layout)
  return hf_weights.exchange(params, 0, vocabulary.padding_id)


def _write(path: pathlib.Path, params: Any) -> None:
  stream = io.BytesIO()
  leaves = {
    jax.tree_util.keystr(key): leaf
    for key, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  np.savez(stream, allow_pickle=False, **leaves)
  files.write_atomically(path, stream.getvalue())


def _name(config: Experiment, examples: Examples, start: Any = None) -> str:
  """Names a base model by a hash of all that makes it."""
  settings = as_dict(config)
  source = ("data_dir", "cache", "module")
  task = {
    k: v for k, v in settings["base"]["source"].items() if k not in source
  }
  base = settings["base"] | {"source": task}
  if start is not None:  # the weights count, not where they are stored
    base["start"] = digests.tree_sha256(start)
    del task["vocabulary"]
  return files.short_hash(
    [
      settings["model"],
      base,
      settings["seed"] if base["seed"] is None else None,
      config.task.max_length,
      examples.fingerprint(),
      jax.__version__,
    ]
  )


def _read(path: pathlib.Path, like: Any) -> Any:
  def take(stored, key, leaf):
    array = stored[jax.tree_util.keystr(key)]
    if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
      raise ValueError(f"{array.shape} instead of {leaf.shape}")
    return jax.make_array_from_callback(
      array.shape, leaf.sharding, lambda index: array[index]
    )

  try:
    with path.open("rb") as file, arrays.open_archive(file) as stored:
      return jax.tree_util.tree_map_with_path(
        functools.partial(take, stored), like
      )
  except (OSError, ValueError) as error:
    raise UserError(
      f"the base model {path} is damaged ({error!s:.160}): delete it, and it "
      "is fitted again"
    ) from None
