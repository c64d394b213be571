"""Bindings that nothing can read, found without building anything.

The embedded trainer builds its experiment and sees what was read. T5X builds
some parts only at the end of a run, so here references are followed instead.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gin import config as gin_config

from cot_latent.configuration import gin_tables
from cot_latent.configuration import sources as gin_sources
from cot_latent.errors import UserError

_MACRO = "gin.macro"
Name = tuple[str, str]  # scope and whole selector, as in `gin_tables.bound`


def refuse(
  sources: gin_sources.Sources,
  is_root: Callable[[str], bool],
  is_left: Callable[[str, bool], bool],
) -> None:
  """Raises if nothing can read some binding.

  A binding in a file may stay if anything refers to its object, even if a later
  file replaced that reference. So may a macro that its file declares as
  provided.

  Args:
    sources: Places of the bindings.
    is_root: Whether a full selector is called without a reference to it.
    is_left: Whether a file may have a binding that nothing reads; called with
      the file and whether the binding is a macro.

  Raises:
    UserError: Names the place, the binding, and the name that was likely meant.
  """
  reached = _reached(is_root)
  for (scope, selector), parameters in gin_tables.bound().items():
    if _is_read((scope, selector), reached, is_root):
      continue
    for parameter in sorted(parameters):
      key = gin_sources.Key(scope, selector, parameter)
      place = sources.place(key)
      if place is None or _is_excused(sources, key, place, is_left):
        continue
      if selector == _MACRO:
        raise UserError(
          f"{place}: nothing uses the macro {scope}"
          f"{gin_sources.suggest(scope, gin_sources.macros() - {scope})}"
        )
      name = f"{scope}/{selector}" if scope else selector
      known = {"/".join(filter(None, one)) for one in reached}
      raise UserError(
        f"{place}: nothing uses the binding {name}.{parameter}"
        f"{gin_sources.suggest(name, known)}"
      )


def _reached(is_root: Callable[[str], bool]) -> set[Name]:
  """Returns everything that the roots refer to, directly or indirectly."""
  bound = gin_tables.bound()
  todo = [name for name in bound if is_root(name[1])]
  seen: set[Name] = set()
  while todo:
    one = todo.pop()
    if one in seen:
      continue
    seen.add(one)
    for (scope, selector), parameters in bound.items():
      # A function that is called in one scope may be called in another.
      if selector == one[1] and (selector != _MACRO or scope == one[0]):
        for value in parameters.values():
          todo += _references(value)
  return seen


def _references(value: Any) -> Iterator[Name]:
  """Yields the references of a value."""
  if isinstance(value, gin_config.ConfigurableReference):
    yield value.config_key
  elif isinstance(value, dict):
    for part in value.items():
      yield from _references(part)
  elif isinstance(value, list | tuple):
    for part in value:
      yield from _references(part)


def _is_read(
  name: Name, reached: set[Name], is_root: Callable[[str], bool]
) -> bool:
  scope, selector = name
  if selector == _MACRO or is_root(selector):
    return name in reached
  scopes = {""} | {
    "/".join(inner[: depth + 1])
    for inner in (s.split("/") for s, other in reached if other != _MACRO)
    for depth in range(len(inner))
  }
  return scope in scopes and any(other == selector for _, other in reached)


def _is_excused(
  sources: gin_sources.Sources,
  key: gin_sources.Key,
  place: str,
  is_left: Callable[[str, bool], bool],
) -> bool:
  """Whether an unread binding may stay; a binding from a flag may not."""
  if place.startswith("--"):
    return False
  return (
    is_left(place.rpartition(", line ")[0], key.selector == _MACRO)
    or _is_named(sources, key)
    or sources.provides(key)
  )


def _is_named(sources: gin_sources.Sources, key: gin_sources.Key) -> bool:
  """Whether a text refers to the bound object, in whatever scope."""
  if key.selector == _MACRO:
    return key.scope in sources.referred
  return any(
    f".{key.selector}".endswith(f".{name.rpartition('/')[2]}")
    for name in sources.referred
  )
