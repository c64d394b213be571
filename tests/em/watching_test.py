"""Metrics and profiles beside the report."""

import contextlib

import pytest
from clu import metric_writers

from cot_latent.em.watching import Profiler, Watch
from cot_latent.errors import UserError
from tests.asserts import message_of


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"profile_steps": (3, 2)}, "PROFILE_STEPS = (3, 2): give the first"),
    ({"profile_steps": (0, 2)}, "counted from 1"),
    (
      {"metric_writers": [metric_writers.LoggingWriter()]},
      "a LoggingWriter that is made already",
    ),
  ],
)
def test_a_mistake_names_the_macro(settings, said):
  assert said in message_of(Watch, **settings)


def test_a_profile_after_the_last_step_is_refused():
  Watch(profile_steps=(2, 3)).check_steps(3)
  with pytest.raises(UserError, match="the run has only 2 steps"):
    Watch(profile_steps=(2, 3)).check_steps(2)


def test_something_else_than_a_writer_is_refused():
  with pytest.raises(UserError, match="a dict is not a metric writer"):
    Watch(metric_writers=[dict]).open_writers()


@pytest.fixture
def recorded(monkeypatch):
  """What the profiler was told."""
  told = []
  for name in ("start_trace", "stop_trace"):
    monkeypatch.setattr(
      f"jax.profiler.{name}", lambda *_, name=name: told.append(name)
    )
  return told


def test_a_profile_has_these_steps(recorded, tmp_path, capsys):
  profiler, steps = Profiler(Watch(profile_steps=(2, 3)), tmp_path), []
  for number in (1, 2, 3, 4):
    with profiler.step(number):
      steps.append(list(recorded))
  assert steps == [[], ["start_trace"], ["start_trace"], [*recorded]]
  assert recorded == ["start_trace", "stop_trace"]
  assert capsys.readouterr().err == f"profile: {tmp_path}/profile\n"


def test_a_run_that_ends_early_writes_what_was_recorded(recorded, tmp_path):
  """As at SIGTERM, between two steps of those to record."""
  profiler = Profiler(Watch(profile_steps=(1, 3)), tmp_path)
  with contextlib.closing(profiler):
    with profiler.step(1):
      pass
    assert recorded == ["start_trace"]
  assert recorded == ["start_trace", "stop_trace"]
  profiler.close()
  assert recorded == ["start_trace", "stop_trace"]


def test_an_error_ends_a_profile(recorded, tmp_path):
  profiler = Profiler(Watch(profile_steps=(1, 3)), tmp_path)
  with pytest.raises(ValueError, match="no luck"), profiler.step(1):
    raise ValueError("no luck")
  assert recorded == ["start_trace", "stop_trace"]
