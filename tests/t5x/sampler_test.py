"""Draws of T5X's decoding are those of the embedded sampler, row by row."""

import itertools

import jax
import numpy as np
import pytest

from cot_latent.inference import rng
from cot_latent.models import language_model
from cot_latent.t5x import sampler, weights
from tests.t5x import small

ROWS = 8


def keys(rows=ROWS, step=1):
  words = rng.id_words([f"row {row}" for row in range(rows)])
  return rng.row_keys(
    rng.purpose_key(0, "draw", step), words, np.zeros(rows, int)
  )


@pytest.fixture
def trained(monkeypatch, request):
  build = getattr(request, "param", small.encoder_decoder)
  model = build(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    yield trainer


def draw(trainer, rows=slice(0, ROWS), **settings):
  chosen = np.arange(ROWS)[rows]
  return trainer._e_step.sampler.sample(
    trainer.train_state.params,
    trainer._latent.examples.prompts[chosen],
    keys()[chosen],
    **settings,
  )


def test_draws_are_those_of_the_embedded_sampler(trained):
  params = small.host(trained.train_state.params)
  model = language_model.from_config(small.SIZES, 259, 1, 8)
  prompts = trained._latent.examples.prompts[:ROWS]
  own = weights.from_t5x(small.SIZES, params)
  wanted = model.sample(own, prompts, keys())
  got = draw(trained)
  np.testing.assert_array_equal(got.tokens, wanted.tokens)
  np.testing.assert_array_equal(got.ended, wanted.ended)
  other = model.sample(own, prompts, keys(step=2))
  assert (other.tokens != got.tokens).any(axis=1).all()


@pytest.mark.parametrize(
  "trained", [small.encoder_decoder, small.decoder_only], indirect=True
)
def test_a_draw_does_not_depend_on_its_place(trained):
  whole = draw(trained)
  np.testing.assert_array_equal(
    draw(trained, slice(None, None, -1)).tokens, whole.tokens[::-1]
  )
  np.testing.assert_array_equal(draw(trained, [5]).tokens, whole.tokens[5:6])
  done = []
  parts = draw(trained, num_slots=3, report_done=done.append)
  np.testing.assert_array_equal(parts.tokens, whole.tokens)
  assert done == [3, 6, 8]


@pytest.mark.parametrize(
  "trained", [small.encoder_decoder, small.decoder_only], indirect=True
)
def test_padding_comes_only_after_the_end(trained):
  drawn = draw(trained)
  for row, ended in zip(drawn.tokens, drawn.ended, strict=True):
    length = int((row != 0).sum())
    assert (row[:length] != 0).all()
    assert ended == (row[length - 1] == 1)
    assert ended or length == 8


@pytest.mark.parametrize(
  "trained", [small.encoder_decoder, small.decoder_only], indirect=True
)
def test_what_is_sampled_is_what_is_scored(trained):
  # Greedily each token is the best of the scorer's logits, except padding.
  drawn = draw(trained, temperature=0.0)
  made, model = trained._latent, trained._model
  batch = made.converter.convert(
    made.examples.prompts[:ROWS], drawn.tokens, np.ones(ROWS, np.float32)
  )
  logits = np.array(model._compute_logits(trained.train_state.params, batch))
  logits[..., 0] = -np.inf
  on_target = batch["decoder_loss_weights"] != 0
  best = logits.argmax(axis=-1)[on_target]
  np.testing.assert_array_equal(best, batch["decoder_target_tokens"][on_target])


def stopped(trainer, stop):
  """The trainer's sampler, with stop strings."""
  return sampler.T5XSampler(
    trainer._model,
    trainer._partitioner,
    trainer._train_state_axes.params,
    trainer._latent.converter,
    trainer._latent.task.ending_at(stop).ending,
  )


@pytest.mark.parametrize(
  "trained", [small.encoder_decoder, small.decoder_only], indirect=True
)
def test_a_stop_only_cuts(trained):
  whole = draw(trained)
  # Of what some row writes two letters in its middle, and a letter.
  letters = [bytes([t - 3]).decode() for t in range(35, 130)]
  texts = trained._latent.task.completions(whole.tokens)[0]
  found = [a + b for text in texts for a, b in itertools.pairwise(text)]
  stop = (*found[:1], *[x for x in letters if x in "".join(texts)][:1])
  assert stop
  stopping = stopped(trained, stop)
  rows = np.arange(ROWS)
  got = stopping.sample(
    trained.train_state.params,
    trained._latent.examples.prompts[rows],
    keys(),
  )
  lengths, ended = stopping._ending.lengths(whole.tokens)
  assert (lengths < (whole.tokens != 0).sum(axis=1)).any()
  wanted = np.where(np.arange(8) < lengths[:, None], whole.tokens, 0)
  np.testing.assert_array_equal(got.tokens, wanted)
  np.testing.assert_array_equal(got.ended, ended)
  # A sampler that EOS alone ends is another one.
  with pytest.raises(AssertionError):
    np.testing.assert_array_equal(whole.tokens, wanted)


def test_noise_draws_from_the_whole_distribution():
  probabilities = np.array([0.0, 0.5, 0.3, 0.15, 0.05])
  with np.errstate(divide="ignore"):
    logits = np.log(np.tile(probabilities, (4000, 1)))
  state = type("State", (), {"cur_index": np.full(4000, 2)})
  data = np.asarray(jax.random.key_data(keys(4000)))
  start = np.zeros(4000, np.int32)

  def counts(temperature):
    noisy = sampler.row_noise(data, start, temperature)(
      jax.numpy.asarray(logits), state
    )
    drawn = np.asarray(noisy).argmax(axis=1)
    return np.bincount(drawn, minlength=5) / 4000

  np.testing.assert_allclose(counts(1.0), probabilities, atol=0.03)
  assert counts(0.0).tolist() == [0, 1, 0, 0, 0]
  # A twin at another temperature is rejected.
  with pytest.raises(AssertionError):
    np.testing.assert_allclose(counts(0.5), probabilities, atol=0.03)
