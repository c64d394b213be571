"""1, 2 and 8 simulated devices make the same run, up to rounding."""

import json

import pytest

from tests.params import by_day
from tests.t5x import runs

# Sums in another order; Adam makes much of gradients that are almost 0.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  directory = tmp_path_factory.mktemp("alone") / "run"
  runs.run_well(directory, "--gin.TRAIN_STEPS=4")
  return directory


# T5X by itself shards parameters alone over a CPU's devices.
FILES = {2: runs.SMALL, 8: "tests/t5x/sharded.gin"}


@pytest.mark.parametrize("number", by_day([2, 8], 8))
def test_devices_agree(alone, tmp_path, number):
  directory = tmp_path / "run"
  runs.run_well(
    directory,
    "--gin.TRAIN_STEPS=4",
    gin_file=FILES[number],
    num_devices=number,
  )
  report = json.loads((directory / "report.json").read_text())
  assert report["t5x"]["partitioning"]["num_devices"] == number
  runs.assert_same(runs.memory(alone, 4), runs.memory(directory, 4))
  runs.assert_same(
    runs.parameters(alone, 4), runs.parameters(directory, 4), TOLERANCE
  )
  # Other steps differ by more than that.
  with pytest.raises(AssertionError):
    runs.assert_same(
      runs.parameters(alone, 2), runs.parameters(directory, 4), TOLERANCE
    )
