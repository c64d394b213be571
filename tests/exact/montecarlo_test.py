"""The E-step as it is run has the exact mean and variance.

A real, tiny language model whose every sequence can be listed and scored by its
own log_prob: 40 sequences of up to three tokens out of four. All of the E-step
is run, sampler, checker, memory and weights, again and again from one memory;
what it gives the M-step to differentiate is compared with moments.py.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method
from cot_latent.inference import baselines, estimators, memory, rng
from cot_latent.models import decoder, language_model, vocabularies
from cot_latent.models.stops import Ending
from tests.exact import moments
from tests.params import by_night

LENGTH, SIZE, NUM_COORDINATES = 3, 3, 6
LETTERS = ".!ab"  # PAD, which may be drawn like any other, and EOS come first
EOS = 1
NUM_STEPS = 1000
# Two-sided, for 50 comparisons with a family error of 1e-6.
Z = 5.6


@pytest.fixture(autouse=True)
def _float64():
  """In place of the fixture of that name: training runs in float32."""


class World(NamedTuple):
  """A model, its task, and all that can be listed of them.

  Attributes:
    model: The language model.
    params: Its parameters.
    task: Says what an answer is.
    data: SIZE questions.
    state: A memory in which the first two rows are correct.
    sequences: [Z, T] every sequence.
    probability: [SIZE, Z] of each.
    is_correct: [SIZE, Z] bool.
    scores: [SIZE, Z, D] of each, along D directions of the parameters.
    old: [SIZE] indices of the remembered sequences.
  """

  model: language_model.LanguageModel
  params: dict
  task: Task
  data: Examples
  state: memory.MemoryState
  sequences: np.ndarray
  probability: np.ndarray
  is_correct: np.ndarray
  scores: np.ndarray
  old: np.ndarray


class Parity:
  """What the E-step asks of a task: the answer is the parity of the b's."""

  vocabulary = vocabularies.Vocabulary(
    "letters",
    len(LETTERS),
    EOS,
    lambda ids: "".join(LETTERS[i] for i in ids),
    lambda text: list(map(LETTERS.index, text)),
  )

  def completions(self, tokens):
    return Ending((EOS,)).completions(self.vocabulary.decode, tokens)

  def extract(self, text):
    return str(text.count("b") % 2)

  def is_correct(self, extracted, answer):
    return extracted == answer


def every_sequence():
  """[Z, T]: up to the first EOS, or of full length."""
  found = set()
  for tokens in itertools.product(range(len(LETTERS)), repeat=LENGTH):
    end = tokens.index(EOS) + 1 if EOS in tokens else LENGTH
    found.add(tokens[:end] + (0,) * (LENGTH - end))
  return np.array(sorted(found), np.int32)


@functools.cache
def world():
  config = decoder.DecoderConfig(1, 8, 2, 4, 16)
  model = language_model.from_config(config, len(LETTERS), EOS, LENGTH)
  params = model.init(rng.purpose_key(1, "params"))  # far from uniform
  prompts = np.array([[0, 2, 3], [3, 3, 2], [0, 0, 3]], np.int32)
  ids = ["one", "two", "three"]
  data = Examples(
    ids=ids,
    tasks=["parity"] * SIZE,
    questions=ids,
    answers=["0", "0", "1"],
    prompts=prompts,
    guides=prompts[:, ::-1].copy() + (prompts[:, ::-1] == 0) * 2,
    targets=np.zeros((SIZE, 0), np.int32),
    words=rng.id_words(ids),
    num_left_out=0,
    num_truncated=0,
  )
  sequences, task = every_sequence(), Parity()
  log_prob, scores = listed(model, params, prompts, sequences)
  ended = (sequences == EOS).any(axis=1)
  texts = task.vocabulary.decode_rows(sequences)
  is_correct = np.array(
    [
      [task.extract(text) == answer for text in texts] & ended
      for answer in data.answers
    ]
  )
  wanted = [True, True, False]
  old = np.array(
    [np.flatnonzero(r == w)[2] for r, w in zip(is_correct, wanted, strict=True)]
  )
  state = memory.start(
    memory.init(SIZE, LENGTH), np.arange(SIZE), sequences[old], wanted
  )
  probability = np.exp(log_prob)
  return World(
    *(model, params, task, data, state, sequences, probability),
    *(is_correct, scores, old),
  )


def listed(model, params, prompts, sequences):
  """Log-probabilities [M, Z] of every sequence, and their scores [M, Z, D]."""
  rows = np.repeat(prompts, len(sequences), axis=0)
  targets = np.tile(sequences, (len(prompts), 1))

  @jax.jit
  def along(direction):
    def total(params):
      return model.log_prob(params, rows, targets).sum(axis=1)

    return jax.jvp(total, (params,), (direction,))

  shape = len(prompts), len(sequences)
  random = np.random.default_rng(0)
  slopes = []
  for _ in range(NUM_COORDINATES):
    direction = jax.tree.map(
      lambda leaf: random.normal(size=leaf.shape).astype(np.float32), params
    )
    log_prob, slope = along(direction)
    slopes.append(np.asarray(slope, float).reshape(shape))
  log_prob = np.asarray(log_prob, float).reshape(shape)
  return log_prob, np.stack(slopes, axis=-1)


def run(model, method, num_steps):
  """[S, D] the estimates of as many E-steps, and what they cost, [S]."""
  w = world()
  place = {tuple(tokens): z for z, tokens in enumerate(w.sequences.tolist())}
  question = {tuple(row): m for m, row in enumerate(w.data.prompts.tolist())}
  estimates, counts = [], []
  length = w.state.tokens.shape[1]
  e_step = EStep(model, w.task, w.data, method, 0, length)
  for step in range(1, num_steps + 1):
    _, rows, info = e_step.step(
      w.params,
      jax.tree.map(jnp.copy, w.state),  # a step takes its place
      np.arange(SIZE, dtype=np.int32),
      step,  # each has keys of its own, as if the seed were another
    )
    m = [question[tuple(row)] for row in rows.prompts.tolist()]
    z = [place[tuple(row)] for row in rows.targets.tolist()]
    # In 64 bits: each estimate is then known better than their mean.
    estimates.append(rows.weights.astype(float) @ w.scores[m, z])
    counts.append(info.num_weighted)
  return np.array(estimates), np.array(counts, float)


def assert_within(samples, expected, what):
  """Compares a mean of independent samples [S, ...] with what it should be."""
  error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
  off = np.abs(samples.mean(axis=0) - expected) / np.maximum(error, 1e-12)
  assert (off < Z).all(), f"{what}: {off.max():.1f} standard errors off"


def exact(method):
  w = world()
  draws = moments.of_scores(w.probability, w.is_correct, w.scores)
  rows = np.arange(SIZE)
  memories = moments.remembered(
    w.is_correct[rows, w.old], w.scores[rows, w.old]
  )
  return moments.exact(method.estimator, draws, memories, method.num_draws)


def check(model, method, num_steps=NUM_STEPS):
  """Checks the mean, and without subsampling the variance and the cost."""
  found = exact(method)
  estimates, counts = run(model, method, num_steps)
  assert_within(estimates, found.mean, "mean")
  if method.num_scored is None:
    square = ((estimates - found.mean) ** 2).sum(axis=1)
    assert_within(square, found.variance(), "variance")
    assert_within(counts, found.num_scored, "sequences")
  else:
    assert counts.max() <= method.num_scored < found.num_scored


def hot(model):
  """Draws at another temperature than is scored."""

  class Hot(language_model.LanguageModel):
    def sample(self, params, prompts, rng_keys, temperature=1.0):
      return super().sample(params, prompts, rng_keys, 2 * temperature)

  return Hot(model.network)


def hinted(model):
  """Draws from another prompt than is scored."""
  data = world().data

  class Hinted(language_model.LanguageModel):
    def sample(self, params, prompts, rng_keys, temperature=1.0):
      is_same = (prompts[:, None] == data.prompts[None]).all(axis=2)
      guides = data.guides[is_same.argmax(axis=1)]
      return super().sample(params, guides, rng_keys, temperature)

  return Hinted(model.network)


TRICE = Method("trice", estimators.control_variate())
SEVERAL = dataclasses.replace(TRICE, num_draws=2)
METHODS = {
  "one draw": TRICE,
  "two draws": SEVERAL,
  "subsampled": dataclasses.replace(SEVERAL, num_scored=2),
  "rloo": Method("rloo", baselines.rloo(), num_draws=2),
}


def test_everything_is_listed():
  w = world()
  assert len(w.sequences) == 1 + 3 + 3**2 + 3**3
  np.testing.assert_allclose(w.probability.sum(axis=1), 1, atol=1e-5)
  mean = np.einsum("mz,mzd->md", w.probability, w.scores)
  np.testing.assert_allclose(mean, 0, atol=1e-4)
  # Both verdicts are drawn, and the guides really say something else.
  accuracy = (w.probability * w.is_correct).sum(axis=1)
  assert ((accuracy > 0.1) & (accuracy < 0.9)).all()
  rows = np.repeat(w.data.guides, len(w.sequences), axis=0)
  log_prob = w.model.log_prob(w.params, rows, np.tile(w.sequences, (SIZE, 1)))
  hinted_to = np.exp(log_prob.sum(axis=1)).reshape(w.probability.shape)
  distance = np.abs(hinted_to - w.probability).sum(axis=1) / 2
  assert (distance > 0.2).all()


@pytest.mark.parametrize(
  "name",
  [
    pytest.param("one draw", marks=pytest.mark.slow),
    pytest.param("two draws", marks=pytest.mark.slow),
    "subsampled",
    pytest.param("rloo", marks=pytest.mark.slow),
  ],
)
def test_the_e_step_has_the_exact_mean(name):
  check(world().model, METHODS[name])


@pytest.mark.parametrize("broken", [hot, *by_night(hinted)])
def test_drawing_from_something_else_is_rejected(broken):
  with pytest.raises(AssertionError, match="mean"):
    check(broken(world().model), SEVERAL, NUM_STEPS // 2)
