"""`t5x train`: runs an experiment, here or inside T5X."""

import argparse
import traceback
from collections.abc import Callable
from typing import Any

from cot_latent.commands import (
  arguments,
  ending,
  gin_flags,
  inside_t5x,
  limit,
  planned,
  quiet,
)
from cot_latent.errors import RunError, UserError
from cot_latent.runtime import terminal

HELP = "run the experiment that gin files describe, and write its report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for gin, for a dry run and for several processes."""
  gin_flags.add_arguments(parser)
  limit.add_argument(parser)
  parser.add_argument(
    "--dry_run",
    nargs="?",
    const=True,
    default=False,
    type=arguments.truth,
    metavar="true|false",
    help="check everything, print the configuration and the cost, and stop",
  )
  parser.add_argument(
    "--strict",
    action="store_true",
    help="exit with 1 if the run is suspect (docs/reports.md)",
  )
  parser.add_argument(
    "--nodry_run",
    dest="dry_run",
    action="store_false",
    help=argparse.SUPPRESS,  # the form that T5X's own flags have
  )
  parser.add_argument(
    "--verbosity",
    "-v",
    type=int,
    metavar="N",
    help="show the logs of libraries: -1 warnings, 0 more, 1 all; without this "
    "flag T5X's log is a file in MODEL_DIR",
  )
  planned.add_arguments(parser)
  several = parser.add_argument_group(
    "several processes", "one run on many machines (docs/pods.md)"
  )
  several.add_argument(
    "--multiprocess",
    "--multiprocess_gpu",  # T5X's name
    action="store_true",
    help="run as one of several processes; SLURM, Open MPI and TPUs set the "
    "other flags",
  )
  several.add_argument(
    "--coordinator_address",
    metavar="HOST:PORT",
    help="address of the first process, if no cluster sets it",
  )
  several.add_argument(
    "--process_count",
    type=arguments.count,
    metavar="N",
    help="number of processes",
  )
  several.add_argument(
    "--process_index",
    type=int,
    metavar="I",
    help="index of this process, from 0",
  )


def run(options: argparse.Namespace) -> int:
  """Trains, or describes what would be trained."""
  if not options.gin_file:
    raise UserError(
      "no experiment: name one with --gin_file=FILE, such as "
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
  planned.check(options)
  from cot_latent.configuration import parsing

  gin_files, _, search_paths = gin_flags.collect(options)
  is_for_t5x = parsing.asks_for_t5x(gin_files, search_paths)
  train = _train_in_t5x if is_for_t5x else _train_here
  if not options.multiprocess:
    return train(options)
  from cot_latent.runtime import processes

  if not is_for_t5x:  # T5X's train joins the processes itself
    processes.join(*where)
  return _as_one_of_several(lambda: train(options), processes)


def _as_one_of_several(train: Callable[[], int], processes: Any) -> int:
  """Trains; after a failure it ends the process, so that the others notice."""

  def run() -> int:
    with processes.one_line():
      return train()

  status = ending.ERROR
  try:
    status = ending.status_of(run)
  except Exception:
    traceback.print_exc()
  if status:
    processes.leave(status)
  return status


def _train_in_t5x(options: argparse.Namespace) -> int:
  """Starts T5X's own train.py."""
  if options.strict:
    raise UserError("--strict: T5X's train has no such flag; leave it out")
  if options.limit is not None:
    raise UserError(
      "--limit: T5X's evaluation reads its questions itself; leave it out, and "
      f"set TRAIN_SPLIT = 'train[:{options.limit}]' and "
      f"EVALUATOR_NUM_EXAMPLES = {options.limit}"
    )
  launch = inside_t5x.launch(options.gin_file[0])
  if options.topology is not None:
    return planned.run_in_t5x(options)
  from cot_latent.configuration import parsing

  gin_files, bindings, search_paths = gin_flags.collect(options)
  folders = [*search_paths, *parsing.package_folders()]
  if options.dry_run:
    is_quiet = options.verbosity is None
    quiet.set_verbosity(options.verbosity)
    terminal.say(launch.dry_run(gin_files, bindings, folders, is_quiet))
    return 0
  flags = []
  if options.multiprocess:
    flags.append("--multiprocess_gpu")  # needed on machines of all kinds
  for name in ("coordinator_address", "process_count", "process_index"):
    if (value := getattr(options, name)) is not None:
      flags.append(f"--{name}={value}")
  launch.run(gin_files, bindings, folders, flags, verbosity=options.verbosity)
  return 0


def _train_here(options: argparse.Namespace) -> int:
  """Trains in this process, which may be one of several."""
  if options.topology is not None:
    return planned.run(options)
  from cot_latent.configuration import parsing
  from cot_latent.reporting import summary
  from cot_latent.runtime import processes
  from cot_latent.training import train

  quiet.set_verbosity(options.verbosity)
  gin_files, bindings, search_paths = gin_flags.collect(options)
  bindings += limit.bindings(options.limit, gin_files, bindings, search_paths)
  config, gin_record = parsing.parse(gin_files, bindings, search_paths)
  prepared = train.prepare(config, gin_record)
  is_first = processes.is_first()
  if options.dry_run and not is_first:
    return 0
  if options.dry_run:
    terminal.say(gin_record["resolved"])
    terminal.say(summary.plan_text(prepared.header["plan"]))
    if left_out := summary.left_out_text(prepared.header["data"]):
      terminal.say(left_out)
    return 0
  if prepared.is_complete() and is_first:
    terminal.say(
      f"{prepared.directory} is complete already, so nothing is run; for a new "
      "run choose another MODEL_DIR"
    )
  report = train.train(prepared)
  if is_first:
    terminal.say(summary.report_text(report, prepared.directory))
  if options.strict and processes.value_on_first(bool(report.get("suspect"))):
    signs = report.get("suspect", ["see process 0"])
    raise RunError(f"the run is suspect: {signs[0]}")
  return 0
