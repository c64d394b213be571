"""The same work in transformers and PyTorch, in their usual style."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers


class EosRate:
  """A logits processor that sets the probability of EOS at every step."""

  def __init__(self, eos_id: int, rate: float):
    """Stores the settings."""
    self.eos_id, self.rate = eos_id, rate

  def __call__(self, input_ids, scores):
    """Changes scores [B, V]."""
    scores = scores.clone()
    scores[:, self.eos_id] = -torch.inf
    if self.rate:
      rest = torch.logsumexp(scores, dim=-1)
      odds = self.rate / (1 - self.rate)
      scores[:, self.eos_id] = rest + float(np.log(odds))
    return scores


def llama(config: Any, vocab_size: int) -> Any:
  """Makes a LlamaForCausalLM of a DecoderConfig's sizes."""
  return _build_model(
    transformers.LlamaForCausalLM,
    transformers.LlamaConfig(
      vocab_size=vocab_size,
      hidden_size=config.embed_dim,
      intermediate_size=config.mlp_dim,
      num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads,
      num_key_value_heads=config.kv_heads,
      head_dim=config.head_dim,
      max_position_embeddings=2048,
      tie_word_embeddings=True,
    ),
  )


def adapted(config: Any, vocab_size: int, dtype: str, lora: Any) -> Any:
  """The same with low-rank updates of all projections, by peft."""
  import peft

  model = llama(config, vocab_size).to(getattr(torch, dtype))
  settings = peft.LoraConfig(
    r=lora.rank,
    lora_alpha=lora.alpha,
    target_modules=[
      *("q_proj", "k_proj", "v_proj", "o_proj"),
      *("gate_proj", "up_proj", "down_proj"),
    ],
  )
  return peft.get_peft_model(model, settings).eval()


def t5(config: Any, vocab_size: int) -> Any:
  """Makes a T5ForConditionalGeneration of a T5Config's sizes."""
  return _build_model(
    transformers.T5ForConditionalGeneration,
    transformers.T5Config(
      vocab_size=vocab_size,
      d_model=config.embed_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      feed_forward_proj="gated-gelu",
      tie_word_embeddings=False,
      decoder_start_token_id=0,
    ),
  )


def _build_model(model: Any, config: Any) -> Any:
  """Makes a model with random parameters, the same each time."""
  torch.manual_seed(0)
  return model(config).eval()


def sampler(
  model: Any, max_length: int, eos_id: int, eos_rate: float, batch_size: int
) -> Callable[[np.ndarray], int]:
  """Builds sampling in batches.

  Returns:
    prompts [N, P] -> the number of tokens drawn, up to each row's EOS.
  """
  settings = transformers.GenerationConfig(
    do_sample=True,
    top_k=0,
    top_p=1.0,
    temperature=1.0,
    max_new_tokens=max_length,
    pad_token_id=0,
    eos_token_id=eos_id,
    decoder_start_token_id=0,
  )
  processors = transformers.LogitsProcessorList([EosRate(eos_id, eos_rate)])

  def sample(prompts):
    torch.manual_seed(0)
    total = 0
    for first in range(0, len(prompts), batch_size):
      batch = torch.from_numpy(prompts[first : first + batch_size]).long()
      written = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        generation_config=settings,
        logits_processor=processors,
      )
      begin = 1 if model.config.is_encoder_decoder else batch.shape[1]
      is_end = (written[:, begin:] == eos_id).int()
      total += int((is_end.cumsum(1) - is_end == 0).sum())
    return total

  return sample


def gradient(
  model: Any, rows_at_once: int | None = None
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], int]:
  """Builds the gradient of the weighted sum of log-probabilities.

  Args:
    model: A causal model.
    rows_at_once: Rows of a part, whose gradients are summed; None is all.

  Returns:
    (prompts [S, P], targets [S, T], weights [S]) -> S.
  """

  def add(prompts, targets, weights):
    tokens = torch.from_numpy(np.concatenate([prompts, targets], 1)).long()
    length = targets.shape[1]
    logits = model(
      tokens[:, :-1], use_cache=False, logits_to_keep=length
    ).logits
    log_prob = torch.log_softmax(logits.float(), -1)
    chosen = log_prob.gather(-1, tokens[:, -length:, None])[..., 0]
    loss = -(torch.from_numpy(weights) * chosen.sum(1)).sum()
    loss.backward()

  def step(*batch):
    model.zero_grad(set_to_none=True)
    size = rows_at_once or len(batch[0])
    for first in range(0, len(batch[0]), size):
      add(*(each[first : first + size] for each in batch))
    return len(batch[0])

  return step
