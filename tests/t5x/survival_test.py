"""A run inside T5X that is killed goes on where it was."""

import numpy as np
import pytest

from tests.t5x import runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp("whole") / "run"
  runs.run_well(directory)
  return directory


def test_killed_and_gone_on_with_it_is_the_same_run(whole, tmp_path):
  directory = tmp_path / "run"
  runs.run_until(directory, 2)
  assert not (directory / "checkpoint_6").exists()
  runs.run_well(directory)
  for step in (4, 6):
    runs.assert_same(runs.memory(whole, step), runs.memory(directory, step))
    runs.assert_same(
      runs.parameters(whole, step), runs.parameters(directory, step)
    )
  # Another step's memory is another one.
  with pytest.raises(AssertionError):
    runs.assert_same(runs.memory(whole, 4), runs.memory(directory, 6))


def test_the_memory_has_every_step_behind_it(whole):
  stored = runs.memory(whole, 6)
  assert (int(stored["began_at"]), int(stored["step"])) == (0, 6)
  assert int(stored["num_proposed"].sum()) == 6 * 8
  assert 0 < np.mean(stored["is_correct"]) < 1


def test_a_memory_that_was_lost_is_noticed(whole, tmp_path):
  # A twin whose checkpoints lack the memory begins with another one.
  directory = tmp_path / "run"
  runs.run_until(directory, 4)
  for path in directory.rglob("*.memory.npz"):
    path.unlink()
  runs.run_well(directory)
  with pytest.raises(AssertionError):
    runs.assert_same(runs.memory(whole, 6), runs.memory(directory, 6))
