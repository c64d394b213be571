"""The parameters of Hugging Face checkpoints, read and written."""

import codecs
import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cot_latent.errors import UserError
from cot_latent.models import lora, partitioning
from cot_latent.models.api import Params
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import fields as hf_fields
from cot_latent.models.hf import files as hf_files
from cot_latent.models.hf import gguf_files, gguf_folder
from cot_latent.models.hf.families import (
  Config,
  Family,
  Path,
  is_kernel,
  tensor_shape,
  to_tensor,
)
from cot_latent.models.stops import Ending

_MAX_FILE_BYTES = 5 * 10**9

StoredType = Literal["float32", "bfloat16", "float16"]

# Beside config.json and the weights; those that exist are copied.
_COPIED = (
  "generation_config.json",
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "spiece.model",
  "chat_template.jinja",
  "chat_template.json",
  "LICENSE",
  "LICENSE.txt",
  "NOTICE",
)


def load(
  folder: str | pathlib.Path,
  config: Config,
  vocab_size: int,
  layout: partitioning.Layout | None = None,
) -> Params:
  """Reads a checkpoint's parameters; each device reads only its part.

  Args:
    folder: The checkpoint's folder, or a GGUF file.
    config: Result of `read_config`.
    vocab_size: Result of `vocab_size`.
    layout: Placement of the parameters; None is one device.

  Returns:
    Parameters of the model, without those of an update or soft prompt.

  Raises:
    UserError: If the files cannot be read, have other tensors than such a
      model, or have a number that is not finite.
  """
  folder = pathlib.Path(folder)
  _, family = hf_config.open_family(folder)
  network = family.network_class(
    config, vocab_size, Ending((1,)), 1, layout=layout
  )
  boxed = jax.eval_shape(network.init, jax.random.key(0))
  shapes = nn.unbox(boxed)
  tensors = _tensors(folder, family)
  stored = _tensor_shapes(family, config, shapes)
  for copy, original in family.copies.items():
    if copy not in stored and copy in tensors and original in tensors:
      if not hf_files.is_same(tensors[copy], tensors[original]):
        raise UserError(
          f"{folder}: {copy} is not the copy of {original} that it should be "
          f"(in {hf_fields.FILE}, tie_word_embeddings = false reads both where "
          "the model has both)"
        )
      del tensors[copy]
  hf_files.check(folder, tensors, stored)
  shardings = None
  if layout is not None:
    shardings = dict(_leaves(partitioning.param_shardings(layout, boxed)))

  def one(key_path, leaf):
    path = _path(key_path)
    sharding = shardings[path] if shardings else None
    name = family.name(path, config)
    array = _load_one(path, leaf, tensors[name], sharding)
    # Waits, because data would pile up before the devices have transposed it.
    if not _is_finite(array):
      raise UserError(
        f"{folder}: the tensor {name} has an infinite or undefined number "
        "(NaN): download the checkpoint again, or use another one"
      )
    return array

  return jax.tree_util.tree_map_with_path(one, shapes)


def save(
  folder: str | pathlib.Path,
  params: Params,
  source: str | pathlib.Path,
  dtype: StoredType | None = None,
  max_file_bytes: int = _MAX_FILE_BYTES,
) -> None:
  """Writes parameters as a checkpoint that `transformers` loads.

  On several processes all of them must call this, and the first one writes.

  Args:
    folder: Path of the folder to write; it appears once all is written.
    params: Parameters of the model, with updates merged.
    source: The initial checkpoint, a folder or GGUF file, whose config.json and
      tokenizer are copied.
    dtype: Type of the tensors; None keeps each tensor's type in the source.
    max_file_bytes: Largest size of a file, unless a single tensor is larger.

  Raises:
    UserError: If the folder exists, or if parameters differ from those of the
      source.
  """
  folder, source = pathlib.Path(folder), pathlib.Path(source)
  if folder.exists():
    raise UserError(f"{folder} exists already: name another folder")
  fields, family = hf_config.open_family(source)
  config, tensors = hf_config.config_of(source), _tensors(source, family)
  leaves = {
    _name(family, path, config): (path, x) for path, x in _leaves(params)
  }
  for copy in family.copies:
    if copy not in leaves:
      tensors.pop(copy, None)
  hf_files.check(
    source,
    tensors,
    {name: tensor_shape(path, x.shape) for name, (path, x) in leaves.items()},
  )
  known = dict(hf_files.DTYPES.values())
  types = {
    name: known[dtype] if dtype else _dtype(tensors[name]) for name in leaves
  }
  sizes = {n: x.size * types[n].itemsize for n, (_, x) in leaves.items()}

  def make_tensor(name):
    path, array = leaves[name]
    return to_tensor(path, partitioning.to_host(array)).astype(types[name])

  multihost_utils.sync_global_devices("export")  # all have looked, none wrote
  if jax.process_index():
    hf_files.write_tensors(None, sizes, make_tensor, max_file_bytes)
    return
  with hf_files.new_folder(folder) as partial:
    hf_files.write_tensors(partial, sizes, make_tensor, max_file_bytes)
    if gguf_files.is_gguf(source):
      gguf_folder.write_beside(source, partial)
    for name in (hf_fields.FILE, *_COPIED):
      if (source / name).is_file():
        # Without a byte order mark, which transformers does not read.
        content = (source / name).read_bytes()
        (partial / name).write_bytes(content.removeprefix(codecs.BOM_UTF8))
    if dtype:
      settings = {k: v for k, v in fields.values.items() if k != "torch_dtype"}
      text = json.dumps(settings | {"dtype": dtype}, indent=2) + "\n"
      (partial / hf_fields.FILE).write_text(text, encoding="utf-8")


def convert(path: str | pathlib.Path, folder: str | pathlib.Path) -> None:
  """Writes a GGUF file as the folder of a Hugging Face checkpoint.

  Quantized numbers become float32, without loss.

  Args:
    path: Path of the GGUF file.
    folder: Path of the folder to write; it appears once all is written.

  Raises:
    UserError: If the folder exists, or if the file cannot be used.
  """
  path, folder = pathlib.Path(path), pathlib.Path(folder)
  if not gguf_files.is_gguf(path):
    raise UserError(f"{path}: give a file that ends in {gguf_files.SUFFIX}")
  if folder.exists():
    raise UserError(f"{folder} exists already: name another folder")
  config, size = hf_config.read_config(path), hf_config.vocab_size(path)
  _, family = hf_config.open_family(path)
  tensors = _tensors(path, family)
  network = family.network_class(config, size, Ending((1,)), 1)
  shapes = nn.unbox(jax.eval_shape(network.init, jax.random.key(0)))
  hf_files.check(path, tensors, _tensor_shapes(family, config, shapes))
  sizes = {
    name: math.prod(tensor.get_shape()) * _dtype(tensor).itemsize
    for name, tensor in tensors.items()
  }
  with hf_files.new_folder(folder) as partial:
    gguf_folder.write_beside(path, partial)
    hf_files.write_tensors(
      partial, sizes, lambda name: tensors[name][:], _MAX_FILE_BYTES
    )


def exchange(params: Params, one: int, other: int) -> Params:
  """Swaps two tokens of a model; its own inverse.

  Padding is 0 in this project, whatever it is in a checkpoint.

  Args:
    params: Parameters of the model; changed arrays are copied.
    one: Id of a token.
    other: Id of another token, or the same.
  """
  if one == other:
    return params

  @functools.partial(jax.jit, static_argnames="axis")
  def swapped(array, axis):
    array = jnp.moveaxis(array, axis, 0)
    array = array.at[jnp.array([one, other])].set(
      array[jnp.array([other, one])]
    )
    return jnp.moveaxis(array, 0, axis)

  changed = {"embed": {"embedding": swapped(params["embed"]["embedding"], 0)}}
  if "unembedding" in params:
    changed["unembedding"] = swapped(params["unembedding"], 1)
  return {**params, **changed}


def _tensors(
  folder: pathlib.Path, family: Family
) -> dict[str, hf_files.Tensor]:
  tensors = hf_files.read_tensors(folder)
  if family.unused:
    tensors.pop(family.unused, None)
  return tensors


def _tensor_shapes(
  family: Family, config: Config, shapes: Any
) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a model's tensors, from its parameters' shapes."""
  return {
    family.name(path, config): tensor_shape(path, leaf.shape)
    for path, leaf in _leaves(shapes)
  }


def _path(key_path) -> Path:
  return tuple(str(getattr(key, "key", key)) for key in key_path)


def _leaves(tree: Any) -> list[tuple[Path, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [(_path(key_path), leaf) for key_path, leaf in leaves]


def _name(family: Family, path: Path, config: Config) -> str:
  try:
    return family.name(path, config)
  except KeyError:
    hint = " (merge the update first)" if lora.is_added(path[-1]) else ""
    raise UserError(
      f"the parameter {'/'.join(path)} has no place in a Hugging Face "
      f"checkpoint{hint}"
    ) from None


def _dtype(tensor: hf_files.Tensor) -> np.dtype:
  return hf_files.DTYPES[tensor.get_dtype()][1]


@jax.jit
def _is_finite(array):
  return jnp.isfinite(array).all()


def _load_one(
  path: Path, leaf: Any, tensor: hf_files.Tensor, sharding: Any
) -> jax.Array:
  """Reads one parameter; a part on several devices is read once."""
  if sharding is None:
    return _read(path, leaf, tensor, [(0, n) for n in leaf.shape], [None])[0]
  owners: dict[tuple, list[Any]] = {}
  places = sharding.addressable_devices_indices_map(leaf.shape)
  for device, index in places.items():
    pairs = zip(index, leaf.shape, strict=True)
    bounds = tuple(part.indices(size)[:2] for part, size in pairs)
    owners.setdefault(bounds, []).append(device)
  arrays = []
  for bounds, devices in owners.items():
    arrays += _read(path, leaf, tensor, bounds, devices)
  return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _read(
  path: Path,
  leaf: Any,
  tensor: hf_files.Tensor,
  bounds: Sequence[tuple[int, int]],
  devices: Sequence[Any],
) -> list[jax.Array]:
  """Reads the part of a parameter within these bounds onto devices."""
  is_transposed = is_kernel(path)
  if is_transposed or path[-1] == "bias":
    # The axes of the output are one there; all but the first are read whole.
    inputs, ((start, stop), *inner) = (
      bounds[:is_transposed],
      bounds[is_transposed:],
    )
    sizes = leaf.shape[is_transposed + 1 :]
    width = math.prod(sizes)
    stored = [(start * width, stop * width), *inputs]
    shape = (*(high - low for low, high in inputs), stop - start, *sizes)
  else:
    stored, inner = [*bounds], []
    shape = tuple(high - low for low, high in bounds)
  raw = tensor[tuple(slice(*ends) for ends in stored)]
  # Transposed and converted on the device, which is faster.
  return [
    _transpose(
      jax.device_put(raw, d), shape, tuple(inner), leaf.dtype, is_transposed
    )
    for d in devices
  ]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _transpose(raw, shape, inner, dtype, is_transposed):
  """Makes a part of a parameter from that of a tensor."""
  array = (raw.T if is_transposed else raw).astype(dtype).reshape(shape)
  return array[(..., *(slice(*ends) for ends in inner))]
