"""A TOML table as a NamedTuple, whose fields define the keys and values."""

import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import typeguard

from cot_latent.errors import UserError
from cot_latent.runtime import terminal

# What a value of a type is to a reader.
_NAMES = {
  str: "a text",
  bool: "true or false",
  float: "a number",
  int: "a whole number from 0",
}


def read(kind: Any, table: Mapping[str, Any], where: str) -> Any:
  """Makes a NamedTuple from a table that was read from a file.

  Args:
    kind: The NamedTuple. Its annotations may be texts, numbers, truth values,
      literals, unions of these with None, and tuples of NamedTuples, which are
      TOML's arrays of tables.
    table: The table.
    where: Its name in errors, such as its file.

  Returns:
    The NamedTuple; its texts are one line each, with single spaces.

  Raises:
    UserError: If a key is missing or unknown, or has a bad value.
  """
  hints = typing.get_type_hints(kind)
  needed = [name for name in hints if name not in kind._field_defaults]
  for name in needed:
    if name not in table:
      raise UserError(
        f"{where}: {name} is missing: give {_name(hints[name], name)}"
      )
  values = {
    name: _value(hints[name], table[name], name, where)
    for name in hints
    if name in table
  }
  for name in table:
    if name not in hints:
      near = difflib.get_close_matches(name, hints, 1)
      hint = f"; did you mean {near[0]}?" if near else ""
      raise UserError(f"{where}: there is no key {name!r:.40}{hint}")
  for name in needed:
    if values[name] == "":
      raise UserError(f"{where}: {name} is empty: give a text")
    if values[name] == ():
      raise UserError(f"{where}: {name} is empty: give at least one")
  return kind(**values)


def _value(hint: Any, value: Any, name: str, where: str) -> Any:
  """Checks a value, and reads the tables in it."""
  if inner := _inner(hint):
    if not isinstance(value, list):
      raise UserError(
        f"{where}: {name} = {value!r:.40} is not {_name(hint, name)}"
      )
    if not all(isinstance(table, dict) for table in value):
      raise UserError(f"{where}: {name} are not tables, [[{name}]]")
    return tuple(
      read(inner, table, f"{where}: {name}[{place}]")
      for place, table in enumerate(value, start=1)
    )
  if not _fits(hint, value):
    raise UserError(
      f"{where}: {name} = {value!r:.40} is not {_name(hint, name)}"
    )
  if not isinstance(value, str):
    return value
  text = " ".join(value.split())
  if terminal.UNSAFE.search(text):
    raise UserError(f"{where}: {name} = {value!r:.40} has a control character")
  return text


def _fits(hint: Any, value: Any) -> bool:
  if isinstance(value, float) and not math.isfinite(value):
    return False
  # TOML's true is an int to Python.
  if isinstance(value, bool) and hint is not bool:
    return False
  if isinstance(value, int) and hint is not bool and not 0 <= value < 2**63:
    return hint is float and abs(value) < 2**63
  try:
    typeguard.check_type(value, hint)
  except typeguard.TypeCheckError:
    return False
  return True


def _inner(hint: Any) -> Any:
  """Returns the NamedTuple in a tuple of them; None for other annotations."""
  is_tuple = typing.get_origin(hint) is tuple
  return typing.get_args(hint)[0] if is_tuple else None


def _name(hint: Any, name: str) -> str:
  """Describes the values of a type."""
  if _inner(hint):
    return f"tables, [[{name}]]"
  if typing.get_origin(hint) is Literal:
    choices = typing.get_args(hint)
    start = "one of " if len(choices) > 1 else ""
    return start + ", ".join(map(repr, choices))
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    parts = [p for p in typing.get_args(hint) if p is not types.NoneType]
    return " or ".join(_name(part, name) for part in parts)
  return _NAMES[hint]
