"""The M-step ascends the weighted sum of log-probabilities, and only that."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cot_latent.models import decoder, language_model
from cot_latent.models.api import PAD_ID
from cot_latent.training import gradients, mstep
from cot_latent.training.experiment import OptimizerConfig
from tests.asserts import assert_trees_equal

EOS = 1
MODEL = language_model.from_config(
  decoder.DecoderConfig(1, 16, 2, 8, 32),
  vocab_size=11,
  ending=EOS,
  max_length=5,
)
PARAMS = MODEL.init(jax.random.key(0))


build = functools.cache(mstep.build_step)


def rows(seed=0, num=4):
  rng = np.random.default_rng(seed)
  prompts = rng.integers(2, 11, (num, 3), np.int32)
  targets = rng.integers(1, 11, (num, 5), np.int32)
  weights = rng.normal(size=num).astype(np.float32)
  return prompts, targets, weights


def step(optimizer, *batch, rate=1e-2, size=None):
  """Takes one step; the arguments are donated, so they are copied first."""
  params = jax.tree.map(jnp.copy, PARAMS)
  opt_state = optimizer.init(params)
  return build(MODEL, optimizer, size)(params, opt_state, None, rate, *batch)


class Plain:
  """An optimizer that gives the gradient of what is minimised as it is."""

  @staticmethod
  def init(params):
    del params
    return ()

  @staticmethod
  def update(gradient, state, params):
    del params
    return gradient, state


@jax.jit
@jax.grad
def score(params, prompt, target):
  return MODEL.log_prob(params, prompt[None], target[None]).sum()


def gradient_of_sum(prompts, targets, weights):
  """One row at a time, and then added up: the estimator as it is defined."""
  total = jax.tree.map(jnp.zeros_like, PARAMS)
  for prompt, target, weight in zip(prompts, targets, weights, strict=True):
    one = score(PARAMS, prompt, target)
    total = jax.tree.map(lambda t, s, w=weight: t + w * s, total, one)
  return total


def check_gradient(batch, expected, rate=1.0, size=None):
  moved, _, norm, *_ = step(Plain, *batch, rate=rate, size=size)
  steps = jax.tree.map(jnp.subtract, moved, PARAMS)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, rate * b, rtol=0, atol=2e-5),
    steps,
    expected,
  )
  squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(expected))
  np.testing.assert_allclose(norm, jnp.sqrt(squares), rtol=1e-4)


def test_gradient_is_the_weighted_sum_of_scores():
  prompts, targets, weights = rows()
  check_gradient((prompts, targets, weights), gradient_of_sum(*rows()))
  # Signs, length and the number of rows all count.
  for broken in (
    np.abs(weights),
    weights / len(weights),
    weights / (targets != EOS).sum(axis=1),
  ):
    with pytest.raises(AssertionError):
      check_gradient((prompts, targets, broken), gradient_of_sum(*rows()))


def test_the_learning_rate_multiplies_the_update_and_not_the_norm():
  check_gradient(rows(), gradient_of_sum(*rows()), rate=0.5)
  half = jax.tree.map(lambda one: one / 2, gradient_of_sum(*rows()))
  with pytest.raises(AssertionError):
    check_gradient(rows(), half, rate=1.0)


def test_the_loss_is_the_weighted_sum_before_the_step():
  prompts, targets, weights = rows()
  log_prob = MODEL.log_prob(PARAMS, prompts, targets).sum(axis=1)
  loss = step(Plain, prompts, targets, weights).loss
  np.testing.assert_allclose(loss, -(weights * log_prob).sum(), rtol=1e-5)
  # A mean over S sequences is in nats a sequence.
  mean = step(Plain, prompts, targets, np.full(4, 0.25, np.float32)).loss
  np.testing.assert_allclose(mean, -log_prob.mean(), rtol=1e-5)
  assert abs(mean - loss) > 1e-2


def test_rows_without_weight_change_nothing():
  prompts, targets, weights = rows()
  more = rows(seed=1)
  filled = (
    np.concatenate([prompts, more[0]]),
    np.concatenate([targets, more[1]]),
    np.concatenate([weights, 0 * more[2]]),
  )
  check_gradient(filled, gradient_of_sum(*rows()))


# Parts.


def ragged(beginning=(), lengths=(5, 2, 17, 1, 40, 3, 9)):
  """Rows of these lengths, of which the last has no weight."""
  rng = np.random.default_rng(3)
  prompts = rng.integers(2, 11, (len(lengths), 3), np.int32)
  prompts = np.concatenate(
    [np.tile(np.int32(beginning), (len(lengths), 1)), prompts], axis=1
  )
  targets = rng.integers(2, 11, (len(lengths), 48), np.int32)
  for row, length in zip(targets, lengths, strict=True):
    row[length - 1] = EOS
    row[length:] = PAD_ID
  weights = rng.normal(size=len(lengths)).astype(np.float32)
  weights[-1] = 0
  return prompts, targets, weights


BEGINNING = np.arange(2, 10).repeat(5)


@pytest.mark.parametrize(
  ("beginning", "size"),
  [
    pytest.param((), 2, marks=pytest.mark.slow, id="no beginning"),
    pytest.param(BEGINNING, 4, id="beginning"),
  ],
)
def test_parts_give_the_gradient_of_the_whole(beginning, size):
  batch = prompts, targets, weights = ragged(beginning)
  check_gradient(batch, gradient_of_sum(*batch), size=size)
  updated = step(Plain, *batch, size=size)
  log_prob = MODEL.log_prob(PARAMS, prompts, targets).sum(axis=1)
  np.testing.assert_allclose(
    updated.log_prob.fetch(),
    np.where(weights == 0, np.nan, log_prob),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    updated.loss, -(weights * log_prob).sum(), rtol=1e-4, atol=1e-5
  )


def test_the_way_back_through_what_rows_share_counts(monkeypatch):
  batch = ragged(BEGINNING)
  monkeypatch.setattr(gradients, "_inexact", lambda tree: [])
  monkeypatch.setattr(gradients, "_replace_inexact", lambda tree, inexact: tree)
  with pytest.raises(AssertionError):
    check_gradient(batch, gradient_of_sum(*batch), size=3)  # compiled here


def test_parts_are_as_wide_as_their_longest_row_and_share_a_beginning():
  begun, scored = [], []

  class Noted(language_model.LanguageModel):
    def encode_prefix(self, params, prefix):
      begun.append(prefix.shape)
      return super().encode_prefix(params, prefix)

    def log_prob(self, params, prompts, targets, shared=None):
      scored.append((prompts.shape, targets.shape))
      return super().log_prob(params, prompts, targets, shared)

  model = Noted(MODEL.network)
  prompts, targets, weights = ragged(BEGINNING)
  # Functions are traced once for each shape: there and back, and the parts.
  take = mstep.build_step(model, Plain, 2)
  for _ in range(2):
    take(
      jax.tree.map(jnp.copy, PARAMS), (), None, 0.1, prompts, targets, weights
    )
  assert begun == [(40,), (40,)]
  assert scored == [((2, 3), (2, 48)), ((2, 3), (2, 16))]


def test_a_batch_without_weight_moves_nothing():
  prompts, targets, weights = ragged()
  updated = step(Plain, prompts, targets, 0 * weights, size=2)
  assert_trees_equal(updated.params, PARAMS)
  assert updated.norm == updated.loss == 0
  assert np.isnan(updated.log_prob.fetch()).all()


def test_step_raises_the_likelihood_of_positive_weights():
  prompts, targets, _ = rows()
  optimizer = mstep.build_optimizer(OptimizerConfig(1e-2))
  weights = np.array([1, 0, 0, -1], np.float32)
  moved, *_ = step(optimizer, prompts, targets, weights)
  before = MODEL.log_prob(PARAMS, prompts, targets).sum(axis=1)
  after = MODEL.log_prob(moved, prompts, targets).sum(axis=1)
  assert after[0] > before[0]
  assert after[3] < before[3]


def test_step_is_deterministic():
  optimizer = mstep.build_optimizer(OptimizerConfig(1e-2))
  assert_trees_equal(step(optimizer, *rows()), step(optimizer, *rows()))


def test_clipping_limits_the_update_but_not_the_reported_norm():
  batch = rows()
  norm = step(mstep.build_optimizer(OptimizerConfig(1e-2)), *batch).norm
  clipped = mstep.build_optimizer(OptimizerConfig(1e-2, clip_norm=1e-3))
  _, state, reported, *_ = step(clipped, *batch)
  np.testing.assert_allclose(reported, norm, rtol=1e-6)
  (adam,) = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
  # Adam's first moment after one step is (1 - b1) times the clipped gradient.
  first = jnp.sqrt(sum(jnp.sum(m**2) for m in jax.tree.leaves(adam.mu)))
  np.testing.assert_allclose(first, 0.1 * 1e-3, rtol=1e-4)


def _is_adam(node):
  return hasattr(node, "mu")


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    # Cosine from 1 to 0.1 over 10 steps.
    ({}, {0: 1.0, 5: 0.55, 10: 0.1, 20: 0.1}),
    ({"final_ratio": 1.0}, {0: 1.0, 10: 1.0}),
    ({"decay_steps": 5}, {0: 1.0, 5: 0.1, 10: 0.1}),
    # Two steps up, then the decay over the other eight.
    ({"warmup_steps": 2}, {0: 0.0, 1: 0.5, 2: 1.0, 6: 0.55, 10: 0.1}),
  ],
)
def test_learning_rate(changes, expected):
  schedule = mstep.learning_rate(OptimizerConfig(1.0, **changes), num_steps=10)
  for at, value in expected.items():
    np.testing.assert_allclose(schedule(at), value, rtol=1e-6)


# Two terms, A and B, whose gradients are summed apart.


def terms_of_rows(num):
  """Weights of A and B as K = 2 has them: alone, both, two proportions."""
  kept = np.array([1, 0.5, 0, 0, 0.25, 1, 0, 0.5], np.float32)[:num]
  subtracted = np.array([0, 0.2, 0.3, 0.6, 0.2, 0, 0.1, 0.2], np.float32)[:num]
  return np.stack([kept, subtracted])


@pytest.mark.parametrize("size", [None, 2])
def test_two_terms_are_one_gradient_and_three_products(size):
  prompts, targets, _ = rows(num=8)
  terms, eta = terms_of_rows(8), 0.25
  kept, subtracted = (gradient_of_sum(prompts, targets, t) for t in terms)
  weights = terms[0] - np.float32(eta) * terms[1]
  batch = prompts, targets, weights, terms, eta
  expected = jax.tree.map(lambda a, b: a - eta * b, kept, subtracted)
  check_gradient(batch, expected, size=size)
  updated = step(Plain, *batch, size=size)
  pairs = (kept, kept), (kept, subtracted), (subtracted, subtracted)
  products = [float(optax.tree.vdot(*pair)) for pair in pairs]
  np.testing.assert_allclose(updated.measured, products, rtol=1e-4)
  with pytest.raises(AssertionError):  # of A - eta B, as one term
    np.testing.assert_allclose(
      step(Plain, prompts, targets, weights, terms * 2, eta).measured, products
    )
  plain = step(Plain, prompts, targets, weights)
  assert plain.measured is None
  np.testing.assert_allclose(updated.loss, plain.loss, rtol=1e-5)
  # Each row once, those of B alone too.
  np.testing.assert_allclose(
    updated.log_prob.fetch(), plain.log_prob.fetch(), rtol=1e-5
  )


def test_a_row_of_both_terms_is_differentiated_once():
  _, targets, _ = rows(num=8)
  terms = terms_of_rows(8)
  lengths = np.count_nonzero(targets, axis=1)
  parts = gradients.parts_by_term(lengths, terms, size=2)
  differentiated = [r for part in parts for r in part.rows[part.weights != 0]]
  assert sorted(differentiated) == [*range(8)]
  for part in parts:
    for share, term in zip(part.share, terms, strict=True):
      is_row = part.weights != 0
      np.testing.assert_allclose(
        share * part.weights[is_row], term[part.rows[is_row]], rtol=1e-6
      )


@pytest.mark.parametrize("by_term", [False, True])
def test_without_weights_the_model_is_not_differentiated(monkeypatch, by_term):
  """And the optimizer takes its step, with a gradient of zero."""
  monkeypatch.setattr(gradients, "of_part", None)
  optimizer = optax.adam(1.0)
  params = jax.tree.map(jnp.copy, PARAMS)
  nothing = jax.tree.map(jnp.zeros_like, PARAMS)
  before = optimizer.update(PARAMS, optimizer.init(PARAMS))[1]
  updates, after = optimizer.update(nothing, before)
  expected = jax.tree.map(lambda p, u: p - 0.5 * u, PARAMS, updates)
  prompts, targets, _ = rows(num=4)
  weights = np.zeros(4, np.float32)
  terms = (np.zeros((2, 4), np.float32), 0.3) if by_term else ()
  updated = mstep.build_step(MODEL, optimizer, 2)(
    *(params, before, None, 0.5, prompts, targets, weights, *terms)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6),
    (updated.params, updated.opt_state),
    (expected, after),
  )
  assert updated.norm == updated.loss == 0
  assert updated.is_finite
  assert np.isnan(updated.log_prob.fetch()).all()


def test_no_subtracted_term_is_the_plain_step():
  prompts, targets, _ = rows(num=4)
  kept = np.array([0.5, 0, 0.25, 0.25], np.float32)
  terms = np.stack([kept, 0 * kept])
  updated = step(optax.adam(1.0), prompts, targets, kept, terms, 0.5)
  plain = step(optax.adam(1.0), prompts, targets, kept)
  assert_trees_equal(updated.params, plain.params)
  assert updated.measured[2] == 0


def test_the_gradient_of_a_narrow_prefix_is_summed_in_float32():
  config = decoder.DecoderConfig(1, 16, 2, 8, 32, dtype="bfloat16")
  model = language_model.from_config(config, 11, EOS, 5)
  begin, zeros, add, _ = mstep.compile_step(model, optax.sgd(1.0), None, False)
  prefix = np.arange(2, 6, dtype=np.int32)
  shared = jax.eval_shape(begin, PARAMS, None, prefix)
  assert {x.dtype for x in jax.tree.leaves(shared)} == {jnp.dtype("bfloat16")}
  sums = jax.eval_shape(zeros, PARAMS, shared)
  for one in (
    sums,
    jax.eval_shape(add, sums, PARAMS, None, shared, *rows())[0],
  ):
    assert {x.dtype for x in one.shared_gradient} == {jnp.dtype("float32")}
