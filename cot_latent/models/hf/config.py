"""A model's config, as the config.json of its checkpoint says it."""

import dataclasses
import pathlib
from collections.abc import Sequence

from cot_latent.errors import UserError
from cot_latent.models import decoder
from cot_latent.models.hf import files as hf_files
from cot_latent.models.hf import gguf_config, gguf_files
from cot_latent.models.hf.families import FAMILIES, Config, Family
from cot_latent.models.hf.fields import Fields, read_fields


def read_config(
  folder: str | pathlib.Path,
  dtype: decoder.DType = "float32",
  param_dtype: decoder.DType = "float32",
  remat: bool = False,
  ignore: Sequence[str] = (),
) -> Config:
  """Reads a model's sizes and options from its checkpoint.

  Args:
    folder: The checkpoint's, or a GGUF file.
    dtype: Type of activations.
    param_dtype: Type of parameters as they are kept.
    remat: As in `DecoderConfig`.
    ignore: Settings of config.json that the model's numbers do not depend on,
      although this package does not know it; read as though they were not
      there.

  Returns:
    A DecoderConfig or T5Config.

  Raises:
    UserError: If there is no config.json, naming every setting that is not
      supported, or if `ignore` has a name that is not there.
  """
  fields, family = open_family(folder, ignore)
  family.settings(fields)
  fields.note_unknown()
  fields.finish()
  return dataclasses.replace(
    _make_config(folder, fields, family),
    dtype=dtype,
    param_dtype=param_dtype,
    remat=remat,
  )


def config_of(folder: str | pathlib.Path) -> Config:
  """The config of a model that a run has read, whatever it ignored of it."""
  return _make_config(folder, *open_family(folder))


def vocab_size(folder: str | pathlib.Path) -> int:
  """The number of rows of a checkpoint's embedding.

  It may be more than the tokenizer's: some are padded.

  Raises:
    UserError: If config.json does not say.
  """
  fields, _ = open_family(folder)
  known = len(fields.problems)
  size = fields.size("vocab_size")
  _raise_new(fields, known)
  return size


def accepted_settings(folder: str | pathlib.Path) -> list[str]:
  """Settings of a config.json that are read by nothing, sorted.

  The model's numbers do not depend on them: they are of training, generation,
  provenance, or notes of other programs.
  """
  fields, family = open_family(folder)
  family.settings(fields)
  return fields.accepted()


def open_family(
  folder: str | pathlib.Path, ignore: Sequence[str] = ()
) -> tuple[Fields, Family]:
  """Opens a config.json, and finds the family that it is of.

  Raises:
    UserError: If there is none, or of a family that is not supported.
  """
  path = pathlib.Path(folder)
  if gguf_files.is_gguf(path):
    fields = gguf_config.read_fields(path, ignore)
  else:
    fields = read_fields(path, ignore)
  known = len(fields.problems)
  family = fields.choice("model_type", FAMILIES)
  _raise_new(fields, known)
  return fields, family


def _raise_new(fields: Fields, known: int) -> None:
  """Raises on a problem that was not known yet."""
  if len(fields.problems) > known:
    raise UserError(fields.problems[-1])


def _make_config(
  folder: str | pathlib.Path, fields: Fields, family: Family
) -> Config:
  settings = family.settings(fields)
  if family.output:
    tensors = hf_files.read_tensors(pathlib.Path(folder))
    settings["tie_embeddings"] = family.output not in tensors
  try:
    return family.config_class(**settings)
  except UserError as error:
    raise UserError(f"{fields.place}: {error}") from None
