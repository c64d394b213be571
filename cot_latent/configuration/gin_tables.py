"""The only file that reads and resets gin's private tables.

Gin has no public way to list what is bound, what was read, what is registered
or where files are looked up. Only these functions use gin's private names, so
that a new version of gin can break this file alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin  # noqa: F401  (before its parts)
from gin import config as gin_config

# (scope, selector) -> parameter -> value; a macro is NAME/gin.macro's `value`.
Bindings = Mapping[tuple[str, str], Mapping[str, Any]]


def bound() -> Bindings:
  """Returns all bindings, by scope and full selector."""
  return gin_config._CONFIG


def used() -> Bindings:
  """Returns the bindings that calls have read, by the scope of the call."""
  return gin_config._OPERATIVE_CONFIG


def selectors() -> Iterator[str]:
  """Yields registered names, such as `cot_latent.em.method.Method`."""
  return (name for name, _ in gin_config._REGISTRY.items())


def registered(selector: str) -> Callable:
  """Returns the function or class that the end of a selector names."""
  return gin_config._REGISTRY.get_match(selector).wrapped


def is_decorated(selector: str) -> bool:
  """Whether code made it configurable, so that gin configures every call."""
  entry = gin_config._REGISTRY.get_match(selector)
  return entry is not None and entry.import_source is None


def folders() -> list[str]:
  """Returns the folders in which gin looks up files; "" is the current one."""
  return list(gin_config._LOCATION_PREFIXES)


def look_in(search_paths: Sequence[str]) -> None:
  """Makes gin look in the working directory and these folders, nowhere else.

  Gin itself only adds folders, and would keep those of earlier calls.

  Args:
    search_paths: Folders in the order of the search.
  """
  gin_config._LOCATION_PREFIXES[:] = ["", *search_paths]
