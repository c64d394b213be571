import dataclasses
import json

import numpy as np
import pytest

from benchmarks import limits, speed, workloads
from cot_latent.models import decoder, t5

TOY = workloads.Sizes(
  plain=t5.T5Config(1, 1, 16, 2, 8, 16),
  decoder=decoder.DecoderConfig(1, 16, 2, 8, 16),
  plain_length=4,
  prefix=40,
  question=4,
  max_length=16,
  mean_length=4,
  num_questions=8,
  num_slots=(4, 8),
  batch_size=4,
)


def quiet(line):
  del line


@pytest.fixture(scope="module")
def found():
  return speed.run(workloads.NAMES, TOY, 1, with_peers=(), say=quiet, scale=64)


@pytest.mark.slow
def test_every_workload_that_can_run_is_measured(found):
  assert {"W1", "W2", "W3"} <= found.keys()
  for name in ("W1", "W2"):
    for figures in found[name]["contenders"].values():
      assert figures["rate"] > 0
      assert figures["share_of_limit"]["arithmetic"] > 0


@pytest.mark.slow
def test_rationales_have_the_mean_length_that_was_asked_for():
  sizes = dataclasses.replace(
    TOY, num_questions=400, max_length=64, num_slots=(400,)
  )
  workload = workloads.few_shot_sampling(sizes, with_peers=())
  mean = workload.contenders["ours, 400 slots"]() / 400
  # The standard deviation of one length is about the mean.
  assert abs(mean - 4) < 4 * 4 / np.sqrt(400)


@pytest.mark.slow
def test_fewer_draws_are_correct_at_lower_acceptance(found):
  steps = found["W3"]["steps"]
  low, high = (
    steps[f"L = 4, acceptance {acceptance}"]["accept_rate"]
    for acceptance in (0.3, 0.95)
  )
  assert low <= high
  assert max(step["num_rows"] for step in steps.values()) <= 8


@pytest.mark.slow
def test_what_is_found_is_written(found, tmp_path):
  speed.write(found, tmp_path)
  again = json.loads((tmp_path / "speed.json").read_text())
  assert again.keys() == found.keys()
  assert "acceptance 0.3" in (tmp_path / "speed.md").read_text()
  assert (tmp_path / "speed.png").stat().st_size
  assert (tmp_path / "speed.svg").stat().st_size


def test_the_work_of_a_gradient_is_six_operations_a_weight_and_row():
  config = TOY.decoder
  rows = 10_000
  work = limits.gradient(config, 0, 0, 1, 1, rows)
  weights = limits.decoder_weights(config, 0)
  assert work.large == pytest.approx(6 * weights * rows, rel=0.05)
