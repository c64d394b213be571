"""`t5x study`: runs every arm with every seed, one after another.

A study is a folder of gin files. Each file describes a whole run except its
seed and its folder. If the folder has an axes.toml, each arm is run for each
value that the file lists for a macro: `TASK = ['bbh_navigate', ...]`. A table
named like a value, `[bbh_navigate]`, has further settings of its runs. Complete
runs are left alone, so that the same command resumes a study that was stopped.
"""

import argparse
import collections
import functools
import itertools
import pathlib
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cot_latent.commands import arguments, gin_flags, limit, quiet
from cot_latent.errors import RunError, UserError
from cot_latent.runtime import files, terminal

if TYPE_CHECKING:
  from cot_latent.training import experiment

HELP = "run every arm of a study with every seed; resume an unfinished study"

_SHARED = "common.gin"  # included by the arms; not an arm itself
_AXES = "axes.toml"
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")  # of a folder, for an axis's value
_OWN = ("SEED", "MODEL_DIR", "BASE_DIR")  # what a study sets itself


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for gin, the study and its output."""
  gin_flags.add_arguments(parser)
  limit.add_argument(parser)
  parser.add_argument("folder", help="a folder with a gin file for each arm")
  parser.add_argument(
    "--seeds",
    type=arguments.count,
    default=5,
    metavar="N",
    help="number of seeds (default: 5)",
  )
  parser.add_argument(
    "--first_seed",
    type=arguments.whole,
    default=0,
    metavar="N",
    help="the first of the seeds (default: 0), so that several machines can "
    "share a study",
  )
  parser.add_argument(
    "--only",
    metavar="TEXT",
    help="leave out the runs whose names do not contain TEXT",
  )
  parser.add_argument(
    "--output",
    metavar="DIR",
    help="folder of the runs (default: runs/studies/ and the folder's name)",
  )
  parser.add_argument(
    "--collect",
    metavar="DIR",
    help="when all runs are complete, write the compact report of each to DIR",
  )
  parser.add_argument(
    "--dry_run",
    action="store_true",
    help="print the command of each run, one per line, and stop",
  )


def run(options: argparse.Namespace) -> int:
  """Trains the runs that are not complete, and collects their reports."""
  gin_files, bindings, search_paths = gin_flags.collect(options)
  runs = plan(
    options.folder,
    options.seeds,
    options.output,
    bindings,
    gin_files,
    options.first_seed,
  )
  if options.only is not None:
    runs = [run for run in runs if options.only in run.name]
    if not runs:
      raise UserError(
        f"--only={options.only}: no run has a name with it; --dry_run without "
        "--only prints all"
      )
  if options.limit is not None:
    runs = _limited(runs, options.limit, search_paths)
  if options.collect:
    files.check_output_folder("--collect", options.collect)
  if options.dry_run:
    for one in runs:
      terminal.say(one.command(search_paths))
    return 0
  quiet.silence_logs()
  from cot_latent.runtime import compilation

  with compilation.shared():
    failures = run_all(runs, search_paths)
  if failures:
    raise RunError(
      f"{len(failures)} of {len(runs)} runs failed, the first: {failures[0]}"
    )
  terminal.say(f"all {len(runs)} runs are complete")
  if options.collect:
    collect(runs, pathlib.Path(options.collect))
    terminal.say(f"their reports are in {options.collect}")
  return 0


class Run(NamedTuple):
  """One arm with one seed.

  Attributes:
    name: Name of the run, `<arm>-s<seed>`, with values of axes between them.
    gin_files: The arm's gin file, and those that all arms share.
    bindings: Bindings of this run.
    directory: Folder of the run.
  """

  name: str
  gin_files: list[str]
  bindings: list[str]
  directory: pathlib.Path

  def command(self, search_paths: Sequence[str]) -> str:
    """Returns the command that trains this run alone."""
    words = ["t5x", "train"]
    words += [f"--gin_file={name}" for name in self.gin_files]
    for binding in self.bindings:
      name, _, value = binding.partition("=")
      words.append(f"--gin.{name.strip()}={value.strip()}")
    if search_paths:
      words.append(f"--gin_search_paths={','.join(search_paths)}")
    return shlex.join(words)


def plan(
  folder: str,
  num_seeds: int,
  output: str | None,
  bindings: Sequence[str],
  gin_files: Sequence[str] = (),
  first_seed: int = 0,
) -> list[Run]:
  """Lists the runs of a study, seed by seed.

  Args:
    folder: Folder with a gin file for each arm; `common.gin` is not an arm.
    num_seeds: Number of seeds.
    output: Folder of the runs; None is runs/studies/<the folder's name>.
    bindings: Further bindings for all runs.
    gin_files: Further gin files for all runs, such as a model's; read after the
      arm's.
    first_seed: The first seed; the others follow it.

  Raises:
    UserError: If the folder has no arms, or if two runs have one name.
  """
  path = pathlib.Path(folder)
  if not path.is_dir():
    path = next(
      (p for p in _beside_package(folder) if p.is_dir()), pathlib.Path(folder)
    )
  arms = sorted(p for p in path.glob("*.gin") if p.name != _SHARED)
  if not arms:
    raise UserError(f"{folder} has no arms: it must be a folder of gin files")
  root = pathlib.Path(output or f"runs/studies/{path.resolve().name}")
  points, settings_of = _axes(path)
  runs = []
  for seed in range(first_seed, first_seed + num_seeds):
    for arm, point in itertools.product(arms, points):
      words = (_NOT_IN_NAMES.sub("_", str(value)) for value in point.values())
      name = "-".join([arm.stem, *words, f"s{seed}"])
      own = point.copy()
      for value in point.values():
        own |= settings_of.get(str(value), {})
      own |= {
        "SEED": seed,
        "MODEL_DIR": str(root / name),
        "BASE_DIR": str(root / "base"),
      }
      settings = [f"{key} = {value!r}" for key, value in own.items()]
      names = [str(arm), *gin_files]
      runs.append(Run(name, names, [*bindings, *settings], root / name))
  for name, number in collections.Counter(one.name for one in runs).items():
    if number > 1:
      raise UserError(
        f"{path}: {number} runs have the name {name}: rename an arm, or use "
        "other values of an axis"
      )
  return runs


def _axes(
  folder: pathlib.Path,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
  """Reads the axes.

  Returns:
    Every combination of their values, and the further settings of values.
  """
  path = folder / _AXES
  if not path.is_file():
    return [{}], {}
  try:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{path} cannot be read: {reason}") from None
  tables = {k: v for k, v in content.items() if isinstance(v, dict)}
  axes = {k: v for k, v in content.items() if k not in tables}
  for macro, values in axes.items():
    is_list = isinstance(values, list) and values
    if not is_list or not all(isinstance(v, str | int) for v in values):
      raise UserError(
        f"{path}: {macro} must be a list of texts or whole numbers, such as "
        "TASK = ['bbh_navigate', 'bbh_snarks']"
      )
    if len({*values}) < len(values):
      raise UserError(f"{path}: {macro} has a value twice: list each once")
    if macro in _OWN:
      raise UserError(
        f"{path}: {macro} is no axis, because a study sets it for each run"
      )
  known = {str(value) for values in axes.values() for value in values}
  for name, settings in tables.items():
    if name not in known:
      raise UserError(
        f"{path}: [{name}] is not a value of an axis: use one of "
        f"{', '.join(sorted(known)) or 'none'}"
      )
    for macro, value in settings.items():
      if macro in (*axes, *_OWN) or not isinstance(value, str | int | float):
        raise UserError(
          f"{path}: [{name}] {macro} must be a text or a number, and no axis, "
          f"{', '.join(_OWN[:-1])} or {_OWN[-1]}"
        )
  points = [
    dict(zip(axes, point, strict=True))
    for point in itertools.product(*axes.values())
  ]
  return points, tables


def _limited(
  runs: Sequence[Run], most: int, search_paths: Sequence[str]
) -> list[Run]:
  """Limits each run to `most` questions; all seeds of an arm have the same."""
  found: dict[tuple[str, ...], list[str]] = {}
  limited = []
  for one in runs:
    own = [b for b in one.bindings if not b.startswith(("SEED ", "MODEL_DIR "))]
    key = (*one.gin_files, *own)
    if key not in found:
      found[key] = limit.bindings(
        most, one.gin_files, one.bindings, search_paths
      )
    limited.append(one._replace(bindings=[*one.bindings, *found[key]]))
  return limited


def run_all(runs: Sequence[Run], search_paths: Sequence[str]) -> list[str]:
  """Trains the runs that are not complete.

  Args:
    runs: The runs of `plan`.
    search_paths: Further folders in which gin files are looked up.

  Returns:
    For each failed run, its name and its error.

  Raises:
    UserError: If a complete run differs from the run that was asked for.
  """
  from cot_latent.configuration import parsing
  from cot_latent.data.open import open_task
  from cot_latent.reporting import record
  from cot_latent.runtime import compilation
  from cot_latent.training import train

  opened = functools.cache(open_task)
  failures: list[str] = []
  began, num_made = time.monotonic(), 0
  waiting = []
  finished = _Finished(search_paths, opened)
  for one in runs:
    report = record.read(one.directory)
    if report is None or report["status"] not in record.FINISHED:
      waiting.append(one)
    else:
      finished.check(one, report)
  for one in waiting:
    left = ""
    if num_made:
      seconds = (
        (time.monotonic() - began)
        / num_made
        * (len(waiting) - num_made - len(failures))
      )
      left = f", about {seconds / 60:.0f} min left"
    done = len(runs) - len(waiting) + num_made
    terminal.say(f"=== {one.name}: {done} of {len(runs)} runs done{left}")
    compilation.release_if_many()
    try:
      config, gin_record = parsing.parse(
        one.gin_files, one.bindings, search_paths
      )
      train.train(train.prepare(config, gin_record, opened))
    except (UserError, RunError) as error:
      failures.append(f"{one.name}: {error}")
      terminal.say(f"=== {failures[-1]}", is_error=True)
    else:
      num_made += 1
  return failures


def collect(runs: Sequence[Run], folder: pathlib.Path) -> None:
  """Copies the report of each run into a folder."""
  from cot_latent.reporting import reading, record

  folder.mkdir(parents=True, exist_ok=True)
  for one in runs:
    if record.read(one.directory) is None:
      raise UserError(f"run {one.name} has no report in {one.directory}")
    report = reading.open_report(one.directory / "report.json").report
    files.write_output(folder / f"{one.name}.json", files.to_json(report))


class _Finished:
  """Checks finished runs; data that several of them read is loaded once."""

  def __init__(self, search_paths: Sequence[str], opened: Callable):
    self._search_paths, self._opened = search_paths, opened
    self._data: dict[str, dict[str, Any]] = {}

  def check(self, one: Run, report: Mapping[str, Any]) -> None:
    """Refuses a finished run that differs from the run that was asked for.

    No model is built; randomness follows from the seed, which is compared.

    Raises:
      UserError: If something differs; names the first difference.
    """
    from cot_latent.configuration import parsing
    from cot_latent.em import plan as run_plan
    from cot_latent.reporting import reading, record
    from cot_latent.training import lengths

    path = one.directory / "report.json"
    reading.open_report(path)
    config, _ = parsing.parse(one.gin_files, one.bindings, self._search_paths)
    config = lengths.limited(config, self._opened)  # as a run does
    fields = run_plan.as_dict(config)
    asked = {**report, "configuration": {"experiment": fields}}
    found = record.what_differs(report, asked, with_start=True)
    if not found:
      asked["data"] = self._describe_data(config, fields)
      found = record.what_differs(report, asked, with_start=True)
    for section, name, was, now_is in found:
      raise UserError(
        f"{path} is a finished run that differs from the one asked for: "
        f"{section} {name} was {was!r:.60} there and is {now_is!r:.60} here; "
        "choose another --output, or give the flags and files of that run"
      )

  def _describe_data(
    self, config: "experiment.Experiment", fields: Mapping[str, Any]
  ) -> dict[str, Any]:
    from cot_latent.training import loading

    # All settings that can change what is read, but no seed and no folder.
    names = ("task", "base", "tuning", "method", "batch_size")
    key = files.to_json_line([fields.get(name) for name in names])
    if key not in self._data:
      loaded = loading.load_data(config, self._opened)
      self._data[key] = loading.describe_data(config, loaded)
    return self._data[key]


def _beside_package(folder: str) -> Iterator[pathlib.Path]:
  """Yields places of a folder of gin/ other than the working directory."""
  from cot_latent.configuration import parsing

  for parent in parsing.package_folders():
    yield pathlib.Path(parent, folder)
