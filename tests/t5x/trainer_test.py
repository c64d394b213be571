"""The trainer's steps: E-step, then T5X's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import optimizers

from cot_latent.em import likelihood
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method
from cot_latent.errors import RunError, UserError
from cot_latent.inference import scored_estimators
from cot_latent.models import language_model
from cot_latent.t5x import weights
from tests.t5x import fitted, small

NORM = "latent/grad/norm"
SEED = 5


def train(trainer, steps, start=0):
  return trainer.train(iter(lambda: {}, None), steps, start).result()


def test_the_memory_begins_and_steps_move_it(monkeypatch):
  model = small.encoder_decoder(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    assert (np.asarray(trainer.chains.memory.accepted_at) == 0).all()
    trainer.compile_train({})
    shown = train(trainer, 3)
    assert trainer.chains.step == int(trainer.train_state.step) == 3
    assert np.asarray(trainer.chains.memory.num_proposed).sum() == 3 * 8
  assert 0 < shown["latent/chain/accept_rate"].value < 1
  assert "accuracy" not in shown
  assert np.isfinite(shown["loss"].value)


def test_the_memory_is_that_of_the_embedded_trainer(monkeypatch):
  # For the same parameters both draw the same, and so come to the same rows.
  # (Of this seed no draw has token 0, which T5X never draws.)
  model = small.encoder_decoder(small.sgd())
  method = small.method(num_draws=2)
  made = small.make_latent(model, monkeypatch, method, seed=SEED)
  own = fitted.params(small.SIZES, 259)
  params = weights.to_t5x(small.SIZES, own)
  with small.make_trainer(model, made, params=params) as trainer:
    first = jax.tree.map(np.array, trainer.chains.memory)
    rows, _ = trainer._weigh(trainer.train_state.params, 0)
    second = small.host(trainer.chains.memory)
    # A run that began with a checkpoint of step 5 counts its own steps.
    trainer.chains.memory = jax.tree.map(jnp.array, first)  # it is donated
    trainer.chains.began_at = 5
    later, _ = trainer._weigh(trainer.train_state.params, 5)
  embedded = language_model.from_config(small.SIZES, 259, 1, 8)
  e_step = EStep(
    *(embedded, made.task, made.examples, made.method, SEED),
    *(8, 8),
  )
  wanted = e_step.start_memory(own)
  jax.tree.map(np.testing.assert_array_equal, first, small.host(wanted))
  index = small.latent_trainer.rng.minibatch(SEED, "order", 0, 24, 8)
  wanted, wanted_rows, info = e_step.step(own, wanted, index, 1)
  assert 0 < info.num_valid < 8
  jax.tree.map(np.testing.assert_array_equal, second, small.host(wanted))
  for found in (rows, later):
    for name in ("prompts", "targets", "weights"):
      np.testing.assert_array_equal(
        getattr(found, name), getattr(wanted_rows, name)
      )


def learnt(trainer):
  """Parameters and moments, and the count of T5X's steps."""
  state = small.host(trainer.train_state.state_dict())
  return state, state["state"].pop("step")


def test_without_a_valid_row_nothing_is_learnt(monkeypatch):
  # Adam's moments would move parameters on without a gradient.
  model = small.encoder_decoder(optimizers.adam(small.RATE))
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    train(trainer, 1)
    before, step = learnt(trainer)
    assert step == 1
    whole = trainer._weigh

    def without_weights(num_valid, params, step):
      rows, info = whole(params, step)
      weights = np.zeros_like(rows.weights)
      rows = rows._replace(weights=weights)
      return rows, info._replace(num_valid=num_valid)

    skipped, taken = (functools.partial(without_weights, n) for n in (0, 1))
    monkeypatch.setattr(trainer, "_weigh", skipped)
    shown = train(trainer, 2, start=1)
    after, step = learnt(trainer)
    assert step == 3
    # A step of T5X's on the same rows is another thing.
    monkeypatch.setattr(trainer, "_weigh", taken)
    train(trainer, 1, start=3)
    other, _ = learnt(trainer)
  jax.tree.map(np.testing.assert_array_equal, before, after)
  with pytest.raises(AssertionError):
    jax.tree.map(np.testing.assert_array_equal, before, other)
  assert shown["latent/estimator/num_valid"].value == 0
  assert shown["learning_rate/current"].value == pytest.approx(small.RATE)


def test_a_gradient_that_is_not_finite_ends_the_run(monkeypatch):
  model = small.encoder_decoder(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    whole = trainer._step_for

    def overflowing(size, train_state):
      run = whole(size, train_state)

      def step(train_state, batch):
        train_state, metrics = run(train_state, batch)
        norm = type(metrics[NORM]).from_model_output(np.array([np.inf]))
        return train_state, metrics | {NORM: norm}

      return step

    monkeypatch.setattr(trainer, "_step_for", overflowing)
    with pytest.raises(RunError, match="gradient of step 1 is not finite"):
      train(trainer, 1)


def test_a_loss_that_is_not_finite_ends_the_run(monkeypatch):
  model = small.encoder_decoder(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    whole = trainer._weigh

    def without_numbers(params, step):
      rows, info = whole(params, step)
      return rows._replace(weights=rows.weights * np.nan), info

    monkeypatch.setattr(trainer, "_weigh", without_numbers)
    with pytest.raises(RunError, match="step 1 is not finite"):
      train(trainer, 1)


def test_a_memory_of_another_step_is_refused(monkeypatch):
  model = small.encoder_decoder(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    trainer.chains.step = 5
    with pytest.raises(UserError, match="memory of step 5"):
      trainer._start_memory(0)


def test_a_likelihood_of_the_model_s_own_is_refused(monkeypatch):
  scored = Method(
    "mh",
    scored_estimators.metropolis_hastings(),
    likelihood=likelihood.answer_given_rationale(),
  )
  model = small.encoder_decoder(small.sgd())
  with pytest.raises(UserError, match="for the embedded trainer"):
    small.make_latent(model, monkeypatch, scored)


def test_without_its_own_data_set_it_says_so(monkeypatch):
  model = small.encoder_decoder(small.sgd())
  made = small.make_latent(model, monkeypatch)
  with small.make_trainer(model, made) as trainer:
    made.iterator = None
    with pytest.raises(UserError, match="get_dataset_fn must be %LATENT"):
      train(trainer, 1)
