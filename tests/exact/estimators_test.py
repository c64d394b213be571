"""The estimators' exact means, over every old memory and every draw."""

import itertools

import numpy as np
import pytest

from cot_latent.inference import estimators
from tests import toys
from tests.asserts import assert_mean
from tests.exact import enumeration, twins

BASIC = estimators.basic()
PAPER = estimators.control_variate()
CORRECTED = estimators.control_variate(correct_first_acceptance=True)
BATCHES = [[0, 1], [3, 1], [0, 1, 2], [3, 2, 0]]
TOY = toys.make_toy()


def check_unbiased(toy, questions, estimator, num_draws=1):
  cases = enumeration.at_stationarity(toy, questions, num_draws)
  values = enumeration.estimates(toy, questions, cases, estimator)
  assert_mean(cases.probability, values, toys.gradient(toy, questions))


def check_mean_of_basic(toy, questions, old, estimator, extra=0.0):
  """Checks E[estimator] = E[basic] + extra from given old memories."""
  cases = enumeration.from_memory(toy, questions, old)
  basic = enumeration.estimates(toy, questions, cases, BASIC)
  values = enumeration.estimates(toy, questions, cases, estimator)
  assert_mean(cases.probability, values, cases.probability @ basic + extra)


def bias_of_first_acceptances(toy, questions, old):
  """-E[c~_m beta_m grad log p(z~_m)/C], summed over incorrect old memories.

  Plain loops over the draws, from the definitions of beta_m and C.
  """
  size, total = len(questions), 0.0
  prior, scores = toys.prior(toy), toys.scores(toy)
  old_correct = [
    toy.is_correct[x, z] for x, z in zip(questions, old, strict=True)
  ]
  for draws in itertools.product(range(len(toy.sequences)), repeat=size):
    pairs = list(zip(questions, draws, strict=True))
    probability = np.prod([prior[x, z] for x, z in pairs])
    drawn = [bool(toy.is_correct[x, z]) for x, z in pairs]
    valid = [d or o for d, o in zip(drawn, old_correct, strict=True)]
    for m, (x, z) in enumerate(pairs):
      others = [j for j in range(size) if j != m and valid[j]]
      if old_correct[m] or not drawn[m] or not others:
        continue
      beta = sum(drawn[j] for j in others) / len(others)
      total -= probability * beta * scores[x, z] / sum(valid)
  return total


def pick(toy, question, is_correct, which=0):
  """The index of one correct or incorrect sequence."""
  return np.flatnonzero(toy.is_correct[question] == is_correct)[which]


def memories(toy, questions, pattern, which=0):
  """Old memories with the given correctness."""
  return [
    pick(toy, x, c, which) for x, c in zip(questions, pattern, strict=True)
  ]


@pytest.mark.parametrize("questions", BATCHES)
@pytest.mark.parametrize(
  "estimator",
  [BASIC, PAPER, CORRECTED],
  ids=["basic", "paper", "corrected"],
)
def test_unbiased_at_stationarity(questions, estimator):
  check_unbiased(TOY, questions, estimator)


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("lean", [0.0, 3.0])
def test_unbiased_on_other_toys(vocabulary, length, lean):
  toy = toys.make_toy(vocabulary, length, lean=lean)
  check_unbiased(toy, [0, 1], BASIC)
  check_unbiased(toy, [0, 1], PAPER)


def test_basic_is_unbiased_for_two_draws():
  toy = toys.make_toy(vocabulary=2, length=2)
  check_unbiased(toy, [0, 1], BASIC, num_draws=2)


@pytest.mark.parametrize(
  "broken", [twins.whole_batch_scale, twins.swapped, twins.accepted_only]
)
@pytest.mark.parametrize("questions", BATCHES)
def test_biased_twins_are_rejected(questions, broken):
  with pytest.raises(AssertionError):
    check_unbiased(TOY, questions, broken)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("questions", BATCHES)
def test_control_variate_keeps_the_mean_from_any_correct_memory(
  questions, which
):
  old = memories(TOY, questions, [True] * len(questions), which)
  check_mean_of_basic(TOY, questions, old, PAPER)
  for broken in [twins.whole_batch_scale, twins.swapped]:
    with pytest.raises(AssertionError):
      check_mean_of_basic(TOY, questions, old, broken)


# Patterns with an incorrect old memory, in batches of two and three.
@pytest.mark.parametrize(
  "pattern",
  [
    pattern
    for size in [2, 3]
    for pattern in itertools.product([False, True], repeat=size)
    if not all(pattern)
  ],
)
def test_first_acceptances_have_the_known_bias(pattern):
  questions = [3, 1, 2][: len(pattern)]
  old = memories(TOY, questions, pattern)
  extra = bias_of_first_acceptances(TOY, questions, old)
  check_mean_of_basic(TOY, questions, old, PAPER, extra)
  check_mean_of_basic(TOY, questions, old, CORRECTED)
  # The bias is really there: each check rejects the other estimator.
  with pytest.raises(AssertionError):
    check_mean_of_basic(TOY, questions, old, PAPER)
  with pytest.raises(AssertionError):
    check_mean_of_basic(TOY, questions, old, CORRECTED, extra)
