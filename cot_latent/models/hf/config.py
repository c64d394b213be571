"""A model's config, from the config.json of its checkpoint."""

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
    folder: The checkpoint's folder, or a GGUF file.
    dtype: Type of activations.
    param_dtype: Type of stored parameters.
    remat: Whether activations are computed again, as in `DecoderConfig`.
    ignore: Settings of config.json that this package does not know, but on
      which the model's numbers do not depend; skipped.

  Returns:
    A DecoderConfig or T5Config.

  Raises:
    UserError: If there is no config.json, if a setting is not supported (names
      all of them), or if a name in `ignore` is not there.
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
  """Returns the config of a model that a run read, whatever it ignored."""
  return _make_config(folder, *open_family(folder))


def vocab_size(folder: str | pathlib.Path) -> int:
  """Returns the number of rows of a checkpoint's embedding.

  It may be larger than the tokenizer's: some embeddings are padded.

  Raises:
    UserError: If config.json does not have it.
  """
  fields, _ = open_family(folder)
  known = len(fields.problems)
  size = fields.size("vocab_size")
  _raise_new(fields, known)
  return size


def accepted_settings(folder: str | pathlib.Path) -> list[str]:
  """Returns the settings of a config.json that nothing reads, sorted.

  The model's numbers do not depend on them: they concern training, generation
  or provenance, or are notes of other programs.
  """
  fields, family = open_family(folder)
  family.settings(fields)
  return fields.accepted()


def open_family(
  folder: str | pathlib.Path, ignore: Sequence[str] = ()
) -> tuple[Fields, Family]:
  """Opens a config.json, and finds its family.

  Raises:
    UserError: If it is missing, or if its family is not supported.
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
  """Raises if there is a new problem."""
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
