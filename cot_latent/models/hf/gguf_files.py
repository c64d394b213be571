"""Checkpoints in one file, in llama.cpp's format GGUF.

A file's content is translated to that of a Hugging Face checkpoint: its
config.json, and its tensors under the names of `transformers`. So everything
else reads it like a folder. Quantized numbers are converted when they are
needed.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gguf
import jax.numpy as jnp
import numpy as np

from cot_latent.errors import UserError
from cot_latent.models.hf import packaged

SUFFIX = ".gguf"

_BLOCK = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k": "self_attn.k_proj",
  "attn_k_norm": "self_attn.k_norm",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "ffn_norm": "post_attention_layernorm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
_GEMMA_BLOCK = _BLOCK | {
  "post_attention_norm": "post_attention_layernorm",
  "ffn_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}
_WHOLE = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
# Sizes of the scaling factors of rotary positions, where a config has four
# numbers.
ROPE_FACTORS = "rope_freqs.weight"
# Types that need no conversion; all other types become float32.
_TYPES = {"F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}


class Architecture(NamedTuple):
  """How files of one `general.architecture` differ.

  Attributes:
    model_type: The name in config.json.
    block: Names of a layer's tensors.
    norm_offset: Number that llama.cpp has added to the scales of norms.
    is_permuted: Whether the rows of queries' and keys' heads are stored as
      pairs that are rotated together, and not as two halves.
  """

  model_type: str
  block: Mapping[str, str]
  norm_offset: float = 0.0
  is_permuted: bool = False


ARCHITECTURES = {
  "llama": Architecture("llama", _BLOCK, is_permuted=True),
  "qwen2": Architecture("qwen2", _BLOCK),
  "qwen3": Architecture("qwen3", _BLOCK),
  "gemma2": Architecture("gemma2", _GEMMA_BLOCK, 1.0),
  "gemma3": Architecture("gemma3_text", _GEMMA_BLOCK, 1.0),
}


class File(NamedTuple):
  """An opened file.

  Attributes:
    path: Path of the file.
    architecture: Architecture of its model.
    metadata: Its settings by name, without arrays of tokens.
    read: The name of a setting -> its value; None if there is none.
    stored: Its tensors by the file's names.
  """

  path: pathlib.Path
  architecture: Architecture
  metadata: Mapping[str, Any]
  read: Callable[[str], Any]
  stored: Mapping[str, gguf.ReaderTensor]


def is_gguf(path: pathlib.Path) -> bool:
  """Whether a path is that of a GGUF file, by its name."""
  return path.suffix == SUFFIX


def open_file(path: pathlib.Path) -> File:
  """Opens a file, also one in a Python package (`packaged.locate`).

  Raises:
    UserError: If it cannot be read, is not a GGUF file, or holds an
      architecture that is not supported.
  """
  found = packaged.locate(path)
  try:
    return _open(found, found.stat().st_mtime_ns)
  except OSError as error:
    raise UserError(f"cannot read {path} ({error.strerror})") from None


@functools.lru_cache(maxsize=2)  # reading its vocabulary takes a second
def _open(path: pathlib.Path, changed_at: int) -> File:
  del changed_at
  try:
    with np.errstate(over="ignore"):
      reader = _Reader(path)
  except OSError:
    raise
  except Exception as error:  # the library trusts what it reads
    said = " ".join(str(error).split())
    raise UserError(
      f"{path} is not a GGUF file, or is incomplete ({said:.80}): download "
      "it again"
    ) from None

  def read(name: str) -> Any:
    field = reader.get_field(name)
    try:
      return None if field is None else field.contents()
    except UnicodeDecodeError as error:
      raise UserError(
        f"{path}: {name} is not UTF-8 ({error.reason}): download it again"
      ) from None

  name = read("general.architecture")
  if not isinstance(name, str) or name not in ARCHITECTURES:
    raise UserError(
      f"{path}: general.architecture = {name!r:.40} is not supported: expected "
      f"{' or '.join(ARCHITECTURES)}"
    )
  metadata = {
    key: read(key) for key in reader.fields if key.startswith(f"{name}.")
  }
  return File(
    path,
    ARCHITECTURES[name],
    {key.removeprefix(f"{name}."): value for key, value in metadata.items()},
    read,
    {tensor.name: tensor for tensor in reader.tensors},
  )


class _Reader(gguf.GGUFReader):
  """Reads a file; the library itself reads empty values after its end.

  So an array that claims too many values would be read forever.
  """

  def _get(self, offset, dtype, count=1, override_order=None):
    end = int(offset) + np.dtype(dtype).itemsize * int(count)
    if end > len(self.data):
      raise ValueError(f"it ends before byte {end:,}")
    return super()._get(offset, dtype, count, override_order)


class Tensor:
  """A tensor of a file, as in `transformers`, read when it is needed.

  It has safetensors' methods: get_shape(), get_dtype(), and [slices].
  """

  def __init__(
    self, stored: gguf.ReaderTensor, offset: float = 0.0, heads: int = 0
  ):
    """Wraps a stored tensor.

    Args:
      stored: The file's tensor.
      offset: Number subtracted from each value.
      heads: Number of heads whose rows are stored in pairs; 0 for none.
    """
    self._stored, self._offset, self._heads = stored, offset, heads

  def get_shape(self) -> list[int]:
    """Returns the shape, rows first."""
    return [int(size) for size in reversed(self._stored.shape)]

  def get_dtype(self) -> str:
    """Returns the type as safetensors names it; float32 if quantized."""
    name = self._stored.tensor_type.name
    return name if name in _TYPES else "F32"

  def __getitem__(self, index) -> np.ndarray:
    """Reads a part; rows are selected before numbers are converted.

    Raises:
      UserError: If the library cannot convert the numbers.
    """
    first, *others = index if isinstance(index, tuple) else (index,)
    data = self._stored.data[self._order()][first]
    kind = self._stored.tensor_type
    try:
      numbers = gguf.dequantize(np.ascontiguousarray(data), kind)
    except NotImplementedError:
      raise UserError(
        f"the tensor {self._stored.name} is {kind.name}, which the package "
        "gguf cannot read: use a file that is quantized in another way"
      ) from None
    part = numbers[(slice(None), *others)] - np.float32(self._offset)
    return part.astype(_TYPES.get(kind.name, np.float32))

  def _order(self):
    """Returns the row of the file for each row."""
    if not self._heads:
      return slice(None)
    rows = np.arange(self.get_shape()[0])
    # [heads, pairs, 2] there, and [heads, 2, pairs] here.
    return rows.reshape(self._heads, -1, 2).swapaxes(1, 2).reshape(-1)


def read_tensors(path: pathlib.Path) -> dict[str, Tensor]:
  """Returns the tensors of a file under the names of `transformers`.

  Raises:
    UserError: If the file cannot be read.
  """
  file = open_file(path)
  tensors = {}
  for name, stored in file.stored.items():
    if name == ROPE_FACTORS:
      continue
    theirs = _tensor_name(file.architecture, name)
    is_norm = "norm" in name
    tensors[theirs] = Tensor(
      stored,
      file.architecture.norm_offset if is_norm else 0.0,
      _num_heads(file, name) if file.architecture.is_permuted else 0,
    )
  return tensors


def _tensor_name(architecture: Architecture, name: str) -> str:
  """Returns the name in `transformers`; unknown tensors keep their name."""
  if name in _WHOLE:
    return _WHOLE[name]
  match name.split("."):
    case ["blk", number, module, leaf] if module in architecture.block:
      return f"model.layers.{number}.{architecture.block[module]}.{leaf}"
  return name


def _num_heads(file: File, name: str) -> int:
  """Returns the heads of queries or keys; 0 for any other tensor."""
  heads = file.metadata.get("attention.head_count", 0)
  if ".attn_k." in name:
    return file.metadata.get("attention.head_count_kv", heads)
  return heads if ".attn_q." in name else 0
