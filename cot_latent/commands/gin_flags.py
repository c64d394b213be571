"""The flags for gin files and bindings, the same as T5X's."""

import argparse
from collections.abc import Sequence

from cot_latent.errors import UserError

EPILOG = """\
bindings:
  --gin.NAME=VALUE sets a gin macro or parameter after all files are read.
  VALUE is a Python literal, so a string needs quotes that the shell keeps:
    t5x train --gin_file=gin/runs/bbh_tiny.gin \\
      --gin.TASK="'bbh_navigate'" --gin.SEED=3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags, and help on how to write a binding."""
  parser.epilog = EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "--gin_file",
    action="append",
    default=[],
    metavar="FILE",
    help="a gin file; may be repeated, and later files win",
  )
  parser.add_argument(
    "--gin_bindings",
    action="append",
    default=[],
    metavar="BINDING",
    help="a binding such as 'SEED = 3'; the same as --gin.SEED=3",
  )
  parser.add_argument(
    "--gin_search_paths",
    default="",
    metavar="DIRS",
    help="comma-separated folders in which gin files are looked up",
  )
  parser.add_argument(
    "--data_dir",
    metavar="DIR",
    help="folder with bbh/ and gsm8k/; the same as --gin.DATA_DIR",
  )


def collect(
  options: argparse.Namespace,
) -> tuple[list[str], list[str], list[str]]:
  """Collects gin files, bindings and search paths."""
  bindings = list(options.gin_bindings)
  if options.data_dir is not None:
    bindings.append(f"DATA_DIR = {options.data_dir!r}")
  folders = [p.strip() for p in options.gin_search_paths.split(",")]
  return options.gin_file, bindings, [p for p in folders if p]


def rewrite(arguments: Sequence[str]) -> list[str]:
  """Rewrites --gin.NAME=VALUE as --gin_bindings, as T5X does.

  Raises:
    UserError: If such a flag has no name or no value.
  """
  rewritten = []
  for argument in arguments:
    if argument.startswith("--gin."):
      name, equals, value = argument.removeprefix("--gin.").partition("=")
      if not name or not equals:
        raise UserError(f"{argument}: write it as --gin.NAME=VALUE")
      argument = f"--gin_bindings={name} = {value}"
    rewritten.append(argument)
  return rewritten
