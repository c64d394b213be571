"""Arguments and helpers of the commands that take a report."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from cot_latent.errors import UserError
from cot_latent.runtime import terminal

if TYPE_CHECKING:
  from cot_latent.reporting import replication


def add_argument(parser: argparse.ArgumentParser, name: str = "report") -> None:
  """Adds the argument that names a report."""
  parser.add_argument(name, help="a report.json, or a run's folder")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
  """Adds the flag for the current path of a run's initial checkpoint."""
  parser.add_argument(
    "--checkpoint",
    metavar="DIR",
    help="current path of the run's initial checkpoint, if it has moved",
  )


def add_allow_import(parser: argparse.ArgumentParser) -> None:
  """Adds the flag for further modules that a report may import."""
  parser.add_argument(
    "--allow_import",
    action="append",
    default=[],
    metavar="MODULE",
    help="your own module that the report's configuration may import; its "
    "code then runs (docs/reports.md); may be repeated",
  )


def find(name: str) -> pathlib.Path:
  """Finds a report: the file itself, or report.json of a folder."""
  path = pathlib.Path(name)
  if path.is_dir():
    path /= "report.json"
  if not path.is_file():
    raise UserError(f"no report {path}: give a report.json or a run's folder")
  return path


def comparison_text(found: "replication.Comparison") -> str:
  """Writes differences, verdict and evidence, one per line."""
  lines = [f"differs: {line}" for line in found.differences]
  lines += [f"verdict: {found.verdict}", *(f"  {e}" for e in found.evidence)]
  return terminal.join(lines)


def is_repetition(found: "replication.Comparison") -> bool:
  """Whether a comparison found that two runs are the same."""
  from cot_latent.reporting import replication

  return found.verdict in (replication.BITWISE, replication.CHOICES)
