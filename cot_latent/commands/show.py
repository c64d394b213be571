"""`t5x show`: describes a run in the terminal."""

import argparse

from cot_latent.commands import reports
from cot_latent.runtime import terminal

HELP = "describe a run from its report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the argument for the report."""
  reports.add_argument(parser)


def run(options: argparse.Namespace) -> int:
  """Prints the description."""
  terminal.say(describe(options.report))
  return 0


def describe(name: str) -> str:
  """Describes the run of a report.

  Args:
    name: Path of the report or of the run's folder.
  """
  from cot_latent.reporting import reading, summary

  return summary.overview(reading.open_report(reports.find(name)).report)
