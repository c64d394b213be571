"""The config.json that is equivalent to a GGUF file's settings."""

import pathlib
from collections.abc import Callable, Collection
from typing import Any

import gguf
import numpy as np

from cot_latent.models.hf import gguf_files
from cot_latent.models.hf.fields import Fields
from cot_latent.models.hf.gguf_files import ROPE_FACTORS, File

_HEADS = "attention.head_count"
# Llama 3 scales positions by these; a file has the resulting factors.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192
# Numbers of layers that distinguish Gemma's 27B from its smaller models.
_GEMMA_27B = {"gemma2": 46, "gemma3_text": 62}


def read_fields(path: pathlib.Path, ignore: Collection[str] = ()) -> Fields:
  """Reads a file's settings as those of a config.json.

  Args:
    path: The file.
    ignore: Names of the file's settings, without the architecture's prefix,
      that are skipped.

  Returns:
    The settings, with a problem for each that is not supported.

  Raises:
    UserError: If the file cannot be read.
  """
  file = gguf_files.open_file(path)
  fields = Fields(file.metadata, str(path), ignore=ignore)
  config = _sizes(file, fields) | _OWN[file.architecture.model_type](fields)
  if scaling := _scaling(file, fields, config):
    config["rope_scaling"] = scaling
  fields.note_unknown()
  return Fields(
    config,
    str(path),
    problems=fields.problems,
    ignore=ignore,
    ignored=fields.ignored,
  )


def _sizes(file: File, fields: Fields) -> dict[str, Any]:
  """Reads the settings of all architectures."""
  fields.asked.update(("vocab_size", "context_length"))
  width, heads = fields.size("embedding_length"), fields.size(_HEADS)
  head_dim = fields.size("attention.key_length", max(width // heads, 1))
  for name in ("attention.value_length", "rope.dimension_count"):
    fields.choice(name, {head_dim: None}, head_dim)
  config = {
    "model_type": file.architecture.model_type,
    "vocab_size": _num_rows(file, fields),
    "hidden_size": width,
    "intermediate_size": fields.size("feed_forward_length"),
    "num_hidden_layers": _num_layers(file, fields),
    "num_attention_heads": heads,
    "num_key_value_heads": fields.size("attention.head_count_kv", heads),
    "head_dim": head_dim,
    "rms_norm_eps": _decimal(fields.number("attention.layer_norm_rms_epsilon")),
    "max_position_embeddings": file.metadata.get("context_length"),
    "tie_word_embeddings": "output.weight" not in file.stored,
    "dtype": "float32",
  }
  for name, key in (
    ("bos_token_id", gguf.Keys.Tokenizer.BOS_ID),
    ("eos_token_id", gguf.Keys.Tokenizer.EOS_ID),
    ("pad_token_id", gguf.Keys.Tokenizer.PAD_ID),
  ):
    config[name] = file.read(key)
  return {name: value for name, value in config.items() if value is not None}


def _num_rows(file: File, fields: Fields) -> int | None:
  """Returns the number of rows of the embedding; a tokenizer alone has none."""
  name = "token_embd.weight"
  if name not in file.stored:
    fields.problems.append(f"{fields.place} lacks the tensor {name}")
    return None
  shape = file.stored[name].shape.tolist()
  if len(shape) != 2 or not all(shape):
    fields.problems.append(
      f"{fields.place}: the tensor {name} is {shape}, not a matrix"
    )
    return None
  return shape[1]


def _num_layers(file: File, fields: Fields) -> int:
  """Returns the number of layers, which must be that of their tensors."""
  parts = [name.split(".") for name in file.stored]
  found = len({part[1] for part in parts if part[0] == "blk" and part[1:]})
  return fields.get(
    "block_count",
    f"{found}, the number of layers that have tensors",
    lambda x: type(x) is int and x == found > 0,
    placeholder=max(found, 1),
  )


def _llama(fields: Fields) -> dict[str, Any]:
  theta = _decimal(fields.number("rope.freq_base", 10_000.0))
  return {"hidden_act": "silu", "rope_theta": theta}


def _gemma2(fields: Fields) -> dict[str, Any]:
  return _gemma("gemma2", fields) | {
    "rope_theta": _decimal(fields.number("rope.freq_base", 10_000.0)),
    "attn_logit_softcapping": fields.number("attn_logit_softcapping"),
    "final_logit_softcapping": fields.number("final_logit_softcapping"),
  }


def _gemma3(fields: Fields) -> dict[str, Any]:
  return _gemma("gemma3_text", fields) | {
    "rope_theta": _decimal(fields.number("rope.freq_base", 1_000_000.0)),
    "rope_local_base_freq": _decimal(
      fields.number("rope.freq_base_swa", 10_000.0)
    ),
    "sliding_window_pattern": fields.size(
      "attention.sliding_window_pattern", 6
    ),
    "attn_logit_softcapping": fields.number("attn_logit_softcapping", None),
    "final_logit_softcapping": fields.number("final_logit_softcapping", None),
  }


_OWN: dict[str, Callable[[Fields], dict[str, Any]]] = {
  "llama": _llama,
  "qwen2": _llama,
  "qwen3": _llama,
  "gemma2": _gemma2,
  "gemma3_text": _gemma3,
}


def _gemma(model_type: str, fields: Fields) -> dict[str, Any]:
  width, heads = fields.size("embedding_length"), fields.size(_HEADS)
  scale = fields.size("attention.key_length", max(width // heads, 1))
  if fields.size("block_count") == _GEMMA_27B[model_type]:
    scale = width // heads
  return {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": scale,
    "sliding_window": fields.size("attention.sliding_window"),
  }


def _scaling(
  file: File, fields: Fields, config: dict[str, Any]
) -> dict[str, Any] | None:
  """Reads the scaling of rotary positions.

  A factor without a type is linear, as llama.cpp takes it.
  """
  kind = fields.choice(
    "rope.scaling.type", {"none": None, "linear": "linear"}, "linear"
  )
  factor = fields.number("rope.scaling.factor", None)
  if kind and factor:
    return {"rope_type": kind, "factor": factor}
  if ROPE_FACTORS not in file.stored or fields.problems:
    return None
  found = np.asarray(file.stored[ROPE_FACTORS].data, np.float64)
  size, base = config["head_dim"], config["rope_theta"]
  factor = _decimal(found.max(initial=1.0))
  if not _is_llama3(found, size, base, factor):
    fields.problems.append(
      f"{fields.place}: {ROPE_FACTORS} scales positions in another way than "
      "Llama 3 does"
    )
  return {
    "rope_type": "llama3",
    "factor": factor,
    "low_freq_factor": _LOW,
    "high_freq_factor": _HIGH,
    "original_max_position_embeddings": _ORIGINAL,
  }


def _is_llama3(
  found: np.ndarray, size: int, base: float, factor: float
) -> bool:
  """Whether factors of positions are those of Llama 3."""
  if found.shape != (len(range(0, size, 2)),):
    return False
  with np.errstate(all="ignore"):
    wavelengths = 2 * np.pi * base ** (np.arange(0, size, 2) / size)
    share = (_ORIGINAL / wavelengths - _LOW) / (_HIGH - _LOW)
    share = np.clip(share, 0.0, 1.0)
    return np.allclose(found, 1 / ((1 - share) / factor + share), 1e-4)


def _decimal(number: float) -> float:
  """Returns the shortest decimal number with the same float32 value."""
  with np.errstate(over="ignore"):  # infinity is refused later
    return float(str(np.float32(number)))
