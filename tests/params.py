"""Parameters of tests, some of them for the night."""

from collections.abc import Iterable

import pytest


def by_day(cases: Iterable[str], *daily: str) -> list:
  """Cases of which `daily` run by day, and all of them by night."""
  cases = list(cases)
  assert {*daily} <= {*cases}, daily
  return [
    case if case in daily else pytest.param(case, marks=pytest.mark.slow)
    for case in cases
  ]


def by_night(*cases: tuple) -> list:
  """Cases of several parameters each, all of them for the night."""
  return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]
