"""`t5x export`: writes a run's model as a checkpoint for `transformers`."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from cot_latent.commands import quiet, reports
from cot_latent.errors import UserError
from cot_latent.runtime import terminal

HELP = "write a run's model as a checkpoint that transformers loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the report, and what is written from it."""
  parser.add_argument(
    "--output", required=True, metavar="DIR", help="the folder to be made"
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16", "float16"),
    help="of the numbers; without it, as in the checkpoint it began with",
  )
  reports.add_checkpoint(parser)
  reports.add_allow_import(parser)
  reports.add_argument(parser)


def run(options: argparse.Namespace) -> int:
  """Writes the checkpoint and says so."""
  quiet.silence_logs()
  terminal.say(
    export(
      options.report,
      options.output,
      options.checkpoint,
      options.dtype,
      options.allow_import,
    )
  )
  return 0


def export(
  name: str,
  output: str,
  checkpoint: str | None,
  dtype: Any,
  allowed_imports: Sequence[str] = (),
) -> str:
  """Writes a run's model as a folder that `transformers` loads.

  Args:
    name: The report or the run's folder.
    output: The folder to be made.
    checkpoint: Where the one is now that the run began with; None is where it
      was.
    dtype: The type of the tensors; None is each one's own in the checkpoint.
    allowed_imports: Modules that the report's configuration may import besides
      those that any report may.

  Returns:
    What was written.

  Raises:
    UserError: If there is nothing that can be written.
  """
  from cot_latent.commands import resolved
  from cot_latent.reporting import reading

  path = reports.find(name)
  report = reading.open_report(path).report
  if "t5x" in report:
    raise UserError(
      f"{path} is of a run inside T5X, whose checkpoints python -m "
      "cot_latent.t5x.weights makes a folder of (docs/t5x.md)"
    )
  from cot_latent.training import export as exporting

  config, _ = resolved.parse(path, report, checkpoint, allowed_imports)
  step = exporting.export(config, path.parent, pathlib.Path(output), dtype)
  return f"{output}: the model of {path.parent} after step {step}"
