"""Finds settings with which T5X would differ from the method, before it starts.

Each message names the binding that must change.
"""

import copy
import importlib
import inspect
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
import jax
import t5x
from absl import flags
from etils import epath
from t5x import models

from cot_latent.configuration import gin_tables, parsing, unread
from cot_latent.configuration import sources as gin_sources
from cot_latent.errors import UserError
from cot_latent.reporting import record
from cot_latent.t5x import storage
from cot_latent.tasks import common

# Files that `t5x rerun` and T5X write contain bindings of T5X's own files too.
RERUN = "rerun.gin"
_WHOLE = (RERUN, record.CONFIG)
_SCRIPT = ("__main__", "t5x.train")
# Folders of gin/ with files for the embedded trainer alone.
_EMBEDDED = ("models", "plans", "runs", "studies", "tuning")


class Settings(NamedTuple):
  """The arguments of T5X's `train`; None where gin binds nothing.

  Attributes:
    random_seed: Seed of the initial parameters.
    use_hardware_rng: Whether random numbers depend on the hardware.
    save_dataset: Whether checkpoints hold the training iterator.
    save: Whether there are checkpoints.
    save_dtype: Type of the parameters in checkpoints.
    restore_path: Path of the initial checkpoint.
    relative_steps: Steps to take whenever a process starts.
    ignored: Bindings of T5X's own trainer that this project's ignores.
  """

  random_seed: Any
  use_hardware_rng: Any
  save_dataset: Any
  save: Any
  save_dtype: Any = None
  restore_path: Any = None
  relative_steps: Any = None
  ignored: tuple[str, ...] = ()


def gin_settings() -> Settings:
  """Reads the bindings that T5X passes on without any check."""
  return Settings(
    random_seed=_bound("train.random_seed"),
    use_hardware_rng=_bound("train.use_hardware_rng"),
    save_dataset=_bound("SaveCheckpointConfig.save_dataset"),
    save=_bound("CheckpointConfig.save"),
    save_dtype=_bound("SaveCheckpointConfig.dtype"),
    restore_path=_bound("RestoreCheckpointConfig.path"),
    relative_steps=_bound("train.relative_steps"),
    ignored=_ignored(),
  )


def model_dir() -> str | None:
  """Returns MODEL_DIR; None if it is not known yet."""
  found = _bound("train.model_dir")
  return found if isinstance(found, str) else None


def total_steps() -> int | None:
  """Returns T5X's step at which the run ends; None if gin does not bind it."""
  found = _bound("train.total_steps")
  return found if isinstance(found, int) else None


def draws_rationales() -> bool:
  """Whether the run is this project's, and not T5X's own training."""
  return any(
    selector.endswith("latent_trainer.LatentTrainer")
    for _, selector in gin_tables.bound()
  )


def evaluates_first() -> bool:
  """Whether T5X evaluates whenever a run begins or resumes."""
  return bool(_bound("train.run_eval_before_training"))


def evaluates_greedily() -> bool:
  """Whether T5X's evaluation takes the likeliest token each time."""
  return (
    _bound("temperature_sample.topk") == 1
    or _bound("temperature_sample.temperature") == 0
  )


def check_command() -> None:
  """Checks the arguments of this process, if it runs T5X's train.py.

  Raises:
    UserError: As in `check_bindings`.
  """
  if flags.FLAGS.is_parsed() and "gin_file" in flags.FLAGS:
    check_bindings(flags.FLAGS.gin_file or [], flags.FLAGS.gin_bindings)


def check_bindings(names: Sequence[str], bindings: Sequence[str]) -> None:
  """Checks that a configuration is T5X's, and that all of it can be read.

  T5X's own files bind things that a run may not read; these are left alone.

  Args:
    names: Gin files as they were given; gin has read them.
    bindings: Lines such as "SEED = 3", read after the files.

  Raises:
    UserError: For a file of the embedded trainer, for a binding that nothing
      can read, or for a task that is not registered.
  """
  files = gin_sources.with_included(names)
  sources = gin_sources.Sources(files, bindings)
  for name in sorted(gin_tables.bound()):
    if name[1] == "cot_latent.training.experiment.Experiment":
      parameter = sorted(gin_tables.bound()[name])[0]
      place = sources.place(gin_sources.Key(*name, parameter))
      _refuse_embedded(place or "the configuration")
  for file in files:
    if _is_embedded(gin_sources.find_file(file)):
      _refuse_embedded(file)
  unread.refuse(sources, _is_called, _is_left)
  _check_task("train/DatasetConfig")
  _check_task("infer_eval/DatasetConfig")


def _refuse_embedded(place: str) -> None:
  raise UserError(
    f"{place}: this is for the embedded trainer, and another file is for T5X: "
    "give files of one of the two"
  )


def _is_embedded(path: pathlib.Path) -> bool:
  """Whether a packaged gin file has settings that only the embedded one reads.

  Nothing would refer to what it binds, such as the low-rank updates of
  gin/tuning/lora.gin.
  """
  for package in parsing.package_folders():
    folder = pathlib.Path(package, "gin").resolve()
    if folder in path.resolve().parents:
      return path.resolve().relative_to(folder).parts[0] in _EMBEDDED
  return False


def _is_called(selector: str) -> bool:
  """Whether T5X calls a function to which no binding refers."""
  if selector.startswith("gin."):
    return False
  if _is_their_trainer(selector):
    return True  # otherwise `check_settings` names the binding to set
  function = gin_tables.registered(selector)
  is_script = function.__name__ == "train" and function.__module__ in _SCRIPT
  return is_script or gin_tables.is_decorated(selector)


def _is_left(name: str, is_macro: bool) -> bool:
  """Whether a gin file may have a binding that nothing reads.

  T5X's files bind more than a run needs. This package's files bind settings
  that only some models have, and declare the macros that they provide.
  """
  path = gin_sources.find_file(name).resolve()
  (theirs,) = t5x.__path__
  folders = [pathlib.Path(theirs)]
  if not is_macro:
    folders += [pathlib.Path(f, "gin") for f in parsing.package_folders()]
  return path.name in _WHOLE or any(
    folder.resolve() in path.parents for folder in folders
  )


def _check_task(config: str) -> None:
  """Checks that the task of a dataset is registered."""
  name = _bound(f"{config}.mixture_or_task_name")
  if not isinstance(name, str):
    return  # T5X reports the missing name itself
  if module := _bound(f"{config}.module"):
    importlib.import_module(module)
  try:
    common.resolve(name)
  except UserError as error:
    raise UserError(f"MIXTURE_OR_TASK_NAME = {name!r}: {error}") from None


def check_lengths(prompt_length: int, max_length: int) -> None:
  """Checks that T5X's evaluation has the lengths of the run's task.

  Args:
    prompt_length: Tokens of a prompt.
    max_length: Tokens of a rationale.

  Raises:
    UserError: If it has other lengths.
  """
  wanted = {"inputs": prompt_length, "targets": max_length}
  for scope in ("train", "infer_eval"):
    given = _bound(f"{scope}/DatasetConfig.task_feature_lengths")
    if given is not None and dict(given) != wanted:
      raise UserError(
        f"TASK_FEATURE_LENGTHS = {dict(given)} ({scope}/utils.DatasetConfig."
        f"task_feature_lengths), but the run's task has {wanted}: set "
        "PROMPT_LENGTH and MAX_LENGTH, from which it is made"
      )


def check_checkpoint(model_dir: str) -> None:
  """Checks that a run's initial checkpoint exists.

  Buckets are not checked. Nothing is checked if MODEL_DIR has checkpoints of
  its own, because T5X then starts from those.

  Args:
    model_dir: The run's folder.

  Raises:
    UserError: If it is missing, or is a folder of checkpoints.
  """
  path = _bound("RestoreCheckpointConfig.path")
  if not isinstance(path, str) or "://" in path:
    return
  if _bound("RestoreCheckpointConfig.mode") != "specific":
    return
  if any(epath.Path(model_dir).glob("checkpoint_*")):
    return
  place = pathlib.Path(path)
  inside = sorted(
    place.glob("checkpoint_*"), key=lambda p: (len(p.name), p.name)
  )
  if inside:
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH = {path!r} is a folder of checkpoints: give "
      f"one of them, such as {str(inside[-1])!r}"
    )
  if not (place / "state").is_dir() and not (place / "checkpoint").is_file():
    what = "has no checkpoint" if place.exists() else "does not exist"
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH = {path!r} {what}: give a checkpoint's own "
      "folder, such as MODEL_DIR/checkpoint_1500"
    )


def check_settings(settings: Settings, seed: int) -> None:
  """Checks that a run can be repeated and resumed.

  Args:
    settings: Arguments of T5X's `train`.
    seed: Seed of all other randomness.

  Raises:
    UserError: If it cannot; names the binding.
  """
  if settings.random_seed is None:
    raise UserError(
      "RANDOM_SEED = None uses the clock and the hardware's generator, so no "
      "run could be repeated: set RANDOM_SEED = %SEED"
    )
  if settings.random_seed != seed:
    raise UserError(
      f"RANDOM_SEED = {settings.random_seed!r} and SEED = {seed!r}: set "
      "RANDOM_SEED = %SEED, so that one seed sets both"
    )
  if settings.use_hardware_rng:
    raise UserError(
      "USE_HARDWARE_RNG = True: the hardware's generator draws other numbers "
      "on another machine; set USE_HARDWARE_RNG = False"
    )
  if settings.save is not None and settings.save_dataset is not True:
    raise UserError(
      "utils.SaveCheckpointConfig.save_dataset must be True: that part of a "
      "checkpoint holds the rationale memory"
    )
  if settings.save_dtype not in (None, "float32"):
    raise UserError(
      f"utils.SaveCheckpointConfig.dtype = {settings.save_dtype!r}: a run "
      "would resume from rounded parameters; set 'float32'"
    )
  if settings.relative_steps:
    raise UserError(
      f"TRAIN_STEPS_RELATIVE = {settings.relative_steps}: a run that is "
      "resumed would take that many steps again; set TRAIN_STEPS to the steps "
      "of the checkpoint plus these"
    )
  path = settings.restore_path
  if isinstance(path, str):
    storage.check_absolute("INITIAL_CHECKPOINT_PATH", path)
  for name in settings.ignored:
    raise UserError(
      f"trainer.Trainer.{name} does not reach this project's trainer: bind "
      f"latent_trainer.LatentTrainer.{name} instead"
    )


def check_model(model: Any) -> None:
  """Checks that T5X's loss is the weighted sum of log-probabilities.

  Args:
    model: Model of T5X.

  Raises:
    UserError: If it is not; names the binding.
  """
  name = type(model).__name__
  if type(model).loss_fn is not models.BaseTransformerModel.loss_fn:
    raise UserError(
      f"MODEL is a {name}, whose loss differs from that of T5X's "
      "EncoderDecoderModel and DecoderOnlyModel: the method needs theirs"
    )
  if model._z_loss:
    raise UserError(
      f"Z_LOSS = {model._z_loss} (models.{name}.z_loss) adds to the "
      "gradient: set Z_LOSS = 0.0"
    )
  if model._label_smoothing:
    raise UserError(
      f"LABEL_SMOOTHING = {model._label_smoothing} (models.{name}."
      "label_smoothing) scores other sequences too: set LABEL_SMOOTHING = 0.0"
    )
  factor = model._loss_normalizing_factor
  if isinstance(factor, str) or factor not in (None, 1):
    raise UserError(
      f"LOSS_NORMALIZING_FACTOR = {factor!r} (models.{name}."
      "loss_normalizing_factor) divides the gradient: the weights are "
      "normalised already; set LOSS_NORMALIZING_FACTOR = 1"
    )
  if rate := _dropout_rate(model.module):
    raise UserError(
      f"DROPOUT_RATE = {rate}: sequences must be scored as they were drawn, "
      "without dropout; set DROPOUT_RATE = 0.0"
    )
  known = inspect.signature(model.decode_fn).parameters
  if "logit_callback_fn" not in known:
    raise UserError(
      f"models.{name}.decode_fn cannot draw samples: set models.{name}."
      "decode_fn = @decoding.temperature_sample"
    )


def check_loss_draws_nothing(model: Any, batch: Any) -> None:
  """Checks that a network has no dropout, however it is configured.

  Args:
    model: Model of T5X; nothing of it is computed.
    batch: Features of a batch.

  Raises:
    UserError: If the loss depends on random numbers.
  """
  shapes = {name: array.shape for name, array in batch.items()}
  types = {name: array.dtype for name, array in batch.items()}
  key = jax.random.key(0)
  params = jax.eval_shape(
    lambda key: model.get_initial_variables(key, shapes, types)["params"], key
  )
  trace = jax.make_jaxpr(model.loss_fn)
  if "random_bits" in str(trace(params, batch, key)):
    raise UserError(
      f"the loss of {type(model.module).__name__} draws random numbers, as "
      "dropout does: sequences must be scored as they were drawn; turn it off"
    )


def _ignored() -> tuple[str, ...]:
  """Returns names that are bound for T5X's trainer alone."""
  return tuple(
    sorted(
      name
      for (_, selector), parameters in gin_tables.bound().items()
      if _is_their_trainer(selector)
      for name, value in parameters.items()
      if value is not None
    )
  )


def _is_their_trainer(selector: str) -> bool:
  return f".{selector}".endswith(".trainer.Trainer")


def _dropout_rate(module: Any) -> float:
  """Returns the highest rate in a field of a module or its configuration."""
  places = [module, getattr(module, "config", None)]
  rates = [
    value
    for place in places
    for name, value in getattr(place, "__dict__", {}).items()
    if name.endswith("dropout_rate") and isinstance(value, int | float)
  ]
  return max(rates, default=0.0)


def _bound(name: str) -> Any:
  """Returns the bound value, macros resolved; None if nothing is bound."""
  try:
    # Gin resolves a reference when it is copied.
    return copy.deepcopy(gin.query_parameter(name))
  except ValueError:
    return None
