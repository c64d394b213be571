"""The `t5x` command. Each subcommand imports what it needs when it runs."""

import argparse
import sys
from collections.abc import Sequence

from cot_latent import __version__
from cot_latent.commands import (
  cache,
  compare,
  ending,
  export,
  gin_flags,
  import_,
  rerun,
  score,
  show,
  study,
  tables,
  tasks,
  train,
  verify,
)
from cot_latent.errors import UserError

COMMANDS = {
  "train": train,
  "study": study,
  "tasks": tasks,
  "score": score,
  "cache": cache,
  "show": show,
  "verify": verify,
  "compare": compare,
  "rerun": rerun,
  "export": export,
  "import": import_,
  "tables": tables,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: The arguments; None uses those of the process.

  Returns:
    The exit status: 0 for success, 1 for a failed run, 2 for a mistake in the
    command or configuration, 130 if interrupted, 141 if the reader has closed
    the output, 143 if SIGTERM ended the process (a machine is taken back).
  """
  arguments = list(sys.argv[1:] if argv is None else argv)

  def run() -> int:
    options = parser().parse_args(gin_flags.rewrite(arguments))
    status = options.run(options)
    sys.stdout.flush()
    return status

  status = ending.status_of(run)
  if argv is None:
    ending.leave_after_t5x(status)
  return status


class _Parser(argparse.ArgumentParser):
  """Reports a mistake as one line, like all other errors, without the usage."""

  def error(self, message: str):
    """Raises instead of leaving the process."""
    raise UserError(f"{message}; see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
  """The parser of all commands, each with its own arguments."""
  whole = _Parser(
    prog="t5x",
    description="Teaches a language model to reason from answers alone.",
    epilog=gin_flags.EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  whole.add_argument("--version", action="version", version=__version__)
  subparsers = whole.add_subparsers(required=True, metavar="COMMAND")
  for name, module in COMMANDS.items():
    command = subparsers.add_parser(
      name,
      help=module.HELP,
      description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
      allow_abbrev=False,
    )
    module.add_arguments(command)
    command.set_defaults(run=module.run)
  return whole


if __name__ == "__main__":
  sys.exit(main())
