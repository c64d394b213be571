"""Gin files and bindings made into an experiment. The only reader of gin."""

import contextlib
import difflib
import hashlib
import logging
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import cot_latent
import gin
from cot_latent.errors import UserError
from cot_latent.training import experiment
from gin import config as gin_config


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
    The experiment, and what it came from, for
    the report: files with their hashes, bindings, resolved and operative text.

  Raises:
    UserError: for any fault, naming the file and line, or the binding.
  """
  gin.clear_config()
  for folder in (*search_paths, *_package_folders()):
    if not pathlib.Path(folder).is_dir():
      raise UserError(f"--gin_search_paths: no folder {folder}")
    gin.add_config_file_search_path(str(folder))
  read: list[str] = []
  for name in gin_files:
    with _explained(f"in {name}"):
      read += _flatten(gin.parse_config_file(name))
  for binding in bindings:
    with _explained(f"--gin.{_squeeze(binding)}"):
      gin.parse_config(binding)
  with _explained("in the configuration"):
    gin.finalize()
    made = gin.get_configurable(experiment.Experiment)()
  _refuse_unused()
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


def _file_record(name: str) -> dict[str, str]:
  """Names a file that was read, with the hash of what stood in it."""
  folders = ["", *gin_config._LOCATION_PREFIXES]
  paths = [pathlib.Path(folder, name) for folder in folders]
  found = next(path for path in paths if path.is_file())
  return {
    "path": name,
    "sha256": hashlib.sha256(found.read_bytes()).hexdigest(),
  }


def _refuse_unused() -> None:
  """Raises if something is bound that nothing read.

  Gin keeps silent about it, though it mostly is a misspelt macro. The
  experiment is built by now, so all that can be read has been.
  """
  for (scope, selector), parameters in gin_config._CONFIG.items():
    read: set[str] = set()
    for (in_scope, operative), values in gin_config._OPERATIVE_CONFIG.items():
      if operative == selector and f"{in_scope}/".startswith(
        f"{scope}/" if scope else ""
      ):
        read |= values.keys()
    for parameter in parameters:
      if parameter in read:
        continue
      if selector == "gin.macro":
        near = difflib.get_close_matches(scope, _macros() - {scope}, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"nothing uses the macro {scope}{hint}")
      name = f"{scope}/{selector}" if scope else selector
      raise UserError(f"nothing uses the binding {name}.{parameter}")


def _macros() -> set[str]:
  return {
    scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"
  }


@contextlib.contextmanager
def _explained(place: str) -> Iterator[None]:
  """Turns gin's errors into one line that says what, where and how to mend."""
  logging.disable(logging.ERROR)  # gin logs each path that it tries
  try:
    yield
  except UserError as error:
    # Gin appends the call in which a check failed.
    raise UserError(str(error).splitlines()[0]) from None
  except (
    AttributeError,
    ImportError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    raise UserError(f"{place}: {_explain(str(error))}") from None
  finally:
    logging.disable(logging.NOTSET)


def _explain(message: str) -> str:
  """Rewrites what gin says in one line."""
  first, *others = (line.strip() for line in message.splitlines() if line)
  where = [line for line in others if re.match(r"In file ", line)]
  suffix = f" ({'; '.join(where)})".replace("In file", "file") if where else ""
  if found := re.match(r"Unable to open file: (\S+)\. Searched", first):
    folders = [f or "." for f in gin_config._LOCATION_PREFIXES]
    return f"no file {found[1]}{suffix}; looked in {', '.join(folders)}"
  if found := re.match(r"(\w+)/macro.value set to `%gin.REQUIRED`", first):
    return f"{found[1]} needs a value: --gin.{found[1]}=..."
  if found := re.match(r"No bindings specified for '(\w+)/gin.macro'", first):
    return (
      f"the macro %{found[1]} has no value: include the gin file that provides "
      f"it, or give --gin.{found[1]}=..."
    )
  if found := re.search(
    r"Failed to parse token '(.*)' \((?:(.*), )?line (\d+)\)", message
  ):
    token, file, line = found.groups()
    at = f" ({file}, line {line})" if file else ""
    return (
      f"{token} is not a value{at}; a string needs quotes of its own: "
      f"\"'{token}'\""
    )
  return first + suffix


def _squeeze(binding: str) -> str:
  return re.sub(r"\s*=\s*", "=", binding, count=1)
