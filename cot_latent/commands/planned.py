"""`t5x train --dry_run --topology=...`: a run's plan, without the chips."""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

from cot_latent.commands import arguments, gin_flags, limit, quiet
from cot_latent.errors import UserError
from cot_latent.runtime import files, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of a plan."""
  group = parser.add_argument_group(
    "a plan for TPUs", "with --dry_run, from shapes alone (docs/pods.md)"
  )
  group.add_argument(
    "--topology",
    metavar="CHIP:AxB",
    help="compile what the run would run for such chips, such as v5e:4x4",
  )
  group.add_argument(
    "--assume",
    metavar="NAME=N,...",
    help="sizes to use instead of reading the data: vocab and prompt (needed), "
    "prefix, guide, guide_prefix, base, base_prefix and soft in tokens, train "
    "and test in questions",
  )
  group.add_argument(
    "--layers",
    type=arguments.count,
    metavar="N",
    help="compile models of N + 1 and 2 N + 1 layers, and assume that the "
    "other layers are like these",
  )
  group.add_argument(
    "--output",
    metavar="FILE.json",
    help="write the plan as JSON, and as a page beside it",
  )


def check(options: argparse.Namespace) -> None:
  """Checks the flags of a plan.

  Raises:
    UserError: If one is given without those that it needs.
  """
  for name in ("assume", "layers", "output"):
    if getattr(options, name) is not None and options.topology is None:
      raise UserError(f"--{name} needs --topology")
  if options.topology is not None and not options.dry_run:
    raise UserError("--topology needs --dry_run: a plan runs nothing")
  if options.topology is not None and options.multiprocess:
    raise UserError(
      "--topology: one process makes the whole plan: leave --multiprocess out"
    )


def run_in_t5x(options: argparse.Namespace) -> int:
  """Compiles the functions of a run inside T5X, and prints what they need.

  Raises:
    UserError: If sizes are assumed, or fewer layers are asked for.
  """
  for name in ("assume", "layers"):
    if getattr(options, name) is not None:
      raise UserError(f"--{name}: a run inside T5X is planned as it is")
  _prepare(options)
  from cot_latent.configuration import parsing
  from cot_latent.t5x import planned

  gin_files, bindings, search_paths = gin_flags.collect(options)
  folders = [*search_paths, *parsing.package_folders()]
  made = planned.make_plan(
    gin_files, bindings, folders, options.topology, _say_compiling
  )
  return _show(made, options.output)


def run(options: argparse.Namespace) -> int:
  """Compiles the run's functions, and prints what they need."""
  _prepare(options)
  from cot_latent.configuration import parsing
  from cot_latent.planning import lengths, plan

  gin_files, bindings, search_paths = gin_flags.collect(options)
  bindings += limit.bindings(options.limit, gin_files, bindings, search_paths)
  config, _ = parsing.parse(gin_files, bindings, search_paths)
  if options.assume is not None:
    found = lengths.assumed(options.assume, config)
  plan.prepare(config, options.topology, options.layers)
  if options.assume is None:
    config, found = lengths.of_data(config)
  made = plan.make_plan(
    config,
    found,
    options.topology,
    options.layers,
    _say_compiling,
  )
  return _show(made, options.output)


def _prepare(options: argparse.Namespace) -> None:
  """Checks what can be checked before anything is compiled."""
  import jax

  # Without this JAX would look for the TPU that libtpu is for.
  jax.config.update("jax_platforms", "cpu")
  from cot_latent.planning import chips

  chips.chip_of(options.topology)
  if options.output is not None:
    _check_output(options.output)
  quiet.silence_logs()


def _check_output(output: str) -> None:
  """Checks that the plan and its page can be written."""
  if pathlib.Path(output).suffix != ".json":
    raise UserError(
      f"--output={output}: the plan is JSON, and its page is written beside "
      "it: give a name that ends in .json"
    )
  files.check_output("--output", output)
  page = _page_beside(output)
  if page.is_dir():
    raise UserError(
      f"--output={output}: the page is written beside it, and {page} is a "
      "folder: give another name"
    )
  files.check_output("--output", str(page))


def _page_beside(output: str) -> pathlib.Path:
  return pathlib.Path(output).with_suffix(".html")


def _say_compiling(line: str) -> None:
  terminal.say(f"compiling {line}", is_error=True)


def _show(made: Mapping[str, Any], output: str | None) -> int:
  """Writes a plan where it is asked for, and prints it."""
  from cot_latent.planning import page, text

  if output is not None:
    files.write_output(pathlib.Path(output), files.to_json(made))
    files.write_output(_page_beside(output), page.render(made))
  terminal.say(text.plan_text(made))
  return 0
