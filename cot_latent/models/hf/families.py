"""Families of checkpoints: how each is read, and how its tensors are named.

A Linear's weight is [out, in] in a checkpoint, and a kernel is [in, *out] here;
everything else has the same layout.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cot_latent.models import causal, decoder, encoder_decoder, t5
from cot_latent.models.hf import architectures
from cot_latent.models.hf.fields import Fields
from cot_latent.models.network import Network

Path = tuple[str, ...]
Config = decoder.DecoderConfig | t5.T5Config

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
# This is the MLP's norm in other families, but a norm after attention here.
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
    settings: Config.json -> fields of the model's config.
    config_class: Class of the model's config.
    network_class: Class of its network.
    name: A parameter's path, a model's config -> its tensor's name; KeyError
      if it has none.
    copies: Tensor -> the tensor that it must equal if a file has both.
    unused: A tensor that some files have and no model uses.
    output: A tensor that exists unless the embedding is also the output layer;
      None if config.json tells.
  """

  settings: Callable[[Fields], dict[str, Any]]
  config_class: type
  network_class: type[Network]
  name: Callable[[Path, Any], str]
  copies: Mapping[str, str]
  unused: str | None = None
  output: str | None = None


def _decoder_name(
  modules: Mapping[str, str], path: Path, config: decoder.DecoderConfig
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


def _t5_name(path: Path, config: t5.T5Config) -> str:
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
        name = "wi"  # this MLP has no gate
      return f"{where}.{theirs}.{name}.weight"
  raise KeyError(path)


def _t5_family(is_multilingual: bool) -> Family:
  return Family(
    functools.partial(architectures.t5, is_multilingual=is_multilingual),
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
  "llama": _decoder_family(architectures.llama, _BLOCK),
  "qwen2": _decoder_family(architectures.qwen2, _BLOCK),
  "qwen3": _decoder_family(architectures.qwen3, _BLOCK),
  "gemma2": _decoder_family(architectures.gemma2, _GEMMA_BLOCK),
  "gemma3_text": _decoder_family(architectures.gemma3, _GEMMA_BLOCK),
  "t5": _t5_family(is_multilingual=False),
  "mt5": _t5_family(is_multilingual=True),
}


def is_kernel(path: Path) -> bool:
  """Whether a parameter's tensor is transposed."""
  return path[-1] in ("kernel", "unembedding")


def tensor_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of a parameter's tensor, from the parameter's own."""
  if is_kernel(path):
    return (math.prod(shape[1:]), shape[0])
  return (math.prod(shape),) if path[-1] == "bias" else shape


def to_tensor(path: Path, array: np.ndarray) -> np.ndarray:
  """Transposes a parameter to the layout of its tensor."""
  moved = np.moveaxis(array, 0, -1) if is_kernel(path) else array
  return moved.reshape(tensor_shape(path, array.shape))
