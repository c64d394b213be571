"""Gin files and bindings made into an experiment. The only reader of gin."""

import contextlib
import difflib
import hashlib
import inspect
import logging
import pathlib
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cot_latent
import gin
from cot_latent.errors import UserError
from cot_latent.training import experiment
from gin import config as gin_config
from gin import config_parser


def parse(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> tuple[experiment.Experiment, dict[str, Any]]:
  """Parses a configuration and builds its experiment.

  Files first, in order, then bindings, so that a binding has the last word.

  Args:
    gin_files: paths, looked up in the working directory, then in the search
      paths, then beside the package.
    bindings: lines such as "SEED = 3".
    search_paths: further folders to look files up in.

  Returns:
    The experiment, and what it came from, for the report: files with their
    hashes, bindings, resolved and operative text.

  Raises:
    UserError: for any fault, naming the file and line, or the binding.
  """
  gin.clear_config()
  gin_config._LOCATION_PREFIXES[:] = [""]  # gin keeps those of earlier calls
  for folder in (*search_paths, *_package_folders()):
    if not pathlib.Path(folder).is_dir():
      raise UserError(f"--gin_search_paths: no folder {folder}")
    gin.add_config_file_search_path(str(folder))
  read: list[str] = []
  for name in gin_files:
    with _explained(name):
      read += _flatten(gin.parse_config_file(name))
  for binding in bindings:
    with _explained(_flag(binding)):
      gin.parse_config(binding)
  sources = _Sources(read, bindings)
  with _explained("in the configuration", sources):
    gin.finalize()
    if not any(name.endswith(".Experiment") for _, name in gin_config._CONFIG):
      raise UserError(
        "no gin file describes the experiment; give one of gin/runs/, or "
        "include 'gin/runs/common.gin' in yours"
      )
    made = gin.get_configurable(experiment.Experiment)()
  _refuse_unused(sources)
  return made, {
    "gin_files": [_file_record(name) for name in read],
    "bindings": list(bindings),
    "resolved": gin.config_str(),
    "operative": gin.operative_config_str(),
  }


def _package_folders() -> list[str]:
  """The folders that hold gin/: a checkout's root, or the installed package."""
  package = pathlib.Path(cot_latent.__file__).parent
  return [str(p) for p in (package.parent, package) if (p / "gin").is_dir()]


def _flatten(parsed) -> Iterator[str]:
  """Yields the paths of parsed files, those that they include first."""
  for included in parsed.includes:
    yield from _flatten(included)
  yield parsed.filename


def _find_file(name: str) -> pathlib.Path:
  """Finds a file that was read as gin found it."""
  paths = [pathlib.Path(p, name) for p in gin_config._LOCATION_PREFIXES]
  return next(path for path in paths if path.is_file())


def _file_record(name: str) -> dict[str, str]:
  """Names a file that was read, with the hash of what stood in it."""
  content = _find_file(name).read_bytes()
  return {"path": name, "sha256": hashlib.sha256(content).hexdigest()}


class _Key(NamedTuple):
  """A parameter as gin stores it; a macro is `value` of NAME/gin.macro."""

  scope: str
  selector: str
  parameter: str


def _macro_key(name: str) -> _Key:
  return _Key(name, "gin.macro", "value")


def _macros() -> set[str]:
  return {
    scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"
  }


class _Sources(config_parser.ParserDelegate):
  """Where the bindings stand. Gin forgets it, so all text is read anew.

  Attributes:
    referred: what is referred to anywhere, as it is written there.
  """

  def __init__(self, files: Sequence[str], bindings: Sequence[str]):
    self.referred: set[str] = set()
    self._bound: list[tuple[_Key, str]] = []
    for name in files:
      self._read(_find_file(name).read_text(encoding="utf-8"), name)
    for binding in bindings:
      self._read(binding, _flag(binding))

  def _read(self, text: str, place: str) -> None:
    for statement in config_parser.ConfigParser(text, self):
      if isinstance(statement, config_parser.BindingStatement):
        scope, selector, parameter, _, location = statement
        if parameter:
          key = _Key(scope, selector, parameter)
        else:
          key = _macro_key(f"{scope}/{selector}" if scope else selector)
        line = "" if place.startswith("--") else f", line {location.line_num}"
        self._bound.append((key, place + line))

  def configurable_reference(self, scoped_configurable_name, evaluate):
    """Takes note of a reference; gin has checked it already."""
    self.referred.add(scoped_configurable_name)

  def macro(self, macro_name):
    """Takes note of a macro."""
    self.referred.add(macro_name)

  def place(self, key: _Key) -> str | None:
    """Says where a parameter was bound last: the flag, or file and line."""
    for written, place in reversed(self._bound):
      if (
        written.scope == key.scope
        and written.parameter == key.parameter
        and f".{key.selector}".endswith(f".{written.selector}")
      ):
        return place
    return None

  def refers_to(self, key: _Key) -> bool:
    """Whether anything refers to the thing whose parameter this is."""
    if key.selector == "gin.macro":
      return key.scope in self.referred
    split = [name.rpartition("/") for name in self.referred]
    return any(
      scope == key.scope and f".{key.selector}".endswith(f".{selector}")
      for scope, _, selector in split
    )


def _refuse_unused(sources: _Sources) -> None:
  """Raises if something is bound that nothing read.

  Gin keeps silent about it, though it mostly is a misspelt macro. The
  experiment is built by now, so all that can be read has been. What a file
  binds for something that a later file or binding replaced may stay.
  """
  used = {
    _innermost(selector, parameter, scope)
    for (scope, selector), values in gin_config._OPERATIVE_CONFIG.items()
    for parameter in values
  }
  for (scope, selector), parameters in gin_config._CONFIG.items():
    for parameter in sorted(parameters):
      key = _Key(scope, selector, parameter)
      place = sources.place(key) or "in the configuration"
      is_excused = sources.refers_to(key) and not place.startswith("--")
      if key in used or is_excused:
        continue
      if selector == "gin.macro":
        raise UserError(
          f"{place}: nothing uses the macro {scope}"
          f"{_suggest(scope, _macros() - {scope})}"
        )
      name = f"{scope}/{selector}" if scope else selector
      raise UserError(f"{place}: nothing uses the binding {name}.{parameter}")


def _innermost(selector: str, parameter: str, scope: str) -> _Key | None:
  """Finds the binding that counts for a parameter in a scope, or None."""
  scopes = scope.split("/")
  for depth in range(len(scopes), -1, -1):
    inner = "/".join(scopes[:depth])
    if parameter in gin_config._CONFIG.get((inner, selector), {}):
      return _Key(inner, selector, parameter)
  return None


def _suggest(name: str, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
  return f"; did you mean {near[0]}?" if near else ""


@contextlib.contextmanager
def _explained(place: str, sources: _Sources | None = None) -> Iterator[None]:
  """Turns gin's errors into one line that says what, where and how to mend.

  The place is the file or flag being read; sources come when all are read.
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


def _blame(error: UserError, sources: _Sources | None) -> str:
  """Says where the value came from that a check of a field refused.

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
    _innermost(selector, field[2], call[2] or "")
    for _, selector in gin_config._CONFIG
    if selector.endswith(f".{field[1]}")
  )
  key = next(map(_origin, filter(None, bound)), None)
  if not key or not (place := sources.place(key)):
    return first
  is_named = key.selector != "gin.macro" or place.startswith("--")
  return f"{place}{'' if is_named else f', {key.scope}'}: {first}"


def _origin(key: _Key) -> _Key | None:
  """Follows macros to the binding that holds the value; None in a circle."""
  seen: set[_Key] = set()
  while key not in seen:
    seen.add(key)
    value = gin_config._CONFIG.get(key[:2], {}).get(key.parameter)
    if (
      not isinstance(value, gin_config.ConfigurableReference)
      or value.config_key[1] != "gin.macro"
    ):
      return key
    key = _macro_key(value.config_key[0])
  return None


def _explain_syntax(error: Exception, place: str) -> str:
  """Says which line cannot be read, and how it should be written."""
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
  """Rewrites what gin says in one line."""
  first, _, rest = str(error).partition("\n")
  # Gin appends the statements that it was in, the innermost first.
  if found := re.search(r'  In file "(.*)", line (\d+)', rest):
    place = f"{found[1]}, line {found[2]}"
  elif isinstance(error, UnicodeDecodeError):
    return f"{_innermost_file(error, place)}: not a text file in UTF-8"
  if isinstance(error, RecursionError):
    circle = sorted(name for name in _macros() if not _origin(_macro_key(name)))
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
      f"it, or give --gin.{found[1]}=...{_suggest(found[1], _macros())}"
    )
  if found := re.match(r"(\w+)\.__init__\(\) missing .*: (.*)", first):
    scope = re.search(r"in scope '(.*)'", rest)
    name = f"{scope[1]}/{found[1]}" if scope else found[1]
    return f"{place}: {name} has no value for {found[2]}: bind it"
  return f"{place}: {_explain_name(first)}"


def _required() -> list[str]:
  """Names the macros that still need a value."""
  return sorted(
    name
    for name in _macros()
    if repr(gin_config._CONFIG[name, "gin.macro"]["value"]) == "%gin.REQUIRED"
  )


def _explain_missing(name: str) -> str:
  """Says why there is no such file, and where it was looked for."""
  if name and pathlib.Path(name).is_dir():
    return f"{name} is a folder, not a gin file"
  folders = dict.fromkeys(p or "." for p in gin_config._LOCATION_PREFIXES)
  return f"no file {name!r}; looked in {', '.join(folders)}"


def _explain_name(message: str) -> str:
  """Adds to a message about an unknown name what may have been meant."""
  if message.startswith("not enough values to unpack"):
    return "a binding is NAME = VALUE or MODULE.FUNCTION.PARAMETER = VALUE"
  if found := re.match(
    r"Configurable '(.*)' doesn't have a parameter named '(.*)'", message
  ):
    function = gin_config._REGISTRY.get_match(found[1]).wrapped
    hint = _suggest(found[2], inspect.signature(function).parameters)
    return f"{found[1]} has no parameter {found[2]}{hint}"
  if found := re.match(
    r"No configurable matching(?: reference)? '(.*)'", message
  ):
    names = (name for name, _ in gin_config._REGISTRY.items())
    known = {".".join(name.split(".")[-2:]) for name in names}
    hint = _suggest(found[1], known) or "; the gin file must import its module"
    return f"there is no {found[1]}{hint}"
  return re.sub(r"<module '([\w.]+)' from '[^']*'>", r"\1", message)


def _innermost_file(error: Exception, place: str) -> str:
  """Names the file that gin was reading, by the calls that the error left."""
  trace = error.__traceback__
  while trace:
    if trace.tb_frame.f_code is gin.parse_config_file.__code__:
      place = trace.tb_frame.f_locals["config_file"]
    trace = trace.tb_next
  return place


def _flag(binding: str) -> str:
  """Writes a binding as the flag that it came from."""
  text = " ".join(binding.split())
  if found := re.match(r"([\w./]+) ?= ?", text):
    return f"--gin.{found[1]}={text[found.end() :]}"
  return f'--gin_bindings="{text}"'
