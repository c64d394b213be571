"""Parameters of tests, some of them for `make nightly` alone."""

from collections.abc import Iterable
from typing import Any

import pytest


def by_day(cases: Iterable, *daily) -> list:
  """Cases of which `make test` runs `daily`, and `make nightly` all."""
  cases = list(cases)
  assert {*daily} <= {*cases}, daily
  return [
    case if case in daily else pytest.param(case, marks=pytest.mark.slow)
    for case in cases
  ]


def by_night(*cases: Any) -> list:
  """Cases, or tuples of several parameters each, for `make nightly` alone."""
  return [
    pytest.param(
      *(case if type(case) is tuple else (case,)), marks=pytest.mark.slow
    )
    for case in cases
  ]
