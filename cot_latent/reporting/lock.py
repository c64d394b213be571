"""Locks by which processes keep out of each other's way.

A lock is the system's, on an open file: it goes with the process that holds it,
however that ends, and the file that stays behind locks nothing. Network file
systems keep such locks between machines if they are set up to (NFS since
version 4); where they do not, only processes of one machine see each other.
"""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator

from cot_latent.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
  """Holds a run's folder.

  Raises:
    UserError: if another process holds it.
  """
  with (folder / NAME).open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f"MODEL_DIR {folder} is in use by another process: wait for it, or "
        "choose another MODEL_DIR"
      ) from None
    yield


@contextlib.contextmanager
def wait(path: pathlib.Path, notice: str) -> Iterator[None]:
  """Waits until no other process makes a file, and keeps them from it.

  Args:
    path: the file to be made.
    notice: printed if there is something to wait for.
  """
  with path.with_name(f".{path.name}{NAME}").open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(notice, flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield
