"""`t5x train` for a gin file that needs T5X's own train."""

import contextlib
import pathlib
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin

from cot_latent.configuration import errors as gin_errors
from cot_latent.configuration import gin_tables
from cot_latent.configuration import sources as gin_sources
from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.runtime import files
from cot_latent.t5x import checks, one_line, own_log, report, storage
from cot_latent.t5x.latent import Latent

_MODULE = "t5x.train"
has_run = False  # whether T5X's train has begun in this process


def run(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  flags: Sequence[str] = (),
  check: Callable[[Mapping[str, Any]], None] | None = None,
  verbosity: int | None = None,
) -> None:
  """Runs T5X's train.py as a script.

  Args:
    gin_files: Gin files, as T5X takes them.
    bindings: Lines such as "SEED = 3".
    search_paths: Folders in which gin files are looked up.
    flags: Further flags of T5X.
    check: Called with the report's header before any training; raises
      UserError if the run must not start.
    verbosity: Level of T5X's log on the terminal, as absl counts them; None
      writes the log into a file in MODEL_DIR.

  Raises:
    UserError: For a mistake in the configuration.
    RunError: If the run cannot continue.
  """
  arguments = [f"--gin_file={name}" for name in gin_files]
  arguments += [f"--gin_bindings={binding}" for binding in bindings]
  arguments.append(f"--gin_search_paths={','.join(('.', *search_paths))}")
  global has_run
  has_run = True
  if verbosity is not None:
    arguments.append(f"--verbosity={verbosity}")
  before = sys.argv
  sys.argv = ["t5x", *arguments, *flags]
  report.check_header = check
  try:
    with _said(), own_log.kept_off_terminal(verbosity is None):
      runpy.run_module(_MODULE, run_name="__main__", alter_sys=True)
  except (UserError, RunError) as error:
    # Its type may be one that gin made from ours.
    kind = UserError if isinstance(error, UserError) else RunError
    raise kind(_first_line(error)) from None
  except Exception as error:
    one_line.explain(error)
    raise
  except SystemExit as end:
    if end.code:
      raise
  finally:
    sys.argv, report.check_header = before, None


def repeat(
  old: Mapping[str, Any],
  folder: pathlib.Path,
  data_dir: str | None,
  checkpoint: str | None,
  check: Callable[[Mapping[str, Any]], None],
) -> None:
  """Repeats the run of a report, from the configuration that T5X read.

  Args:
    old: The report of a run inside T5X.
    folder: The new run's folder.
    data_dir: Value of DATA_DIR; None uses the old run's.
    checkpoint: Value of INITIAL_CHECKPOINT_PATH; None uses the old run's.
    check: Called with the report's header, as in `run`.

  Raises:
    UserError: For a mistake in the configuration, or from `check`.
    RunError: If the run cannot continue.

  If the run ends before there is a report, a folder that was empty or missing
  is so again.
  """
  folder = folder.absolute()
  was_there = folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  is_empty = not any(folder.iterdir())
  gin_file = folder / checks.RERUN
  files.write_atomically(gin_file, old["configuration"]["resolved"])
  changes = {
    "MODEL_DIR": str(folder),
    "DATA_DIR": data_dir,
    "INITIAL_CHECKPOINT_PATH": checkpoint and str(storage.absolute(checkpoint)),
  }
  bindings = [f"{name} = {value!r}" for name, value in changes.items() if value]
  try:
    run([str(gin_file)], bindings, (), check=check)
  except BaseException:
    # T5X has written files of its own before a report could be begun.
    if is_empty and not (folder / "report.json").exists():
      shutil.rmtree(folder)
      if was_there:
        folder.mkdir()
    raise


def dry_run(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  is_quiet: bool = True,
) -> str:
  """Checks a configuration and describes what the run would do.

  Args:
    gin_files: Gin files, as T5X takes them.
    bindings: Lines such as "SEED = 3".
    search_paths: Folders in which gin files are looked up.
    is_quiet: Whether the logs of libraries are left out.

  Returns:
    The configuration, and the cost.

  Raises:
    UserError: For a mistake in the configuration.
  """
  from t5x import train as train_script

  with as_main(train_script), own_log.kept_off_terminal(is_quiet):
    train = parse(train_script, gin_files, bindings, search_paths)
    with gin_errors.explained("in the configuration"):
      text = describe(train)
    return f"{gin.config_str()}\n{text}"


def parse(
  train_script: Any,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> Any:
  """Reads a configuration as train.py does; mistakes become one line.

  Args:
    train_script: The module t5x.train, which replaces the main module.
    gin_files: Gin files, as T5X takes them.
    bindings: Lines such as "SEED = 3".
    search_paths: Folders in which gin files are looked up.

  Returns:
    T5X's train as gin configures it.
  """
  gin.clear_config()
  own = pathlib.Path(train_script.__file__).parents[1]
  gin_tables.look_in([*search_paths, str(own)])
  for name in gin_files:
    with gin_errors.explained(name):
      gin.parse_config_file(name)
  for binding in bindings:
    with gin_errors.explained(gin_sources.flag(binding)):
      gin.parse_config(binding)
  with gin_errors.explained("in the configuration"):
    gin.finalize()
    checks.check_bindings(gin_files, bindings)
    return gin.get_configurable(train_script.train)


def describe(train: Any) -> str:
  """Builds the run's arguments, with all their checks, and counts the cost.

  Args:
    train: T5X's train, as gin configures it.

  Returns:
    A few lines; if no rationales are drawn, a line about T5X's own training.
  """
  bound = gin.get_bindings(train, resolve_references=False)
  latent = resolved(bound.get("get_dataset_fn"))
  resolved(bound.get("model"))
  steps = resolved(bound.get("total_steps"))
  if not isinstance(latent, Latent):
    return f"T5X's own training, to step {steps:,}; no rationales are drawn"
  method, size = latent.method, latent.batch_size
  num_sampled = 0 if method.loops else size * method.num_draws
  by_loop = method.drawn_by_loop(len(latent.examples))
  return (
    f"method {method.name} on {latent.task.name}, to step {steps:,}, the steps "
    "of the checkpoint included\n"
    f"{len(latent.examples):,} questions, "
    f"{latent.converter.prompt_length} prompt tokens, "
    f"{latent.converter.target_length} tokens of a rationale\n"
    f"a step samples {num_sampled:,} sequences and differentiates "
    f"{method.max_scored(size):,} at most"
    + (f"\nan outer loop samples {by_loop:,} at most" if by_loop else "")
  )


@contextlib.contextmanager
def _said() -> Iterator[None]:
  """Makes the report record the error that ended the run, wherever it was."""
  try:
    yield
  except (Exception, KeyboardInterrupt, Preempted) as error:
    report.end_by(error)
    raise


@contextlib.contextmanager
def as_main(module: Any) -> Iterator[None]:
  """Makes a module stand for the main module, which T5X's gin files import."""
  before = sys.modules["__main__"]
  sys.modules["__main__"] = module
  try:
    yield
  finally:
    sys.modules["__main__"] = before


def _first_line(error: Exception) -> str:
  """Returns the message without the calls that gin appends."""
  return str(error).partition("\n")[0]


def resolved(value: Any) -> Any:
  """Resolves the value of a binding."""
  try:
    # Gin resolves a reference when it is copied.
    return value.__deepcopy__({}) if hasattr(value, "__deepcopy__") else value
  except UserError as error:
    raise UserError(str(error).partition("\n")[0]) from None
