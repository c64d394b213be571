"""Checks of configuration values, which gin itself does not make."""

import dataclasses
import typing

import typeguard

from cot_latent.errors import UserError


def check_types(config) -> None:
  """Checks each field of a dataclass against its annotation.

  Args:
    config: a dataclass instance; call this from its `__post_init__`.

  Raises:
    UserError: naming the field, what it holds and what it should hold.
  """
  cls = type(config)
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(config):
    value, hint = getattr(config, field.name), hints[field.name]
    try:
      typeguard.check_type(value, hint)
      # A bool is an int to Python, but never what is meant by a number.
      fits = not (isinstance(value, bool) and hint in (int, float))
    except typeguard.TypeCheckError:
      fits = False
    if not fits:
      name = getattr(hint, "__name__", None) or str(hint)
      raise UserError(
        f"{cls.__name__}.{field.name}: expected {name}, got {value!r} "
        f"({type(value).__name__})"
      )


def check_positive(config, *names: str) -> None:
  """Checks that fields are above 0.

  Raises:
    UserError: naming the first field that is not.
  """
  for name in names:
    if not getattr(config, name) > 0:
      raise UserError(
        f"{type(config).__name__}.{name} = {getattr(config, name)} must be "
        "above 0"
      )
