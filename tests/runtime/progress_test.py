"""The time left is what the rate so far says."""

import pytest

from cot_latent.runtime import progress


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still unless it is set."""
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


@pytest.mark.parametrize(
  ("start", "total", "done", "seconds", "expected"),
  [
    (0, 1000, 200, 10, "memory           200/1000  about 40 s left"),
    (0, 200, 50, 10, "memory            50/200  about 30 s left"),
    # Of a resumed run only what was done since counts.
    (150, 200, 175, 10, "memory           175/200  about 10 s left"),
    (0, 200, 200, 12.5, "memory           200/200  12.5 s"),
  ],
)
def test_time_left(clock, capsys, start, total, done, seconds, expected):
  report = progress.Progress("memory", total, start)
  clock[0] += seconds
  report(done)
  assert capsys.readouterr().err == f"{expected}\n"


def test_says_nothing_before_it_is_time(clock, capsys):
  report = progress.Progress("steps", 10)
  for done in range(1, 10):
    report(done)
  assert capsys.readouterr().err == ""
  report(10, "all good")  # the end is always told
  assert capsys.readouterr().err.endswith("10/10  0.0 s  all good\n")
