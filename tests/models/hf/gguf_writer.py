"""Tiny GGUF files, laid out as llama.cpp's own converter lays them out."""

import json

import gguf
import numpy as np
from gguf import quants

NAMES = {
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_proj": "attn_k",
  "self_attn.k_norm": "attn_k_norm",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}
NORMS = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {
  "post_attention_layernorm": "post_attention_norm",
  "pre_feedforward_layernorm": "ffn_norm",
  "post_feedforward_layernorm": "post_ffw_norm",
}


def write(path, model, arch, settings=None, tokenizer=None, kind=None):
  """Writes a model of `transformers`.

  Args:
    path: Of the file.
    model: The model.
    arch: Its `general.architecture`.
    settings: Further ones of the architecture, by name.
    tokenizer: A function of the writer that adds tokens.
    kind: How tensors are quantized whose rows are long enough for it.
  """
  config = model.config
  writer = gguf.GGUFWriter(path, arch)
  writer.add_block_count(config.num_hidden_layers)
  writer.add_context_length(config.max_position_embeddings)
  writer.add_embedding_length(config.hidden_size)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  head_dim = getattr(config, "head_dim", None)
  if head_dim:
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
  for name, value in (settings or {}).items():
    add = {int: writer.add_uint32, float: writer.add_float32}
    add.get(type(value), writer.add_string)(f"{arch}.{name}", value)
  if tokenizer:
    tokenizer(writer)
  for name, array in tensors(model, arch).items():
    if kind and array.ndim == 2 and array.shape[-1] % 32 == 0:
      array = quants.quantize(array, kind)
      writer.add_tensor(name, array, raw_dtype=kind)
    else:
      writer.add_tensor(name, array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def tensors(model, arch):
  """The model's tensors as they are stored."""
  config = model.config
  is_gemma = arch.startswith("gemma")
  names = NAMES | (GEMMA_NORMS if is_gemma else NORMS)
  found = {}
  for name, weight in model.state_dict().items():
    array = weight.float().numpy()
    if is_gemma and "norm" in name:
      array = array + 1
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
      heads = config.num_attention_heads
      if "k_proj" in name:
        heads = config.num_key_value_heads
      # From two halves of a head to pairs that are turned together.
      halves = array.reshape(heads, 2, -1, array.shape[-1])
      array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
    match name.split("."):
      case ["model", "embed_tokens", "weight"]:
        found["token_embd.weight"] = array
      case ["model", "norm", "weight"]:
        found["output_norm.weight"] = array
      case ["lm_head", "weight"]:
        if not config.tie_word_embeddings:
          found["output.weight"] = array
      case ["model", "layers", number, *module, leaf]:
        found[f"blk.{number}.{names['.'.join(module)]}.{leaf}"] = array
  rope = getattr(config, "rope_parameters", {})
  if rope.get("rope_type") == "llama3":
    found["rope_freqs.weight"] = llama3_factors(config, rope)
  return found


def llama3_factors(config, rope):
  """How much slower each pair turns, as Llama 3.1's model card defines it."""
  size, factors = config.head_dim, []
  for i in range(0, size, 2):
    length = 2 * np.pi * rope["rope_theta"] ** (i / size)
    cycles = rope["original_max_position_embeddings"] / length
    if cycles > rope["high_freq_factor"]:
      factors.append(1.0)
    elif cycles < rope["low_freq_factor"]:
      factors.append(rope["factor"])
    else:
      smooth = (cycles - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"]
      )
      factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
  return np.array(factors, np.float32)


def byte_level(made, pre, eos, bos=None, template=None):
  """Tokens of a byte-level tokenizer; returns what `write` takes."""
  content = json.loads(made.to_str())
  special = {t["content"]: t["special"] for t in content["added_tokens"]}
  tokens = sorted(made.get_vocab(True), key=made.get_vocab(True).get)

  def add(writer):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    kinds = {None: 1, True: 3, False: 4}
    writer.add_token_types([kinds[special.get(t)] for t in tokens])
    merges = content["model"]["merges"]
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_eos_token_id(tokens.index(eos))
    writer.add_add_bos_token(bos is not None)
    if bos:
      writer.add_bos_token_id(tokens.index(bos))
    if template:
      writer.add_chat_template(template)

  return add


def pieces(made, eos, bos, unknown, has_space):
  """Tokens of a tokenizer of pieces."""
  content = json.loads(made.to_str())
  special = {t["content"] for t in content["added_tokens"]}
  tokens = sorted(made.get_vocab(True), key=made.get_vocab(True).get)
  merges = ["".join(pair) for pair in content["model"]["merges"]]

  def kind(token):
    if token in special:
      return 2 if token == unknown else 3
    return 6 if token.startswith("<0x") else 1

  def add(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types([kind(t) for t in tokens])
    scores = {t: -1.0 - n for n, t in enumerate(merges)}
    writer.add_token_scores([scores.get(t, 0.0) for t in tokens])
    writer.add_eos_token_id(tokens.index(eos))
    writer.add_bos_token_id(tokens.index(bos))
    writer.add_unk_token_id(tokens.index(unknown))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(has_space)

  return add
