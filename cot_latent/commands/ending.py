"""How a command ends: its exit status, and a line about the error."""

import errno
import os
import sys
from collections.abc import Callable

from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.runtime import preemption, terminal

ERROR, USAGE, INTERRUPTED = 1, 2, 130
PIPE, PREEMPTED = 141, 143

# Exceptions that an unusable path raises.
_NOT_POSSIBLE = (
  errno.EACCES,
  errno.EPERM,
  errno.EROFS,
  errno.ENOTDIR,
  errno.ENAMETOOLONG,
)


def status_of(run: Callable[[], int]) -> int:
  """Runs a command; an error that ends it becomes one line and a status.

  Args:
    run: The command; returns its exit status.

  Returns:
    The exit status. Faults of the program itself are raised.
  """
  try:
    with preemption.handled():
      return run()
  except UserError as error:
    return _fail(str(error), USAGE)
  except RunError as error:
    return _fail(str(error), ERROR)
  except KeyboardInterrupt:
    return _fail(
      "interrupted; the same command resumes from the last checkpoint, or from "
      "the start",
      INTERRUPTED,
    )
  except Preempted:
    return _fail(
      "ended by SIGTERM; the same command resumes from the last checkpoint, or "
      "from the start",
      PREEMPTED,
    )
  except BrokenPipeError:
    # The reader has closed the pipe, as `head` does: nothing more can be said.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE
  except Exception as error:
    if what := _disk_trouble(error):
      return _fail(what, ERROR)
    raise


def leave_after_t5x(status: int) -> None:
  """Ends the process at once, if T5X's train ran in it.

  All files are closed by then. JAX's clean-up at exit would collect garbage
  several times, which takes up to a minute after T5X (docs/t5x_log.md). The
  other processes of a run wait for an orderly end, so that stays.

  Args:
    status: Exit status.
  """
  launch = sys.modules.get("cot_latent.t5x.launch")
  if launch is None or not launch.has_run:
    return
  from cot_latent.runtime import processes

  if processes.count() == 1:
    processes.leave(status)


def verdict(text: str, is_well: bool) -> int:
  """Prints the result of a check, and returns the matching exit status.

  Args:
    text: Lines, the last of which is the summary.
    is_well: Whether the check found no fault.
  """
  terminal.say(text)
  return 0 if is_well else ERROR


def _disk_trouble(error: BaseException | None) -> str | None:
  """Describes the fault if an error comes from a full or read-only disk."""
  while error is not None:
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in (errno.ENOSPC, errno.EDQUOT) or (
      os.strerror(errno.ENOSPC) in text
    ):
      return (
        "the disk is full; free some space, and the same command resumes from "
        "the last checkpoint, or from the start"
      )
    if number in _NOT_POSSIBLE:
      return f"cannot read or write: {text}"
    error = error.__cause__ or error.__context__
  return None


def _fail(message: str, status: int) -> int:
  terminal.fail(message)
  return status
