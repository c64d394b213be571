"""The control variate with several draws: its exact mean and what it gains."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators, resampling
from tests import toys
from tests.asserts import assert_close, assert_mean
from tests.exact import enumeration, moments, offsets
from tests.inference import catalog

BASIC = estimators.basic()
PAPER = estimators.control_variate()
CORRECTED = estimators.control_variate(correct_first_acceptance=True)
TOY = toys.make_toy(vocabulary=2, length=2)  # four sequences
WIDE = toys.make_toy()  # nine
QUESTIONS = [3, 1]
NUM_DRAWS = [2, 3]


def last_correct_draw(taken):
  """The form that is not averaged: all weight on the last correct draw."""
  on_memory = estimators.basic()(taken)
  scale = estimators.leave_one_out_scale(taken)
  draws = -on_memory[:, :1] * scale[:, None] / taken.draw_is_correct.shape[1]
  return on_memory.at[:, 1:].add(draws)


def own_draws_in_scale(taken):
  weights = BASIC(taken)
  valid = jnp.maximum(taken.is_correct.sum(), 1)
  scale = taken.draw_is_correct.mean(axis=1).sum() / valid
  return weights.at[:, 1:].add(
    -weights[:, :1] * scale / taken.draw_is_correct.shape[1]
  )


def correct_draws_only(taken):
  """Subtracts the scores of the correct draws alone, whose mean is not 0."""
  weights = PAPER(taken)
  return weights.at[:, 1:].multiply(taken.draw_is_correct)


def undivided(taken):
  """Adds the draws' zero-mean scores up: no bias, but more variance."""
  scale = estimators.leave_one_out_scale(taken)
  number = taken.draw_is_correct.shape[1]
  more = BASIC(taken)[:, :1] * scale[:, None] * (number - 1) / number
  return PAPER(taken).at[:, 1:].add(-more)


BIASED = [own_draws_in_scale, correct_draws_only]


def pick(question, is_correct, which=0):
  """The index of one correct or incorrect sequence."""
  return np.flatnonzero(TOY.is_correct[question] == is_correct)[which]


def given_memories(pattern, which, num_draws):
  """Outcomes from old memories of the given correctness."""
  old = [pick(x, c, which) for x, c in zip(QUESTIONS, pattern, strict=True)]
  certain = np.eye(len(TOY.sequences))[old]
  return enumeration.outcomes(certain, toys.prior(TOY)[QUESTIONS], num_draws)


def check_mean_of_basic(cases, weigh, extra=0.0):
  """Checks E[weigh] = E[basic] + extra."""
  basic = enumeration.estimates(TOY, QUESTIONS, cases, BASIC)
  values = enumeration.estimates(TOY, QUESTIONS, cases, weigh)
  assert_mean(cases.probability, values, cases.probability @ basic + extra)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("num_draws", NUM_DRAWS)
def test_keeps_the_mean_from_any_correct_memory(num_draws, which):
  cases = given_memories([True, True], which, num_draws)
  for weigh in [PAPER, CORRECTED, last_correct_draw, undivided]:
    check_mean_of_basic(cases, weigh)
  for broken in BIASED:
    with pytest.raises(AssertionError):
      check_mean_of_basic(cases, broken)


def check_unbiased(weigh, toy, questions, num_draws):
  cases = enumeration.at_stationarity(toy, questions, num_draws)
  values = enumeration.estimates(toy, questions, cases, weigh)
  assert_mean(cases.probability, values, toys.gradient(toy, questions))


@pytest.mark.parametrize(
  ("toy", "questions", "num_draws"),
  [(TOY, [3, 1], 2), (TOY, [0, 1], 3), (WIDE, [3, 2], 2)],
  ids=["four-2", "four-3", "nine-2"],
)
@pytest.mark.parametrize("weigh", [BASIC, PAPER, CORRECTED])
def test_unbiased_at_stationarity(weigh, toy, questions, num_draws):
  check_unbiased(weigh, toy, questions, num_draws)


@pytest.mark.parametrize("num_draws", NUM_DRAWS)
@pytest.mark.parametrize("broken", BIASED)
def test_biased_twins_are_rejected(broken, num_draws):
  with pytest.raises(AssertionError):
    check_unbiased(broken, TOY, QUESTIONS, num_draws)


def bias_of_first_acceptances(pattern, num_draws, exponent=None):
  """-(1 - pi)^(K - 1) grad pi E[beta / C | valid], from its definition.

  Plain loops over the verdicts of the other question: for two of them, beta is
  the share of the other's correct draws where it is valid, and C is 2 then.
  """
  exponent = num_draws - 1 if exponent is None else exponent
  pi, total = toys.accuracy(TOY)[QUESTIONS], 0.0
  for m, question in enumerate(QUESTIONS):
    if pattern[m]:
      continue
    other, expected = 1 - m, 0.0
    for draws in itertools.product([False, True], repeat=num_draws):
      probability = np.prod([pi[other] if c else 1 - pi[other] for c in draws])
      if any(draws) or pattern[other]:
        expected += probability * sum(draws) / num_draws / 2
    slope = pi[m] * toys.gradient(TOY, [question])  # grad pi
    total -= (1 - pi[m]) ** exponent * slope * expected
  return total


@pytest.mark.parametrize("num_draws", [1, *NUM_DRAWS])
@pytest.mark.parametrize(
  "pattern", [(False, False), (False, True), (True, False)]
)
def test_first_acceptances_have_the_stated_bias(pattern, num_draws):
  cases = given_memories(pattern, 0, num_draws)
  bias = bias_of_first_acceptances(pattern, num_draws)
  check_mean_of_basic(cases, PAPER, bias)
  check_mean_of_basic(cases, CORRECTED)
  # Not that of one draw, nor none.
  with pytest.raises(AssertionError):
    check_mean_of_basic(cases, PAPER)
  with pytest.raises(AssertionError):
    check_mean_of_basic(cases, CORRECTED, bias)
  wrong = bias_of_first_acceptances(pattern, num_draws, exponent=num_draws)
  with pytest.raises(AssertionError):
    check_mean_of_basic(cases, PAPER, wrong)


def check_is_one_draw(weigh):
  """Checks that K = 1 is Algorithm 1, written out."""
  bits = np.array(list(itertools.product([False, True], repeat=6)))
  old, draws = bits[:, :3], bits[:, 3:, None]
  valid = (old | draws[..., 0]).astype(float)
  accepted = draws[..., 0].astype(float)
  on_memory = valid / np.maximum(valid.sum(axis=1, keepdims=True), 1)
  others = valid.sum(axis=1, keepdims=True) - valid
  beta = (accepted.sum(axis=1, keepdims=True) - accepted) / np.maximum(
    others, 1
  )
  expected = np.stack([on_memory, -on_memory * beta], axis=-1)
  assert_close(catalog.weights(weigh, old, draws), expected)


def test_one_draw_is_algorithm_1():
  check_is_one_draw(PAPER)
  check_is_one_draw(last_correct_draw)
  with pytest.raises(AssertionError):
    check_is_one_draw(CORRECTED)


@pytest.mark.parametrize("num_draws", [2, 3, 8])
def test_several_draws_by_loops(num_draws):
  """The docstring's two cases, a row at a time."""
  rng = np.random.default_rng(num_draws)
  old = rng.uniform(size=(50, 3)) < 1 / 2
  draws = rng.uniform(size=(50, 3, num_draws)) < 1 / 3
  weights = catalog.on_sequences(catalog.weights(PAPER, old, draws), draws)
  for got, before, verdicts in zip(weights, old, draws, strict=True):
    number = verdicts.sum(axis=1)
    valid = before | (number > 0)
    for m in range(3):
      others = [j for j in range(3) if j != m and valid[j]]
      share = [number[j] / num_draws for j in others]
      beta = sum(share) / len(others) if others else 0
      per_draw = verdicts[m] / max(number[m], 1) - beta / num_draws
      expected = np.append(float(number[m] == 0), per_draw)
      expected *= valid[m] / max(valid.sum(), 1)
      assert_close(got[m], expected)


# Averaging over the correct draws.


def spread_of_correct(toy, questions, num_draws):
  """[D, D] what averaging saves: E[sum_m c'_m (1 - 1/n_m) Cov+_m] / M^2."""
  draws = moments.of_toy(toy, questions)
  total = 0.0
  for pi, covariance in zip(draws.accuracy, draws.covariance, strict=True):
    for verdicts in itertools.product([False, True], repeat=num_draws):
      number = sum(verdicts)
      if number:
        probability = pi**number * (1 - pi) ** (num_draws - number)
        total += probability * (1 - 1 / number) * covariance[1]
  return total / len(questions) ** 2


@pytest.mark.parametrize("num_draws", [1, 2, 3, 4])
@pytest.mark.parametrize("lean", [-2.0, 0.0, 3.0])
def test_averaging_never_adds_variance(lean, num_draws):
  toy, questions = toys.make_toy(lean=lean), [0, 1, 2]
  draws = moments.of_toy(toy, questions)
  memories = moments.at_stationarity(draws)
  averaged = moments.exact(PAPER, draws, memories, num_draws)
  last = moments.exact(last_correct_draw, draws, memories, num_draws)
  assert_close(averaged.mean, last.mean)
  saved = last.covariance - averaged.covariance
  assert_close(saved, spread_of_correct(toy, questions, num_draws) + 0 * saved)
  # In every direction, and for some strictly.
  assert np.linalg.eigvalsh(saved).min() > -1e-15
  assert (np.trace(saved) > 1e-9) == (num_draws > 1)


@pytest.mark.parametrize("num_draws", NUM_DRAWS)
def test_averaging_never_adds_variance_from_any_memory(num_draws):
  """By enumeration, incorrect memories included."""
  for pattern in itertools.product([False, True], repeat=2):
    cases = given_memories(pattern, 0, num_draws)
    spread = []
    for weigh in [PAPER, last_correct_draw]:
      values = enumeration.estimates(TOY, QUESTIONS, cases, weigh)
      centred = values - cases.probability @ values
      spread.append((cases.probability * centred.T) @ centred)
    saved = np.linalg.eigvalsh(spread[1] - spread[0])
    assert saved.min() > -1e-15
    assert saved.max() > 1e-4


# What is done with the weights before they are differentiated.


def check_merging(merge, case, num_draws):
  """Checks that merging changes no outcome's estimate."""
  cases = given_memories((False, True), 0, num_draws)
  taken = enumeration.transitions(TOY, QUESTIONS, cases)
  weights = enumeration.weights(taken, case.weigh)

  def merged(transition):
    return merge(transition, case.weigh(transition))

  assert_close(
    enumeration.weighted_scores(
      TOY, QUESTIONS, taken, enumeration.weights(taken, merged)
    ),
    enumeration.weighted_scores(TOY, QUESTIONS, taken, weights),
  )


def merge_by_dropping(taken, weights):
  return weights.at[:, 1:].multiply(~taken.accepted)


@pytest.mark.parametrize(
  ("case", "num_draws"), catalog.with_draws(1, 2), ids=catalog.label
)
def test_merging_keeps_every_estimate(case, num_draws):
  check_merging(estimators.merge_accepted, case, num_draws)
  if case.name != "basic":  # it has nothing on its draws
    with pytest.raises(AssertionError):
      check_merging(merge_by_dropping, case, num_draws)


@pytest.mark.parametrize("case", catalog.CASES, ids=catalog.label)
def test_subsampling_keeps_every_mean(case):
  """Integrated over the offset, for a few verdicts of five questions."""
  num_draws = 1 + (case.name in catalog.SEVERAL)
  rng = np.random.default_rng(0)
  old = rng.uniform(size=(4, 5)) < 1 / 2
  draws = rng.uniform(size=(4, 5, num_draws)) < 1 / 2

  def merged(taken):
    return estimators.merge_accepted(taken, case.weigh(taken))

  for weights in catalog.weights(merged, old, draws):
    assert weights.any()
    size = np.abs(weights).ravel()
    for num_scored in [1, 3]:
      offsets.check_mean(
        resampling.subsample, weights, num_scored, weights, size
      )
