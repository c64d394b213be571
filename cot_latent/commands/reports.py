"""What the commands that are given a report have in common."""

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
  """Adds the flag for where the checkpoint is that a run began with."""
  parser.add_argument(
    "--checkpoint",
    metavar="DIR",
    help="where the checkpoint is now that the run began with",
  )


def add_allow_import(parser: argparse.ArgumentParser) -> None:
  """Adds the flag for modules that a report may have imported."""
  parser.add_argument(
    "--allow_import",
    action="append",
    default=[],
    metavar="MODULE",
    help="a module of your own that the report's configuration may import, "
    "whose code then runs (docs/reports.md); may be given several times",
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
  """Writes differences, verdict and evidence, one a line."""
  lines = [f"differs: {line}" for line in found.differences]
  lines += [f"verdict: {found.verdict}", *(f"  {e}" for e in found.evidence)]
  return terminal.join(lines)


def is_repetition(found: "replication.Comparison") -> bool:
  """Whether two runs that were compared are the same run."""
  from cot_latent.reporting import replication

  return found.verdict in (replication.BITWISE, replication.CHOICES)
