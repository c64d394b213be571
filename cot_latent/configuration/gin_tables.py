"""The tables that gin keeps to itself, read and reset in this file alone.

Gin has no public way to list what is bound, what was read, what is registered
or where files are looked up. These functions are all that the package knows of
its private names, so that another version of gin concerns one file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin  # noqa: F401  (before its parts)
from gin import config as gin_config

# (scope, selector) -> parameter -> value; a macro is NAME/gin.macro's `value`.
Bindings = Mapping[tuple[str, str], Mapping[str, Any]]


def bound() -> Bindings:
  """All that is bound, by scope and whole selector."""
  return gin_config._CONFIG


def used() -> Bindings:
  """What calls have read so far, by the scope of the call."""
  return gin_config._OPERATIVE_CONFIG


def selectors() -> Iterator[str]:
  """Names all that is registered, such as `cot_latent.em.method.Method`."""
  return (name for name, _ in gin_config._REGISTRY.items())


def registered(selector: str) -> Callable:
  """The function or class that the end of a selector names."""
  return gin_config._REGISTRY.get_match(selector).wrapped


def is_decorated(selector: str) -> bool:
  """Whether code has made it configurable, so that any call of it is one."""
  entry = gin_config._REGISTRY.get_match(selector)
  return entry is not None and entry.import_source is None


def folders() -> list[str]:
  """Where gin looks files up, in order; "" is the working directory."""
  return list(gin_config._LOCATION_PREFIXES)


def look_in(search_paths: Sequence[str]) -> None:
  """Has gin look in the working directory and these folders, no others.

  Gin itself only adds folders, and would keep those of earlier calls.

  Args:
    search_paths: Folders, in order.
  """
  gin_config._LOCATION_PREFIXES[:] = ["", *search_paths]
