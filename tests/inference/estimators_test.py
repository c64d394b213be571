"""What every estimator must keep to, on random transitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators, transition
from tests.asserts import assert_trees_equal

ESTIMATORS = [
  pytest.param(estimators.basic(), 1, id="basic-1"),
  pytest.param(estimators.basic(), 3, id="basic-3"),
  pytest.param(estimators.control_variate(), 1, id="paper"),
  pytest.param(
    estimators.control_variate(correct_first_acceptance=True),
    1,
    id="corrected",
  ),
]
SIZE = 16


def random_transition(num_draws, seed=0):
  rng = np.random.default_rng(seed)
  return transition.independence(
    rng.integers(9, size=(SIZE, 4), dtype=np.int32),
    rng.uniform(size=SIZE) < 1 / 2,
    rng.integers(9, size=(SIZE, num_draws, 4), dtype=np.int32),
    rng.uniform(size=(SIZE, num_draws)) < 1 / 2,
  )


def permute(tree, order):
  return jax.tree.map(lambda leaf: leaf[order], tree)


def check_permutation(estimator, num_draws):
  """Checks that a question's weights do not depend on its place."""
  taken = random_transition(num_draws)
  order = np.random.default_rng(1).permutation(SIZE)
  of_permuted = estimator(permute(taken, order))
  permuted = estimator(taken)[order]
  np.testing.assert_allclose(of_permuted, permuted, rtol=0, atol=1e-7)


def check_no_gradient(estimator, num_draws):
  """Checks that weights are constants even of inputs that have gradients."""
  taken = random_transition(num_draws)
  direction = np.random.default_rng(2).normal(size=(SIZE, 1 + num_draws))

  def total(is_correct, draw_is_correct):
    soft = taken._replace(
      is_correct=is_correct, draw_is_correct=draw_is_correct
    )
    return (estimator(soft) * direction).sum()

  slopes = jax.grad(total, argnums=(0, 1))(
    taken.is_correct.astype(float), taken.draw_is_correct.astype(float)
  )
  for slope in slopes:
    np.testing.assert_array_equal(slope, np.zeros_like(slope))


def row_dependent(taken):
  weights = estimators.basic()(taken)
  return weights * jnp.arange(len(weights))[:, None]


def with_gradient(taken):
  on_memory = taken.is_correct / taken.is_correct.sum()
  draws = jnp.zeros(taken.draw_is_correct.shape)
  return jnp.concatenate([on_memory[:, None], draws], axis=1)


@pytest.mark.parametrize(("estimator", "num_draws"), ESTIMATORS)
def test_shape_and_type(estimator, num_draws):
  weights = estimator(random_transition(num_draws))
  assert weights.shape == (SIZE, 1 + num_draws)
  assert weights.dtype == jnp.float32


@pytest.mark.parametrize(("estimator", "num_draws"), ESTIMATORS)
def test_only_valid_rows_have_weight(estimator, num_draws):
  taken = random_transition(num_draws)
  weights, valid = np.asarray(estimator(taken)), np.asarray(taken.is_correct)
  assert 0 < valid.sum() < SIZE
  assert (weights[~valid] == 0).all()
  assert (weights[valid, 0] > 0).all()
  assert (weights[:, 1:] <= 0).all()
  np.testing.assert_allclose(weights[:, 0].sum(), 1, rtol=1e-6)


@pytest.mark.parametrize(("estimator", "num_draws"), ESTIMATORS)
def test_needs_no_compilation(estimator, num_draws):
  taken = random_transition(num_draws)
  np.testing.assert_allclose(
    estimator(taken), jax.jit(estimator)(taken), rtol=0, atol=1e-7
  )


@pytest.mark.parametrize(("estimator", "num_draws"), ESTIMATORS)
def test_permuting_the_batch_permutes_the_weights(estimator, num_draws):
  check_permutation(estimator, num_draws)
  with pytest.raises(AssertionError):
    check_permutation(row_dependent, num_draws)


@pytest.mark.parametrize(("estimator", "num_draws"), ESTIMATORS)
def test_weights_have_no_gradient(estimator, num_draws):
  check_no_gradient(estimator, num_draws)
  with pytest.raises(AssertionError):
    check_no_gradient(with_gradient, num_draws)


@pytest.mark.parametrize(("estimator", "num_draws"), ESTIMATORS)
def test_tokens_play_no_part(estimator, num_draws):
  taken = random_transition(num_draws)
  others = jax.tree.map(
    lambda leaf: leaf + 1 if leaf.dtype == jnp.int32 else leaf, taken
  )
  assert_trees_equal(estimator(taken), estimator(others))


@pytest.mark.parametrize("num_draws", [1, 3])
def test_merging_keeps_shape_and_totals(num_draws):
  taken = random_transition(num_draws)
  shape = SIZE, 1 + num_draws
  weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
  merged = jax.jit(estimators.merge_accepted)(taken, weights)
  assert merged.shape == shape
  assert merged.dtype == jnp.float32
  np.testing.assert_allclose(
    merged.sum(axis=1), weights.sum(axis=1), rtol=0, atol=1e-6
  )
  assert (np.asarray(merged)[:, 1:][taken.accepted] == 0).all()


@pytest.mark.parametrize("num_draws", [2, 3])
def test_control_variate_is_for_one_draw(num_draws):
  weigh = estimators.control_variate()
  with pytest.raises(ValueError, match=f"NUM_DRAWS = 1.*not for {num_draws}"):
    jax.eval_shape(weigh, random_transition(num_draws))
