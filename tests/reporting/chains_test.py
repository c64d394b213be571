"""What is said of chains, from steps that are written down by hand."""

import pytest

from cot_latent.reporting import chains, objective


def step(number, **visits):
  """A step's row: question -> (correct draws, memory is correct, its nats)."""
  columns = [*zip(*visits.values(), strict=True)]
  names = ("num_correct", "is_correct", "log_prob")
  return {
    "step": number,
    "visits": {
      "question": [int(name[1:]) for name in visits],
      "num_draws": 4,
      **{n: list(c) for n, c in zip(names, columns, strict=True)},
    },
  }


ROWS = [
  step(1, q0=(2, True, -5.0), q1=(0, False, None), q2=(0, True, -3.0)),
  step(2, q0=(0, True, -4.0), q1=(0, False, None), q2=(0, True, -2.0)),
  step(3, q0=(0, True, -3.5), q3=(4, True, None)),
  step(4, q0=(1, True, -6.0), q3=(0, True, -1.0)),
  step(5, q0=(0, True, -6.5)),
]


def test_chains_are_summarised():
  found = chains.measure(ROWS, [])["chains"]
  assert (found["questions"], found["num_draws"]) == (4, 4)
  # Of q1 nothing was ever right; q2 has the rationale that it began with.
  assert (found["never_correct"], found["never_moved"]) == (1, 2)
  # q0 moved in 2 of 5 visits, q3 in 1 of 2.
  assert found["acceptance"]["counts"] == [2, 0, 0, 0, 1, 1, 0, 0, 0, 0]
  assert found["acceptance"]["median"] == pytest.approx(0.2)
  # Accepted in steps 4 and 3, and it is step 5.
  assert found["age"]["counts"][:3] == [0, 1, 1]
  times = (2 - 0.4) / 0.4, (2 - 0.5) / 0.5
  assert found["autocorrelation_time"]["median"] == sum(times) / 2
  # Of q0 since step 4; q3's first nats are not known.
  drift = found["log_prob_drift"]
  assert drift["median"] == -0.5
  assert sum(drift["counts"]) == 1
  assert drift["edges"][0] == -1


def test_training_is_told_where_questions_have_enough_draws():
  first, last = chains.measure(ROWS, [1, 2])["training"]
  assert (first["step"], last["step"]) == (2, 5)
  # Two visits of four draws each; q3 has them since step 4.
  assert (first["questions"], last["questions"]) == (3, 4)
  assert last["num_draws"] == 8
  wanted = objective.summarise([1 + 0, 0, 0, 4], 8)
  assert last["log_likelihood"] == wanted["log_likelihood"]
  assert last["pass_at"] == wanted["pass_at"]


def test_a_run_that_draws_nothing_in_its_steps_has_no_chains():
  assert chains.measure([{"step": 1}], [1]) == {}
