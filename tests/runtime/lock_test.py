"""One process at a time; and none for ever."""

import errno
import fcntl
import multiprocessing
import os
import platform
import re
import signal
import time

import pytest

from cot_latent.errors import UserError
from cot_latent.runtime import lock


def hold_until_killed(folder, is_held):
  with lock.hold(folder):
    is_held.set()
    time.sleep(60)


def test_a_lock_goes_with_its_process(tmp_path):
  context = multiprocessing.get_context("spawn")
  is_held = context.Event()
  process = context.Process(target=hold_until_killed, args=(tmp_path, is_held))
  process.start()
  assert is_held.wait(30)
  holder = re.escape(f"another process ({process.pid} on {platform.node()}):")
  with pytest.raises(UserError, match=f"in use by {holder} wait for it"):
    lock.hold(tmp_path).__enter__()
  os.kill(process.pid, signal.SIGKILL)
  process.join()
  with lock.hold(tmp_path):
    assert (tmp_path / lock.NAME).exists()


def make_in_turn(path, log):
  with lock.wait(path, "waiting"):
    if path.exists():
      log.put("found")
      return
    time.sleep(0.3)
    path.write_text("made")
    log.put("made")


def test_a_file_is_made_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  log = context.Queue()
  processes = [
    context.Process(target=make_in_turn, args=(tmp_path / "x", log))
    for _ in range(3)
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join(30)
  assert sorted(log.get(timeout=5) for _ in processes) == [
    "found",
    "found",
    "made",
  ]


def test_a_lock_file_of_another_form_names_no_process(tmp_path):
  with lock.hold(tmp_path):
    (tmp_path / lock.NAME).write_bytes(b"\xff")
    with pytest.raises(UserError, match="in use by another process: wait"):
      lock.hold(tmp_path).__enter__()


def test_a_lock_is_released_by_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
    1 / 0  # noqa: B018
  with lock.hold(tmp_path):
    pass


def test_only_who_waits_says_so(tmp_path, capsys):
  with lock.wait(tmp_path / "x", "waiting"):
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
  "number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
)
def test_a_file_system_without_locks_is_reported(
  tmp_path, monkeypatch, capsys, number
):
  def fail(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", fail)
  for holding in (lock.hold(tmp_path), lock.wait(tmp_path / "x", "waiting")):
    with holding:
      pass
    line = capsys.readouterr().err
    assert line.startswith(f"{tmp_path} has no locks (")
    assert line.count("\n") == 1


def test_another_error_of_a_lock_is_raised(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, "flock", fail)
  with pytest.raises(OSError, match="Input/output"):
    lock.hold(tmp_path).__enter__()
