"""The `t5x` command. What it starts is imported when it is needed."""

import argparse
import errno
import importlib.util
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence

from cot_latent import __version__
from cot_latent.commands import import_
from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.runtime import preemption

_EXIT_ERROR, _EXIT_USAGE, _EXIT_INTERRUPTED = 1, 2, 130
_EXIT_PIPE, _EXIT_PREEMPTED = 141, 143

_ANY_TASK = "chain"  # the listing needs none, but gin does

# What a path that cannot be used raises.
_NOT_POSSIBLE = (
  errno.EACCES,
  errno.EPERM,
  errno.EROFS,
  errno.ENOTDIR,
  errno.ENAMETOOLONG,
)

_EPILOG = """\
bindings:
  --gin.NAME=VALUE sets a gin macro or parameter after all files are read.
  VALUE is a Python literal, so a string needs quotes that the shell keeps:
    t5x train --gin_file=gin/runs/bbh_tiny.gin \\
      --gin.TASK="'bbh_navigate'" --gin.SEED=3
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments; None takes the process's own.

  Returns:
    The exit status: 0, 1 for a failed run, 2 for a mistake in what was asked
    for, 130 if interrupted, 141 if who reads the output has gone, 143 if ended
    by SIGTERM, as when a machine is taken back.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)

  def run() -> int:
    options = _parser().parse_args(_rewrite_gin(arguments))
    status = options.run(options)
    sys.stdout.flush()
    return status

  return _status_of(run)


def _status_of(run: Callable[[], int]) -> int:
  """Runs a command; what ends it early becomes a line and a status."""
  try:
    with preemption.handled():
      return run()
  except UserError as error:
    return _fail(str(error), _EXIT_USAGE)
  except RunError as error:
    return _fail(str(error), _EXIT_ERROR)
  except KeyboardInterrupt:
    return _fail(
      "interrupted; the same command goes on from the last checkpoint, or "
      "from the start",
      _EXIT_INTERRUPTED,
    )
  except Preempted:
    return _fail(
      "ended by SIGTERM; the same command goes on from the last checkpoint, or "
      "from the start",
      _EXIT_PREEMPTED,
    )
  except BrokenPipeError:
    # Who read has seen enough, as `head` does; nothing more can be said.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _EXIT_PIPE
  except Exception as error:
    if what := _disk_trouble(error):
      return _fail(what, _EXIT_ERROR)
    raise


class _Parser(argparse.ArgumentParser):
  """Reports a mistake as everything else does, without the usage."""

  def error(self, message: str):
    """Raises instead of leaving the process."""
    raise UserError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="t5x",
    description="Teaches a language model to reason from answers alone.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--version", action="version", version=__version__)
  commands = parser.add_subparsers(required=True, metavar="COMMAND")

  train = _add_command(
    commands,
    "train",
    _train,
    "run the experiment that gin files describe, and write its report",
  )
  train.add_argument(
    "--dry_run",
    nargs="?",
    const=True,
    default=False,
    type=_truth,
    metavar="true|false",
    help="check everything, print the configuration and the cost, and stop",
  )
  train.add_argument(
    "--strict",
    action="store_true",
    help="exit with 1 if the run was not alive (its report is then suspect)",
  )
  train.add_argument(
    "--nodry_run",
    dest="dry_run",
    action="store_false",
    help=argparse.SUPPRESS,  # the form that T5X's own flags have
  )
  several = train.add_argument_group(
    "several processes", "one run on many machines (docs/pods.md)"
  )
  several.add_argument(
    "--multiprocess",
    "--multiprocess_gpu",  # T5X's name
    action="store_true",
    help="be one of them; SLURM, Open MPI and TPUs say the rest",
  )
  several.add_argument(
    "--coordinator_address",
    metavar="HOST:PORT",
    help="of the first process, where nothing says it",
  )
  several.add_argument(
    "--process_count", type=_count, metavar="N", help="how many there are"
  )
  several.add_argument(
    "--process_index", type=int, metavar="I", help="which this is, from 0"
  )

  study = _add_command(
    commands,
    "study",
    _study,
    "run every arm of a study with every seed, and go on where it stopped",
  )
  study.add_argument("folder", help="a folder with a gin file for each arm")
  study.add_argument(
    "--seeds", type=_count, default=5, metavar="N", help="how many seeds (5)"
  )
  study.add_argument(
    "--output",
    metavar="DIR",
    help="where the runs go (runs/studies/ and the folder's name)",
  )
  study.add_argument(
    "--collect",
    metavar="DIR",
    help="write the compact report of every run there when all are complete",
  )
  study.add_argument(
    "--dry_run",
    action="store_true",
    help="print the command of each run, one a line, and stop",
  )

  tasks = _add_command(
    commands,
    "tasks",
    _tasks,
    "list the tasks, or show what a model sees of one",
  )
  tasks.add_argument("task", nargs="?", help="a task; without it, all")
  tasks.add_argument(
    "--examples",
    type=_count,
    default=3,
    metavar="N",
    help="how many examples to show (3)",
  )
  tasks.add_argument(
    "--split", default="train", help="which split to show (train)"
  )

  score = _add_command(
    commands,
    "score",
    _score,
    "score stored completions again, without a model",
  )
  score.add_argument("outputs", help="a file of JSON lines")
  score.add_argument("--task", required=True, help="the task that was asked")
  score.add_argument(
    "--convention",
    help="how completions are scored, such as bbh_authors; without it, as in "
    "training",
  )
  score.add_argument(
    "--verdicts",
    metavar="FILE",
    help="write a line for each question, with the answer found",
  )

  cache = _add_command(
    commands,
    "cache",
    _cache,
    "store a task as arrays, to be trained on without TensorFlow",
  )
  cache.add_argument("--task", required=True, help="the task to store")
  cache.add_argument(
    "--output", required=True, metavar="FILE", help="an .npz file"
  )

  show = _add_plain(commands, "show", _show, "describe a run by its report")

  verify = _add_plain(
    commands,
    "verify",
    _verify,
    "check a report's hashes, and compute its numbers again from what lies "
    "beside it",
  )

  compare = _add_plain(
    commands,
    "compare",
    _compare,
    "tell how far two runs agree, and where they first differ",
  )
  for name in ("one", "other"):
    compare.add_argument(name, help="a report.json, or a run's folder")

  rerun = _add_plain(
    commands,
    "rerun",
    _rerun,
    "repeat a run from its report alone, and compare",
  )
  rerun.add_argument(
    "--output", metavar="DIR", help="the new run's folder (one in runs/)"
  )
  rerun.add_argument(
    "--data_dir", metavar="DIR", help="the folder with bbh/ and gsm8k/"
  )
  rerun.add_argument(
    "--allow",
    default="",
    metavar="NAMES",
    help="what may differ from the report, comma-separated: code, packages, "
    "data, randomness",
  )

  import_.add_arguments(
    _add_plain(
      commands,
      "import",
      import_.run,
      "write a GGUF file as a checkpoint that transformers loads",
    )
  )

  export = _add_plain(
    commands,
    "export",
    _export,
    "write a run's model as a checkpoint that transformers loads",
  )
  export.add_argument(
    "--output", required=True, metavar="DIR", help="the folder to be made"
  )
  export.add_argument(
    "--dtype",
    choices=("float32", "bfloat16", "float16"),
    help="of the numbers; without it, as in the checkpoint it began with",
  )

  for command in (rerun, export):
    command.add_argument(
      "--checkpoint",
      metavar="DIR",
      help="where the checkpoint is now that the run began with",
    )
  for command in (show, verify, rerun, export):
    command.add_argument("report", help="a report.json, or a run's folder")

  make_tables = _add_plain(
    commands,
    "tables",
    _tables,
    "make a table and a plot for a paper from the reports of runs",
  )
  make_tables.add_argument("spec", help="what the table shows, a TOML file")
  make_tables.add_argument(
    "--output", metavar="DIR", help="where to write; without it, beside SPEC"
  )
  return parser


def _add_plain(commands, name: str, run, what: str, **settings):
  """Adds a command; `settings` are further ones of its parser."""
  command = commands.add_parser(
    name,
    help=what,
    description=f"{what[0].upper()}{what[1:]}.",
    allow_abbrev=False,
    **settings,
  )
  command.set_defaults(run=run)
  return command


def _add_command(commands, name: str, run, what: str):
  """Adds a command with the flags of gin."""
  command = _add_plain(
    commands,
    name,
    run,
    what,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.add_argument(
    "--gin_file",
    action="append",
    default=[],
    metavar="FILE",
    help="a gin file; may be given several times, later ones win",
  )
  command.add_argument(
    "--gin_bindings",
    action="append",
    default=[],
    metavar="BINDING",
    help="a binding such as 'SEED = 3'; the same as --gin.SEED=3",
  )
  command.add_argument(
    "--gin_search_paths",
    default="",
    metavar="DIRS",
    help="comma-separated folders to look gin files up in",
  )
  command.add_argument(
    "--data_dir",
    metavar="DIR",
    help="the folder with bbh/ and gsm8k/; the same as --gin.DATA_DIR",
  )
  return command


def _gin_options(
  options: argparse.Namespace,
) -> tuple[list[str], list[str], list[str]]:
  """Collects gin files, bindings and search paths."""
  bindings = list(options.gin_bindings)
  if options.data_dir is not None:
    bindings.append(f"DATA_DIR = {options.data_dir!r}")
  folders = [p.strip() for p in options.gin_search_paths.split(",")]
  return options.gin_file, bindings, [p for p in folders if p]


def _count(text: str) -> int:
  """Reads a whole number above 0."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
  return int(text)


def _truth(text: str) -> bool:
  """Reads a flag's value as absl does, whose flags T5X's are."""
  known = {"true": True, "t": True, "1": True}
  known |= {"false": False, "f": False, "0": False}
  if text.lower() not in known:
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
  return known[text.lower()]


def _rewrite_gin(arguments: Sequence[str]) -> list[str]:
  """Rewrites --gin.NAME=VALUE as --gin_bindings, as T5X does."""
  rewritten = []
  for argument in arguments:
    if argument.startswith("--gin."):
      name, equals, value = argument.removeprefix("--gin.").partition("=")
      if not name or not equals:
        raise UserError(f"{argument}: write it as --gin.NAME=VALUE")
      argument = f"--gin_bindings={name} = {value}"
    rewritten.append(argument)
  return rewritten


def _train(options: argparse.Namespace) -> int:
  if not options.gin_file:
    raise UserError(
      "no experiment: say which with --gin_file=FILE, such as "
      "--gin_file=gin/runs/quickstart.gin"
    )
  where = (
    options.coordinator_address,
    options.process_count,
    options.process_index,
  )
  if where != (None, None, None) and not options.multiprocess:
    raise UserError(
      "--coordinator_address, --process_count and --process_index need "
      "--multiprocess"
    )
  from cot_latent.configuration import parsing

  gin_files, _, search_paths = _gin_options(options)
  is_for_t5x = parsing.asks_for_t5x(gin_files, search_paths)
  train = _train_in_t5x if is_for_t5x else _train_here
  if not options.multiprocess:
    return train(options)
  from cot_latent.runtime import processes

  if not is_for_t5x:  # T5X's train joins them itself
    processes.join(*where)

  def run() -> int:
    with processes.one_line():
      return train(options)

  status = _EXIT_ERROR
  try:
    status = _status_of(run)
  except Exception:
    traceback.print_exc()
  if status:
    processes.leave(status)
  return status


def _t5x_launch(asked_for: str):
  """The module that hands over to T5X, for a file that asks for it."""
  if importlib.util.find_spec("t5x") is None:
    raise UserError(
      f"{asked_for} is for T5X, which is not installed: docs/t5x.md, "
      "Installing, has the two commands"
    )
  try:
    from cot_latent.t5x import launch
  except ModuleNotFoundError as error:
    raise UserError(
      f"{asked_for} is for T5X, which lacks {error.name}: docs/t5x.md, "
      "Installing, names all that it needs"
    ) from error
  return launch


def _train_in_t5x(options: argparse.Namespace) -> int:
  """Hands over to T5X's own train.py."""
  if options.strict:
    raise UserError("--strict: T5X's train does not know it; leave it out")
  launch = _t5x_launch(options.gin_file[0])
  from cot_latent.configuration import parsing

  gin_files, bindings, search_paths = _gin_options(options)
  folders = [*search_paths, *parsing.package_folders()]
  if options.dry_run:
    print(launch.dry_run(gin_files, bindings, folders))
    return 0
  flags = []
  if options.multiprocess:
    flags.append("--multiprocess_gpu")  # which all kinds of machines need
  for name in ("coordinator_address", "process_count", "process_index"):
    if (value := getattr(options, name)) is not None:
      flags.append(f"--{name}={value}")
  launch.run(gin_files, bindings, folders, flags)
  return 0


def _train_here(options: argparse.Namespace) -> int:
  """Trains in this process, which may be one of several."""
  from cot_latent.configuration import parsing
  from cot_latent.reporting import summary
  from cot_latent.runtime import processes
  from cot_latent.training import train

  _silence_logs()
  config, gin_record = parsing.parse(*_gin_options(options))
  prepared = train.prepare(config, gin_record)
  is_first = processes.is_first()
  if options.dry_run and not is_first:
    return 0
  if options.dry_run:
    print(gin_record["resolved"])
    print(summary.plan_text(prepared.header["plan"]))
    if left_out := summary.left_out_text(prepared.header["data"]):
      print(left_out)
    return 0
  if prepared.is_complete() and is_first:
    print(
      f"{prepared.directory} is complete already, nothing is run; for a new "
      "run choose another MODEL_DIR"
    )
  report = train.train(prepared)
  if is_first:
    print(summary.report_text(report, prepared.directory))
  if options.strict and processes.first_says(bool(report.get("suspect"))):
    signs = report.get("suspect", ["see process 0"])
    raise RunError(f"the run was not alive: {signs[0]}")
  return 0


def _study(options: argparse.Namespace) -> int:
  from cot_latent.commands import study

  gin_files, bindings, search_paths = _gin_options(options)
  runs = study.plan(
    options.folder, options.seeds, options.output, bindings, gin_files
  )
  if options.dry_run:
    for one in runs:
      print(one.command(search_paths))
    return 0
  _silence_logs()
  failures = study.run(runs, search_paths)
  if failures:
    raise RunError(
      f"{len(failures)} of {len(runs)} runs failed, the first: {failures[0]}"
    )
  print(f"all {len(runs)} runs are complete")
  if options.collect:
    study.collect(runs, pathlib.Path(options.collect))
    print(f"their reports are in {options.collect}")
  return 0


def _silence_logs() -> None:
  """Orbax and its threads log at length what is raised as well."""
  for name in ("absl", "concurrent.futures"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def _tasks(options: argparse.Namespace) -> int:
  from cot_latent.commands import tasks as task_commands
  from cot_latent.configuration import parsing

  source = parsing.parse_source(
    _ANY_TASK if options.task is None else options.task, *_gin_options(options)
  )
  if options.task is None:
    print(task_commands.list_tasks(source))
  else:
    print(task_commands.show_task(source, options.split, options.examples))
  return 0


def _score(options: argparse.Namespace) -> int:
  from cot_latent.commands import tasks as task_commands
  from cot_latent.configuration import parsing

  source = parsing.parse_source(options.task, *_gin_options(options))
  print(
    task_commands.score(
      source, options.convention, options.outputs, options.verdicts
    )
  )
  return 0


def _cache(options: argparse.Namespace) -> int:
  from cot_latent.commands import tasks as task_commands
  from cot_latent.configuration import parsing

  source = parsing.parse_source(options.task, *_gin_options(options))
  print(task_commands.cache(source, options.output))
  return 0


def _tables(options: argparse.Namespace) -> int:
  from cot_latent.reporting.tables import make as make_tables

  output = None if options.output is None else pathlib.Path(options.output)
  print(make_tables.make(pathlib.Path(options.spec), output), end="")
  return 0


def _show(options: argparse.Namespace) -> int:
  from cot_latent.commands import reports as report_commands

  print(report_commands.show(options.report))
  return 0


def _verify(options: argparse.Namespace) -> int:
  from cot_latent.commands import reports as report_commands

  return _print_verdict(*report_commands.verify(options.report))


def _compare(options: argparse.Namespace) -> int:
  from cot_latent.commands import reports as report_commands

  return _print_verdict(*report_commands.compare(options.one, options.other))


def _rerun(options: argparse.Namespace) -> int:
  from cot_latent.commands import reports as report_commands

  allowed = [name.strip() for name in options.allow.split(",") if name.strip()]
  for name in allowed:
    if name not in report_commands.ALLOWANCES:
      raise UserError(
        f"--allow={options.allow}: {name!r} is none of "
        f"{', '.join(report_commands.ALLOWANCES)}"
      )
  _silence_logs()

  def repeat_inside_t5x(*arguments) -> None:
    _t5x_launch(options.report).repeat(*arguments)

  return _print_verdict(
    *report_commands.rerun(
      options.report,
      options.output,
      options.data_dir,
      options.checkpoint,
      allowed,
      repeat_inside_t5x,
    )
  )


def _export(options: argparse.Namespace) -> int:
  from cot_latent.commands import reports as report_commands

  _silence_logs()
  print(
    report_commands.export(
      options.report, options.output, options.checkpoint, options.dtype
    )
  )
  return 0


def _print_verdict(text: str, is_well: bool) -> int:
  print(text)
  return 0 if is_well else _EXIT_ERROR


def _disk_trouble(error: BaseException | None) -> str | None:
  """Says what is wrong if an error comes from a full or read-only disk."""
  while error is not None:
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in (errno.ENOSPC, errno.EDQUOT) or (
      os.strerror(errno.ENOSPC) in text
    ):
      return (
        "the disk is full; make room, and the same command goes on from the "
        "last checkpoint, or from the start"
      )
    if number in _NOT_POSSIBLE:
      return f"cannot read or write: {text}"
    error = error.__cause__ or error.__context__
  return None


def _fail(message: str, status: int) -> int:
  print(f"t5x: error: {message}", file=sys.stderr)
  return status


if __name__ == "__main__":
  sys.exit(main())
