"""T5X's step ascends the same estimate as the embedded trainer's."""

import types

import jax
import numpy as np
import optax
import pytest

from cot_latent.em.weighted_rows import WeightedRows
from cot_latent.models import language_model
from cot_latent.models.stops import Ending
from cot_latent.t5x import weights
from cot_latent.training import mstep
from tests.t5x import small

TOLERANCE = 1e-5


def weighted_rows(trainer):
  """Rows of an E-step with weights of both signs, as if some were correct."""
  made = trainer._latent
  rng = np.random.default_rng(0)
  prompts = made.examples.prompts[:6]
  targets = np.zeros((6, 8), np.int32)
  for row, length in enumerate((3, 5, 8, 1, 2, 6)):
    targets[row, :length] = rng.integers(3, 259, length)
    if length < 8:
      targets[row, length] = 1
  weights = np.array([0.5, -0.25, 0.25, 1.0, -0.75, 0.0], np.float32)
  return WeightedRows(prompts, targets, weights, np.zeros(6, bool))


def t5x_gradient(trainer, rows):
  """What T5X's partitioned step changes, over its learning rate."""
  before = small.host(trainer.train_state.params)
  batch = trainer._place(trainer._convert(rows, rows.weights))
  step = trainer._step_for(
    len(batch["decoder_target_tokens"]), trainer.train_state
  )
  after, _ = step(trainer.train_state, batch)
  after = small.host(after.params)
  return jax.tree.map(lambda a, b: (a - b) / small.RATE, before, after)


def embedded_gradient(params, rows):
  """The same by `mstep`, which subtracts rate times the gradient."""
  model = language_model.from_config(
    small.SIZES, small.VOCABULARY.vocab_size, small.VOCABULARY.eos_id, 8
  )
  own = weights.from_t5x(small.SIZES, params)
  before = jax.tree.map(np.copy, own)
  optimizer = optax.identity()
  updated = mstep.build_step(model, optimizer)(
    jax.tree.map(jax.numpy.asarray, own),
    optimizer.init(own),
    None,
    small.RATE,
    rows.prompts,
    rows.targets,
    rows.weights,
  )
  after = small.host(updated.params)
  difference = jax.tree.map(lambda a, b: (a - b) / small.RATE, before, after)
  return weights.to_t5x(small.SIZES, difference)


def check_equal(one, other):
  scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
  leaves = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, other)
  assert max(jax.tree.leaves(leaves)) < TOLERANCE * max(scale, 1)


def gradients(monkeypatch, num_microbatches=None, change=None, **settings):
  good = small.encoder_decoder(small.sgd())
  made = small.make_latent(good, monkeypatch)
  twin = small.encoder_decoder(small.sgd(), **settings)
  with small.make_trainer(twin, made, 1, num_microbatches) as trainer:
    rows = weighted_rows(trainer)
    params = small.host(trainer.train_state.params)
    wanted = embedded_gradient(params, rows)
    got = t5x_gradient(trainer, change(rows) if change else rows)
  # T5X's trees are frozen.
  return jax.tree.unflatten(
    jax.tree.structure(wanted), jax.tree.leaves(weights.plain(got))
  ), wanted


@pytest.mark.parametrize("num_microbatches", [None, 2])
def test_gradients_agree(monkeypatch, num_microbatches):
  got, wanted = gradients(monkeypatch, num_microbatches)
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 0.01
  check_equal(got, wanted)


def without_signs(rows):
  return rows._replace(weights=np.abs(rows.weights))


def without_eos(rows):
  targets = np.where(rows.targets == 1, 0, rows.targets)
  return rows._replace(targets=targets)


def of_another_question(rows):
  return rows._replace(prompts=rows.prompts[::-1])


@pytest.mark.parametrize(
  "twin",
  [
    {"z_loss": 1e-3},
    {"label_smoothing": 0.1},
    {"loss_normalizing_factor": 7},
    {"loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"},
    {"dropout_rate": 0.1},
    {"change": without_signs},
    {"change": without_eos},
    {"change": of_another_question},
  ],
  ids=lambda twin: " ".join(
    getattr(value, "__name__", f"{name}={value}")
    for name, value in twin.items()
  ),
)
def test_another_loss_is_noticed(monkeypatch, twin):
  got, wanted = gradients(monkeypatch, **twin)
  with pytest.raises(AssertionError):
    check_equal(got, wanted)


def test_a_decoder_only_model(monkeypatch):
  # By mstep on T5X's own network, for the embedded decoder is another one.
  model = small.decoder_only(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    rows = weighted_rows(trainer)
    params = small.host(trainer.train_state.params)

    def log_prob(params, prompts, targets, shared):
      del prompts, shared
      batch = made.converter.convert(rows.prompts, rows.targets, np.ones(6))
      place = (targets[:, None] == rows.targets).all(axis=-1).argmax(axis=1)
      return model.score_batch(params, batch)[place, None]

    optimizer = optax.identity()
    step = mstep.build_step(
      types.SimpleNamespace(
        encode_prefix=lambda params, prefix: (),
        log_prob=log_prob,
        layout=None,
        ending=Ending((1,)),
      ),
      optimizer,
    )
    updated = step(
      jax.tree.map(jax.numpy.asarray, params),
      optimizer.init(params),
      None,
      small.RATE,
      rows.prompts,
      rows.targets,
      rows.weights,
    )
    wanted = jax.tree.map(
      lambda a, b: (a - b) / small.RATE, params, small.host(updated.params)
    )
    got = t5x_gradient(trainer, rows)
    check_equal(got, wanted)
    with pytest.raises(AssertionError):
      check_equal(jax.tree.map(np.negative, got), wanted)
