"""The fitted control variate: its exact mean and variance, and its fit.

An estimate is A - eta B. What is fitted is E<A, B> / E|B|^2.
"""

from typing import NamedTuple

import numpy as np
import pytest

from cot_latent.inference import estimators, fitting, resampling
from tests import toys
from tests.asserts import assert_close, assert_mean
from tests.exact import enumeration, offsets
from tests.inference import catalog

BASIC = estimators.basic()
PAPER = estimators.control_variate()
FITTED = estimators.control_variate(scale="fitted")
CORRECTED = estimators.control_variate(True, scale="fitted")
TOY = toys.make_toy(vocabulary=2, length=2)  # four sequences
QUESTIONS = [3, 1]


class Terms(NamedTuple):
  """The two terms of every outcome: probability [S], A and B [S, D]."""

  probability: np.ndarray
  kept: np.ndarray
  subtracted: np.ndarray

  def measured(self):
    """[S, 3] |A|^2, <A, B> and |B|^2, as the M-step gives them."""
    a, b = self.kept, self.subtracted
    return np.stack([(a * a).sum(1), (a * b).sum(1), (b * b).sum(1)], axis=1)

  def variance(self, eta):
    """The trace of the variance of A - eta B."""
    values = self.kept - eta * self.subtracted
    centred = values - self.probability @ values
    return (self.probability @ centred**2).sum()


def terms(toy, questions, cases, estimator=FITTED) -> Terms:
  taken = enumeration.transitions(toy, questions, cases)
  both = [
    enumeration.weights(taken, lambda t, i=i: estimator.terms(t)[i])
    for i in range(2)
  ]
  return Terms(
    cases.probability,
    *(enumeration.weighted_scores(toy, questions, taken, w) for w in both),
  )


def from_memories(pattern, num_draws=1, toy=TOY):
  """Outcomes from given memories, correct or not, and fresh draws."""
  questions = np.asarray(QUESTIONS)
  old = [
    np.flatnonzero(toy.is_correct[x] == c)[0]
    for x, c in zip(questions, pattern, strict=True)
  ]
  certain = np.eye(len(toy.sequences))[old]
  return enumeration.outcomes(certain, toys.prior(toy)[questions], num_draws)


def of_one_correct(toy):
  """The toy with one correct sequence a question."""
  only = np.zeros_like(toy.is_correct)
  only[np.arange(len(only)), toy.is_correct.argmax(axis=1)] = True
  return toy._replace(is_correct=only)


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_an_eta_of_1_is_the_paper_s(num_draws):
  cases = from_memories((False, True), num_draws)
  taken = enumeration.transitions(TOY, QUESTIONS, cases)
  expected = enumeration.weights(taken, PAPER)
  np.testing.assert_array_equal(enumeration.weights(taken, FITTED), expected)


@pytest.mark.parametrize("num_draws", [1, 2, 3])
@pytest.mark.parametrize("pattern", [(True, True), (False, True)])
def test_every_eta_has_the_mean_of_basic(pattern, num_draws):
  cases = from_memories(pattern, num_draws)
  taken = enumeration.transitions(TOY, QUESTIONS, cases)
  basic = enumeration.weighted_scores(
    TOY, QUESTIONS, taken, enumeration.weights(taken, BASIC)
  )
  found = terms(TOY, QUESTIONS, cases, CORRECTED)
  for eta in [0.0, 0.3, 1.0]:
    values = found.kept - eta * found.subtracted
    assert_mean(cases.probability, values, cases.probability @ basic)
  if not all(pattern):  # the paper's bias of first acceptances, times eta
    found = terms(TOY, QUESTIONS, cases)
    with pytest.raises(AssertionError):
      assert_mean(
        cases.probability,
        found.kept - 0.3 * found.subtracted,
        cases.probability @ basic,
      )


@pytest.mark.parametrize("num_draws", [1, 2])
@pytest.mark.parametrize("lean", [-2.0, 0.0, 3.0, 6.0])
@pytest.mark.parametrize("is_one", [False, True])
def test_the_best_eta_never_adds_variance(lean, num_draws, is_one):
  toy = TOY._replace(lean=lean)
  toy = of_one_correct(toy) if is_one else toy
  cases = enumeration.at_stationarity(toy, QUESTIONS, num_draws)
  found = terms(toy, QUESTIONS, cases)
  _, product, square = found.probability @ found.measured()
  best = found.variance(product / square)
  assert_close(best, found.variance(0) - product**2 / square)
  assert best <= found.variance(0) + 1e-15
  assert best <= found.variance(1) + 1e-15
  for h in [-0.1, 0.1]:
    away = found.variance(product / square + h)
    assert_close(away - best, h**2 * square)
  if is_one:  # what the docs say: it pays nothing to subtract anything
    assert_close(product, np.float64(0))
    assert found.variance(1) > found.variance(0) + 1e-6


def test_one_question_s_best_eta_is_the_ratio_of_variances():
  """With beta = pi: v+ / v, and the paper's pays above 1 / 2."""
  pays = []
  for lean in [0.0, 2.0, 6.0]:
    toy = toys.make_toy(lean=lean)
    for x in range(4):
      p, scores = toys.prior(toy)[x], toys.scores(toy)[x]
      posterior, pi = toys.posterior(toy)[x], toys.accuracy(toy)[x]
      of_correct = posterior @ (scores - posterior @ scores) ** 2
      ratio = of_correct.sum() / (p @ scores**2).sum()
      cases = enumeration.at_stationarity(toy, [x])
      taken = enumeration.transitions(toy, [x], cases)
      ones = enumeration.weights(taken, BASIC)
      found = Terms(
        cases.probability,
        enumeration.weighted_scores(toy, [x], taken, ones),
        pi * enumeration.weighted_scores(toy, [x], taken, ones[..., ::-1]),
      )
      _, product, square = found.probability @ found.measured()
      assert_close(product / square, ratio)
      pays.append(found.variance(1) < found.variance(0))
      assert pays[-1] == (ratio > 1 / 2)
  assert {*pays} == {True, False}


# The fit: eta comes from earlier steps.


def eta_of(*measured):
  """The factor after steps that measured this."""
  fit = fitting.begin()
  for row in measured:
    fit = fitting.update(fit, row)
  return fit.eta()


def check_mean_over_two_steps(choose):
  """Checks E[A - eta B] = E[A] over all outcomes of two steps.

  Args:
    choose: What the first step measured, and the second -> eta of the second.
  """
  first = terms(TOY, [0, 2], enumeration.at_stationarity(TOY, [0, 2]))
  second = terms(TOY, QUESTIONS, from_memories((True, True)))
  total = 0.0
  for p, before in zip(first.probability, first.measured(), strict=True):
    etas = np.array([choose(before, now) for now in second.measured()])
    values = second.kept - etas[:, None] * second.subtracted
    total += p * (second.probability @ values)
  assert_close(total, second.probability @ second.kept)


def test_eta_of_earlier_steps_keeps_the_mean():
  check_mean_over_two_steps(lambda before, now: eta_of(before))


def from_the_same_step(before, now):
  return eta_of(before, now)


def square_of_the_same_step(before, now):
  return min(max(before[1] / max(now[2], 1e-12), 0), 1)


def product_of_the_same_step(before, now):
  return min(max(now[1] / max(before[2], 1e-12), 0), 1)


@pytest.mark.parametrize(
  "broken",
  [from_the_same_step, square_of_the_same_step, product_of_the_same_step],
)
def test_eta_of_the_same_step_is_biased(broken):
  with pytest.raises(AssertionError):
    check_mean_over_two_steps(broken)


def test_the_fit_finds_the_best_eta():
  toy = toys.make_toy(lean=2.0)
  cases = enumeration.at_stationarity(toy, [0, 1])
  found = terms(toy, [0, 1], cases)
  squares = found.probability @ found.measured()
  fit = fitting.update(fitting.update(fitting.begin(), squares), squares)
  assert fit.eta() == pytest.approx(squares[1] / squares[2], rel=1e-6)
  ratio = squares[0] / (squares[0] - 2 * squares[1] + squares[2])
  assert fit.paper_ratio() == pytest.approx(ratio, rel=1e-5)


def test_eta_is_between_0_and_1():
  assert fitting.begin().eta() == 0
  assert eta_of([1, -1, 1]) == 0
  assert eta_of([9, 2, 1]) == 1
  assert fitting.begin().paper_ratio() is None
  assert eta_of([1, 0, 0]) == 0  # nothing was subtracted yet


# Subsampling, for two sums over the same sequences.


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_scored", [1, 3])
def test_subsampling_keeps_the_mean_of_both_terms(num_scored, eta):
  rng = np.random.default_rng(0)
  old = rng.uniform(size=(4, 5)) < 1 / 2
  draws = rng.uniform(size=(4, 5, 2)) < 1 / 2
  for kept, subtracted in zip(
    *(
      catalog.weights(
        lambda t, i=i: estimators.merge_accepted(t, FITTED.terms(t)[i]),
        old,
        draws,
      )
      for i in range(2)
    ),
    strict=True,
  ):
    sizes = np.maximum(np.abs(kept), np.abs(kept - subtracted))
    for term in [kept, subtracted, kept - eta * subtracted]:
      offsets.check_mean(
        lambda w, num, offset, sizes=sizes: (
          w * resampling.multipliers(sizes, num, offset)
        ),
        term,
        num_scored,
        term,
        sizes.ravel(),
      )


def test_drawn_by_the_estimate_alone_a_term_would_be_lost():
  """With eta = 0, nothing that is only in B would ever be drawn."""
  kept, subtracted = np.array([[0.5, 0.0]]), np.array([[0.0, 0.3]])
  sizes = np.abs(kept - 0 * subtracted)
  with pytest.raises(AssertionError):
    offsets.check_mean(
      lambda w, num, offset: w * resampling.multipliers(sizes, num, offset),
      subtracted,
      1,
      subtracted,
      sizes.ravel(),
    )
