"""Tiny checkpoints, made by `transformers` itself, and what it says of them."""

import functools

import jax
import numpy as np
import torch
import transformers
from transformers import (
  Gemma2Config,
  Gemma3TextConfig,
  LlamaConfig,
  Qwen2Config,
  Qwen3Config,
)

from cot_latent.models import decoder, language_model, layers

VOCABULARY, EOS_ID, LENGTH = 100, 1, 12
ROWS, PROMPT_LENGTH = 5, 14

# Each option is far from what would make no difference: windows are shorter
# than a row, positions are stretched within it, and caps are felt.
SIZES = {
  "vocab_size": VOCABULARY,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "rms_norm_eps": 0.01,
  "pad_token_id": 0,
  "bos_token_id": 2,
  "eos_token_id": EOS_ID,
}
GEMMA = SIZES | {
  "head_dim": 16,
  "query_pre_attn_scalar": 9,
  "sliding_window": 5,
}
ARCHITECTURES = {
  "llama": lambda: LlamaConfig(
    **SIZES,
    head_dim=12,
    tie_word_embeddings=False,
    rope_parameters={
      "rope_type": "llama3",
      "rope_theta": 500.0,
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 24,
    },
  ),
  "llama_tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
  "qwen2": lambda: Qwen2Config(
    **SIZES,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
  ),
  "qwen2_window": lambda: Qwen2Config(
    **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1
  ),
  "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
  "gemma2": lambda: Gemma2Config(
    **GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
  ),
  "gemma3": lambda: Gemma3TextConfig(
    **GEMMA,
    layer_types=["sliding_attention", "full_attention"],
    rope_parameters={
      "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
      "full_attention": {
        "rope_type": "linear",
        "rope_theta": 100.0,
        "factor": 8.0,
      },
    },
  ),
}


def make_torch_model(architecture):
  """A model whose answers depend on its input and on each of its parameters."""
  config = ARCHITECTURES[architecture]()
  config._attn_implementation = "eager"  # the others leave caps out
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(config)
  for name, weight in model.named_parameters():
    offset = -1.0 if "gemma" in architecture else 0.0
    if "norm" in name:
      weight.data.uniform_(0.5, 1.5).add_(offset)
    elif name.endswith("bias"):
      weight.data.normal_(0, 0.5)
    elif "embed" in name:
      weight.data.normal_(0, weight.shape[-1] ** -0.5)
    else:
      weight.data.normal_(0, 1.5 * weight.shape[-1] ** -0.5)
  return model.eval()


@functools.cache
def prompts():
  """[B, P] int32, of every length from 2 to P, padded on the left."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, VOCABULARY, (ROWS, PROMPT_LENGTH), np.int32)
  lengths = np.linspace(2, PROMPT_LENGTH, ROWS).astype(int)[:, None]
  return np.where(np.arange(PROMPT_LENGTH) < PROMPT_LENGTH - lengths, 0, tokens)


@functools.cache
def targets():
  """[B, T] int32, without an end."""
  rng = np.random.default_rng(1)
  return rng.integers(2, VOCABULARY, (ROWS, LENGTH), np.int32)


@functools.cache
def rows():
  """Tokens, which are real, and positions: [B, P + T] each."""
  tokens = np.concatenate([prompts(), targets()], axis=1)
  is_real = np.cumsum(tokens != 0, axis=1) > 0
  positions = np.maximum(np.cumsum(is_real, axis=1) - 1, 0)
  return tokens, is_real, positions


@torch.no_grad()
def expected_logits(model):
  """[B, T, V] float32, before each target, as `transformers` has them."""
  tokens, is_real, positions = (torch.tensor(x).long() for x in rows())
  logits = model(
    input_ids=tokens, attention_mask=is_real, position_ids=positions
  ).logits
  return logits[:, PROMPT_LENGTH - 1 : -1].float().numpy()


def expected_greedy(model):
  """[B, T] int32, 0 after the end."""
  inputs = torch.tensor(prompts(), dtype=torch.long)
  written = model.generate(
    inputs,
    attention_mask=(inputs != 0).long(),
    max_new_tokens=LENGTH,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=EOS_ID,
  )[:, PROMPT_LENGTH:].numpy()
  missing = LENGTH - written.shape[1]
  return np.pad(written, [(0, 0), (0, missing)])


def build_model(config, vocab_size=VOCABULARY):
  return language_model.from_config(config, vocab_size, EOS_ID, LENGTH)


def logits(config, params):
  """[B, T, V] float32, before each target, as the decoder has them."""
  tokens, is_real, positions = rows()
  can_be_seen = np.tril(np.ones([tokens.shape[1]] * 2, bool)) & is_real[:, None]

  # To compile takes longer than to run.
  @functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
  )
  def run(params):
    masks = decoder.layer_masks(config, can_be_seen, positions, positions)
    module = decoder.Decoder(config, VOCABULARY)
    x, _ = module.apply({"params": params}, tokens, positions, masks)
    x = x[:, PROMPT_LENGTH - 1 : -1]
    return layers.unembed(params, x, softcap=config.final_softcap)

  return np.asarray(run(params))
