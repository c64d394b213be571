"""Places of the bindings of a gin configuration, and which binding wins.

Gin forgets the places, and ignores a binding that nothing reads.
"""

import difflib
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence
from tokenize import TokenError
from typing import NamedTuple

import gin  # noqa: F401  (before its parts)
from gin import config as gin_config
from gin import config_parser

from cot_latent.configuration import gin_tables


class Key(NamedTuple):
  """A parameter as gin stores it; a macro is `value` of NAME/gin.macro."""

  scope: str
  selector: str
  parameter: str


def macro_key(name: str) -> Key:
  """Returns the key of a macro's value."""
  return Key(name, "gin.macro", "value")


def macros() -> set[str]:
  """Names the macros that are bound."""
  return {
    scope for scope, selector in gin_tables.bound() if selector == "gin.macro"
  }


def find_file(name: str) -> pathlib.Path:
  """Finds a file in the way that gin found it."""
  paths = [pathlib.Path(p, name) for p in gin_tables.folders()]
  return next(path for path in paths if path.is_file())


def asks_for_script(names: Sequence[str]) -> bool:
  """Whether gin files configure the script that reads them, as T5X's do.

  Args:
    names: Paths of gin files; missing or unreadable files are ignored.
  """
  return any(
    isinstance(statement, config_parser.ImportStatement)
    and statement.module == "__main__"
    for name in with_included(names)
    for statement in _statements(name)
  )


def with_included(names: Iterable[str]) -> list[str]:
  """Lists gin files and the files that they include, each once.

  Args:
    names: Paths of gin files; missing or unreadable files include nothing.

  Returns:
    The paths, in the order in which gin finishes reading them.
  """
  found: dict[str, None] = {}
  begun: set[str] = set()

  def add(name: str) -> None:
    if name in begun:
      return
    begun.add(name)
    for statement in _statements(name):
      if isinstance(statement, config_parser.IncludeStatement):
        add(statement.filename)
    found[name] = None

  for name in names:
    add(name)
  return list(found)


class _Unresolved(config_parser.ParserDelegate):
  """Keeps names as they are written."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return scoped_configurable_name

  def macro(self, macro_name):
    return macro_name


def _statements(name: str) -> list:
  try:
    text = find_file(name).read_text(encoding="utf-8")
    return list(config_parser.ConfigParser(text, _Unresolved()))
  except (StopIteration, OSError, SyntaxError, ValueError, TokenError):
    return []


def provided(text: str) -> set[str]:
  """Reads the macros that a gin file provides, from its first comment.

  Args:
    text: Text of the file; the comment has a sentence `Provides: A, B.`

  Returns:
    The macros. Nothing has to use them.
  """
  lines = itertools.takewhile(lambda x: x.startswith("#"), text.splitlines())
  comment = "\n".join(line.removeprefix("#").strip() for line in lines)
  found = re.search(r"^Provides: (.*?)\.$", comment, re.MULTILINE | re.DOTALL)
  return set(re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", found[1])) if found else set()


def flag(binding: str) -> str:
  """Writes a binding as the flag that sets it."""
  text = " ".join(binding.split())
  if found := re.match(r"([\w./]+) ?= ?", text):
    return f"--gin.{found[1]}={text[found.end() :]}"
  return f'--gin_bindings="{text}"'


class Sources(config_parser.ParserDelegate):
  """The places of the bindings. Gin forgets them, so all text is read again.

  Attributes:
    files: Paths of the files; included files come before the including file.
    referred: Everything that the text refers to, as it is written there.
  """

  def __init__(self, files: Sequence[str], bindings: Sequence[str]):
    """Reads the files and bindings, which gin has read without an error."""
    self.files = list(files)
    self.referred: set[str] = set()
    self._bound: list[tuple[Key, str]] = []
    self._provided: dict[str, set[str]] = {}
    for name in files:
      text = find_file(name).read_text(encoding="utf-8")
      self._provided[name] = provided(text)
      self._read(text, name)
    for binding in bindings:
      self._read(binding, flag(binding))

  def _read(self, text: str, place: str) -> None:
    for statement in config_parser.ConfigParser(text, self):
      if isinstance(statement, config_parser.BindingStatement):
        scope, selector, parameter, _, location = statement
        if parameter:
          key = Key(scope, selector, parameter)
        else:
          key = macro_key(f"{scope}/{selector}" if scope else selector)
        line = "" if place.startswith("--") else f", line {location.line_num}"
        self._bound.append((key, place + line))

  def configurable_reference(self, scoped_configurable_name, evaluate):
    """Notes a reference; gin has checked it already."""
    self.referred.add(scoped_configurable_name)

  def macro(self, macro_name):
    """Notes a macro."""
    self.referred.add(macro_name)

  def place(self, key: Key) -> str | None:
    """Returns where a parameter was bound last: the flag, or file and line."""
    for written, place in reversed(self._bound):
      if (
        written.scope == key.scope
        and written.parameter == key.parameter
        and f".{key.selector}".endswith(f".{written.selector}")
      ):
        return place
    return None

  def provides(self, key: Key) -> bool:
    """Whether the macro's value is in a file that declares it as provided."""
    file = (self.place(key) or "").rpartition(", line ")[0]
    return key.scope in self._provided.get(file, ())

  def refers_to(self, key: Key) -> bool:
    """Whether anything refers to the object whose parameter this is."""
    if key.selector == "gin.macro":
      return key.scope in self.referred
    split = [name.rpartition("/") for name in self.referred]
    return any(
      scope == key.scope and f".{key.selector}".endswith(f".{selector}")
      for scope, _, selector in split
    )


def innermost(selector: str, parameter: str, scope: str) -> Key | None:
  """Finds the binding that wins for a parameter in a scope, or None."""
  scopes = scope.split("/")
  for depth in range(len(scopes), -1, -1):
    inner = "/".join(scopes[:depth])
    if parameter in gin_tables.bound().get((inner, selector), {}):
      return Key(inner, selector, parameter)
  return None


def origin(key: Key) -> Key | None:
  """Follows macros to the binding that holds the value; None in a circle."""
  seen: set[Key] = set()
  while key not in seen:
    seen.add(key)
    value = gin_tables.bound().get(key[:2], {}).get(key.parameter)
    if (
      not isinstance(value, gin_config.ConfigurableReference)
      or value.config_key[1] != "gin.macro"
    ):
      return key
    key = macro_key(value.config_key[0])
  return None


def suggest(name: str, known: Iterable[str]) -> str:
  """Suggests a known name that is close; "" if none is."""
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
  return f"; did you mean {near[0]}?" if near else ""
