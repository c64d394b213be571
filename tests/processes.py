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
  """Starts a process, which is killed when the test ends."""
  process = subprocess.Popen(command, **options)
  _STARTED.append(process)
  return process


def wait_until(is_there: Callable[[], object], what: str) -> None:
  """Asks again and again, and gives up after LIMIT seconds."""
  latest = time.monotonic() + LIMIT
  while not is_there():
    if time.monotonic() > latest:
      raise TimeoutError(f"{what} did not come in {LIMIT} s")
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
