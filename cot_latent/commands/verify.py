"""`t5x verify`: checks a report and all files that belong to it."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cot_latent.commands import ending, reports
from cot_latent.runtime import terminal

if TYPE_CHECKING:
  from cot_latent.reporting import verification

HELP = (
  "check a report's hashes, and compute its numbers again from the files in "
  "its folder"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the argument for the report."""
  reports.add_argument(parser)


def run(options: argparse.Namespace) -> int:
  """Prints the results of the checks."""
  return ending.verdict(*verify(options.report))


def verify(name: str) -> tuple[str, bool]:
  """Checks a report and all files that belong to it.

  Args:
    name: Path of the report or of the run's folder.

  Returns:
    One line for each check that failed or was skipped, and a summary line; and
    whether all checks passed.
  """
  from cot_latent.reporting import record, verification

  path = reports.find(name)
  report = record.read_file(path)
  checks = verification.verify(report, path.parent, _rescorer(report))
  lines = [f"{c.what}: {c.found}" for c in checks if c.found is not None]
  num_failed = len(lines)
  skipped = [c.what for c in checks if not c.is_done and c.found is None]
  if skipped:
    lines.append(f"skipped: {', '.join(skipped)}")
  num_done = len(checks) - len(skipped)
  lines.append(
    f"{path}: {num_failed} of {num_done} checks failed"
    if num_failed
    else f"{path}: {num_done} checks passed"
  )
  return terminal.join(lines), not num_failed


def _rescorer(report: Mapping[str, Any]) -> "verification.Rescore | None":
  """Returns how completions are scored again; None if the checker is custom."""
  from cot_latent.data import scoring
  from cot_latent.data.answers import forms as answer_forms

  described = report["data"]["answers"]
  if described["form"] is None:
    return None
  rules = {}
  for task, kind in described["kinds"].items():
    ways = answer_forms.conventions(
      task,
      described["form"],
      tuple(kind) if isinstance(kind, list) else kind,
      described["is_direct"],
    )
    rules[task] = next(iter(ways.values()))

  def rescore(line: Mapping[str, Any]) -> tuple[str | None, bool, int]:
    return scoring.score_completions(rules[line["task"]], line)

  return rescore
