"""Locks by which processes keep out of each other's way.

A lock is the system's, on an open file: it goes with the process that holds it,
however that ends, and the file that stays behind locks nothing. Network file
systems keep such locks between machines if they are set up to (NFS since
version 4); where they do not, only processes of one machine see each other.
Where there are no locks at all, that is said, and nothing is protected.
"""

import contextlib
import errno
import fcntl
import pathlib
import sys
from collections.abc import Iterator
from typing import TextIO

from cot_latent.errors import UserError

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
  """Holds a run's folder.

  Raises:
    UserError: if another process holds it.
  """
  with (folder / NAME).open("a") as file:
    if not _take(file, folder):
      raise UserError(
        f"MODEL_DIR {folder} is in use by another process: wait for it, or "
        "choose another MODEL_DIR"
      )
    yield


@contextlib.contextmanager
def wait(path: pathlib.Path, notice: str) -> Iterator[None]:
  """Waits until no other process makes a file, and keeps them from it.

  Args:
    path: the file to be made.
    notice: printed if there is something to wait for.
  """
  with path.with_name(f".{path.name}{NAME}").open("a") as file:
    if not _take(file, path.parent):
      print(notice, file=sys.stderr, flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _take(file: TextIO, folder: pathlib.Path) -> bool:
  """Takes the lock on a file, unless another process has it."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    print(
      f"{folder} has no locks ({error.strerror}): see to it that no other "
      "process uses it",
      file=sys.stderr,
      flush=True,
    )
  return True
