"""What every estimator must keep to."""

import functools
import inspect
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from cot_latent.inference import baselines, estimators
from tests.asserts import assert_trees_equal
from tests.inference import catalog

SIZE = 4
EVERY = pytest.mark.parametrize("case", catalog.CASES, ids=catalog.label)
EVERY_AND_DRAWS = pytest.mark.parametrize(
  ("case", "num_draws"), catalog.with_draws(1, 3), ids=catalog.label
)
# Their terms cancel where all draws are correct.
CANCELLING = {"control_variate", "rloo", "grpo", "maxrl"}
# Their weights do not look at which correct draw came last.
EXCHANGEABLE = {case.name for case in catalog.CASES} - {"basic"}
ROUNDING = 1e-6


def verdicts(num_draws, size=SIZE, number=64):
  """Random verdicts of all accuracies, [S, M] and [S, M, K]."""
  rng = np.random.default_rng(num_draws)
  level = rng.uniform(size=(number, 1, 1))
  old = rng.uniform(size=(number, size)) < 1 / 2
  return old, rng.uniform(size=(number, size, num_draws)) < level


def one_transition(num_draws, length=4, seed=0):
  """A single transition, with tokens."""
  rng = np.random.default_rng(seed)
  old, draws = verdicts(num_draws)
  # Of mixed verdicts: an estimator that does not see them would pass.
  which = np.flatnonzero((draws.mean(axis=(1, 2)) - 1 / 2) ** 2 < 1 / 16)[0]
  taken = catalog.take(old[which], draws[which])
  tokens = rng.integers(9, size=(SIZE, 1 + num_draws, length), dtype=np.int32)
  return taken._replace(
    old_tokens=tokens[:, 0], draw_tokens=tokens[:, 1:], tokens=tokens[:, 0]
  )


def assert_near(actual, expected):
  """Compares float32 weights."""
  np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING)


# Broken twins.


def row_dependent(taken):
  weights = estimators.basic()(taken)
  return weights * jnp.arange(len(weights))[:, None]


def with_gradient(taken):
  on_memory = taken.is_correct / taken.is_correct.sum()
  draws = jnp.zeros(taken.draw_is_correct.shape)
  return jnp.concatenate([on_memory[:, None], draws], axis=1)


def without_guard(taken):
  """GRPO that divides by a spread of 0 too."""
  correct = taken.draw_is_correct.astype(float)
  centred = correct - correct.mean(axis=1, keepdims=True)
  scaled = centred / correct.std(axis=1, keepdims=True)
  return jnp.pad(scaled / correct.size, ((0, 0), (1, 0)))


def by_length(taken):
  """Divides by the length, padding included."""
  return estimators.basic()(taken) / taken.tokens.shape[1]


def on_first_token(taken):
  return estimators.basic()(taken) * taken.tokens[:, :1]


def invalid_too(taken):
  weights = jnp.ones((len(taken.is_correct), 1)) / len(taken.is_correct)
  return jnp.pad(weights, ((0, 0), (0, taken.draw_is_correct.shape[1])))


def rounded_scale(taken):
  """RLOO as it is mostly written: its ones may cancel to 1e-9."""
  correct = taken.draw_is_correct.astype(float)
  others = (correct.sum(axis=1, keepdims=True) - correct) / (
    correct.shape[1] - 1
  )
  return jnp.pad((correct - others) / correct.size, ((0, 0), (1, 0)))


def test_every_estimator_is_found():
  found = {case.name for case in catalog.CASES}
  assert found >= {"basic", "control_variate"}
  assert found >= {"rejection_sampling", "rloo", "grpo", "maxrl"}
  assert found >= catalog.SEVERAL
  modules = estimators, baselines
  closures = {
    name
    for module in modules
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if re.search(r"def weigh\(\s*transition", inspect.getsource(function))
  }
  assert found == closures  # none lacks the annotation that it is found by


@EVERY
@pytest.mark.parametrize("num_draws", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_shape_and_type(case, num_draws, size):
  def weigh(old, draws):
    return case.weigh(catalog.take(old, draws))

  shapes = [
    jax.ShapeDtypeStruct(shape, bool) for shape in [(size,), (size, num_draws)]
  ]
  if case.name in catalog.SEVERAL and num_draws == 1:
    with pytest.raises(ValueError, match=rf"^{case.name} .*NUM_DRAWS > 1"):
      jax.eval_shape(weigh, *shapes)
    return
  weights = jax.eval_shape(weigh, *shapes)
  assert weights.shape == (size, 1 + num_draws)
  assert weights.dtype == jnp.float32


@pytest.mark.parametrize(
  "build", [estimators.control_variate, baselines.rejection_sampling]
)
@pytest.mark.parametrize("option", [1, None, "True"])
def test_options_are_true_or_false(build, option):
  with pytest.raises(TypeError, match="must be True or False, not"):
    build(option)


def check_permutation(weigh, num_draws):
  """Checks that a question's weights do not depend on its place."""
  old, draws = verdicts(num_draws)
  order = np.roll(np.arange(SIZE), 1)
  weights = catalog.weights(weigh, old, draws)
  permuted = catalog.weights(weigh, old[:, order], draws[:, order])
  assert_near(permuted, weights[:, order])


@EVERY_AND_DRAWS
def test_permuting_questions_permutes_their_weights(case, num_draws):
  check_permutation(case.weigh, num_draws)


@pytest.mark.parametrize("num_draws", [1, 3])
def test_a_part_of_the_place_is_rejected(num_draws):
  with pytest.raises(AssertionError):
    check_permutation(row_dependent, num_draws)


def check_exchangeable(weigh, num_draws):
  """Checks that a draw's weight does not depend on its place."""
  old, draws = verdicts(num_draws)
  order = np.roll(np.arange(num_draws), 1)
  weights = catalog.on_sequences(catalog.weights(weigh, old, draws), draws)
  shuffled = draws[..., order]
  permuted = catalog.on_sequences(
    catalog.weights(weigh, old, shuffled), shuffled
  )
  assert_near(permuted[..., 0], weights[..., 0])
  assert_near(permuted[..., 1:], weights[..., 1:][..., order])


@EVERY
def test_permuting_draws_permutes_their_weights(case):
  if case.name in EXCHANGEABLE:
    check_exchangeable(case.weigh, 3)
  else:  # it takes the last correct draw, and makes no such claim
    with pytest.raises(AssertionError):
      check_exchangeable(case.weigh, 3)


@EVERY_AND_DRAWS
def test_needs_no_compilation(case, num_draws):
  taken = one_transition(num_draws)
  weights = case.weigh(taken)
  assert np.asarray(weights).any()
  assert_near(weights, jax.jit(case.weigh)(taken))


def check_no_gradient(weigh, num_draws):
  """Checks that weights are constants even of inputs that have gradients."""
  taken = one_transition(num_draws)
  direction = np.random.default_rng(2).normal(size=(SIZE, 1 + num_draws))

  def total(is_correct, draw_is_correct):
    soft = taken._replace(
      is_correct=is_correct, draw_is_correct=draw_is_correct
    )
    return (weigh(soft) * direction).sum()

  slopes = jax.grad(total, argnums=(0, 1))(
    taken.is_correct.astype(float), taken.draw_is_correct.astype(float)
  )
  for slope in slopes:
    np.testing.assert_array_equal(slope, np.zeros_like(slope))


@EVERY_AND_DRAWS
def test_weights_have_no_gradient(case, num_draws):
  check_no_gradient(case.weigh, num_draws)


@pytest.mark.parametrize("num_draws", [1, 3])
def test_a_gradient_is_rejected(num_draws):
  with pytest.raises(AssertionError):
    check_no_gradient(with_gradient, num_draws)


def check_tokens_play_no_part(weigh, num_draws):
  """Checks that neither tokens nor padding change a bit."""
  taken = one_transition(num_draws)
  others = one_transition(num_draws, seed=1)
  padded = jax.tree.map(
    lambda leaf: (
      np.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, 3)])
      if leaf.dtype == jnp.int32
      else leaf
    ),
    taken,
  )
  assert padded.tokens.shape[1] == taken.tokens.shape[1] + 3
  for other in [others, padded]:
    assert_trees_equal(weigh(taken), weigh(other))


@EVERY_AND_DRAWS
def test_tokens_and_padding_play_no_part(case, num_draws):
  check_tokens_play_no_part(case.weigh, num_draws)


@pytest.mark.parametrize("broken", [by_length, on_first_token])
def test_a_part_of_the_tokens_is_rejected(broken):
  with pytest.raises(AssertionError):
    check_tokens_play_no_part(broken, 3)


def check_edges(weigh, num_draws, size):
  """Checks the cases in which something divides by 0, or nothing is correct."""
  none, everything = np.zeros(size, bool), np.ones(size, bool)
  first = np.arange(size) == 0
  incorrect = np.zeros((size, num_draws), bool)
  one_correct = incorrect.copy()
  one_correct[0, 0] = True
  olds = [none, none, none, first, first, everything, everything]
  draws = [
    incorrect,
    one_correct,
    ~incorrect,
    incorrect,
    one_correct,
    incorrect,
    ~incorrect,
  ]
  old, draws = np.stack(olds), np.stack(draws)
  weights = catalog.weights(weigh, old, draws)
  assert np.isfinite(weights).all()
  valid = old | draws.any(axis=2)
  assert not weights[~valid].any()


@EVERY_AND_DRAWS
@pytest.mark.parametrize("size", [1, SIZE])
def test_edge_cases(case, num_draws, size):
  check_edges(case.weigh, num_draws, size)


@pytest.mark.parametrize("broken", [without_guard, invalid_too])
def test_unguarded_weights_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_edges(broken, 3, SIZE)


def when_all_are_correct(weigh, num_draws, size):
  """Weights as they are trained with: merged, and compiled as users do."""

  @functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3}
  )
  def merged(old, draws):
    taken = catalog.take(old, draws)
    return estimators.merge_accepted(taken, weigh(taken))

  shape = size, num_draws
  return np.asarray(merged(np.ones(size, bool), np.ones(shape, bool)))


# Of 41 rewards of 1 the mean is not 1 where the division is compiled into a
# product with the reciprocal.
@EVERY
@pytest.mark.parametrize(("size", "num_draws"), [(2, 41), (3, 3), (7, 10)])
def test_cancelling_terms_leave_nothing(case, size, num_draws):
  weights = when_all_are_correct(case.weigh, num_draws, size)
  if case.name in CANCELLING:
    # Bit for bit: any rest would be differentiated.
    np.testing.assert_array_equal(weights, np.zeros_like(weights))
  else:
    assert weights.sum() == pytest.approx(1)


def test_a_rest_is_seen():
  assert when_all_are_correct(rounded_scale, 10, 7).any()


@hypothesis.given(
  st.sampled_from(catalog.with_draws(2)),
  st.lists(st.tuples(*[st.booleans()] * 3), min_size=3, max_size=3),
)
def test_any_verdicts(case_and_draws, rows):
  """Weights are finite, on valid rows alone, and no larger than 1 in sum."""
  case, _ = case_and_draws
  bits = np.array(rows)[None]
  old, draws = bits[..., 0], bits[..., 1:]
  (weights,) = catalog.weights(case.weigh, old, draws)
  assert np.isfinite(weights).all()
  assert not weights[~(old | draws.any(axis=2))[0]].any()
  total = weights.sum()
  if case.name in catalog.SEVERAL:  # a baseline: each question's add up to 0
    assert_near(weights.sum(axis=1), np.zeros(3))
  else:
    assert -ROUNDING < total < 1 + ROUNDING
  positive = np.where(weights > 0, weights, 0).sum()
  assert positive < 1 + ROUNDING


@EVERY_AND_DRAWS
def test_only_correct_sequences_are_pushed_up(case, num_draws):
  old, draws = verdicts(num_draws)
  weights = catalog.on_sequences(catalog.weights(case.weigh, old, draws), draws)
  on_memory, on_draws = weights[..., 0], weights[..., 1:]
  assert (on_memory >= 0).all()
  assert not on_memory[~old].any()
  assert (on_draws[~draws] <= 0).all()
  assert (on_draws[draws] >= -ROUNDING).all() or case.name == "basic"
  assert (on_draws > 0).any()


@EVERY_AND_DRAWS
def test_merging_keeps_each_sequence(case, num_draws):
  old, draws = verdicts(num_draws)
  weights = catalog.weights(case.weigh, old, draws)

  def merged_weights(taken):
    return estimators.merge_accepted(taken, case.weigh(taken))

  merged = catalog.weights(merged_weights, old, draws)
  assert not merged[..., 1:][catalog.accepted(draws)].any()
  assert_near(
    catalog.on_sequences(merged, draws), catalog.on_sequences(weights, draws)
  )


@pytest.mark.parametrize("num_draws", [1, 3])
def test_merging_keeps_shape_and_totals(num_draws):
  taken = one_transition(num_draws)
  shape = SIZE, 1 + num_draws
  weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
  merged = jax.jit(estimators.merge_accepted)(taken, weights)
  assert merged.shape == shape
  assert merged.dtype == jnp.float32
  assert_near(merged.sum(axis=1), weights.sum(axis=1))
  assert (np.asarray(merged)[:, 1:][taken.accepted] == 0).all()
