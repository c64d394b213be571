"""A disk on which any write may be a process's last, and Orbax without cost."""

import contextlib
import errno
import os
import pathlib
import pickle
import signal
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from cot_latent.runtime import lock
from cot_latent.training import checkpoints
from tests.training.kills import Killed

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
  """Counts the changes below a folder, and has one of them go wrong.

  Attributes:
    num_changes: So far: a file opened for writing, a flush, a folder made, a
      file or folder renamed or deleted.
    is_dead: Whether the process was killed, which changes nothing any more.
    has_happened: Whether something went wrong.
  """

  def __init__(
    self, root: pathlib.Path, fault: Callable | None = None, at: int = 0
  ):
    """Names what is to go wrong.

    Args:
      root: The folder.
      fault: One of `kill`, `fill` and `terminate`; None is a sound disk.
      at: The number of changes before it goes wrong.
    """
    self.root, self.fault, self.at = root, fault, at
    self.num_changes, self.is_dead, self.has_happened = 0, False, False

  def change(self, needs_room: bool = True) -> None:
    """Comes before each change; raises if that does not come to pass."""
    if self.is_dead:
      raise Killed
    if self.fault is not None and self.num_changes >= self.at:
      self.fault(self, needs_room)
    self.num_changes += 1

  def holds(self, path: pathlib.Path) -> bool:
    """Whether a path is below the folder; locks do not count."""
    return path.is_relative_to(self.root) and not path.name.endswith(lock.NAME)


def kill(disk: Disk, needs_room: bool) -> None:
  """A SIGKILL: what is not written stays so, and nothing is tidied up."""
  del needs_room
  disk.is_dead = disk.has_happened = True
  raise Killed


def fill(disk: Disk, needs_room: bool) -> None:
  """A disk that is full from now on; deleting is still possible."""
  disk.has_happened = True
  if needs_room:
    raise FULL


def terminate(disk: Disk, needs_room: bool) -> None:
  """A SIGTERM."""
  del needs_room
  if not disk.has_happened:
    disk.has_happened = True
    signal.raise_signal(signal.SIGTERM)


class _File:
  """A file whose writes come to the disk at a flush, wholly or by half."""

  def __init__(self, disk, file):
    self._disk, self._file, self._pending = disk, file, []

  def write(self, data):
    self._pending.append(data if isinstance(data, str) else bytes(data))

  def flush(self):
    if not self._pending:
      return
    data = type(self._pending[0])().join(self._pending)
    self._pending = []
    try:
      self._disk.change()
    except (Killed, OSError):
      data = data[: len(data) // 2]
      raise
    finally:
      self._file.write(data)
      self._file.flush()

  def fileno(self):
    return self._file.fileno()

  def close(self):
    try:
      if not self._disk.is_dead:
        self.flush()
    finally:
      self._file.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


@contextlib.contextmanager
def watched(disk: Disk) -> Iterator[None]:
  """Has all changes below the disk's folder go through it."""
  open_file = pathlib.Path.open

  def opened(path, mode="r", *arguments, **settings):
    is_change = {*"wax+"} & {*mode} and disk.holds(path)
    if is_change:
      disk.change()
    file = open_file(path, mode, *arguments, **settings)
    return _File(disk, file) if is_change else file

  def counted(function, needs_room):
    def call(path, *arguments, **settings):
      if disk.holds(path):
        disk.change(needs_room)
      return function(path, *arguments, **settings)

    return call

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pathlib.Path, "open", opened)
    for name in ("mkdir", "rename", "replace", "rmdir", "unlink"):
      function = getattr(pathlib.Path, name)
      is_freeing = name in ("rmdir", "unlink")
      patch.setattr(pathlib.Path, name, counted(function, not is_freeing))
    # A process that is killed loses nothing that the system has.
    patch.setattr(os, "fsync", lambda number: None)
    patch.setattr(checkpoints.ocp, "CheckpointManager", Manager)
    yield


class Manager:
  """Stands for Orbax's: a checkpoint is renamed when it is whole.

  What was not finished is deleted by the next process. Old checkpoints are
  deleted file by file, so that a killed process may leave parts of one.
  """

  def __init__(self, directory, options):
    self._directory, self._options = directory, options
    directory.mkdir(parents=True, exist_ok=True)
    for folder in directory.glob("*.tmp"):
      _delete(folder)

  def save(self, step, args):
    assert step not in self._steps()
    begun = self._directory / f"{step}.tmp"
    begun.mkdir()
    with (begun / "state").open("wb") as file:
      file.write(pickle.dumps(jax.tree.map(np.asarray, args.item)))
    begun.rename(self._directory / str(step))
    for old in self._steps()[: -self._options.max_to_keep]:
      _delete(self._directory / str(old))

  def wait_until_finished(self):
    pass

  def latest_step(self):
    return max(self._steps(), default=None)

  def restore(self, step, args):
    path = self._directory / str(step) / "state"
    return pickle.loads(path.read_bytes())

  def close(self):
    pass

  def _steps(self):
    names = [path.name for path in self._directory.iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def _delete(folder):
  for path in sorted(folder.iterdir()):
    path.unlink()
  folder.rmdir()
