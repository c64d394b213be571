"""T5's checkpoints in the format of transformers: names, shapes, options.

What is said of T5 comes first, as plain data and pure functions; the reading
and writing of folders behind it knows nothing of T5 but these.

Symbols: V vocabulary, as many rows as the checkpoint's embedding has.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cot_latent.errors import UserError
from cot_latent.models.network import PAD_ID, Params
from cot_latent.models.t5 import T5Config

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"

_SHARED, _UNEMBEDDING = "shared.weight", "lm_head.weight"
# Copies of the embedding, and one that the first T5 had and never used.
IGNORED = re.compile(
  r"(encoder|decoder)\.embed_tokens\.weight"
  r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias"
  r"\.weight"
)

# Our fields by the names of config.json; None must be there.
_FIELDS: dict[str, tuple[str, Any]] = {
  "num_encoder_layers": ("num_layers", None),
  "embed_dim": ("d_model", None),
  "num_heads": ("num_heads", None),
  "head_dim": ("d_kv", None),
  "mlp_dim": ("d_ff", None),
  "num_buckets": ("relative_attention_num_buckets", 32),
  "max_distance": ("relative_attention_max_distance", 128),
  "norm_eps": ("layer_norm_epsilon", 1e-6),
}
# Our activation: feed_forward_proj, dense_act_fn, is_gated_act.
_ACTIVATIONS = {
  "gelu_tanh": ("gated-gelu", "gelu_new", True),
  "relu": ("relu", "relu", False),
}
_DEFAULT_ACTIVATION = {"t5": "relu", "mt5": "gated-gelu"}
# Options that have one value here, where they are set.
_FIXED: dict[str, Any] = {
  "is_encoder_decoder": True,
  "pad_token_id": PAD_ID,
  "decoder_start_token_id": PAD_ID,
  "quantization_config": None,
}
# How a run computes, of which a checkpoint says nothing.
_OWN = ("dtype", "param_dtype", "remat")


class Tensor(NamedTuple):
  """One tensor of a checkpoint, and the parameter that it is.

  Attributes:
    name: in the checkpoint.
    path: of the parameter.
    shape: of the parameter.
    is_transposed: the checkpoint has [all other axes, first axis].
  """

  name: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  is_transposed: bool = False

  @property
  def their_shape(self) -> tuple[int, ...]:
    """Its shape in the checkpoint."""
    if not self.is_transposed:
      return self.shape
    return math.prod(self.shape[1:]), self.shape[0]

  def to_ours(self, array: np.ndarray) -> np.ndarray:
    """The parameter, from the tensor."""
    return array.T.reshape(self.shape) if self.is_transposed else array

  def to_theirs(self, array: np.ndarray) -> np.ndarray:
    """The tensor, from the parameter."""
    if not self.is_transposed:
      return array
    return array.reshape(self.shape[0], -1).T


def tensors(config: T5Config, vocab_size: int) -> list[Tensor]:
  """The tensors that a checkpoint of this configuration has."""
  embed, mlp = config.embed_dim, config.mlp_dim
  heads = (config.num_heads, config.head_dim)
  attention = {
    "q": ("query", (embed, *heads)),
    "k": ("key", (embed, *heads)),
    "v": ("value", (embed, *heads)),
    "o": ("output", (math.prod(heads), embed)),
  }
  feed_forward = {
    "wi_0": ("gate", (embed, mlp)),
    "wi_1": ("up", (embed, mlp)),
    "wo": ("down", (mlp, embed)),
  }
  if config.activation == "relu":
    feed_forward = {"wi": ("up", (embed, mlp)), "wo": feed_forward["wo"]}
  stacks: dict[str, tuple[int, list[tuple[str, str, dict]]]] = {
    "encoder": (
      config.num_encoder_layers,
      [
        ("SelfAttention", "attention", attention),
        ("DenseReluDense", "mlp", feed_forward),
      ],
    ),
    "decoder": (
      config.num_decoder_layers,
      [
        ("SelfAttention", "attention", attention),
        ("EncDecAttention", "cross_attention", attention),
        ("DenseReluDense", "mlp", feed_forward),
      ],
    ),
  }
  table = [Tensor(_SHARED, ("embed", "embedding"), (vocab_size, embed))]
  if not config.tie_embeddings:
    shape = (embed, vocab_size)
    table.append(Tensor(_UNEMBEDDING, ("unembedding",), shape, True))
  for stack, (number, parts) in stacks.items():
    table += [
      Tensor(
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        (stack, "relative_bias"),
        (config.num_buckets, config.num_heads),
      ),
      Tensor(
        f"{stack}.final_layer_norm.weight",
        (stack, "final_norm", "scale"),
        (embed,),
      ),
    ]
    for layer in range(number):
      for place, (their_part, part, kernels) in enumerate(parts):
        theirs = f"{stack}.block.{layer}.layer.{place}"
        path = (stack, f"layer_{layer}", part)
        table.append(
          Tensor(
            f"{theirs}.layer_norm.weight", (*path, "norm", "scale"), (embed,)
          )
        )
        table += [
          Tensor(
            f"{theirs}.{their_part}.{name}.weight",
            (*path, ours, "kernel"),
            shape,
            True,
          )
          for name, (ours, shape) in kernels.items()
        ]
  return table


def config_from_json(
  options: Mapping[str, Any], is_tied: bool
) -> dict[str, Any]:
  """Reads what T5Config is made of from a checkpoint's config.json.

  Args:
    options: of config.json.
    is_tied: the checkpoint has no output layer of its own. Its options do not
      tell: transformers 5 writes that all models are tied.

  Returns:
    Fields of T5Config.

  Raises:
    UserError: naming an option that is not supported or not there.
  """
  kind = options.get("model_type")
  if kind not in _DEFAULT_ACTIVATION:
    raise UserError(
      f"model_type = {kind!r} is not supported: it must be 't5' or 'mt5'"
    )
  for name, value in _FIXED.items():
    if options.get(name, value) != value:
      raise UserError(
        f"{name} = {options[name]!r:.60} is not supported: it must be {value!r}"
      )
  fields: dict[str, Any] = {}
  for ours, (theirs, default) in _FIELDS.items():
    fields[ours] = options.get(theirs, default)
    if fields[ours] is None:
      raise UserError(f"{theirs} is missing")
  fields["norm_eps"] = float(fields["norm_eps"])
  number = options.get("num_decoder_layers")
  fields["num_decoder_layers"] = number or fields["num_encoder_layers"]
  forward = options.get("feed_forward_proj", _DEFAULT_ACTIVATION[kind])
  for ours, (theirs, function, is_gated) in _ACTIVATIONS.items():
    if forward == theirs:
      fields["activation"] = ours
      derived = {"dense_act_fn": function, "is_gated_act": is_gated}
  if "activation" not in fields:
    raise UserError(
      f"feed_forward_proj = {forward!r} is not supported: it must be "
      "'gated-gelu' or 'relu'"
    )
  for name, value in derived.items():
    if options.get(name, value) != value:
      raise UserError(
        f"{name} = {options[name]!r} is not supported with feed_forward_proj = "
        f"{forward!r}"
      )
  # Version 5 of transformers writes the one, earlier ones mean it by the other.
  is_scaled = options.get(
    "scale_decoder_outputs", options.get("tie_word_embeddings", True)
  )
  return fields | {
    "tie_embeddings": is_tied,
    "scale_outputs": kind == "t5" and is_scaled,
  }


def config_to_json(
  config: T5Config, vocab_size: int, eos_id: int
) -> dict[str, Any]:
  """Writes a configuration as transformers reads it."""
  forward, function, is_gated = _ACTIVATIONS[config.activation]
  named = {
    theirs: getattr(config, ours) for ours, (theirs, _) in _FIELDS.items()
  }
  return named | {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "num_decoder_layers": config.num_decoder_layers,
    "feed_forward_proj": forward,
    "dense_act_fn": function,
    "is_gated_act": is_gated,
    "tie_word_embeddings": config.tie_embeddings,
    "scale_decoder_outputs": config.scale_outputs,
    "is_encoder_decoder": True,
    "vocab_size": vocab_size,
    "pad_token_id": PAD_ID,
    "decoder_start_token_id": PAD_ID,
    "eos_token_id": eos_id,
    "dtype": config.param_dtype,
    "torch_dtype": config.param_dtype,  # its name before version 5
  }


class Checkpoint(NamedTuple):
  """A folder that has been looked into.

  Attributes:
    folder: where it lies.
    options: of config.json.
    files: a tensor's name -> the file that has it.
  """

  folder: pathlib.Path
  options: Mapping[str, Any]
  files: Mapping[str, pathlib.Path]


def find(folder: str | pathlib.Path) -> Checkpoint:
  """Looks into a folder; reads no weights.

  Raises:
    UserError: if it is no checkpoint in safetensors.
  """
  folder = pathlib.Path(folder)
  options = _read_json(folder / _CONFIG)
  if (folder / _INDEX).exists():
    names = _read_json(folder / _INDEX).get("weight_map", {})
    files = {name: folder / file for name, file in names.items()}
  elif (folder / _WEIGHTS).exists():
    with _opened(folder / _WEIGHTS) as file:
      files = dict.fromkeys(file.keys(), folder / _WEIGHTS)
  else:
    raise UserError(
      f"{folder} has no {_WEIGHTS}: load it with transformers and write it "
      "with save_pretrained"
    )
  return Checkpoint(folder, options, files)


def read_config(checkpoint: Checkpoint, **own: Any) -> T5Config:
  """The configuration of a checkpoint.

  Args:
    checkpoint: what `find` gives.
    **own: dtype, param_dtype and remat, which it does not say.

  Raises:
    UserError: naming the folder and an option that is not supported.
  """
  is_tied = _UNEMBEDDING not in checkpoint.files
  try:
    fields = config_from_json(checkpoint.options, is_tied)
    return T5Config(**fields, **own)
  except UserError as error:
    raise UserError(f"{checkpoint.folder / _CONFIG}: {error}") from error


def checked_config(folder: str, expected: T5Config) -> T5Config:
  """The configuration that is expected of a folder's checkpoint.

  Args:
    folder: of config.json and safetensors.
    expected: what the checkpoint should have; dtype, param_dtype and remat are
      not its affair.

  Raises:
    UserError: if there is none, or another one.
  """
  own = {name: getattr(expected, name) for name in _OWN}
  found = read_config(find(folder), **own)
  for field in dataclasses.fields(T5Config):
    wanted, value = getattr(expected, field.name), getattr(found, field.name)
    if value != wanted:
      raise UserError(
        f"{folder} is another model's checkpoint: its {field.name} is "
        f"{value!r} and not {wanted!r}"
      )
  return found


def vocab_size_of(checkpoint: Checkpoint) -> int:
  """V, which may be more than the tokenizer has.

  Raises:
    UserError: if there is no embedding.
  """
  _check_names(checkpoint, [_SHARED])
  with _opened(checkpoint.files[_SHARED]) as file:
    return file.get_slice(_SHARED).get_shape()[0]


def read_params(
  checkpoint: Checkpoint, table: Sequence[Tensor], dtype: str
) -> Params:
  """Reads a checkpoint's weights, tensor by tensor.

  Args:
    checkpoint: what `find` gives.
    table: the tensors that it should have.
    dtype: of the parameters.

  Returns:
    Nested dicts of numpy arrays.

  Raises:
    UserError: if a tensor is missing, has another shape or is not known.
  """
  _check_names(checkpoint, [tensor.name for tensor in table])
  known = {tensor.name for tensor in table}
  for name in checkpoint.files:
    if name not in known and not IGNORED.fullmatch(name):
      raise UserError(f"{checkpoint.folder}: nothing here has a tensor {name}")
  params: dict[str, Any] = {}
  by_file: dict[pathlib.Path, list[Tensor]] = {}
  for tensor in table:
    by_file.setdefault(checkpoint.files[tensor.name], []).append(tensor)
  for path, inside in by_file.items():
    with _opened(path) as file:
      for tensor in inside:
        try:
          array = file.get_tensor(tensor.name)
        except SafetensorError as error:
          raise UserError(f"{path}: {error}") from error
        if array.shape != tensor.their_shape:
          raise UserError(
            f"{path}: {tensor.name} has the shape {[*array.shape]} and not "
            f"{[*tensor.their_shape]}"
          )
        *outer, last = tensor.path
        place = params
        for name in outer:
          place = place.setdefault(name, {})
        place[last] = tensor.to_ours(array).astype(jnp.dtype(dtype), copy=False)
  return params


def write(
  folder: str | pathlib.Path,
  options: Mapping[str, Any],
  table: Sequence[Tensor],
  params: Params,
) -> None:
  """Writes a folder that transformers loads.

  Args:
    folder: is made where it is not there.
    options: of config.json.
    table: the tensors to write.
    params: as they are kept; no soft prompt, and LoRA is merged.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  arrays = {}
  for tensor in table:
    array = params
    for name in tensor.path:
      array = array[name]
    # The format wants rows one behind the other.
    arrays[tensor.name] = np.ascontiguousarray(
      tensor.to_theirs(np.asarray(array))
    )
  save_file(arrays, folder / _WEIGHTS, metadata={"format": "pt"})
  text = json.dumps(options, indent=2, sort_keys=True)
  (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")


def _check_names(checkpoint: Checkpoint, names: Sequence[str]) -> None:
  for name in names:
    if name not in checkpoint.files:
      raise UserError(f"{checkpoint.folder}: the tensor {name} is missing")


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


def _opened(path: pathlib.Path) -> Any:
  try:
    return safe_open(path, framework="numpy")
  except (OSError, SafetensorError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error
