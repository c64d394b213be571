"""What the README promises of the quickstart, for several seeds."""

import os
import subprocess
import sys
import time

import pytest

from cot_latent import cli
from cot_latent.reporting import record

# `make test` asks fewer questions and takes fewer steps.
SHORTER = [
  "--gin.TRAIN_STEPS=60",
  "--gin.EVAL_PERIOD=60",
  "--gin.NUM_VOTES=4",
]
WHOLE = [
  pytest.param(seed, [], marks=pytest.mark.slow, id=f"seed {seed}")
  for seed in range(5)
]


@pytest.mark.parametrize(
  ("seed", "flags"),
  [pytest.param(0, SHORTER, marks=pytest.mark.slow, id="shorter"), *WHOLE],
)
def test_quickstart_learns_from_answers_alone(seed, flags, tmp_path):
  directory = tmp_path / "run"
  # As users run it, where `make test` has XLA compile without optimisation.
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  done = subprocess.run(
    [
      *(sys.executable, "-m", "cot_latent.cli", "train"),
      "--gin_file=gin/runs/quickstart.gin",
      f"--gin.SEED={seed}",
      f"--gin.MODEL_DIR='{directory}'",
      *flags,
    ],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  report = record.read_whole(directory)
  last = report["plan"]["steps"]
  accuracy = {
    (row["decoder"], row["step"]): row["accuracy"] for row in report["results"]
  }
  before, after = accuracy["greedy", 0], accuracy["greedy", last]
  assert after >= 0.70
  assert after - before >= 0.25
  assert accuracy["self_consistency", last] >= 0.70
  # The control variate's work: hardly anything is left to differentiate.
  first, *_, final = report["metrics"]
  assert final["estimator/num_weighted"] < first["estimator/num_weighted"]
  assert f"{before:.3f}" in done.stdout
  assert f"{after:.3f}" in done.stdout
  assert str(directory / "report.html") in done.stdout


@pytest.mark.slow
def test_quickstart_takes_two_minutes_of_two_cores_at_most(tmp_path, capsys):
  directory = tmp_path / "run"
  settings = ["--gin_file=gin/runs/quickstart.gin", "--gin.SEED=0"]
  settings.append(f"--gin.MODEL_DIR='{directory}'")
  # CPU seconds, because other tests run at the same time.
  before = time.process_time()
  assert cli.main(["train", *settings]) == 0, capsys.readouterr().err
  assert time.process_time() - before <= 240
