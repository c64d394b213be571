"""SIGTERM, wherever Python happens to be."""

import signal
import time

import pytest

from cot_latent.errors import Preempted
from cot_latent.runtime import preemption


class EndsBadly:
  """Is finalized when the signal comes, where exceptions are ignored."""

  def __del__(self):
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("the handler did not raise")


def preempted(body):
  """Whether a body, run with SIGTERM handled, was ended by it."""
  try:
    with preemption.handled():
      body()
  except Preempted:
    return True
  return False


def test_sigterm_is_raised_at_once():
  def body():
    signal.raise_signal(signal.SIGTERM)
    pytest.fail("went on")

  assert preempted(body)


def test_sigterm_is_raised_again_where_exceptions_are_ignored(capfd):
  def body():
    ending = EndsBadly()
    del ending
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
      time.sleep(0.01)

  assert preempted(body)
  assert capfd.readouterr().err == ""


def test_other_ignored_exceptions_are_told_as_before(monkeypatch):
  told = []
  monkeypatch.setattr("sys.unraisablehook", lambda u: told.append(u.exc_type))

  class Other:
    def __del__(self):
      raise ValueError

  with preemption.handled():
    other = Other()
    del other
  assert told == [ValueError]


def test_deferred_sigterm_is_raised_at_the_end():
  came = []

  def body():
    with preemption.deferred() as is_asked:
      came.append(is_asked())
      signal.raise_signal(signal.SIGTERM)
      came.append(is_asked())
    pytest.fail("went on")

  assert preempted(body)
  assert came == [False, True]


def test_the_handler_before_is_put_back():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.handled(), preemption.deferred():
    pass
  assert signal.getsignal(signal.SIGTERM) is before
