"""The tensors of a Hugging Face checkpoint, in safetensors files.

Pickled files (.bin) are never opened: reading a pickle can run code.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from cot_latent.errors import UserError
from cot_latent.models.hf import fields as hf_fields
from cot_latent.models.hf import gguf_files
from cot_latent.runtime import text_files

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# safetensors' names of the supported types, and config.json's.
DTYPES = {
  "BF16": ("bfloat16", np.dtype(jnp.bfloat16)),
  "F16": ("float16", np.dtype(np.float16)),
  "F32": ("float32", np.dtype(np.float32)),
}

# Has safetensors' methods: get_shape(), get_dtype(), and [slices] -> an array.
Tensor = Any
Shapes = Mapping[str, tuple[int, ...]]


def read_tensors(folder: pathlib.Path) -> dict[str, Tensor]:
  """Opens a checkpoint's files.

  Args:
    folder: The checkpoint's folder, or a GGUF file.

  Returns:
    Its tensors by name. Their numbers stay in the files until they are needed.

  Raises:
    UserError: If there are none, or if one of the index is missing.
  """
  if gguf_files.is_gguf(folder):
    return gguf_files.read_tensors(folder)
  places = _places(folder)
  tensors: dict[str, Tensor] = {}
  for name in sorted({*places.values()} or {FILE}):
    path = folder / name
    if path.exists() and not path.is_file():
      what = "a folder" if path.is_dir() else "a pipe or a device"
      raise UserError(f"{path} is {what}, not a safetensors file")
    try:
      file = safetensors.safe_open(path, framework="np")
      names = [*file.keys()]
    except FileNotFoundError:
      raise UserError(f"{folder} lacks {name}: download it again") from None
    except (OSError, safetensors.SafetensorError) as error:
      raise UserError(
        f"{path} is not a safetensors file, or is incomplete ({error}): "
        "download it again"
      ) from None
    for key in names:
      if places.setdefault(key, name) == name:
        tensors[key] = file.get_slice(key)
  for key, name in places.items():
    if key not in tensors:
      raise UserError(f"{folder / name} lacks {key}, which {INDEX} lists")
    if (dtype := tensors[key].get_dtype()) not in DTYPES:
      raise UserError(
        f"{folder / name}: {key} is {dtype}; only {', '.join(DTYPES)} are "
        "supported, so use a checkpoint that is not quantized"
      )
  return tensors


def check(
  folder: pathlib.Path, tensors: Mapping[str, Tensor], shapes: Shapes
) -> None:
  """Checks that a checkpoint has exactly the tensors that a model needs.

  Raises:
    UserError: If a tensor is missing, unexpected or of another shape; names it.
  """
  if missing := [name for name in shapes if name not in tensors]:
    raise UserError(
      f"{folder} lacks the tensor {_some(missing)}, which a model of its "
      f"{hf_fields.FILE} has"
    )
  if unexpected := [name for name in tensors if name not in shapes]:
    raise UserError(
      f"{folder} has the tensor {_some(unexpected)}, which a model of its "
      f"{hf_fields.FILE} lacks"
    )
  for name, shape in shapes.items():
    if (found := tuple(tensors[name].get_shape())) != shape:
      raise UserError(
        f"{folder}: the tensor {name} is {found}, but should be {shape} by "
        f"its {hf_fields.FILE}"
      )


def is_same(one: Tensor, other: Tensor, rows: int = 4096) -> bool:
  """Whether two tensors are equal, compared some rows at a time."""
  shape = one.get_shape()
  if shape != other.get_shape():
    return False
  for start in range(0, shape[0], rows):
    part = slice(start, min(start + rows, shape[0]))
    if not np.array_equal(one[part], other[part]):
      return False
  return True


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder to write to, which gets its name once all is written."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
  )
  try:
    yield partial
    partial.chmod(0o755)
    partial.rename(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def write_tensors(
  folder: pathlib.Path | None,
  sizes: Mapping[str, int],
  make: Callable[[str], np.ndarray],
  max_file_bytes: int,
) -> None:
  """Writes a checkpoint's tensors, and an index if they need several files.

  Args:
    folder: Folder to write to; None makes the tensors, as every process must,
      but writes nothing.
    sizes: Bytes of each tensor.
    make: Returns a tensor when it is due.
    max_file_bytes: Largest size of a file, unless a single tensor is larger.
  """
  groups = _groups(sizes, max_file_bytes)
  places = {}
  for number, group in enumerate(groups, 1):
    name = FILE
    if len(groups) > 1:
      name = f"model-{number:05}-of-{len(groups):05}.safetensors"
    arrays = {}
    for key in group:
      places[key] = name
      array = make(key)
      if folder is not None:
        # The library writes memory in the order that it has.
        arrays[key] = np.ascontiguousarray(array)
    if folder is not None:
      # Without this mark transformers would not know the layout.
      safetensors.numpy.save_file(
        arrays, folder / name, metadata={"format": "pt"}
      )
  if folder is not None and len(groups) > 1:
    index = {
      "metadata": {"total_size": sum(sizes.values())},
      "weight_map": places,
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")


def _places(folder: pathlib.Path) -> dict[str, str]:
  """Returns the file of each tensor from the index; empty without an index."""
  path = folder / INDEX
  if (folder / FILE).exists():
    return {}
  if not path.exists():
    hint = "it holds no checkpoint"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
      hint = (
        "pickled weights (.bin, .pt) can run code and are not read: use a "
        "checkpoint with safetensors"
      )
    raise UserError(f"{folder} has neither {FILE} nor {INDEX}: {hint}")
  places = text_files.read_object(path).get("weight_map")
  if not isinstance(places, dict) or not places:
    raise UserError(f"{path} has no weight_map: download it again")
  for key, name in places.items():
    if not name:
      raise UserError(f"{path} names no file for {key:.80}: download it again")
    if not _is_file_name(name):
      raise UserError(f"{path} names {name!r:.80}, which is not in its folder")
  return places


def _is_file_name(name: Any) -> bool:
  """Whether it is the name of a file, and not the path of another place."""
  return (
    isinstance(name, str)
    and pathlib.PurePath(name).name == name
    and name not in ("", ".", "..")
    and "\0" not in name
    and name.isprintable()
  )


def _groups(sizes: Mapping[str, int], most: int) -> list[list[str]]:
  """Groups tensors into files, in order."""
  groups: list[list[str]] = []
  left = 0
  for name, size in sizes.items():
    if not groups or size > left:
      groups.append([])
      left = most
    groups[-1].append(name)
    left -= size
  return groups


def _some(names: Sequence[str]) -> str:
  more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
  return f"{names[0]}{more}"
