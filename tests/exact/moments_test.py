"""Exact variances: correct by enumeration, and where they go as models improve.

At stationarity, and with the accuracy going to 1: the control variate's goes to
0 for every K, and so does that of every baseline method with a baseline, in
proportion to the error rate. The others' goes to what the correct sequences'
own spread leaves: over M^2 for `basic`, which uses one of them a question, and
over K M^2 for `rejection_sampling`, which uses K.
"""

import numpy as np
import pytest

from cot_latent.inference import estimators
from tests import toys
from tests.asserts import assert_close
from tests.exact import enumeration, moments
from tests.inference import catalog

TOY = toys.make_toy(vocabulary=2, length=2)
WIDE = toys.make_toy()
VANISHING = catalog.SEVERAL | {"control_variate"}


def brute_force(weigh, toy, questions, num_draws, is_correct):
  """Mean and covariance over every sequence; incorrect memories are alike."""
  questions, is_correct = np.asarray(questions), np.asarray(is_correct)[:, None]
  incorrect = ~toy.is_correct[questions]
  old = is_correct * toys.posterior(toy)[questions]
  old = old + (1 - is_correct) * incorrect / incorrect.sum(
    axis=1, keepdims=True
  )
  prior = toys.prior(toy)[questions]
  cases = enumeration.outcomes(old, prior, num_draws)
  values = enumeration.estimates(toy, questions, cases, weigh)
  mean = cases.probability @ values
  centred = values - mean
  return mean, (cases.probability * centred.T) @ centred


def check_against_brute_force(
  exact, weigh, toy, questions, num_draws, is_correct
):
  draws = moments.of_toy(toy, questions)
  memories = moments.at_stationarity(draws, is_correct)
  found = exact(weigh, draws, memories, num_draws)
  mean, covariance = brute_force(weigh, toy, questions, num_draws, is_correct)
  assert_close(found.mean, mean)
  assert_close(found.covariance, covariance)


def without_means(weigh, draws, memories, num_draws):
  """Leaves out that the conditional means differ from pattern to pattern."""
  found = moments.exact(weigh, draws, memories, num_draws)
  still = moments.exact(
    weigh,
    draws._replace(mean=0 * draws.mean),
    memories._replace(mean=0 * memories.mean),
    num_draws,
  )
  return found._replace(covariance=still.covariance)


def swapped(weigh, draws, memories, num_draws):
  """Takes correct for incorrect."""
  draws = draws._replace(
    mean=draws.mean[:, ::-1], covariance=draws.covariance[:, ::-1]
  )
  return moments.exact(weigh, draws, memories, num_draws)


SIZES = {
  1: [(TOY, [3, 1], (1.0, 0.7)), (WIDE, [0, 2], (0.3, 0.0))],
  2: [(TOY, [3, 1], (1.0, 0.4))],
}


@pytest.mark.parametrize(
  ("case", "num_draws", "toy", "questions", "is_correct"),
  [
    (case, num_draws, *size)
    for case, num_draws in catalog.with_draws(*SIZES)
    for size in SIZES[num_draws]
  ],
  ids=lambda value: str(value) if isinstance(value, catalog.Case) else "",
)
def test_moments_equal_brute_force(case, num_draws, toy, questions, is_correct):
  arguments = case.weigh, toy, questions, num_draws, is_correct
  check_against_brute_force(moments.exact, *arguments)
  for broken in [without_means, swapped]:
    with pytest.raises(AssertionError):
      check_against_brute_force(broken, *arguments)


def test_three_questions_equal_brute_force():
  for weigh in [estimators.control_variate(), estimators.basic()]:
    check_against_brute_force(
      moments.exact, weigh, TOY, [3, 1, 2], 1, (0.5, 1.0, 0.0)
    )


def test_weight_on_an_incorrect_memory_is_refused():
  def invalid_too(taken):
    weights = np.zeros((2, 2))
    weights[:, 0] = 1 / 2
    return weights + 0 * estimators.basic()(taken)

  draws = moments.of_toy(TOY, [0, 1])
  memories = moments.at_stationarity(draws, 0.5)
  with pytest.raises(ValueError, match="weight on an incorrect memory"):
    moments.exact(invalid_too, draws, memories)


def test_given_memories_have_no_spread():
  scores = toys.scores(TOY)[[3, 1], [0, 2]]
  memories = moments.remembered([True, False], scores)
  assert not memories.covariance.any()
  cases = enumeration.from_memory(TOY, [3, 1], [0, 2])
  is_correct = TOY.is_correct[[3, 1], [0, 2]]
  draws = moments.of_toy(TOY, [3, 1])
  memories = moments.remembered(is_correct, scores)
  weigh = estimators.control_variate()
  values = enumeration.estimates(TOY, [3, 1], cases, weigh)
  mean = cases.probability @ values
  found = moments.exact(weigh, draws, memories)
  assert_close(found.mean, mean)
  second = (cases.probability * values.T) @ values
  assert_close(found.covariance, second - np.outer(mean, mean))


def test_number_of_scored_sequences():
  draws = moments.of_toy(WIDE, [0, 1])
  memories = moments.at_stationarity(draws)
  found = moments.exact(estimators.basic(), draws, memories, 3)
  assert found.num_scored == pytest.approx(2)
  # A question's beta is 1 if the other's draw is accepted, else 0. Both
  # rejected: two memories. One: it, and the other's memory and draw. Two: all
  # is cancelled.
  found = moments.exact(estimators.control_variate(), draws, memories)
  p, q = draws.accuracy
  expected = 2 * (1 - p) * (1 - q) + 3 * (p * (1 - q) + q * (1 - p))
  assert found.num_scored == pytest.approx(expected)


# As the accuracy goes to 1.

LEANS = [5.0, 8.0, 11.0]
QUESTIONS = [0, 1, 2]


def sweep(weigh, num_draws):
  """Error rates and variances, for more and more accurate models."""
  errors, variances = [], []
  for lean in LEANS:
    draws = moments.of_toy(toys.make_toy(lean=lean), QUESTIONS)
    memories = moments.at_stationarity(draws)
    found = moments.exact(weigh, draws, memories, num_draws)
    errors.append(1 - draws.accuracy.mean())
    variances.append(found.variance())
  return np.array(errors), np.array(variances)


def check_vanishes(weigh, num_draws):
  """Checks that the variance is proportional to the error rate in the end."""
  errors, variances = sweep(weigh, num_draws)
  assert errors[-1] < 1e-4
  order = np.diff(np.log(variances)) / np.diff(np.log(errors))
  # V = a e (1 + O(e)).
  assert (np.abs(order - 1) < 5 * errors[:-1]).all()


def check_stays(weigh, num_draws, divisor):
  """Checks that the correct sequences' spread stays, over a divisor."""
  draws = moments.of_toy(toys.make_toy(lean=LEANS[-1]), QUESTIONS)
  spread = np.trace(draws.covariance[:, 1], axis1=1, axis2=2).sum()
  errors, variances = sweep(weigh, num_draws)
  limit = spread / divisor
  assert abs(variances[-1] / limit - 1) < 20 * errors[-1]


@pytest.mark.parametrize(
  ("case", "num_draws"), catalog.with_draws(1, 2, 4), ids=catalog.label
)
def test_where_the_variance_goes(case, num_draws):
  size = len(QUESTIONS) ** 2
  divisor = size if case.name == "basic" else size * num_draws
  if case.name in VANISHING:
    check_vanishes(case.weigh, num_draws)
    with pytest.raises(AssertionError):
      check_stays(case.weigh, num_draws, divisor)
  else:
    check_stays(case.weigh, num_draws, divisor)
    with pytest.raises(AssertionError):
      check_vanishes(case.weigh, num_draws)
