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
    # Nothing is known before the first step.
    (150, 200, 150, 10, "memory           150/200"),
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


def test_drawing_tells_tokens_within_a_batch(clock, capsys):
  report = progress.DrawingProgress("memory", 100, longest=64)
  reports = [
    (20.0, (0, 32, 0)),  # compiled
    (10.0, (0, 1_032, 0)),
    (10.0, (16, 2_032, 12)),
    (60.0, (100, 8_032, 70)),
    (9.0, (100, 8_032, 70)),
  ]
  for seconds, so_far in reports:
    clock[0] += seconds
    report(*so_far)
  assert capsys.readouterr().err.splitlines() == [
    "memory             0/100  32 tokens",
    "memory             0/100  1,032 tokens, 100/s  at most 54 s left",
    # As long as the longest may be.
    "memory            16/100  2,032 tokens, 100/s  75% ended  about 44 s left",
    "memory           100/100  8,032 tokens, 100/s  70% ended  100.0 s",
  ]


def test_a_sampler_may_return_rows_alone(clock, capsys):
  report = progress.DrawingProgress("memory", 100, longest=64)
  for rows in (0, 25):
    clock[0] += 10
    report(rows)
  assert capsys.readouterr().err.splitlines() == [
    "memory             0/100",
    "memory            25/100  about 60 s left",
  ]


def test_an_end_that_comes_soon_need_not_be_told(clock, capsys):
  soon = progress.DrawingProgress("greedy", 10, longest=64, tells_end=False)
  clock[0] += 2
  soon(10, 100, 10)
  assert capsys.readouterr().err == ""
  late = progress.DrawingProgress("greedy", 10, longest=64, tells_end=False)
  for seconds, rows in ((6, 5), (1, 10), (9, 10)):
    clock[0] += seconds
    late(rows)
  assert capsys.readouterr().err.splitlines() == [
    "greedy             5/10  about 6 s left",
    "greedy            10/10  7.0 s",
  ]
