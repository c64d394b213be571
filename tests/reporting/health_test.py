"""A dead run is known by its metrics, and a live one is not taken for dead."""

import dataclasses

import pytest

from cot_latent.reporting import health
from tests.reporting import made_up

LIMITS = dataclasses.asdict(health.Limits())

DEAD_ENDS = [
  ({}, []),
  (
    {"estimator/is_skipped": 1, "chain/accept_rate": 0},
    ["no question ever had a right", "no fresh rationale was ever right"],
  ),
  ({"chain/accept_rate": 0}, ["no fresh rationale was ever right"]),
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
  return health.red_flags(health.measure(rows, LIMITS))


@pytest.mark.parametrize(("changes", "signs"), DEAD_ENDS)
def test_a_dead_run_is_suspect(changes, signs):
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
  (sign,) = health.red_flags(health.measure(rows, limits))
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
  assert health.red_flags(found) == []
