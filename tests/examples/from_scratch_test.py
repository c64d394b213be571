"""examples/from_scratch.py: the page for reading does what it says."""

import math

from examples import from_scratch


def test_the_running_parity_is_found():
  history = from_scratch.train(num_steps=600)
  _, at_first, guessed = history[0]
  _, at_last, answered = history[-1]
  assert math.isclose(at_first, -math.log(2), abs_tol=0.02)
  assert abs(guessed - 0.5) < 0.03
  assert at_last > -0.05
  assert answered > 0.85


def test_the_objective_is_that_of_one_table():
  # Every bit is written by a fair coin, so that half of all rationales reach
  # the answer.
  params = {"logits": from_scratch.jnp.zeros((2, 2, 2))}
  x, answers = from_scratch.questions(4)
  assert math.isclose(
    from_scratch.objective(params, x, answers), -math.log(2), rel_tol=1e-6
  )
