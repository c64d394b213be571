"""Locks that keep processes from using the same folder or file.

A lock belongs to the operating system and is on an open file (`filelock`). It
is released when its process ends, however it ends; the file that remains locks
nothing. The file names the last process that held it. Network file systems keep
such locks between machines if they are set up for it (NFS since version 4). If
they are not, only processes of one machine see each other. If there are no
locks at all, a warning says so, and nothing is protected.
"""

import contextlib
import errno
import os
import pathlib
import platform
from collections.abc import Iterator

import filelock

from cot_latent.errors import UserError
from cot_latent.runtime import terminal

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MAX_NOTE = 80  # characters


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
  """Locks a run's folder.

  Raises:
    UserError: If another process holds it.
  """
  path = folder / NAME
  lock = _lock(path)
  try:
    _acquire(lock, timeout=0)
  except filelock.Timeout:
    raise UserError(
      f"MODEL_DIR {folder} is in use by another process{_holder(path)}: wait "
      "for it, or choose another MODEL_DIR"
    ) from None
  with _released(lock):
    yield


@contextlib.contextmanager
def wait(path: pathlib.Path, notice: str) -> Iterator[None]:
  """Waits until no other process makes a file, and locks it.

  Args:
    path: Path of the file to make.
    notice: Text to print if another process holds the lock.
  """
  lock = _lock(path.with_name(f".{path.name}{NAME}"))
  try:
    _acquire(lock, timeout=0)
  except filelock.Timeout:
    terminal.say(notice, is_error=True)
    _acquire(lock, timeout=-1)
  with _released(lock):
    yield


@contextlib.contextmanager
def _released(lock: filelock.BaseFileLock) -> Iterator[None]:
  try:
    yield
  finally:
    lock.release()  # which does nothing where there are no locks


def _lock(path: pathlib.Path) -> filelock.BaseFileLock:
  # A lock made by a file's existence would survive its process.
  return filelock.FileLock(path, fallback_to_soft=False)


def _acquire(lock: filelock.BaseFileLock, timeout: float) -> None:
  """Takes a lock, and notes the holder; a timeout of -1 waits for ever."""
  path = pathlib.Path(lock.lock_file)
  try:
    lock.acquire(timeout=timeout)
  except OSError as error:
    if isinstance(error, filelock.Timeout) or error.errno not in _NO_LOCKS:
      raise
    terminal.say(
      f"{path.parent} has no locks ({error.strerror}): make sure that no "
      "other process uses it",
      is_error=True,
    )
  else:
    path.write_text(f"{os.getpid()} on {platform.node()}", encoding="utf-8")


def _holder(path: pathlib.Path) -> str:
  """Describes the process that holds a lock, if its file names it."""
  try:
    note = path.read_text(encoding="utf-8")[:_MAX_NOTE]
  except (OSError, UnicodeDecodeError):
    return ""
  return f" ({note})" if note else ""
