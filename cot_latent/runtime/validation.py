"""Checks of configuration values, because gin itself makes none."""

import dataclasses
import math
import types
import typing

import typeguard

from cot_latent.errors import UserError


def check_types(config) -> None:
  """Checks each field of a dataclass against its annotation.

  Args:
    config: A dataclass instance; call this from its `__post_init__`.

  Raises:
    UserError: Names the field, its value and its type.
  """
  cls = type(config)
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(config):
    value, hint = getattr(config, field.name), hints[field.name]
    try:
      typeguard.check_type(value, hint)
      # A bool is an int to Python, but never meant as a number; and 1e999 is
      # infinite.
      fits = not isinstance(value, bool) or _admits_bool(hint)
      fits &= not isinstance(value, float) or math.isfinite(value)
    except typeguard.TypeCheckError:
      fits = False
    if not fits:
      got = f"{value!r:.60} ({type(value).__name__})"
      if isinstance(value, type):
        got = f"the class itself: write @{value.__name__}()"
      raise UserError(
        f"{cls.__name__}.{field.name}: expected {_name(hint)}, got {got}"
      )


def check_positive(config, *names: str) -> None:
  """Checks that fields are above 0.

  Raises:
    UserError: Names the first field that is not.
  """
  for name in names:
    if not getattr(config, name) > 0:
      raise UserError(
        f"{type(config).__name__}.{name} = {getattr(config, name)} must be "
        "above 0"
      )


def check_within(config, name: str, low: float, high: float) -> None:
  """Checks that a field is between two bounds, both included.

  Raises:
    UserError: Names the field and the bounds.
  """
  value = getattr(config, name)
  if not low <= value <= high:
    ends = f"between {low} and {high}"
    if high == math.inf:
      ends = f"at least {low}"
    raise UserError(f"{type(config).__name__}.{name} = {value} must be {ends}")


def _admits_bool(hint) -> bool:
  return bool in (hint, *typing.get_args(hint))


def _name(hint) -> str:
  """Names a type in the words of an error message."""
  if typing.get_origin(hint) is typing.Literal:
    return "one of " + ", ".join(map(repr, typing.get_args(hint)))
  if isinstance(hint, types.UnionType):
    return " or ".join(
      "None" if part is types.NoneType else _name(part)
      for part in typing.get_args(hint)
    )
  return getattr(hint, "__name__", None) or str(hint)
