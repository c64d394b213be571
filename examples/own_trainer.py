"""TRICE in a trainer of your own: transformers draws, PyTorch takes the step.

This package is used only for the E-step: it remembers a correct rationale for
each question, draws fresh rationales through your sampler, and returns the
sequences to differentiate with their signed weights.

    python examples/own_trainer.py FOLDER_OF_A_CHECKPOINT

Needs torch and transformers.
"""

import sys

import jax
import numpy as np
import torch
import transformers

import cot_latent as cl

SHIFT = 1  # token 0 is padding here, so that a checkpoint's ids move up by one


class TransformersSampler:
  """Draws rationales with a causal model of transformers."""

  def __init__(self, model, eos_id: int, max_length: int):
    """Stores the model; `eos_id` is the checkpoint's own."""
    self.model, self.eos_id, self.max_length = model, eos_id, max_length
    # A checkpoint's own top_p or penalties would be another distribution.
    model.generation_config = transformers.GenerationConfig()

  def sample(self, params, prompts, rng_keys, temperature=1.0, **settings):
    """Draws a continuation of each prompt; see `cl.Sampler`."""
    del params, settings  # the model has its own, and decodes all rows at once
    seed = np.asarray(jax.random.key_data(rng_keys)).sum(dtype=np.uint32)
    torch.manual_seed(int(seed))
    ids, mask = to_torch(prompts)
    decoding = {"do_sample": False}
    if temperature:
      decoding = {"do_sample": True, "temperature": temperature, "top_k": 0}
    with torch.no_grad():
      written = self.model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=self.max_length,
        eos_token_id=self.eos_id,
        pad_token_id=self.eos_id,
        **decoding,
      )[:, ids.shape[1] :].numpy()
    is_end = written == self.eos_id
    after = np.cumsum(is_end, axis=1) - is_end > 0
    tokens = np.where(after, 0, written + SHIFT)
    missing = self.max_length - tokens.shape[1]
    return cl.Draws(np.pad(tokens, ((0, 0), (0, missing))), is_end.any(axis=1))


def to_torch(tokens) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns the checkpoint's ids and the attention mask of padded rows."""
  mask = torch.from_numpy(np.asarray(tokens) != 0)
  ids = torch.from_numpy(np.asarray(tokens, np.int64)) - SHIFT
  return ids.clamp(min=0), mask.long()


def log_prob(model, prompts, targets) -> torch.Tensor:
  """Scores targets under their prompts: [S] nats."""
  ids, mask = to_torch(np.concatenate([prompts, targets], axis=1))
  positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
  logits = model(ids, attention_mask=mask, position_ids=positions).logits
  length = targets.shape[1]
  log_p = logits[:, -length - 1 : -1].log_softmax(dim=-1)
  chosen = log_p.gather(-1, ids[:, -length:, None])[..., 0]
  return (chosen * mask[:, -length:]).sum(dim=1)


def make_vocabulary(tokenizer) -> cl.Vocabulary:
  """Makes the E-step's vocabulary from a tokenizer of transformers."""
  return cl.Vocabulary(
    name=type(tokenizer).__name__,
    size=len(tokenizer) + SHIFT,
    eos_id=tokenizer.eos_token_id + SHIFT,
    encode=lambda text: [i + SHIFT for i in tokenizer.encode(text)],
    decode=lambda ids: tokenizer.decode([i - SHIFT for i in ids]),
  )


def train(model, tokenizer, task, steps, batch_size, max_length, rate=1e-4):
  """Trains a model of transformers from answers alone; yields each step."""
  sampler = TransformersSampler(model, tokenizer.eos_token_id, max_length)
  method = cl.Method("trice", cl.estimators.control_variate())
  examples = task.load("train")
  e_step = cl.EStep(sampler, task, examples, method, 0, max_length)
  memory = e_step.start_memory(None)
  optimizer = torch.optim.Adam(model.parameters(), rate)
  for step in range(1, steps + 1):
    index = cl.rng.minibatch(0, "order", step - 1, len(examples), batch_size)
    memory, rows, info = e_step.step(None, memory, index, step)
    if not info.is_skipped():
      optimizer.zero_grad()
      weights = torch.from_numpy(rows.weights)
      score = log_prob(model, rows.prompts, rows.targets)
      (-(weights * score).sum()).backward()
      optimizer.step()
    yield memory, rows, info


if __name__ == "__main__":
  checkpoint = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
  words = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
  pairs = [(f"{a} + {b} =", str(a + b)) for a in range(8) for b in range(8)]
  sums = cl.Task.from_rows(
    *zip(*pairs, strict=True),
    check=lambda completion, answer: completion.split()[-1] == answer,
    vocabulary=make_vocabulary(words),
  )
  for number, (_, _, done) in enumerate(
    train(checkpoint, words, sums, steps=20, batch_size=16, max_length=32), 1
  ):
    print(f"step {number}: {done.accept_rate:.2f} of the draws are correct")
