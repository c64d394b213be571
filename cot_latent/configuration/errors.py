"""Gin's errors as one line that says what, where and how to fix it."""

import contextlib
import inspect
import logging
import pathlib
import re
import tokenize
from collections.abc import Iterator

import gin

from cot_latent.configuration import gin_tables
from cot_latent.configuration import sources as gin_sources
from cot_latent.errors import UserError


@contextlib.contextmanager
def explained(
  place: str, sources: gin_sources.Sources | None = None
) -> Iterator[None]:
  """Turns gin's errors into one line that says what, where and how to fix it.

  Args:
    place: The file or flag being read.
    sources: Places of the bindings, once all files are read.

  Raises:
    UserError: For each error that gin raises; a UserError gets its place.
  """
  logging.disable(logging.ERROR)  # gin logs each path that it tries
  try:
    yield
  except UserError as error:
    raise UserError(_blame(error, sources)) from None
  except (SyntaxError, tokenize.TokenError) as error:
    raise UserError(_explain_syntax(error, place)) from None
  except (
    AttributeError,
    ImportError,
    NameError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    raise UserError(_explain(error, place, sources is not None)) from None
  finally:
    logging.disable(logging.NOTSET)


def _blame(error: UserError, sources: gin_sources.Sources | None) -> str:
  """Names the place of the value that a check of a field refused.

  Gin appends the call in which the check failed, with its scope.
  """
  first, _, rest = str(error).partition("\n")
  call = re.search(
    r"configurable '(\w+)' \((?s:.*?)\)(?: in scope '(.*)')?", rest
  )
  field = re.match(r"(\w+)\.(\w+)\b", first)
  if sources is None or not call or not field or call[1] != field[1]:
    return first
  bound = (
    gin_sources.innermost(selector, field[2], call[2] or "")
    for _, selector in gin_tables.bound()
    if selector.endswith(f".{field[1]}")
  )
  key = next(map(gin_sources.origin, filter(None, bound)), None)
  if not key or not (place := sources.place(key)):
    return first
  is_named = key.selector != "gin.macro" or place.startswith("--")
  return f"{place}{'' if is_named else f', {key.scope}'}: {first}"


def _explain_syntax(error: Exception, place: str) -> str:
  """Names the line that cannot be read, and how to write it."""
  is_flag = place.startswith("--")
  if not isinstance(error, SyntaxError):
    place = place if is_flag else _innermost_file(error, place)
    return f"{place}: a bracket or a quote is not closed"
  text = place.removeprefix("--gin.")
  if not is_flag:
    is_named = error.filename not in (None, "<tokenize>")
    file = error.filename if is_named else _innermost_file(error, place)
    place = f"{file}, line {error.lineno}"
    text = " ".join((error.text or "").split())
  name, equals, value = (part.strip() for part in text.partition("="))
  if name and equals and not value:
    return f"{place}: {name} has no value"
  what = re.sub(r"\s+Got \w+ = (?s:.*)", "", error.msg)
  what = " ".join(what.split()).rstrip(".")
  if found := re.search(r"Failed to parse token '(.*)'", what):
    what = f"{found[1]} is not a value"
  if text.startswith("include "):
    return f"{place}: cannot read {text!r}; write include 'FILE', in quotes"
  is_value = found or what == "Unable to parse value"
  if is_value and equals and re.fullmatch(r"""[^'"@%=(){}\[\]]+""", value):
    quoted = f"--gin.{name}=\"'{value}'\"" if is_flag else f"{name} = '{value}'"
    return (
      f"{place}: {value} is not a value; a string needs quotes of its own: "
      f"{quoted}"
    )
  if not is_flag:
    what = f"cannot read {text!r:.80} ({what})"
  if is_value or re.search("parse statement|Unexpected|Expected new", what):
    what += "; write NAME = VALUE, where VALUE is a Python literal"
  return f"{place}: {what}"


def _explain(error: Exception, place: str, is_read: bool) -> str:
  """Rewrites gin's message as one line."""
  first, _, rest = str(error).partition("\n")
  # Gin appends the statements that it was in, the innermost first.
  if found := re.search(r'  In file "(.*)", line (\d+)', rest):
    place = f"{found[1]}, line {found[2]}"
  elif isinstance(error, UnicodeDecodeError):
    return f"{_innermost_file(error, place)}: not a text file in UTF-8"
  if isinstance(error, RecursionError):
    circle = sorted(filter(_is_circular, gin_sources.macros()))
    what = "a value refers to" if is_read else "a file includes"
    what = f"the value of {', '.join(circle)} refers to" if circle else what
    return f"{place}: {what} itself, directly or through others"
  if found := re.match(r"Unable to open file: (.*)\. Searched", first):
    where = f"--gin_file={place}" if place == found[1] else place
    return f"{where}: {_explain_missing(found[1])}"
  if "set to `%gin.REQUIRED`" in first and (missing := _required()):
    flags = " ".join(f"--gin.{name}=..." for name in missing)
    need = "needs a value" if len(missing) == 1 else "need values"
    return f"{', '.join(missing)} {need}: {flags}"
  if found := re.match(r"No bindings specified for '(\w+)/gin.macro'", first):
    return (
      f"the macro %{found[1]} has no value: include the gin file that provides "
      f"it, or give --gin.{found[1]}=..."
      f"{gin_sources.suggest(found[1], gin_sources.macros())}"
    )
  if found := re.match(r"(\w+)\.__init__\(\) missing .*: (.*)", first):
    scope = re.search(r"in scope '(.*)'", rest)
    name = f"{scope[1]}/{found[1]}" if scope else found[1]
    return f"{place}: {name} has no value for {found[2]}: bind it"
  return f"{place}: {_explain_name(first)}"


def _is_circular(macro: str) -> bool:
  return gin_sources.origin(gin_sources.macro_key(macro)) is None


def _required() -> list[str]:
  """Names the macros that still need a value."""
  return sorted(
    name
    for name in gin_sources.macros()
    if repr(gin_tables.bound()[name, "gin.macro"]["value"]) == "%gin.REQUIRED"
  )


def _explain_missing(name: str) -> str:
  """Says that a file is missing, and where it was looked up."""
  if name and pathlib.Path(name).is_dir():
    return f"{name} is a folder, not a gin file"
  folders = dict.fromkeys(p or "." for p in gin_tables.folders())
  return f"no file {name!r}; looked in {', '.join(folders)}"


def _explain_name(message: str) -> str:
  """Adds to a message about an unknown name the name that was likely meant."""
  if message.startswith("not enough values to unpack"):
    return "a binding is NAME = VALUE or MODULE.FUNCTION.PARAMETER = VALUE"
  if found := re.match(
    r"Configurable '(.*)' doesn't have a parameter named '(.*)'", message
  ):
    function = gin_tables.registered(found[1])
    hint = gin_sources.suggest(found[2], inspect.signature(function).parameters)
    return f"{found[1]} has no parameter {found[2]}{hint}"
  if found := re.match(
    r"No configurable matching(?: reference)? '(.*)'", message
  ):
    known = {".".join(s.split(".")[-2:]) for s in gin_tables.selectors()}
    hint = gin_sources.suggest(found[1], known)
    hint = hint or "; the gin file must import its module"
    return f"there is no {found[1]}{hint}"
  return re.sub(r"<module '([\w.]+)' from '[^']*'>", r"\1", message)


def _innermost_file(error: Exception, place: str) -> str:
  """Names the file that gin was reading, from the calls in the traceback."""
  trace = error.__traceback__
  while trace:
    if trace.tb_frame.f_code is gin.parse_config_file.__code__:
      place = trace.tb_frame.f_locals["config_file"]
    trace = trace.tb_next
  return place
