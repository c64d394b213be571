"""SIGTERM, by which clusters announce that a process will be killed."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from cot_latent.errors import Preempted


@contextlib.contextmanager
def handled() -> Iterator[None]:
  """Turns SIGTERM into Preempted, raised at once."""

  def stop(number, frame):
    raise Preempted

  with _handler(stop):
    yield


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
  """Keeps SIGTERM back; raises Preempted at the end if it has come.

  Yields:
    A function that tells whether it has come.
  """
  asked = threading.Event()
  with _handler(lambda number, frame: asked.set()):
    yield asked.is_set
  if asked.is_set():
    raise Preempted


@contextlib.contextmanager
def _handler(function) -> Iterator[None]:
  # Python runs handlers in the main thread, and only there may they be set.
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, function)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
