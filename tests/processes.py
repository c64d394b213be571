"""Processes that tests start, of which none outlives its test."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator

# Seconds that a process, or a step of it, may take. Compiling takes most of
# them: 250 of two processes with all optimisations of XLA, on a busy machine.
LIMIT = 1200
_STARTED: list[subprocess.Popen] = []


def start(command: list[str], **options) -> subprocess.Popen:
  """Starts a process as `subprocess.Popen` does; its test's end kills it."""
  process = subprocess.Popen(command, **options)
  _STARTED.append(process)
  return process


def wait_until(is_there: Callable[[], object], what: str) -> None:
  """Waits until a function returns true.

  Args:
    is_there: Function that is called fifty times a second.
    what: What is awaited, for the error.

  Raises:
    TimeoutError: After LIMIT seconds.
  """
  latest = time.monotonic() + LIMIT
  while not is_there():
    if time.monotonic() > latest:
      raise TimeoutError(f"no {what} after {LIMIT} s")
    time.sleep(0.02)


@contextlib.contextmanager
def none_left() -> Iterator[None]:
  """Kills the processes that were started meanwhile and still run."""
  first = len(_STARTED)
  try:
    yield
  finally:
    for process in _STARTED[first:]:
      if process.poll() is None:
        process.kill()
        process.communicate()
    del _STARTED[first:]
