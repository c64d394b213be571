"""Several processes make one run inside T5X.

They are processes of this machine, each with one simulated device.
"""

import json
import os
import pathlib
import signal
import socket
import sys

import pytest

from tests import processes
from tests.t5x import fitted, runs

# Sums in another order; Adam makes much of gradients that are almost 0.
TOLERANCE = 2e-3
LOOPED = [
  "--gin_file=gin/methods/rest_em.gin",
  "--gin_file=gin/t5x/parameters_only.gin",
  "--gin.NUM_DRAWS=2",
  "--gin.LOOP_STEPS=2",
]


def commands(directory, *flags, own=()):
  """Those of two processes; own is for the second one alone."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  command = [
    *(sys.executable, "-m", "cot_latent.cli", "train"),
    f"--gin_file={runs.SMALL}",
    f"--gin.MODEL_DIR='{directory}'",
    "--gin.TRAIN_STEPS=4",
    *flags,
    *("--multiprocess", "--process_count=2"),
    f"--coordinator_address=localhost:{port}",
  ]
  return [
    [*command, "--process_index=0"],
    [*command, "--process_index=1", *own],
  ]


def start(directory, *flags, own=()):
  started = []
  for number, command in enumerate(commands(directory, *flags, own=own)):
    with log_of(directory, number).open("w") as stream:
      started.append(
        processes.start(
          command,
          cwd=runs.ROOT,
          env=runs.environment(),
          stdout=stream,
          stderr=stream,
        )
      )
  return started


def log_of(directory, number):
  """What a process said. (A pipe would be full, and both wait for ever.)"""
  return pathlib.Path(f"{directory}.{number}.log")


def finish(directory, started):
  """Waits for all; gives their statuses and what they said."""
  statuses = [process.wait(timeout=processes.LIMIT) for process in started]
  return statuses, [log_of(directory, n).read_text() for n in range(2)]


def run_well(directory, *flags):
  statuses, said = finish(directory, start(directory, *flags))
  assert statuses == [0, 0], [text[-3000:] for text in said]


def report_of(directory):
  return json.loads((directory / "report.json").read_text())


def check_same_run(one, other):
  runs.assert_same(runs.memory(one, 4), runs.memory(other, 4))
  runs.assert_same(
    runs.parameters(one, 4), runs.parameters(other, 4), TOLERANCE
  )


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  """Of a method with outer loops: it has a pool and a first state."""
  folder = tmp_path_factory.mktemp("base") / "base"
  path = fitted.write(folder, fitted.SMALL, 264)
  return [*LOOPED, f"--gin.INITIAL_CHECKPOINT_PATH='{path}'"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, flags):
  directory = tmp_path_factory.mktemp("whole") / "run"
  run_well(directory, *flags)
  return directory


def test_two_make_the_run_of_one(whole, flags, tmp_path):
  report = report_of(whole)
  assert report["status"] in ("complete", "suspect")
  assert report["environment"]["num_processes"] == 2
  directory = tmp_path / "alone"
  runs.run_well(directory, "--gin.TRAIN_STEPS=4", *flags, by_t5x=False)
  assert report_of(directory)["environment"]["num_processes"] == 1
  check_same_run(directory, whole)
  assert report_of(directory)["results"] == report["results"]


def test_killing_one_process_ends_both_and_they_resume(whole, flags, tmp_path):
  directory = tmp_path / "run"
  started = start(directory, *flags)

  def is_there():
    assert started[0].poll() is None, finish(directory, started)
    return (directory / "checkpoint_2").is_dir()

  processes.wait_until(is_there, f"step 2 in {directory}")
  started[1].send_signal(signal.SIGKILL)
  statuses, _ = finish(directory, started)
  assert statuses[1] == -signal.SIGKILL
  assert statuses[0] != 0
  run_well(directory, *flags)
  check_same_run(directory, whole)


def test_one_that_was_asked_for_something_else_ends_both(flags, tmp_path):
  directory = tmp_path / "run"
  started = start(directory, *flags, own=["--gin.SEED=1"])
  statuses, said = finish(directory, started)
  assert 0 not in statuses
  assert "process 1 differs from process 0 in its configuration" in said[1]
  assert not (directory / "report.json").exists()


def test_places_without_multiprocess_are_refused(tmp_path):
  place = os.fspath(tmp_path / "run")
  done = runs.run(place, "--process_count=2", by_t5x=False)
  assert done.returncode == 2
  assert "need --multiprocess" in done.stderr
