"""`t5x cache`: stores a task as arrays."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from cot_latent.commands import gin_flags
from cot_latent.errors import UserError
from cot_latent.runtime import files, terminal

if TYPE_CHECKING:
  from cot_latent.data.source import Source

HELP = "store a task as arrays, for training without TensorFlow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for gin, the task and the file."""
  gin_flags.add_arguments(parser)
  parser.add_argument("--task", required=True, help="the task to store")
  parser.add_argument(
    "--output", required=True, metavar="FILE", help="an .npz file"
  )


def run(options: argparse.Namespace) -> int:
  """Stores the task and prints a summary."""
  from cot_latent.configuration import parsing

  source = parsing.parse_source(options.task, *gin_flags.collect(options))
  terminal.say(cache(source, options.output))
  return 0


def cache(source: "Source", output: str) -> str:
  """Stores a task in a file.

  Args:
    source: The task.
    output: Path of the file.

  Returns:
    A summary of the stored task, with its fingerprint.
  """
  from cot_latent.data import cache as task_cache
  from cot_latent.data.open import open_task

  path = pathlib.Path(output)
  if path.suffix != ".npz":
    raise UserError(f"--output={output}: the file must end with .npz")
  files.check_output("--output", output)
  task = open_task(source)
  content, fingerprint = task_cache.to_bytes(task)
  files.write_output(path, content)
  counts = ", ".join(f"{s} {len(task.read(s).ids):,}" for s in task.splits)
  return (
    f"{task.name}: {counts}\nfingerprint {fingerprint}\n"
    f"{path}: {len(content):,} bytes; train on it with "
    f"--gin.CACHE=\"'{path}'\""
  )
