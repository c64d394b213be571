"""SIGTERM: clusters send it before they kill a process."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from cot_latent.errors import Preempted

# Seconds until an ignored signal is sent again.
_AGAIN = 0.05


@contextlib.contextmanager
def handled() -> Iterator[None]:
  """Turns SIGTERM into Preempted, raised at once.

  The signal may come while Python runs a finalizer or a callback of the
  garbage collector, where exceptions are ignored: then it is raised again.
  """

  def stop(number, frame):
    raise Preempted

  before = sys.unraisablehook

  def ignored(unraisable):
    if unraisable.exc_type is Preempted:
      # From another thread, because the code that ignores it must end first.
      thread = threading.Timer(_AGAIN, signal.raise_signal, [signal.SIGTERM])
      thread.daemon = True
      thread.start()
    else:
      before(unraisable)

  with _handler(stop):
    sys.unraisablehook = ignored
    try:
      yield
    finally:
      sys.unraisablehook = before


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
  """Holds SIGTERM back; raises Preempted at the end if it has come.

  Yields:
    A function that tells whether it has come.
  """
  asked = threading.Event()
  with _handler(lambda number, frame: asked.set()):
    yield asked.is_set
  if asked.is_set():
    raise Preempted


@contextlib.contextmanager
def held_back() -> Iterator[None]:
  """Holds SIGTERM back briefly; afterwards the earlier handler gets it."""
  asked = threading.Event()
  with _handler(lambda number, frame: asked.set()):
    yield
  if asked.is_set():
    signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def _handler(function) -> Iterator[None]:
  # Python runs and sets handlers only in the main thread.
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, function)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
