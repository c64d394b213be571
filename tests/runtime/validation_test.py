"""Configuration values are of their type, and numbers are what is meant."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import pytest

from cot_latent.errors import UserError
from cot_latent.runtime import validation


@dataclasses.dataclass(frozen=True)
class Config:
  size: int = 1
  rate: float = 0.5
  name: str = "a"
  limit: int | None = None
  share: float | None = None
  way: Literal["up", "down"] = "up"
  function: Callable = print
  is_on: bool = False

  def __post_init__(self):
    validation.check_types(self)


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"size": -1, "rate": 0.0, "limit": 3, "share": 0.5},
    {"rate": 1, "share": 2},  # an int where a float is expected
    {"way": "down", "is_on": True, "function": lambda: 0},
  ],
)
def test_good_values(fields):
  made = Config(**fields)
  assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(
  ("field", "value", "expected"),
  [
    ("size", "3", "expected int, got '3' (str)"),
    ("size", 1.0, "expected int, got 1.0 (float)"),
    ("size", True, "expected int, got True (bool)"),
    ("size", None, "expected int, got None (NoneType)"),
    ("rate", False, "expected float, got False (bool)"),
    ("rate", math.inf, "expected float, got inf (float)"),
    ("rate", math.nan, "expected float, got nan (float)"),
    ("name", 3, "expected str, got 3 (int)"),
    ("name", None, "expected str, got None (NoneType)"),
    ("limit", True, "expected int or None, got True (bool)"),
    ("limit", "3", "expected int or None, got '3' (str)"),
    ("share", -math.inf, "expected float or None, got -inf (float)"),
    ("way", "left", "expected one of 'up', 'down', got 'left' (str)"),
    ("function", 3, "expected Callable, got 3 (int)"),
    ("is_on", 1, "expected bool, got 1 (int)"),
  ],
)
def test_bad_values(field, value, expected):
  with pytest.raises(UserError) as caught:
    Config(**{field: value})
  assert str(caught.value) == f"Config.{field}: {expected}"


def test_long_values_are_cut():
  with pytest.raises(UserError) as caught:
    Config(size="x" * 1000)
  assert len(str(caught.value)) < 120


def test_a_class_should_have_been_called():
  with pytest.raises(
    UserError, match=r"got the class itself: write @Config\(\)$"
  ):
    Config(name=Config)


@pytest.mark.parametrize("size", [0, -1])
def test_positive(size):
  validation.check_positive(Config(size=1), "size", "rate")
  with pytest.raises(
    UserError, match=rf"^Config.size = {size} must be above 0$"
  ):
    validation.check_positive(Config(size=size), "rate", "size")
