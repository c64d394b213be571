"""examples/own_trainer.py: the E-step in a trainer of PyTorch."""

import copy

import jax
import numpy as np
import pytest

import cot_latent as cl
from cot_latent.em.estep import EStep

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from examples import own_trainer  # noqa: E402  (needs both)

EOS, LENGTH, BATCH = 8, 6, 8


class LetterTokenizer:
  """Eight letters and an end, so that a random model often ends."""

  eos_token_id = EOS

  def __len__(self):
    return 9

  def encode(self, text):
    return [ord(letter) % 8 for letter in text]

  def decode(self, ids):
    return "".join("abcdefgh"[i] for i in ids if i < EOS)


@pytest.fixture(scope="module")
def model():
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=9,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    bos_token_id=None,
    eos_token_id=EOS,
    pad_token_id=EOS,
  )
  return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def task():
  questions = [f"question {'x' * (i % 3)} {i}" for i in range(16)]
  return cl.Task.from_rows(
    questions,
    ["even", "odd"] * 8,
    check=lambda text, answer: (len(text) % 2 == 1) == (answer == "odd"),
    vocabulary=own_trainer.make_vocabulary(LetterTokenizer()),
  )


@pytest.fixture(scope="module")
def steps(model, task):
  """Three steps, and what each drew: before, draws, after."""
  moves = []
  inner = EStep.step

  def noted(self, params, memory, index, step):
    before = np.asarray(memory.is_correct)[index]
    draws = []
    sample = self.sampler.sample
    self.sampler.sample = lambda *a, **k: (
      draws.append(sample(*a, **k)) or (draws[-1])
    )
    memory, rows, info = inner(self, params, memory, index, step)
    self.sampler.sample = sample
    moves.append((before, draws[0], rows, info))
    return memory, rows, info

  before = [p.detach().clone() for p in model.parameters()]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(EStep, "step", noted)
    list(
      own_trainer.train(model, LetterTokenizer(), task, 3, BATCH, LENGTH, 1e-3)
    )
  after = list(model.parameters())
  assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
  return moves


def is_correct(task, draws, answers):
  texts, ended = task.completions(draws.tokens)
  return np.array(
    [
      bool(end and text.strip() and task.check(text.strip(), answer))
      for text, end, answer in zip(texts, ended, answers, strict=True)
    ]
  )


def test_weights_are_those_of_algorithm_1(task, steps):
  examples = task.load("train")
  for step, (before, draws, rows, info) in enumerate(steps):
    index = cl.rng.minibatch(0, "order", step, len(examples), BATCH)
    drawn = is_correct(task, draws, [examples.answers[i] for i in index])
    valid = (before | drawn).astype(float)
    assert valid.sum() > 0
    assert info.accept_rate == drawn.mean()
    others, drawn = valid.sum() - valid, drawn.astype(float)
    beta = (drawn.sum() - valid * drawn) / np.maximum(others, 1)
    on_memory = valid * (1 - drawn * beta) / valid.sum()
    on_draw = np.where(drawn, 0, -valid * beta / valid.sum())
    wanted = np.stack([on_memory, on_draw], axis=1).ravel()
    np.testing.assert_allclose(
      rows.weights[: rows.num_weighted()], wanted[wanted != 0], rtol=1e-6
    )


def test_draws_are_the_model_s_whatever_its_checkpoint_asks_for(model):
  model = copy.deepcopy(model)
  model.lm_head.weight.data *= 30  # far from uniform
  asked = {"top_p": 0.5, "repetition_penalty": 2.0, "temperature": 0.5}
  model.generation_config.update(**asked)
  sampler = own_trainer.TransformersSampler(model, EOS, 1)
  prompts, keys = (
    np.tile([3, 4, 5], (4000, 1)),
    jax.random.split(jax.random.key(0), 4000),
  )
  with torch.no_grad():
    logits = model(torch.from_numpy(prompts[:1] - 1)).logits[0, -1]
  wanted = logits.softmax(dim=-1).numpy()
  assert wanted.max() > 0.3

  def check(temperature):
    drawn = sampler.sample(None, prompts, keys, temperature).tokens[:, 0] - 1
    share = np.bincount(drawn, minlength=9) / len(drawn)
    np.testing.assert_allclose(share, wanted, atol=0.03)

  check(1.0)
  for twin in (0.0, 0.7):
    with pytest.raises(AssertionError):
      check(twin)


def test_padding_does_not_change_a_score(model, steps):
  rows = steps[-1][2]
  with torch.no_grad():
    together = own_trainer.log_prob(model, rows.prompts, rows.targets).numpy()
    for prompt, target, nats in zip(
      rows.prompts, rows.targets, together, strict=True
    ):
      ids = [*(prompt[prompt != 0] - 1), *(target[target != 0] - 1)]
      log_p = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
      length = int((target != 0).sum())
      alone = sum(
        float(log_p[place - 1, ids[place]])
        for place in range(len(ids) - length, len(ids))
      )
      assert nats == pytest.approx(alone, abs=1e-4)
