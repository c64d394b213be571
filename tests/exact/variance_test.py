"""The exact variances: what the control variate is for.

v+, v-, g+, g- are the variance and mean of the score given a correct or an
incorrect sequence, v its second moment; all per coordinate. Numbers of
equations are those of Phan et al. 2023, appendix B.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators
from tests import toys
from tests.asserts import assert_close, assert_mean
from tests.exact import enumeration

LEANS = [0.0, 1.0, 2.0, 4.0, 6.0, 8.0]
QUESTIONS = range(4)


class Moments(NamedTuple):
  accuracy: float
  variance_correct: np.ndarray
  variance_incorrect: np.ndarray
  mean_correct: np.ndarray
  mean_incorrect: np.ndarray
  second_moment: np.ndarray


def moments(toy, question) -> Moments:
  p, is_correct = toys.prior(toy)[question], toy.is_correct[question]
  scores = toys.scores(toy)[question]

  def given(chosen):
    share = p * chosen / (p * chosen).sum()
    mean = share @ scores
    return mean, share @ (scores - mean) ** 2

  mean_correct, variance_correct = given(is_correct)
  mean_incorrect, variance_incorrect = given(~is_correct)
  return Moments(
    accuracy=(p * is_correct).sum(),
    variance_correct=variance_correct,
    variance_incorrect=variance_incorrect,
    mean_correct=mean_correct,
    mean_incorrect=mean_incorrect,
    second_moment=p @ scores**2,
  )


def formula(m: Moments, scale):
  """Eq. 12."""
  return (
    1 - 2 * scale * m.accuracy
  ) * m.variance_correct + scale**2 * m.second_moment


def best_scale(m: Moments):
  """Eq. 13."""
  return m.accuracy * m.variance_correct / m.second_moment


def leading(m: Moments):
  """Eqs. 17 and 18: first order in 1 - pi, at either scale."""
  spread = m.variance_correct + m.variance_incorrect + m.mean_incorrect**2
  return (1 - m.accuracy) * spread


BASIC = estimators.basic()
CONTROL_VARIATE = estimators.control_variate()


def variance(probability, values):
  mean = probability @ values
  return probability @ (values - mean) ** 2


def exact_variance(toy, questions, estimator):
  """[D] over old memories at stationarity and draws."""
  cases = enumeration.at_stationarity(toy, questions)
  values = enumeration.estimates(toy, questions, cases, estimator)
  return variance(cases.probability, values)


def at_scale(toy, question, scale):
  """[D] the exact variance for one question and a scale given to it.

  Args:
    toy: The toy.
    question: The question.
    scale: A scalar, or [D] with another scale for each coordinate.
  """
  cases = enumeration.at_stationarity(toy, [question])
  taken = enumeration.transitions(toy, [question], cases)
  on_memory = enumeration.weights(taken, BASIC)
  on_draw = on_memory[..., ::-1]
  of_memory = enumeration.weighted_scores(toy, [question], taken, on_memory)
  of_draw = enumeration.weighted_scores(toy, [question], taken, on_draw)
  return variance(cases.probability, of_memory - scale * of_draw)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("lean", LEANS)
def test_conditional_moments_fit_together(question, lean):
  m = moments(toys.make_toy(lean=lean), question)
  pi = m.accuracy
  # Eq. 19, and the second moment from its parts.
  zero = pi * m.mean_correct + (1 - pi) * m.mean_incorrect
  assert_close(zero, np.zeros_like(zero))
  parts = pi * (m.variance_correct + m.mean_correct**2)
  parts += (1 - pi) * (m.variance_incorrect + m.mean_incorrect**2)
  assert_close(m.second_moment, parts)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, "accuracy"])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("lean", LEANS[::2])
def test_variance_at_a_fixed_scale(question, lean, scale):
  toy = toys.make_toy(lean=lean)
  m = moments(toy, question)
  scale = m.accuracy if scale == "accuracy" else scale
  actual = at_scale(toy, question, scale)
  assert_close(actual, formula(m, scale))
  with pytest.raises(AssertionError):  # another scale's variance
    assert_close(actual, formula(m, scale + 0.1))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("lean", LEANS[::2])
def test_best_scale_minimises(question, lean):
  toy = toys.make_toy(lean=lean)
  m = moments(toy, question)
  best = at_scale(toy, question, best_scale(m))
  # Eq. 14.
  shrunk = 1 - m.accuracy**2 * m.variance_correct / m.second_moment
  assert_close(best, m.variance_correct * shrunk)
  # A parabola around the minimum: h away costs h^2 v, on both sides.
  for h in [-0.5, -0.01, 0.01, 0.5]:
    away = at_scale(toy, question, best_scale(m) + h)
    assert_close(away - best, h**2 * m.second_moment)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("lean", LEANS)
def test_variance_is_linear_in_the_error_rate(question, lean):
  """The rest is of second order, by a bound that holds at every accuracy."""
  toy = toys.make_toy(lean=lean)
  m = moments(toy, question)
  error = 1 - m.accuracy
  at_accuracy = at_scale(toy, question, m.accuracy)
  # Put g+ = -(1-pi)/pi g- into eq. 12 with e = 1 - pi: the rest is
  # e^2 [(1-e) v+ - (2-e) v- - g-^2].
  parts = (1 - error) * m.variance_correct
  parts -= (2 - error) * m.variance_incorrect + m.mean_incorrect**2
  assert_close(at_accuracy - leading(m), error**2 * parts)
  # The best scale gains v (pi - beta*)^2 on it, and pi - beta* is
  # pi (v - v+) / v, where v - v+ = e (v- + g-^2/pi - v+).
  best = at_scale(toy, question, best_scale(m))
  gap = (
    m.variance_incorrect + m.mean_incorrect**2 / m.accuracy - m.variance_correct
  )
  gained = (m.accuracy * error * gap) ** 2 / m.second_moment
  assert_close(at_accuracy - best, gained)


BATCHES = [[0, 1], [3, 2], [0, 1, 2]]


def error_rates(questions):
  """[len(LEANS)] one minus the mean accuracy of the questions."""
  each = [toys.accuracy(toys.make_toy(lean=lean))[questions] for lean in LEANS]
  return 1 - np.mean(each, axis=1)


def sweep(estimator, questions):
  """[len(LEANS)] the exact total variance as the accuracy goes to 1."""
  return np.array(
    [
      exact_variance(toys.make_toy(lean=lean), questions, estimator).sum()
      for lean in LEANS
    ]
  )


def check_vanishes(variances, errors):
  """Checks that the variance falls to 0 in proportion to the error rate."""
  accurate = errors < 1 / 2
  assert (np.diff(variances[accurate]) < 0).all()
  order = np.diff(np.log(variances)) / np.diff(np.log(errors))
  # V = a e (1 + O(e)): the order is 1 up to the last but one error rate.
  assert abs(order[-1] - 1) < 5 * errors[-2]
  assert abs(order[-1] - 1) < abs(order[-2] - 1)


@pytest.mark.parametrize("questions", BATCHES)
def test_minibatch_variance_vanishes_with_the_control_variate(questions):
  errors = error_rates(questions)
  with_it = sweep(CONTROL_VARIATE, questions)
  without = sweep(BASIC, questions)
  check_vanishes(with_it, errors)
  check_vanishes(with_it / without, errors)
  # In batches this small the scale is noisy: no gain before that.
  assert (with_it < without)[errors < 1 / 10].all()
  # The memories' own variance stays, however accurate the model is.
  with pytest.raises(AssertionError):
    check_vanishes(without, errors)


@pytest.mark.parametrize("questions", BATCHES)
@pytest.mark.parametrize("lean", LEANS)
def test_minibatch_variance_comes_from_rejections(questions, lean):
  toy, size = toys.make_toy(lean=lean), len(questions)
  each = [moments(toy, x) for x in questions]
  pi = np.array([m.accuracy for m in each])
  # No draw rejected: every weight is zero. One rejected, at m: its scale is 1,
  # and each accepted row keeps 1 - (M - 2)/(M - 1) = 1/(M - 1).
  of_one = 0.0
  for i, m in enumerate(each):
    others = each[:i] + each[i + 1 :]
    spread = m.variance_correct + m.variance_incorrect
    mean = m.mean_correct - m.mean_incorrect
    for other in others:
      spread = spread + other.variance_correct / (size - 1) ** 2
      mean = mean + other.mean_correct / (size - 1)
    probability = (1 - pi[i]) * np.prod(np.delete(pi, i))
    of_one += probability * (spread + mean**2) / size**2
  # Split the enumerated second moment by the number of rejections.
  cases = enumeration.at_stationarity(toy, questions)
  values = enumeration.estimates(toy, questions, cases, CONTROL_VARIATE)
  is_correct = toy.is_correct[questions, cases.draws[..., 0]]
  rejected = (~is_correct).sum(axis=1)
  by_number = [
    (cases.probability * (rejected == n)) @ values**2 for n in range(size + 1)
  ]
  assert_close(by_number[0], np.zeros_like(by_number[0]))
  assert_close(by_number[1], of_one)
  # That is the leading term: all else is of second order in 1 - pi.
  total = exact_variance(toy, questions, CONTROL_VARIATE)
  rest = sum(by_number[2:]) - toys.gradient(toy, questions) ** 2
  assert_close(total, of_one + rest)


@pytest.mark.parametrize("questions", BATCHES)
def test_a_flipped_sign_keeps_the_mean_but_not_the_gain(questions):
  def flipped(taken):
    return CONTROL_VARIATE(taken) * jnp.array([1, -1])

  toy = toys.make_toy(lean=LEANS[-1])
  cases = enumeration.at_stationarity(toy, questions)
  values = enumeration.estimates(toy, questions, cases, flipped)
  assert_mean(cases.probability, values, toys.gradient(toy, questions))
  with pytest.raises(AssertionError):
    check_vanishes(sweep(flipped, questions), error_rates(questions))


def test_basic_variance_of_a_batch_is_the_mean_of_its_parts():
  # At stationarity C = M, and rows are independent: sum v+ / M^2.
  toy, questions = toys.make_toy(), [0, 1, 2]
  each = [moments(toy, x).variance_correct for x in questions]
  expected = np.sum(each, axis=0) / len(questions) ** 2
  actual = exact_variance(toy, questions, BASIC)
  assert_close(actual, expected)
