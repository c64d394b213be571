"""The real transition leaves the enumerated posterior invariant."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import transition
from tests import toys
from tests.asserts import (
  assert_close,
  assert_invariant,
  assert_reversible,
  assert_stochastic,
)
from tests.exact import enumeration

TOYS = [
  toys.make_toy(vocabulary=3, length=2),
  toys.make_toy(vocabulary=2, length=3),
  toys.make_toy(vocabulary=3, length=2, lean=3.0),
]
QUESTIONS = range(4)


def every_outcome(toy, question, num_draws):
  """Outcomes that also start from incorrect memories, each state alike."""
  states = len(toy.sequences)
  alike = np.full((1, states), 1 / states)
  return enumeration.outcomes(alike, toys.prior(toy)[[question]], num_draws)


def matrix(toy, question, step=transition.independence, num_draws=1):
  """[Z, Z] built from the step's result on all (state, draws) pairs."""
  cases = every_outcome(toy, question, num_draws)
  taken = enumeration.transitions(toy, [question], cases, step)
  states = len(toy.sequences)
  result = np.zeros((states, states))
  ends = toys.index_of(toy, taken.tokens)[:, 0]
  np.add.at(result, (cases.old[:, 0], ends), cases.probability * states)
  return result


def accept_incorrect(old_tokens, old_is_correct, draw_tokens, draw_is_correct):
  return transition.independence(
    old_tokens, old_is_correct, draw_tokens, ~draw_is_correct
  )


def accept_all(old_tokens, old_is_correct, draw_tokens, draw_is_correct):
  return transition.independence(
    old_tokens, old_is_correct, draw_tokens, jnp.ones_like(draw_is_correct)
  )


@pytest.mark.parametrize("num_draws", [1, 2, 3])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("toy", TOYS)
def test_posterior_is_invariant(toy, question, num_draws):
  chain = matrix(toy, question, num_draws=num_draws)
  assert_stochastic(chain)
  assert_invariant(chain, toys.posterior(toy)[question])


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("toy", TOYS)
def test_one_draw_is_in_detailed_balance(toy, question):
  assert_reversible(matrix(toy, question), toys.posterior(toy)[question])


@pytest.mark.parametrize("num_draws", [2, 3])
@pytest.mark.parametrize("toy", TOYS)
def test_several_draws_are_as_many_steps(toy, num_draws):
  several = matrix(toy, 0, num_draws=num_draws)
  assert_close(several, np.linalg.matrix_power(matrix(toy, 0), num_draws))


@pytest.mark.parametrize("toy", TOYS)
def test_an_incorrect_memory_is_left_at_the_rate_of_the_accuracy(toy):
  is_correct = toy.is_correct[0]
  stays_incorrect = matrix(toy, 0)[~is_correct][:, ~is_correct]
  rejected = 1 - toys.accuracy(toy)[0]
  # It stays where it is: incorrect draws are not taken either.
  assert_close(stays_incorrect, rejected * np.eye(len(stays_incorrect)))


@pytest.mark.parametrize("num_draws", [1, 2])
def test_correctness_belongs_to_the_tokens(num_draws):
  toy = TOYS[0]
  cases = every_outcome(toy, 1, num_draws)
  taken = enumeration.transitions(toy, [1], cases)
  expected = toy.is_correct[1][toys.index_of(toy, taken.tokens)]
  np.testing.assert_array_equal(taken.is_correct, expected)


@pytest.mark.parametrize("num_draws", [1, 2])
@pytest.mark.parametrize("broken", [accept_incorrect, accept_all])
def test_rejects_other_acceptances(broken, num_draws):
  toy = TOYS[0]
  build = functools.partial(matrix, toy, 0, broken, num_draws)
  assert_stochastic(build())
  with pytest.raises(AssertionError):
    assert_invariant(build(), toys.posterior(toy)[0])
  if num_draws == 1:
    with pytest.raises(AssertionError):
      assert_reversible(build(), toys.posterior(toy)[0])
