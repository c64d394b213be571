"""`t5x tables`: makes a table and a plot for a paper from reports."""

import argparse
import pathlib

from cot_latent.runtime import files, terminal

HELP = "make a table and a plot for a paper from the reports of runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments for the description of the table and its output."""
  parser.add_argument("spec", help="description of the table, a TOML file")
  parser.add_argument(
    "--output", metavar="DIR", help="folder to write to (default: that of SPEC)"
  )


def run(options: argparse.Namespace) -> int:
  """Makes the files and prints the table."""
  from cot_latent.reporting.tables.make import make_tables

  if options.output is not None:
    files.check_output_folder("--output", options.output)
  output = None if options.output is None else pathlib.Path(options.output)
  terminal.say(make_tables(pathlib.Path(options.spec), output), end="")
  return 0
