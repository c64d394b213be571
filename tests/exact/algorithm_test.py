"""The weights are those of Algorithm 1, for every pattern of correctness."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators, transition
from tests import toys
from tests.asserts import assert_close
from tests.exact import enumeration, twins

BASIC = estimators.basic()
PAPER = estimators.control_variate()
CORRECTED = estimators.control_variate(correct_first_acceptance=True)
NAMES = ["basic", "paper", "corrected"]
SIZES = [1, 2, 3, 4]


def transition_of(old_is_correct, draw_is_correct):
  """A real transition on tokens that tell memory and draws apart."""
  old_is_correct = np.asarray(old_is_correct, bool)
  draw_is_correct = np.asarray(draw_is_correct, bool)
  if draw_is_correct.ndim == 1:
    draw_is_correct = draw_is_correct[:, None]
  tokens = np.arange(draw_is_correct.size, dtype=np.int32) + 1
  return transition.independence(
    np.zeros((len(old_is_correct), 1), np.int32),
    old_is_correct,
    tokens.reshape(*draw_is_correct.shape, 1),
    draw_is_correct,
  )


def slow_basic(old_is_correct, draw_is_correct):
  """Algorithm 1 without control variate, a row at a time, in fractions."""
  correct_after = []
  for old, draw in zip(old_is_correct, draw_is_correct, strict=True):
    correct_after.append(1 if draw else int(old))
  num_valid = sum(correct_after)
  if num_valid == 0:
    return [[Fraction(0), Fraction(0)] for _ in correct_after]
  return [[Fraction(c, num_valid), Fraction(0)] for c in correct_after]


def slow_control_variate(
  old_is_correct, draw_is_correct, correct_first_acceptance=False
):
  """Algorithm 1 with control variate, a row at a time, in fractions."""
  rows = []
  after = [
    int(old or draw)
    for old, draw in zip(old_is_correct, draw_is_correct, strict=True)
  ]
  basic = slow_basic(old_is_correct, draw_is_correct)
  for m, (on_memory, _) in enumerate(basic):
    above = below = 0
    for other in range(len(after)):
      if other != m:
        above += after[other] * int(draw_is_correct[other])
        below += after[other]
    # 0/0 when no other row is valid: there is nothing to estimate it from.
    beta = Fraction(above, below) if below else Fraction(0)
    if correct_first_acceptance and not old_is_correct[m]:
      beta = Fraction(0)
    rows.append([on_memory, -on_memory * beta])
  return rows


slow_corrected = functools.partial(
  slow_control_variate, correct_first_acceptance=True
)


def check_against_loops(estimator, oracle, size):
  """Compares weights on all (old, draw) patterns of a batch."""
  patterns = np.array(list(itertools.product([False, True], repeat=2 * size)))
  old, draw = patterns[:, :size], patterns[:, size:]
  weigh = jax.jit(jax.vmap(lambda o, d: estimator(_taken(o, d))))
  actual = weigh(old, draw)
  expected = [oracle(*pair) for pair in zip(old, draw, strict=True)]
  assert_close(actual, np.array(expected, float))


def _taken(old_is_correct, draw_is_correct):
  """A transition under vmap; the tokens play no part."""
  tokens = jnp.zeros((len(old_is_correct), 1), jnp.int32)
  return transition.independence(
    tokens, old_is_correct, tokens[:, None], draw_is_correct[:, None]
  )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
  ("estimator", "oracle"),
  [
    (BASIC, slow_basic),
    (PAPER, slow_control_variate),
    (CORRECTED, slow_corrected),
  ],
  ids=NAMES,
)
def test_weights_equal_plain_loops(estimator, oracle, size):
  check_against_loops(estimator, oracle, size)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
  "broken", [twins.whole_batch_scale, twins.divided_by_batch, twins.swapped]
)
def test_loops_reject_broken_weights(broken, size):
  with pytest.raises(AssertionError):
    check_against_loops(broken, slow_control_variate, size)


# For two rows it is the same: the other row is valid, or it accepted nothing.
@pytest.mark.parametrize("size", [3, 4])
def test_loops_reject_a_scale_over_invalid_rows(size):
  with pytest.raises(AssertionError):
    check_against_loops(twins.invalid_rows_in_scale, slow_control_variate, size)


def test_loops_reject_the_other_formula():
  with pytest.raises(AssertionError):
    check_against_loops(CORRECTED, slow_control_variate, 2)


# Small cases by hand, c' = 1 where the old memory or the draw is correct.


def check_by_hand(old, draw, on_memory, on_draws, divisor):
  """Checks merged weights, given as whole multiples of 1/divisor."""
  taken = transition_of(old, draw)
  weights = PAPER(taken)
  merged = estimators.merge_accepted(taken, weights)
  expected = np.array([on_memory, on_draws]).T / divisor
  assert_close(merged, expected)


def test_scales_by_hand():
  scale = estimators.leave_one_out_scale(transition_of([1, 1, 1], [1, 0, 1]))
  assert_close(scale, np.array([1, 2, 1]) / 2)


@pytest.mark.parametrize(
  ("old", "draw", "on_memory", "on_draws", "divisor"),
  [
    # beta = (1/2, 1, 1/2): accepted rows keep 1 - beta, the rejected one
    # weighs its memory 1 and its draw -1; all of it by 1/3.
    ([1, 1, 1], [1, 0, 1], [0.5, 1, 0.5], [0, -1, 0], 3),
    # Nothing accepted: beta = 0, which is the basic estimator.
    ([1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], 3),
    # The middle row is invalid: not in C and in no other row's beta.
    ([1, 0, 1], [1, 0, 0], [1, 0, 1], [0, 0, -1], 2),
    # A first acceptance counts like any other.
    ([1, 0, 1], [0, 1, 0], [1, 1, 1], [-0.5, 0, -0.5], 3),
    # One valid row: no other to estimate beta from.
    ([0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], 1),
    ([0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], 1),
    ([1], [1], [1], [0], 1),
  ],
)
def test_weights_by_hand(old, draw, on_memory, on_draws, divisor):
  check_by_hand(old, draw, on_memory, on_draws, divisor)
  with pytest.raises(AssertionError):
    check_by_hand(old, draw, on_memory, on_draws, divisor + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
  "estimator",
  [BASIC, PAPER, CORRECTED],
  ids=NAMES,
)
def test_no_valid_row_gives_zeros(estimator, size):
  taken = transition_of([0] * size, [0] * size)
  weights = estimator(taken)
  np.testing.assert_array_equal(weights, np.zeros((size, 2)))
  merged = estimators.merge_accepted(taken, weights)
  np.testing.assert_array_equal(merged, np.zeros((size, 2)))


@pytest.mark.parametrize("old", [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_accepted_gives_no_gradient(old, size):
  taken = transition_of(old[:size], [1] * size)
  weights = PAPER(taken)
  merged = estimators.merge_accepted(taken, weights)
  # Bit for bit: any rest would be divided by W when it is subsampled.
  np.testing.assert_array_equal(merged, np.zeros((size, 2)))
  assert (BASIC(taken)[:, 0] > 0).all()


# Merging.


def check_merge(merge, num_draws):
  """Checks that no outcome's estimate changes, nor uses an accepted draw."""
  toy = toys.make_toy(vocabulary=2, length=2)
  questions = [0, 1]
  alike = np.full((2, 4), 1 / 4)  # from incorrect memories too
  cases = enumeration.outcomes(alike, toys.prior(toy)[questions], num_draws)
  taken = enumeration.transitions(toy, questions, cases)
  rng = np.random.default_rng(0)
  by_outcome = rng.normal(size=(len(cases.probability), 2, 1 + num_draws))
  merged = np.asarray(jax.vmap(merge)(taken, by_outcome))
  assert (merged[..., 1:][np.asarray(taken.accepted)] == 0).all()
  assert_close(
    enumeration.weighted_scores(toy, questions, taken, merged),
    enumeration.weighted_scores(toy, questions, taken, by_outcome),
  )


def merge_first_correct(taken, weights):
  """Moves the first correct draw's weight, not the accepted one's."""
  first = taken.draw_is_correct & (
    jnp.cumsum(taken.draw_is_correct, axis=1) == 1
  )
  return estimators.merge_accepted(taken._replace(accepted=first), weights)


def merge_by_dropping(taken, weights):
  kept = jnp.where(taken.accepted, 0, weights[:, 1:])
  return weights.at[:, 1:].set(kept)


@pytest.mark.parametrize("num_draws", [1, 2])
def test_merging_changes_no_estimate(num_draws):
  check_merge(estimators.merge_accepted, num_draws)
  with pytest.raises(AssertionError):
    check_merge(merge_by_dropping, num_draws)


def test_merging_takes_the_accepted_draw():
  with pytest.raises(AssertionError):
    check_merge(merge_first_correct, 2)
