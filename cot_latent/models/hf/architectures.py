"""How the config.json of each architecture maps to sizes and options."""

from collections.abc import Callable
from typing import Any

from cot_latent.models.api import PAD_ID
from cot_latent.models.hf.fields import Fields
from cot_latent.models.rotary import RopeScaling

_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_FULL, _LOCAL = "full_attention", "sliding_attention"


def llama(fields: Fields) -> dict[str, Any]:
  """Returns settings of a DecoderConfig, for a Llama."""
  fields.choice("attention_bias", {False: None}, False)
  fields.choice("mlp_bias", {False: None}, False)
  return (
    _sizes(fields)
    | _rope(fields)
    | {
      "activation": fields.choice("hidden_act", _ACTIVATIONS),
      "tie_embeddings": fields.flag("tie_word_embeddings", False),
      "scale_embeddings": False,
    }
  )


def qwen2(fields: Fields) -> dict[str, Any]:
  """Returns settings of a DecoderConfig, for a Qwen 2 or 2.5."""
  fields.choice("use_mrope", {False: None}, False)  # for pictures
  first = fields.get(
    "max_window_layers",
    "a whole number",
    lambda x: type(x) is int and x >= 0,
    None,
    0,
  )
  window = fields.size("sliding_window", None)
  if not fields.flag("use_sliding_window", False):
    window = None
  elif first is None or window is None:
    fields.problems.append(
      f"{fields.place}: use_sliding_window needs sliding_window and "
      "max_window_layers"
    )
    window = None
  return (
    _sizes(fields)
    | _rope(fields)
    | _windows(fields, window, lambda n: window is not None and n >= first)
    | {
      "activation": fields.choice("hidden_act", _ACTIVATIONS),
      "tie_embeddings": fields.flag("tie_word_embeddings", False),
      "scale_embeddings": False,
      "qkv_bias": True,
    }
  )


def qwen3(fields: Fields) -> dict[str, Any]:
  """Returns settings of a DecoderConfig, for a Qwen 3."""
  fields.choice("attention_bias", {False: None}, False)
  fields.size("head_dim")  # its default is not a share of the width
  return qwen2(fields) | {"qkv_bias": False, "qk_norm": True}


def gemma2(fields: Fields) -> dict[str, Any]:
  """Returns settings of a DecoderConfig, for a Gemma 2."""
  window = fields.size("sliding_window")
  return (
    _gemma(fields)
    | _rope(fields)
    | _windows(fields, window, lambda n: n % 2 == 0)
  )


def gemma3(fields: Fields) -> dict[str, Any]:
  """Returns settings of a DecoderConfig, for a text-only Gemma 3."""
  window = fields.size("sliding_window")
  period = fields.size("sliding_window_pattern", 6)
  fields.asked.add("_sliding_window_pattern")  # layer_types are made from it
  return (
    _gemma(fields)
    | {"qk_norm": True}
    | _two_ropes(fields)
    | _windows(fields, window, lambda n: (n + 1) % period != 0)
  )


def t5(fields: Fields, is_multilingual: bool) -> dict[str, Any]:
  """Returns settings of a T5Config, for a T5 1.0 or 1.1, Flan-T5, ByT5 or mT5.

  `tie_embeddings` is not among them. The tensors tell, because transformers 5
  writes that all models are tied.
  """
  for name in ("pad_token_id", "decoder_start_token_id"):
    fields.choice(name, {PAD_ID: None}, PAD_ID)
  fields.choice("is_encoder_decoder", {True: None}, True)
  fields.asked.update(("is_decoder", "n_positions"))
  number = fields.num_layers("num_layers")
  activation = fields.choice(
    "feed_forward_proj",
    {"gated-gelu": "gelu_tanh", "relu": "relu"},
    "gated-gelu" if is_multilingual else "relu",
  )
  is_gated = activation == "gelu_tanh"
  fields.choice("is_gated_act", {is_gated: None}, is_gated)
  function = "gelu_new" if is_gated else "relu"
  fields.choice("dense_act_fn", {function: None}, function)
  # transformers 5 writes this setting; earlier versions use the other one.
  is_tied = fields.flag("tie_word_embeddings", True)
  is_scaled = fields.flag("scale_decoder_outputs", is_tied)
  return {
    "num_encoder_layers": number,
    "num_decoder_layers": fields.num_layers("num_decoder_layers", number),
    "embed_dim": fields.size("d_model"),
    "num_heads": fields.size("num_heads"),
    "head_dim": fields.size("d_kv"),
    "mlp_dim": fields.size("d_ff"),
    "num_buckets": fields.size("relative_attention_num_buckets", 32),
    "max_distance": fields.size("relative_attention_max_distance", 128),
    "norm_eps": fields.number("layer_norm_epsilon", 1e-6),
    "activation": activation,
    "scale_outputs": is_scaled and not is_multilingual,
  }


def _sizes(fields: Fields) -> dict[str, Any]:
  width = fields.size("hidden_size")
  heads = fields.size("num_attention_heads")
  head_dim = fields.size("head_dim", None)
  if head_dim is None:
    head_dim, rest = divmod(width, heads)
    if (rest or not head_dim) and not fields.problems:
      fields.refuse("num_attention_heads", f"a divisor of {width}")
  return {
    "num_layers": fields.num_layers("num_hidden_layers"),
    "embed_dim": width,
    "num_heads": heads,
    "num_kv_heads": fields.size("num_key_value_heads", heads),
    "head_dim": head_dim,
    "mlp_dim": fields.size("intermediate_size"),
    "norm_eps": fields.number("rms_norm_eps"),
  }


def _gemma(fields: Fields) -> dict[str, Any]:
  fields.choice("attention_bias", {False: None}, False)
  fields.choice("use_bidirectional_attention", {False: None}, False)
  fields.size("head_dim")
  fields.asked.add("hidden_act")  # Gemma uses the next name
  return _sizes(fields) | {
    "norm_offset": 1.0,
    "activation": fields.choice(
      "hidden_activation", _ACTIVATIONS, "gelu_pytorch_tanh"
    ),
    "tie_embeddings": fields.flag("tie_word_embeddings", True),
    "scale_embeddings": True,
    "post_norms": True,
    "query_scale": fields.number("query_pre_attn_scalar") ** -0.5,
    "attention_softcap": _softcap(fields, "attn_logit_softcapping"),
    "final_softcap": _softcap(fields, "final_logit_softcapping"),
  }


def _softcap(fields: Fields, name: str) -> float | None:
  """Reads a number or null; the defaults of Gemma 2 and 3 differ."""
  if name not in fields.values:
    fields.refuse(name, "a number above 0 or null")
  return fields.number(name, None)


def _windows(
  fields: Fields, window: int | None, is_local: Callable[[int], bool]
) -> dict[str, Any]:
  """Returns which layers see only a window; `is_local` is the default."""
  number = fields.num_layers("num_hidden_layers")
  kinds = fields.get(
    "layer_types",
    f"a list of {number}, each {_FULL!r} or {_LOCAL!r}",
    lambda x: (
      isinstance(x, list)
      and len(x) == number
      and all(kind in (_FULL, _LOCAL) for kind in x)
    ),
    [_LOCAL if is_local(n) else _FULL for n in range(number)],
    (),
  )
  local = tuple(n for n, kind in enumerate(kinds) if kind == _LOCAL)
  return {
    "sliding_window": window if local else None,
    "local_layers": local,
  }


def _rope(fields: Fields) -> dict[str, Any]:
  """Reads rotary positions that are the same for all layers."""
  base = fields.number("rope_theta", 10_000.0)
  fields.choice("partial_rotary_factor", {1.0: None}, 1.0)
  # Newer files have one object, older files two settings.
  for name in ("rope_scaling", "rope_parameters"):
    if (part := fields.part(name)) and part.values:
      base = part.number("rope_theta", base)
      return {"rope_base": base, "rope_scaling": _scaling(part, fields)}
  return {"rope_base": base}


def _two_ropes(fields: Fields) -> dict[str, Any]:
  """Reads rotary positions of global and of local layers."""
  everywhere = fields.number("rope_theta", 1_000_000.0)
  locally = fields.number("rope_local_base_freq", 10_000.0)
  scaling = None
  if part := fields.part("rope_scaling"):
    scaling = _scaling(part, fields)
  if kinds := fields.part("rope_parameters"):
    if part := kinds.part(_FULL):
      everywhere = part.number("rope_theta", everywhere)
      scaling = _scaling(part, fields)
    if part := kinds.part(_LOCAL):
      locally = part.number("rope_theta", locally)
      if _scaling(part, fields):
        part.refuse("rope_type", '"default" in local layers')
    kinds.note_unknown()
  return {
    "rope_base": everywhere,
    "local_rope_base": locally,
    "rope_scaling": scaling,
  }


def _scaling(part: Fields, fields: Fields) -> RopeScaling | None:
  """Reads the scaling of rotary positions, and refuses unknown settings."""
  old = part.get("type", "a name", lambda x: isinstance(x, str), "default")
  part.choice("partial_rotary_factor", {1.0: None}, 1.0)
  part.asked.add("rope_theta")
  kinds: dict[str, Any] = {
    "default": None,
    "linear": "linear",
    "llama3": "llama3",
  }
  name = "type" if part.values.get("rope_type") is None else "rope_type"
  kind = part.choice(name, kinds, old)
  values: tuple[Any, ...] | None = None
  if kind == "linear":
    values = (kind, part.number("factor"))
  elif kind == "llama3":
    low, high = part.number("low_freq_factor"), part.number("high_freq_factor")
    if high <= low and not fields.problems:
      part.refuse("high_freq_factor", f"more than low_freq_factor = {low}")
    values = (
      kind,
      part.number("factor"),
      low,
      high,
      part.size("original_max_position_embeddings", None)
      or fields.size("max_position_embeddings"),
    )
  part.note_unknown()
  if values is None or fields.problems:
    return None
  return RopeScaling(*values)
