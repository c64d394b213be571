"""Hugging Face checkpoints, read and written.

A family of architectures is one entry of a table: how its config.json reads,
what builds its network, and what its tensors are called. A Linear's weight is
[out, in] there, and a kernel is [in, *out] here; all else is laid out alike.
"""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cot_latent.errors import UserError
from cot_latent.models import (
  causal,
  decoder,
  encoder_decoder,
  lora,
  partitioning,
  t5,
)
from cot_latent.models.api import Params
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import files as hf_files
from cot_latent.models.network import Network
from cot_latent.models.stops import Ending

_Path = tuple[str, ...]
StoredType = Literal["float32", "bfloat16", "float16"]
_Config = decoder.DecoderConfig | t5.T5Config

# Beside config.json and the weights; what is there of them is copied.
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

_BLOCK = {
  "attention_norm": "input_layernorm",
  "query": "self_attn.q_proj",
  "query_norm": "self_attn.q_norm",
  "key": "self_attn.k_proj",
  "key_norm": "self_attn.k_norm",
  "value": "self_attn.v_proj",
  "output": "self_attn.o_proj",
  "mlp_norm": "post_attention_layernorm",
  "gate": "mlp.gate_proj",
  "up": "mlp.up_proj",
  "down": "mlp.down_proj",
}
# The name that is the MLP's norm elsewhere is that of a norm behind attention.
_GEMMA_BLOCK = _BLOCK | {
  "post_attention_norm": "post_attention_layernorm",
  "mlp_norm": "pre_feedforward_layernorm",
  "post_mlp_norm": "post_feedforward_layernorm",
}

_T5_PARTS = {
  "encoder": ("attention", "mlp"),
  "decoder": ("attention", "cross_attention", "mlp"),
}
_T5_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
_T5_MODULES = {
  "attention": ("SelfAttention", _T5_ATTENTION),
  "cross_attention": ("EncDecAttention", _T5_ATTENTION),
  "mlp": ("DenseReluDense", {"gate": "wi_0", "up": "wi_1", "down": "wo"}),
}


class Family(NamedTuple):
  """How checkpoints of one model_type are read and written.

  Attributes:
    settings: config.json -> fields of the model's config.
    config_class: of the model's config.
    network_class: of its network.
    name: a parameter's path, of a model's config -> its tensor's name; KeyError
      if it has none.
    copies: tensor -> the one whose copy it may be, where a file has both.
    unused: a tensor that some files have and no model uses.
    output: a tensor that is there unless the embedding is the output layer too;
      None where config.json tells.
  """

  settings: Callable[[hf_config.Fields], dict[str, Any]]
  config_class: type
  network_class: type[Network]
  name: Callable[[_Path, Any], str]
  copies: Mapping[str, str]
  unused: str | None = None
  output: str | None = None


def _decoder_name(
  modules: Mapping[str, str], path: _Path, config: decoder.DecoderConfig
) -> str:
  del config
  match path:
    case ("embed", "embedding"):
      return "model.embed_tokens.weight"
    case ("unembedding",):
      return "lm_head.weight"
    case ("final_norm", "scale"):
      return "model.norm.weight"
    case (layer, module, "kernel" | "scale" | "bias" as leaf):
      number = layer.removeprefix("layer_")
      kind = "bias" if leaf == "bias" else "weight"
      return f"model.layers.{number}.{modules[module]}.{kind}"
  raise KeyError(path)


def _decoder_family(settings, modules: Mapping[str, str]) -> Family:
  return Family(
    settings,
    decoder.DecoderConfig,
    causal.CausalNetwork,
    functools.partial(_decoder_name, modules),
    {"lm_head.weight": "model.embed_tokens.weight"},
  )


def _t5_name(path: _Path, config: t5.T5Config) -> str:
  match path:
    case ("embed", "embedding"):
      return "shared.weight"
    case ("unembedding",):
      return "lm_head.weight"
    case (stack, "relative_bias"):
      return (
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
      )
    case (stack, "final_norm", "scale"):
      return f"{stack}.final_layer_norm.weight"
    case (stack, layer, part, module, "kernel" | "scale"):
      number = layer.removeprefix("layer_")
      place = _T5_PARTS[stack].index(part)
      where = f"{stack}.block.{number}.layer.{place}"
      if module == "norm":
        return f"{where}.layer_norm.weight"
      theirs, kernels = _T5_MODULES[part]
      name = kernels[module]
      if module == "up" and config.activation == "relu":
        name = "wi"  # there is no gate beside it
      return f"{where}.{theirs}.{name}.weight"
  raise KeyError(path)


def _t5_family(is_multilingual: bool) -> Family:
  return Family(
    functools.partial(hf_config.t5, is_multilingual=is_multilingual),
    t5.T5Config,
    encoder_decoder.EncoderDecoderNetwork,
    _t5_name,
    {
      "encoder.embed_tokens.weight": "shared.weight",
      "decoder.embed_tokens.weight": "shared.weight",
    },
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    "lm_head.weight",
  )


FAMILIES = {
  "llama": _decoder_family(hf_config.llama, _BLOCK),
  "qwen2": _decoder_family(hf_config.qwen2, _BLOCK),
  "qwen3": _decoder_family(hf_config.qwen3, _BLOCK),
  "gemma2": _decoder_family(hf_config.gemma2, _GEMMA_BLOCK),
  "gemma3_text": _decoder_family(hf_config.gemma3, _GEMMA_BLOCK),
  "t5": _t5_family(is_multilingual=False),
  "mt5": _t5_family(is_multilingual=True),
}


def read_config(
  folder: str | pathlib.Path,
  dtype: decoder.DType = "float32",
  param_dtype: decoder.DType = "float32",
  remat: bool = False,
) -> _Config:
  """Reads a model's sizes and options from its checkpoint.

  Args:
    folder: of the checkpoint.
    dtype: of activations.
    param_dtype: of parameters as they are kept.
    remat: as in `DecoderConfig`.

  Returns:
    A DecoderConfig or T5Config.

  Raises:
    UserError: if there is no config.json, or one with a setting that is not
      supported.
  """
  fields, family = _open(folder)
  settings = family.settings(fields)
  fields.finish()
  if family.output:
    tensors = hf_files.read_tensors(pathlib.Path(folder))
    settings["tie_embeddings"] = family.output not in tensors
  try:
    config = family.config_class(**settings)
  except UserError as error:
    raise UserError(f"{fields.place}: {error}") from None
  return dataclasses.replace(
    config, dtype=dtype, param_dtype=param_dtype, remat=remat
  )


def vocab_size(folder: str | pathlib.Path) -> int:
  """The number of rows of a checkpoint's embedding.

  It may be more than the tokenizer's: some are padded.

  Raises:
    UserError: if config.json does not say.
  """
  fields, _ = _open(folder)
  return fields.size("vocab_size")


def load(
  folder: str | pathlib.Path,
  config: _Config,
  vocab_size: int,
  layout: partitioning.Layout | None = None,
) -> Params:
  """Reads a checkpoint's parameters, each device's part straight to it.

  Args:
    folder: of the checkpoint.
    config: what `read_config` gives of it.
    vocab_size: what `vocab_size` gives of it.
    layout: where parameters lie; None is one device.

  Returns:
    Parameters of the model, without those of an update or soft prompt.

  Raises:
    UserError: if the files cannot be read, or hold other tensors than such a
      model has.
  """
  folder = pathlib.Path(folder)
  _, family = _open(folder)
  network = family.network_class(
    config, vocab_size, Ending((1,)), 1, layout=layout
  )
  boxed = jax.eval_shape(network.init, jax.random.key(0))
  shapes = nn.unbox(boxed)
  tensors = _tensors(folder, family)
  stored = {
    family.name(path, config): stored_shape(path, leaf.shape)
    for path, leaf in _leaves(shapes)
  }
  for copy, original in family.copies.items():
    if copy not in stored and copy in tensors and original in tensors:
      if not hf_files.is_same(tensors[copy], tensors[original]):
        raise UserError(
          f"{folder}: {copy} is not the copy of {original} that it should be "
          f"(in {hf_config.FILE}, tie_word_embeddings = false reads both where "
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
    tensor = tensors[family.name(path, config)]
    array = _load_one(path, leaf, tensor, sharding)
    # Else what was read would pile up before the devices have turned it.
    return array.block_until_ready()

  return jax.tree_util.tree_map_with_path(one, shapes)


def save(
  folder: str | pathlib.Path,
  params: Params,
  source: str | pathlib.Path,
  dtype: StoredType | None = None,
  max_file_bytes: int = 5 * 10**9,
) -> None:
  """Writes parameters as a checkpoint that `transformers` loads.

  On several processes all of them must call this, and the first one writes.

  Args:
    folder: to be made; it appears when all is written.
    params: of the model, updates merged into it.
    source: the checkpoint it came from, whose config.json and tokenizer are
      taken over.
    dtype: of the tensors; None is each one's own in the source.
    max_file_bytes: of a file, unless a single tensor is larger.

  Raises:
    UserError: if the folder exists, or parameters are others than the source
      has.
  """
  folder, source = pathlib.Path(folder), pathlib.Path(source)
  if folder.exists():
    raise UserError(f"{folder} exists: give a folder that is to be made")
  fields, family = _open(source)
  config, tensors = read_config(source), _tensors(source, family)
  leaves = {
    _name(family, path, config): (path, x) for path, x in _leaves(params)
  }
  for copy in family.copies:
    if copy not in leaves:
      tensors.pop(copy, None)
  hf_files.check(
    source,
    tensors,
    {name: stored_shape(path, x.shape) for name, (path, x) in leaves.items()},
  )
  known = dict(hf_files.DTYPES.values())
  types = {
    name: known[dtype] if dtype else _dtype(tensors[name]) for name in leaves
  }
  sizes = {n: x.size * types[n].itemsize for n, (_, x) in leaves.items()}

  def make(name):
    path, array = leaves[name]
    return _stored(path, partitioning.to_host(array)).astype(types[name])

  multihost_utils.sync_global_devices("export")  # all have looked, none wrote
  if jax.process_index():
    hf_files.write_tensors(None, sizes, make, max_file_bytes)
    return
  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
  )
  try:
    hf_files.write_tensors(partial, sizes, make, max_file_bytes)
    for name in (hf_config.FILE, *_COPIED):
      if (source / name).is_file():
        shutil.copyfile(source / name, partial / name)
    if dtype:
      settings = {k: v for k, v in fields.values.items() if k != "torch_dtype"}
      text = json.dumps(settings | {"dtype": dtype}, indent=2) + "\n"
      (partial / hf_config.FILE).write_text(text, encoding="utf-8")
    partial.chmod(0o755)
    partial.rename(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def exchange(params: Params, one: int, other: int) -> Params:
  """Exchanges two tokens of a model; again, and they are as they were.

  A checkpoint's padding token is 0 in this project, whatever it is there.

  Args:
    params: of the model; those that are changed are copied.
    one: a token's id.
    other: another's, or the same.
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


def stored_shape(path: _Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of a parameter's tensor, given the parameter's own."""
  if _is_kernel(path):
    return (math.prod(shape[1:]), shape[0])
  return (math.prod(shape),) if path[-1] == "bias" else shape


def _open(folder: str | pathlib.Path) -> tuple[hf_config.Fields, Family]:
  fields = hf_config.read_fields(pathlib.Path(folder))
  return fields, fields.choice("model_type", FAMILIES)


def _tensors(
  folder: pathlib.Path, family: Family
) -> dict[str, hf_files.Tensor]:
  tensors = hf_files.read_tensors(folder)
  if family.unused:
    tensors.pop(family.unused, None)
  return tensors


def _path(key_path) -> _Path:
  return tuple(str(getattr(key, "key", key)) for key in key_path)


def _leaves(tree: Any) -> list[tuple[_Path, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [(_path(key_path), leaf) for key_path, leaf in leaves]


def _name(family: Family, path: _Path, config: _Config) -> str:
  try:
    return family.name(path, config)
  except KeyError:
    hint = " (merge the update first)" if lora.is_added(path[-1]) else ""
    raise UserError(
      f"the parameter {'/'.join(path)} has no place in a checkpoint of "
      f"Hugging Face{hint}"
    ) from None


def _is_kernel(path: _Path) -> bool:
  return path[-1] in ("kernel", "unembedding")


def _dtype(tensor: hf_files.Tensor) -> np.dtype:
  return hf_files.DTYPES[tensor.get_dtype()][1]


def _load_one(
  path: _Path, leaf: Any, tensor: hf_files.Tensor, sharding: Any
) -> jax.Array:
  """Reads one parameter; a part that several devices have is read once."""
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
  path: _Path,
  leaf: Any,
  tensor: hf_files.Tensor,
  bounds: Sequence[tuple[int, int]],
  devices: Sequence[Any],
) -> list[jax.Array]:
  """Reads the part of a parameter within these bounds onto devices."""
  is_kernel = _is_kernel(path)
  if is_kernel or path[-1] == "bias":
    # The axes of the output are one there; all but the first are read whole.
    inputs, ((start, stop), *inner) = bounds[:is_kernel], bounds[is_kernel:]
    sizes = leaf.shape[is_kernel + 1 :]
    width = math.prod(sizes)
    stored = [(start * width, stop * width), *inputs]
    shape = (*(high - low for low, high in inputs), stop - start, *sizes)
  else:
    stored, inner = [*bounds], []
    shape = tuple(high - low for low, high in bounds)
  raw = tensor[tuple(slice(*ends) for ends in stored)]
  # Turned and converted on the device, which is faster.
  return [
    _turn(jax.device_put(raw, d), shape, tuple(inner), leaf.dtype, is_kernel)
    for d in devices
  ]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _turn(raw, shape, inner, dtype, is_kernel):
  """Makes a part of a tensor that of a parameter."""
  array = (raw.T if is_kernel else raw).astype(dtype).reshape(shape)
  return array[(..., *(slice(*ends) for ends in inner))]


def _stored(path: _Path, array: np.ndarray) -> np.ndarray:
  """Lays a parameter out as its tensor is."""
  shape = stored_shape(path, array.shape)
  return (np.moveaxis(array, 0, -1) if _is_kernel(path) else array).reshape(
    shape
  )
