"""`t5x compare`: tells how far two runs agree."""

import argparse

from cot_latent.commands import ending, reports

HELP = "tell how far two runs agree, and where they first differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the two reports."""
  for name in ("one", "other"):
    reports.add_argument(parser, name)


def run(options: argparse.Namespace) -> int:
  """Prints the comparison."""
  return ending.verdict(*compare(options.one, options.other))


def compare(one: str, other: str) -> tuple[str, bool]:
  """Compares two runs.

  Args:
    one: The first report or run's folder.
    other: The second one.

  Returns:
    The differences and the verdict; and whether they are the same run.
  """
  from cot_latent.reporting import replication

  found = replication.compare(reports.find(one), reports.find(other))
  return reports.comparison_text(found), reports.is_repetition(found)
