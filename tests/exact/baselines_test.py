"""The baselines' weights and exact means are as their docstrings state."""

import itertools
import math

import jax
import numpy as np
import pytest

from cot_latent.inference import baselines, estimators
from tests import toys
from tests.asserts import assert_close, assert_mean
from tests.exact import enumeration, moments
from tests.inference import catalog

TOY = toys.make_toy(vocabulary=2, length=2)  # four sequences
WIDE = toys.make_toy()  # nine
QUESTIONS = [3, 1]

# Weights, one at a time, as they are defined.


def slow_rejection_sampling(draws):
  size = len(draws)
  return [[c / max(sum(row), 1) / size for c in row] for row in draws]


def slow_pooled(draws):
  total = max(sum(map(sum, draws)), 1)
  return [[c / total for c in row] for row in draws]


def slow_rloo(draws):
  rows = []
  for row in draws:
    others = [
      [other for j, other in enumerate(row) if j != k] for k in range(len(row))
    ]
    rows.append(
      [
        (c - sum(rest) / len(rest)) / len(row) / len(draws)
        for c, rest in zip(row, others, strict=True)
      ]
    )
  return rows


def slow_grpo(draws):
  rows = []
  for row in draws:
    mean = sum(row) / len(row)
    spread = math.sqrt(sum((c - mean) ** 2 for c in row) / len(row))
    scale = 1 / spread if len(set(row)) > 1 else 0
    rows.append([(c - mean) * scale / len(row) / len(draws) for c in row])
  return rows


def slow_maxrl(draws):
  return [
    [c / sum(row) / len(draws) - 1 / len(row) / len(draws) for c in row]
    if any(row)
    else [0] * len(row)
    for row in draws
  ]


POOLED = baselines.rejection_sampling(pooled=True)
SLOW = {
  "rejection_sampling": (
    baselines.rejection_sampling(),
    slow_rejection_sampling,
  ),
  "pooled": (POOLED, slow_pooled),
  "rloo": (baselines.rloo(), slow_rloo),
  "grpo": (baselines.grpo(), slow_grpo),
  "maxrl": (baselines.maxrl(), slow_maxrl),
}


def check_weights(weigh, oracle, num_draws):
  """Compares weights on all verdicts of two questions."""
  bits = itertools.product([False, True], repeat=2 * num_draws)
  draws = np.array(list(bits)).reshape(-1, 2, num_draws)
  for old in [False, True]:  # it makes no difference
    olds = np.full(draws.shape[:2], old)
    weights = catalog.weights(weigh, olds, draws)
    assert not weights[..., 0].any()
    expected = [oracle(case.astype(int).tolist()) for case in draws]
    assert_close(weights[..., 1:], np.array(expected, float))


@pytest.mark.parametrize("num_draws", [2, 3])
@pytest.mark.parametrize("name", SLOW)
def test_weights_equal_plain_loops(name, num_draws):
  weigh, oracle = SLOW[name]
  check_weights(weigh, oracle, num_draws)
  for other, (_, of_other) in SLOW.items():
    if other == name:
      continue
    if num_draws == 2 and {name, other} <= catalog.SEVERAL:
      # One correct and one incorrect: they all put 1/2 and -1/2 on them.
      check_weights(weigh, of_other, num_draws)
      continue
    with pytest.raises(AssertionError):
      check_weights(weigh, of_other, num_draws)


def test_every_baseline_is_here():
  names = {
    case.name
    for case in catalog.CASES
    if getattr(case.weigh, "func", case.weigh).__module__ == baselines.__name__
  }
  assert names == SLOW.keys() - {"pooled"}


# Means, as the weight w(pi) on each question's gradient of log p(y|x).


def of_rejection_sampling(pi, num_draws):
  return 1 - (1 - pi) ** num_draws


def of_maxrl(pi, num_draws):
  return 1 - (1 - pi) ** (num_draws - 1)


def of_rloo(pi, num_draws):
  del num_draws
  return pi


def of_grpo(pi, num_draws):
  shares = [number / num_draws for number in range(num_draws + 1)]
  mean = sum(
    math.comb(num_draws, number)
    * pi**number
    * (1 - pi) ** (num_draws - number)
    * math.sqrt(r * (1 - r))
    for number, r in enumerate(shares)
  )
  return mean / (1 - pi)


def each(weight):
  """w(pi_m) of each question by itself."""

  def by_question(accuracy, num_draws):
    return np.array([weight(pi, num_draws) for pi in accuracy])

  return by_question


def of_pooled(accuracy, num_draws):
  """The integral of baselines.py's docstring, by exact quadrature."""
  size = len(accuracy)
  nodes, shares = np.polynomial.legendre.leggauss(size * num_draws)
  s, shares = (nodes[:, None] + 1) / 2, shares / 2
  incorrect = 1 - accuracy * s
  product = np.prod(incorrect**num_draws, axis=1, keepdims=True)
  integral = shares @ (product / incorrect)
  return size * num_draws * accuracy * integral


def of_log_marginal(accuracy, num_draws):
  """TRICE's weight, which no baseline has."""
  del num_draws
  return np.ones(len(accuracy))


MEANS = {
  "rejection_sampling": each(of_rejection_sampling),
  "pooled": of_pooled,
  "rloo": each(of_rloo),
  "grpo": each(of_grpo),
  "maxrl": each(of_maxrl),
}


def weighted_gradient(toy, questions, weights):
  """[D] sum_m w_m grad log p(y_m|x_m) / M."""
  rows = [toys.gradient(toy, [question]) for question in questions]
  return weights @ np.array(rows) / len(questions)


def check_mean(weigh, weight, toy, num_draws, questions=QUESTIONS):
  """Checks the mean over all draws, from an arbitrary old memory."""
  old = np.zeros(len(questions), int)
  cases = enumeration.from_memory(toy, questions, old)
  if num_draws > 1:
    certain = np.eye(len(toy.sequences))[old]
    cases = enumeration.outcomes(certain, toys.prior(toy)[questions], num_draws)
  values = enumeration.estimates(toy, questions, cases, weigh)
  weights = weight(toys.accuracy(toy)[questions], num_draws)
  expected = weighted_gradient(toy, questions, weights)
  assert_mean(cases.probability, values, expected)


@pytest.mark.parametrize(
  ("toy", "num_draws"),
  [(TOY, 2), (TOY, 3), (WIDE, 2), (TOY._replace(lean=2.0), 3)],
  ids=["four-2", "four-3", "nine-2", "accurate-3"],
)
@pytest.mark.parametrize("name", SLOW)
def test_mean_is_the_stated_one(name, toy, num_draws):
  weigh, _ = SLOW[name]
  check_mean(weigh, MEANS[name], toy, num_draws)
  with pytest.raises(AssertionError):
    check_mean(weigh, of_log_marginal, toy, num_draws)


@pytest.mark.parametrize("name", ["rejection_sampling", "pooled"])
def test_mean_of_one_draw(name):
  weigh, _ = SLOW[name]
  check_mean(weigh, MEANS[name], WIDE, 1, [3, 1, 2])
  with pytest.raises(AssertionError):
    check_mean(weigh, of_log_marginal, WIDE, 1, [3, 1, 2])


def broken_baseline(taken):
  """MaxRL with the baseline where no draw is correct, too."""
  correct = taken.draw_is_correct.astype(float)
  number = jax.numpy.maximum(correct.sum(axis=1, keepdims=True), 1)
  centred = correct / number - 1 / correct.shape[1]
  return jax.numpy.pad(centred / len(correct), ((0, 0), (1, 0)))


def own_baseline(taken):
  """REINFORCE with a mean that counts the draw itself."""
  correct = taken.draw_is_correct.astype(float)
  centred = correct - correct.mean(axis=1, keepdims=True)
  return jax.numpy.pad(centred / correct.size, ((0, 0), (1, 0)))


def test_broken_baselines_are_rejected():
  # That baseline has mean 0, and gives back what it costs: K and not K - 1.
  check_mean(broken_baseline, each(of_rejection_sampling), TOY, 3)
  with pytest.raises(AssertionError):
    check_mean(broken_baseline, each(of_maxrl), TOY, 3)
  with pytest.raises(AssertionError):
    check_mean(own_baseline, each(of_rloo), TOY, 3)
  # It is RLOO times (K - 1) / K.
  check_mean(lambda t: own_baseline(t) * 3 / 2, each(of_rloo), TOY, 3)


# What the docstring says of those weights.


def test_many_draws_give_the_square_root_of_the_odds():
  for pi in [0.1, 0.5, 0.9]:
    limit = math.sqrt(pi / (1 - pi))
    gaps = [abs(of_grpo(pi, number) - limit) for number in (50, 200, 800)]
    assert gaps[0] > 3.5 * gaps[1] > 3.5**2 * gaps[2] > 0  # of order 1/K


def test_pooled_special_cases():
  pi = np.array([0.2, 0.2, 0.2])
  assert_close(of_pooled(pi, 4), np.full(3, 1 - 0.8**12))
  one = of_rejection_sampling(0.3, 4)
  assert_close(of_pooled(np.array([0.3]), 4), np.array([one]))
  several = np.array([0.1, 0.3, 0.5])
  gaps = []
  for number in [8, 32]:
    accuracy = np.tile(several, number)
    weights = of_pooled(accuracy, 4)[:3]
    gaps.append(np.abs(weights - several / several.mean()).max())
  assert gaps[0] > 3 * gaps[1] > 0


def objective(accuracy, num_draws):
  """What the pooled mean follows, by the docstring's integral."""
  nodes, shares = np.polynomial.legendre.leggauss(len(accuracy) * num_draws)
  s, shares = (nodes + 1) / 2, shares / 2
  incorrect = jax.numpy.prod((1 - accuracy * s[:, None]) ** num_draws, axis=1)
  return shares @ ((1 - incorrect) / s)


def test_objectives():
  """The weights are those of the objectives' gradients in log pi."""
  accuracy = jax.numpy.array([0.15, 0.6])
  slope = jax.grad(objective)(accuracy, 4) * accuracy * len(accuracy)
  assert_close(slope, of_pooled(np.array(accuracy), 4))

  def cut(pi, order):
    return -sum((1 - pi) ** k / k for k in range(1, order + 1))

  for pi in [0.15, 0.6]:
    for weight, order in [(of_rejection_sampling, 4), (of_maxrl, 3)]:
      slope = jax.grad(cut)(pi, order) * pi
      assert_close(slope, np.float64(weight(pi, 4)))


def test_moments_give_the_same_means():
  for name, (weigh, _) in SLOW.items():
    draws = moments.of_toy(WIDE, QUESTIONS)
    memories = moments.at_stationarity(draws)
    found = moments.exact(weigh, draws, memories, 4).mean
    weights = MEANS[name](draws.accuracy, 4)
    assert_close(found, weighted_gradient(WIDE, QUESTIONS, weights))


def test_trice_has_weight_one():
  draws = moments.of_toy(WIDE, QUESTIONS)
  memories = moments.at_stationarity(draws)
  for weigh in [estimators.basic(), estimators.control_variate()]:
    found = moments.exact(weigh, draws, memories, 4).mean
    assert_close(found, weighted_gradient(WIDE, QUESTIONS, np.ones(2)))
