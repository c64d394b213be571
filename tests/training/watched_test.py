"""A run that is watched is the same run."""

import dataclasses
import pathlib

import pytest

from cot_latent.em.watching import Watch
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
