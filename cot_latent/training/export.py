"""A run's model as a folder that `transformers` loads."""

import contextlib
import pathlib
from typing import Any

import jax

from cot_latent.data.open import open_task
from cot_latent.errors import UserError
from cot_latent.models import language_model, lora
from cot_latent.models.hf import weights as hf_weights
from cot_latent.runtime import lock
from cot_latent.training import base, checkpoints, lengths, setup, tuning
from cot_latent.training.experiment import (
  BaseConfig,
  Experiment,
  Given,
  pretrained,
  trains_all,
)
from cot_latent.training.loading import load_data


def export(
  config: Experiment,
  directory: pathlib.Path,
  folder: pathlib.Path,
  dtype: hf_weights.StoredType | None = None,
) -> int:
  """Writes the model of a run's last checkpoint.

  Low-rank updates are merged into the model; tokenizer and config.json are
  those of the run's initial checkpoint.

  Args:
    config: The run.
    directory: The run's folder.
    folder: Path of the folder to write.
    dtype: Type of the tensors; None keeps each tensor's type in the source.

  Returns:
    The step of the parameters.

  Raises:
    UserError: If the run began with no such checkpoint, has saved none, or
      tunes a soft prompt, or if the folder exists.
  """
  began_with = pretrained(config)
  if began_with is None:
    raise UserError(
      f"the run in {directory} made its base model itself, and transformers "
      "has no such architecture: only a run that began with a Hugging Face "
      "checkpoint can be exported"
    )
  if isinstance(config.tuning, tuning.SoftPrompt):
    raise UserError(
      f"the run in {directory} trains a soft prompt and leaves the model as it "
      "is: use the prompt from its outputs/ (the file ends in soft_prompt.npy)"
    )
  if folder.exists():
    raise UserError(f"{folder} exists already: name another folder")
  saved_in = directory / "checkpoints"
  if not saved_in.is_dir():
    raise UserError(f"no checkpoints in {directory}: give the run's own folder")
  assert not isinstance(config.model, Given)  # its base is no checkpoint
  source = pathlib.Path(began_with.path)
  config = lengths.limited(config, open_task)  # names the base model
  task = open_task(config.task.source)
  vocabulary = task.vocabulary
  params: Any
  with (
    lock.hold(directory),
    contextlib.closing(checkpoints.Checkpoints(saved_in)) as saved,
  ):
    step = saved.latest_step()
    if step is None:
      raise UserError(f"no checkpoint in {saved_in} is whole yet")
    model = language_model.from_config(
      config.model,
      vocabulary.size,
      vocabulary.eos_id,
      config.task.max_length,
      lora=config.tuning,
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    trained, _ = tuning.split(shapes, config.tuning)
    has_trained = config.tuning is not None or trains_all(config)
    params = saved.restore_params(trained) if has_trained else {}
  if not trains_all(config):
    if isinstance(config.base, BaseConfig):
      base_model = setup.build_model(config, task, None)
      frozen = base.read(directory, base_model, config, load_data(config))
    else:
      frozen = base.load(config, began_with, vocabulary)
    params = tuning.merge(params, frozen)
  if isinstance(config.tuning, lora.Lora):
    params = lora.merged(params, config.tuning)
  params = hf_weights.exchange(params, 0, vocabulary.padding_id)
  hf_weights.save(folder, params, source, dtype)
  return step
