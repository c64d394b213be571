"""A dead run is known by its metrics, and a live one is not taken for dead."""

import dataclasses

import pytest

from cot_latent.reporting import health, record, summary
from tests.reporting import made_up

LIMITS = dataclasses.asdict(health.Limits())

DEAD_ENDS = [
  ({}, []),
  (
    {"estimator/is_skipped": 1, "chain/accept_rate": 0},
    ["no question ever had a correct", "no fresh rationale was ever correct"],
  ),
  ({"chain/accept_rate": 0}, ["no fresh rationale was ever correct"]),
  ({"draws/capped_fraction": 0.75}, ["75% of the fresh rationales were cut"]),
  (
    {"draws/unparseable_fraction": 0.6},
    ["60% of the fresh rationales had no answer"],
  ),
  ({"grad/norm": 0.0}, ["21 steps in a row had no gradient"]),
  # All is learnt: TRICE's gradient is 0 then.
  ({"grad/norm": 0.0, "chain/accept_rate": 1.0}, []),
  ({"grad/is_finite": 0}, []),
]


def flags(rows):
  return health.red_flags(health.measure(rows, LIMITS), [])


@pytest.mark.parametrize(("changes", "signs"), DEAD_ENDS)
def test_a_run_that_learns_nothing_is_suspect(changes, signs):
  dead = made_up.metrics(**changes)
  found = flags([dead] * 21)
  assert len(found) == len(signs)
  for sign, start in zip(found, signs, strict=True):
    assert sign.startswith(start)


def test_one_step_that_is_alive_is_enough():
  dead = made_up.metrics(
    **{"estimator/is_skipped": 1, "chain/accept_rate": 0, "grad/norm": 0.0}
  )
  alive = made_up.metrics()
  assert len(flags([dead] * 21)) == 3
  assert flags([dead] * 10 + [alive] + [dead] * 10) == []


def test_limits_may_be_others():
  rows = [made_up.metrics(**{"draws/capped_fraction": 0.3})] * 3
  limits = LIMITS | {"most_truncated": 0.2}
  assert flags(rows) == []
  (sign,) = health.red_flags(health.measure(rows, limits), [])
  assert sign.startswith("30%")


def test_what_is_measured():
  rows = [
    made_up.metrics(**{"chain/accept_rate": rate, "memory/age": age})
    for rate, age in ((0.0, 1.0), (0.5, 2.0), (1.0, 6.0))
  ]
  found = health.measure(rows, LIMITS)
  assert found["steps"] == 3
  assert found["acceptance"] == {"first": 0.0, "last": 1.0, "mean": 0.5}
  assert found["memory_age"] == {"first": 1.0, "last": 6.0, "mean": 3.0}
  assert found["steps_accepting"] == 2
  assert found["steps_not_finite"] == 0


def test_a_run_without_steps_is_not_suspect():
  found = health.measure([], LIMITS)
  assert found == {"limits": LIMITS, "steps": 0}
  assert health.red_flags(found, []) == []


def test_the_last_evaluation_is_judged_without_any_step():
  bad = {"num_unparseable": 150, "num_cut": 102}
  votes = made_up.result(0, "self_consistency", 9) | {"num_cut": 1000}
  rows = [
    made_up.result(0, "greedy", 9) | bad,
    votes,  # of 8 completions each
    made_up.result(0, "greedy", 0) | {"task": "a part", "num_cut": 200},
  ]
  none = health.measure([], LIMITS)
  assert health.red_flags(none, rows) == [
    "51% of the completions of the greedy evaluation at step 0 were cut",
    "75% of the questions of the greedy evaluation at step 0 got no answer",
    "62% of the completions of the self-consistency evaluation at step 0 were "
    "cut",
  ]
  lenient = none | {"limits": LIMITS | {"most_truncated": 1.0}}
  assert len(health.red_flags(lenient, rows)) == 1
  # What was so before training does not count against what came of it.
  assert health.red_flags(none, [*rows, made_up.result(10, "greedy", 99)]) == []


def test_a_report_of_such_an_evaluation_is_suspect():
  row = made_up.result(0, "greedy", 9) | {"num_cut": 200}
  report = record.build_report(
    made_up.make_header(), [{"kind": "result", **row}], "complete", None
  )
  (sign,) = report["suspect"]
  assert report["status"] == "suspect"
  assert f"suspect: {sign}" in summary.overview(report).splitlines()
