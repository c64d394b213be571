"""The base model: loaded, or fitted to a task's rationales."""

import contextlib
import functools
import io
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.em.plan import as_dict
from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.inference import rng
from cot_latent.models import digests, partitioning
from cot_latent.models.api import PAD_ID
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.language_model import LanguageModel
from cot_latent.models.vocabularies import Vocabulary
from cot_latent.runtime import arrays, files, lock, preemption, processes
from cot_latent.runtime.progress import Progress
from cot_latent.training import mstep
from cot_latent.training.checkpoints import Checkpoints
from cot_latent.training.experiment import (
  BaseConfig,
  Experiment,
  Given,
  Pretrained,
  trains_all,
)
from cot_latent.training.loading import Data
from cot_latent.training.state import TrainState

# Seconds between two checkpoints of a fit.
SECONDS_BETWEEN = 120.0

_STEPS_TO_AGREE = 4  # steps after which several processes agree on saving

_UNFINISHED = ".unfinished"  # end of the name of a fit's folder


def fit(
  model: LanguageModel,
  config: BaseConfig,
  examples: Examples,
  seed: int,
  report_step: Callable[[int], None],
  params: Any = None,
  checkpoints: Checkpoints | None = None,
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
    checkpoints: Checkpoints of the fit, one every two minutes. If there is one
      already, the fit resumes from it. None saves nothing.

  Returns:
    The fitted parameters.

  Raises:
    Preempted: If the process must end; with `checkpoints`, the fit is saved.
    RunError: If a gradient is not finite.
  """
  if params is None:
    params = model.init(rng.purpose_key(seed, "params"))
  optimizer = mstep.build_optimizer(config.optimizer)
  learning_rate = mstep.learning_rate(config.optimizer, config.steps)
  opt_state = mstep.init_optimizer(model, optimizer, params)
  state = TrainState(params, opt_state, None, 0)
  if checkpoints and checkpoints.latest_step() is not None:
    state = checkpoints.restore(state)
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
  with _saving(checkpoints, config.steps) as save_if_due:
    for step in range(state.step, config.steps):
      index = rng.minibatch(seed, "base_order", step, len(examples), batch_size)
      updated = step_fn(
        state.params,
        state.opt_state,
        None,
        learning_rate(step),
        np.where(is_hinted, hinted[index], plain[index]),
        examples.targets[index],
        weights,
      )
      state = state._replace(
        params=updated.params, opt_state=updated.opt_state, step=step + 1
      )
      is_finite = updated.is_finite & is_finite
      report_step(step + 1)
      save_if_due(state, is_finite)
  _check_finite(is_finite)
  return state.params


@contextlib.contextmanager
def _saving(
  checkpoints: Checkpoints | None, num_steps: int
) -> Iterator[Callable[[TrainState, Any], None]]:
  """Yields a function that saves a fit if it is time, or if it must end.

  A fit that was saved is also saved after its last step.
  """
  if checkpoints is None:
    yield lambda state, is_finite: None
    return
  saved_at = time.monotonic()

  def save_if_due(state: TrainState, is_finite: Any) -> None:
    nonlocal saved_at
    is_late = time.monotonic() - saved_at > SECONDS_BETWEEN
    is_end = state.step == num_steps and checkpoints.latest_step() is not None
    # Several processes wait for each other, and so for the device, to agree.
    if jax.process_count() > 1 and state.step % _STEPS_TO_AGREE and not is_end:
      return
    if not processes.is_true_on_any(is_preempted() or is_late or is_end):
      return
    must_end = processes.is_true_on_any(is_preempted())
    _check_finite(is_finite)
    checkpoints.save(state)
    saved_at = time.monotonic()
    if must_end:
      raise Preempted

  with preemption.deferred() as is_preempted:
    yield save_if_due


def _check_finite(is_finite: Any) -> None:
  """Waits for the steps, and raises RunError if a gradient was not finite."""
  if not is_finite:
    raise RunError(
      "the base model's gradient is not finite: try a lower learning rate, in "
      "another MODEL_DIR"
    )


def fit_once(
  folder: pathlib.Path | None,
  model: LanguageModel,
  config: Experiment,
  examples: Examples,
  report_step: Callable[[int], None],
  start: Any = None,
  directory: pathlib.Path | None = None,
) -> tuple[Any, bool]:
  """Fits the base model of a run, or reads it if another run has fitted it.

  A fit that was stopped resumes from its last checkpoint.

  Args:
    folder: Folder of base models, each named by a hash of all that makes it;
      None stores none.
    model: The language model.
    config: The run.
    examples: N examples with targets.
    report_step: Function called with the number of steps done.
    start: Pretrained parameters to begin with; None makes new ones.
    directory: Folder of the fit's checkpoints if `folder` is None: they stay
      until `forget_fit`. If both are None, none are made.

  Returns:
    The fitted parameters, and whether they were read.

  Raises:
    Preempted: If the process must end.
    RunError: If a gradient is not finite.
    UserError: If the file is damaged, or the folder is not a folder.
  """
  base = config.base
  assert isinstance(base, BaseConfig)
  seed = config.seed if base.seed is None else base.seed
  name = _name(config, examples, start, model.ending.stop)
  saves = folder or directory

  def fit_or_resume():
    if saves is None:
      return fit(model, base, examples, seed, report_step, start)
    unfinished = saves / f"{name}{_UNFINISHED}"
    checkpoints = Checkpoints(unfinished, "delete it to fit from the beginning")
    try:
      params = fit(model, base, examples, seed, report_step, start, checkpoints)
    finally:
      checkpoints.close()
    if folder is not None:
      whole = partitioning.to_host(params)
      if processes.is_first():
        _write(folder / f"{name}.npz", whole)
        shutil.rmtree(unfinished, ignore_errors=True)
    return params

  if folder is None:
    return fit_or_resume(), False
  path = folder / f"{name}.npz"
  if processes.value_on_first(path.is_file()):
    return _read(path, model.init(rng.purpose_key(0, "params"))), True
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise UserError(
      f"BASE_DIR {folder} is a file or is inside one: give a folder"
    ) from None
  with (
    lock.wait(path, "another run fits the same base model; waiting")
    if processes.is_first()
    else contextlib.nullcontext()
  ):
    # The other run may have fitted it by now.
    if processes.value_on_first(path.is_file()):
      return _read(path, model.init(rng.purpose_key(0, "params"))), True
    return fit_or_resume(), False


def forget_fit(directory: pathlib.Path) -> None:
  """Removes a fit's checkpoints from a run's folder, if there are any."""
  if processes.is_first():
    for unfinished in directory.glob(f"*{_UNFINISHED}"):
      shutil.rmtree(unfinished, ignore_errors=True)


def make_base(
  folder: pathlib.Path | None,
  directory: pathlib.Path,
  model: LanguageModel,
  config: Experiment,
  data: Data,
) -> tuple[Any, bool]:
  """Fits, reads or loads the base model, as the configuration asks.

  Args:
    folder: Folder of base models, as in `fit_once`.
    directory: The run's folder.
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
    progress = Progress("base model", config.base.steps, None)
    start = _start(config, config.base, data, model)
    return fit_once(
      folder, model, config, data.base, progress, start, directory
    )
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
  name = _name(config, data.base, start, data.task.stop)
  path = folder / f"{name}.npz"
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


def _name(
  config: Experiment,
  examples: Examples,
  start: Any = None,
  stop: tuple[str, ...] = (),
) -> str:
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
  if stop:  # a fit leaves out what follows the first one in a target
    base["stop"] = stop
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
