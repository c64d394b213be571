"""A run that is watched is the same run."""

import dataclasses
import pathlib
import signal

import pytest

from cot_latent.em.watching import Watch
from cot_latent.errors import Preempted
from cot_latent.runtime import preemption
from cot_latent.training.run import Run
from tests import memory_writer
from tests.training import toy

pytestmark = pytest.mark.usefixtures("compile_once")


def test_writers_and_a_profile_change_nothing(whole, tmp_path):
  config, report = whole
  memory_writer.made.clear()
  watched = dataclasses.replace(
    config,
    model_dir=str(tmp_path / "run"),
    watch=Watch([memory_writer.MemoryWriter], (2, 3)),
  )
  again = toy.run(watched)
  assert again["digest"] == report["digest"]
  assert again["identity"]["run_id"] == report["identity"]["run_id"]
  (writer,) = memory_writer.made
  assert writer.is_closed
  rates = [row["chain/accept_rate"] for row in report["metrics"]]
  assert writer.values("chain/accept_rate") == rates
  whole_task = report["identity"]["task"]
  assert writer.values("eval/greedy_accuracy") == [
    row["accuracy"]
    for row in report["results"]
    if (row["decoder"], row["task"]) == ("greedy", whole_task)
  ]
  traces = pathlib.Path(watched.model_dir, "profile").rglob("*.xplane.pb")
  assert len(list(traces)) == 1


def test_a_run_that_is_asked_to_end_writes_its_profile(tmp_path, monkeypatch):
  """SIGTERM comes in the first of three steps to record."""
  watch = Watch(profile_steps=(1, 3))
  config = toy.make_experiment(tmp_path / "run", watch=watch)
  step = Run.step

  def terminated(self, state):
    signal.raise_signal(signal.SIGTERM)
    return step(self, state)

  monkeypatch.setattr(Run, "step", terminated)
  with preemption.handled(), pytest.raises(Preempted):
    toy.run(config)
  assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
