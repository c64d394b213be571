"""`t5x export`: writes a run's model as a checkpoint for `transformers`."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from cot_latent.commands import quiet, reports
from cot_latent.errors import UserError
from cot_latent.runtime import files, terminal

HELP = "write a run's model as a checkpoint that transformers loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments for the report and the checkpoint to write."""
  parser.add_argument(
    "--output", required=True, metavar="DIR", help="a new folder to write"
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16", "float16"),
    help="type of the numbers (default: as in the initial checkpoint)",
  )
  reports.add_checkpoint(parser)
  reports.add_allow_import(parser)
  reports.add_argument(parser)


def run(options: argparse.Namespace) -> int:
  """Writes the checkpoint and prints where it is."""
  quiet.silence_logs()
  files.check_output_folder("--output", options.output)
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
    name: Path of the report or of the run's folder.
    output: Path of the folder to write.
    checkpoint: Current path of the run's initial checkpoint; None if it has not
      moved.
    dtype: Type of the tensors; None keeps each tensor's type in the checkpoint.
    allowed_imports: Modules that the report's configuration may import besides
      those that any report may.

  Returns:
    A line that describes what was written.

  Raises:
    UserError: If the run has no model that can be exported.
  """
  from cot_latent.commands import resolved
  from cot_latent.reporting import reading

  path = reports.find(name)
  report = reading.open_report(path).report
  if "t5x" in report:
    raise UserError(
      f"{path} is a run inside T5X; python -m cot_latent.t5x.weights makes a "
      "folder of its checkpoints (docs/t5x.md)"
    )
  from cot_latent.training import export as exporting

  config, _ = resolved.parse(path, report, checkpoint, allowed_imports)
  step = exporting.export(config, path.parent, pathlib.Path(output), dtype)
  return f"{output}: the model of {path.parent} after step {step}"
