"""From gin files and bindings to an experiment."""

import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import gin

import cot_latent
from cot_latent.configuration import errors as gin_errors
from cot_latent.configuration import gin_tables, trust
from cot_latent.configuration import sources as gin_sources
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.training import experiment

_TASK_FILE = "gin/tasks/common.gin"


def parse(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> tuple[experiment.Experiment, dict[str, Any]]:
  """Parses a configuration and builds its experiment.

  Files are read first, in order, and then bindings, so that a binding wins.

  Args:
    gin_files: Paths of gin files. Each is looked up in the working directory,
      then in the search paths, then beside the package.
    bindings: Lines such as "SEED = 3".
    search_paths: Further folders in which gin files are looked up.

  Returns:
    The experiment, and its gin record for the report: files with their hashes,
    bindings, resolved and operative text.

  Raises:
    UserError: For any fault; names the file and line, or the binding.
  """
  sources = _read(gin_files, bindings, search_paths)
  with gin_errors.explained("in the configuration", sources):
    gin.finalize()
    if not any(name.endswith(".Experiment") for _, name in gin_tables.bound()):
      raise UserError(
        "no gin file describes the experiment; give one of gin/runs/, or "
        "include 'gin/runs/common.gin' in yours"
      )
    made = gin.get_configurable(experiment.Experiment)()
  _refuse_unused(sources)
  return made, {
    "gin_files": [_file_record(name) for name in sources.files],
    "bindings": list(bindings),
    "resolved": gin.config_str(),
    "operative": gin.operative_config_str(),
  }


def parse_resolved(
  text: str,
  allowed: Sequence[str] = (),
  place: str = "the report's configuration",
) -> tuple[experiment.Experiment, dict[str, Any]]:
  """Builds an experiment from the resolved text that `parse` recorded.

  Args:
    text: The whole configuration, without includes.
    allowed: Modules that it may import besides those that any report may.
    place: Description of the text, for messages.

  Returns:
    The experiment and its gin record, as `parse` returns them, but without
    files and bindings.

  Raises:
    UserError: If this version cannot read it, or if it would import or call
      something that a report may not.
  """
  gin.clear_config()
  with gin_errors.explained(place):
    trust.check(text, allowed, place)
    gin.parse_config(text)
    gin.finalize()
    made = gin.get_configurable(experiment.Experiment)()
    trust.check_tasks(made, allowed, place)
  return made, {
    "gin_files": [],
    "bindings": [],
    "resolved": gin.config_str(),
    "operative": gin.operative_config_str(),
  }


def parse_source(
  task: str | None,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> Source:
  """Parses only the task's source, for commands that need no experiment.

  Args:
    task: Name of the task; None uses the files and bindings.
    gin_files: Paths such as one of gin/prompts/, or a run's; read after
      gin/tasks/common.gin.
    bindings: Lines such as "SEED = 3".
    search_paths: Further folders in which gin files are looked up.

  Raises:
    UserError: For any fault; names the file and line, or the binding.
  """
  files = [_TASK_FILE, *gin_files]
  if task is not None:
    bindings = [*bindings, f"TASK = {task!r}"]
  sources = _read(files, bindings, search_paths)
  with gin_errors.explained("in the configuration", sources):
    made = _make_source()
  _refuse_unused(sources, flags_only=True)
  return made


def _make_source() -> Source:
  gin.finalize()
  with gin.config_scope("task"):
    return gin.get_configurable(Source)()


def parse_shown(
  task: str,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> tuple[Source, tuple[str, ...] | None]:
  """Parses a task's source, and STOP.

  Args:
    task: Name of the task; None uses the files and bindings.
    gin_files: Paths such as one of gin/prompts/.
    bindings: Lines such as "SEED = 3".
    search_paths: Further folders in which gin files are looked up.

  Raises:
    UserError: As in `parse_source`, or if STOP is not a tuple of strings.
  """
  bindings = [*bindings, f"TASK = {task!r}"]
  sources = _read([_TASK_FILE, *gin_files], bindings, search_paths)
  with gin_errors.explained("in the configuration", sources):
    made = _make_source()
    with gin.config_scope("STOP"):
      stop = gin.get_configurable("gin.macro")()
  is_fine = isinstance(stop, list | tuple) and all(
    isinstance(text, str) and text for text in stop
  )
  if stop is not None and not is_fine:
    raise UserError(
      f"STOP = {stop!r:.60}: write strings in brackets, such as ('\\n\\n',)"
    )
  _refuse_unused(sources, flags_only=True)
  return made, None if stop is None else tuple(stop)


def asks_for_t5x(gin_files: Sequence[str], search_paths: Sequence[str]) -> bool:
  """Whether gin files are for T5X's own trainer, not for the embedded one.

  Args:
    gin_files: Paths of gin files.
    search_paths: Further folders; `parse` reports a fault in them.
  """
  folders = [path for path in search_paths if pathlib.Path(path).is_dir()]
  # T5X's own gin files, which a user's file may include.
  spec = importlib.util.find_spec("t5x")
  places = (spec and spec.submodule_search_locations) or ()
  _look_in([*folders, *(str(pathlib.Path(place).parent) for place in places)])
  return gin_sources.asks_for_script(gin_files)


def _look_in(search_paths: Sequence[str]) -> None:
  """Clears what gin has read, and sets the folders in which it looks."""
  gin.clear_config()
  for folder in search_paths:
    if not pathlib.Path(folder).is_dir():
      raise UserError(f"--gin_search_paths: no folder {folder}")
  gin_tables.look_in([*search_paths, *package_folders()])


def _read(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> gin_sources.Sources:
  """Reads files and bindings into gin, and notes their places."""
  _look_in(search_paths)
  read: list[str] = []
  for name in gin_files:
    with gin_errors.explained(name):
      read += _flatten(gin.parse_config_file(name))
  for binding in bindings:
    with gin_errors.explained(gin_sources.flag(binding)):
      gin.parse_config(binding)
  return gin_sources.Sources(read, bindings)


def package_folders() -> list[str]:
  """Returns the folders that hold gin/: a checkout or the package."""
  package = pathlib.Path(cot_latent.__file__).parent
  return [str(p) for p in (package.parent, package) if (p / "gin").is_dir()]


def _flatten(parsed) -> Iterator[str]:
  """Yields the paths of parsed files; included files come first."""
  for included in parsed.includes:
    yield from _flatten(included)
  yield parsed.filename


def _file_record(name: str) -> dict[str, str]:
  """Returns the name of a file that was read, and the hash of its text."""
  content = gin_sources.find_file(name).read_bytes()
  return {"path": name, "sha256": hashlib.sha256(content).hexdigest()}


def _refuse_unused(
  sources: gin_sources.Sources, flags_only: bool = False
) -> None:
  """Raises if nothing has read some binding.

  Gin ignores such a binding, which mostly is a misspelt macro. The experiment
  is built by now, so everything that can be read has been read. A file may bind
  parameters of something that a later file or binding replaced. It may also
  bind a macro that it declares as provided, because not every method reads all
  macros of a task.
  """
  used = {
    gin_sources.innermost(selector, parameter, scope)
    for (scope, selector), values in gin_tables.used().items()
    for parameter in values
  }
  for (scope, selector), parameters in gin_tables.bound().items():
    for parameter in sorted(parameters):
      key = gin_sources.Key(scope, selector, parameter)
      place = sources.place(key) or "in the configuration"
      is_excused = sources.refers_to(key) and not place.startswith("--")
      if flags_only and not place.startswith("--"):
        continue
      if key in used or is_excused or sources.provides(key):
        continue
      if selector == "gin.macro":
        raise UserError(
          f"{place}: nothing uses the macro {scope}"
          f"{gin_sources.suggest(scope, gin_sources.macros() - {scope})}"
        )
      name = f"{scope}/{selector}" if scope else selector
      raise UserError(f"{place}: nothing uses the binding {name}.{parameter}")
