"""A run inside T5X that is killed resumes where it was."""

import numpy as np
import pytest

from cot_latent.t5x import weights
from tests.t5x import fitted, folders, runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp("whole") / "run"
  runs.run_well(directory)
  return directory


def test_killed_and_resumed_it_is_the_same_run(whole, tmp_path):
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


def test_the_memory_has_had_every_step(whole):
  stored = runs.memory(whole, 6)
  assert (int(stored["began_at"]), int(stored["step"])) == (0, 6)
  assert int(stored["num_proposed"].sum()) == 6 * 8
  assert 0 < np.mean(stored["is_correct"]) < 1


def test_a_memory_that_was_lost_is_noticed(tmp_path):
  directory = tmp_path / "run"
  runs.run_until(directory, 4)
  for path in directory.rglob("*.memory.npz"):
    path.unlink()
  refused = runs.run(directory)
  assert refused.returncode != 0
  assert "t5x: error: no rationale memory in" in refused.stderr
  assert not (directory / "checkpoint_6").exists()


@pytest.mark.slow
def test_a_run_begins_with_a_model_of_the_embedded_trainer(tmp_path):
  source, directory = tmp_path / "source", tmp_path / "run"
  source.mkdir()
  folders.write(source, fitted.SMALL, 264)
  path = weights.from_folder(str(source), str(tmp_path / "moved"))
  flags = ("--gin.TRAIN_STEPS=4", f"--gin.INITIAL_CHECKPOINT_PATH='{path}'")
  only = "--gin_file=gin/t5x/parameters_only.gin"
  runs.run_until(directory, 2, *flags, only)
  begun = runs.parameters(directory, 0)
  moved = runs.leaves(weights.read(path).params, "target")
  for name, array in moved.items():
    np.testing.assert_array_equal(begun[name], array, err_msg=name)
  new = [name for name in begun if name.startswith("state/param_states")]
  assert new
  assert all((begun[name] == 0).all() for name in new)
  assert int(runs.memory(directory, 2)["num_proposed"].sum()) == 2 * 8
  # It resumes with the optimizer of its own checkpoint, not with a new one.
  runs.run_well(directory, *flags, only)
  alone = tmp_path / "alone"
  runs.run_well(alone, *flags, only)
  runs.assert_same(runs.parameters(alone, 4), runs.parameters(directory, 4))
  # Without that file T5X looks for an optimizer, and finds none.
  refused = runs.run(tmp_path / "twin", *flags)
  assert refused.returncode != 0
  assert not (tmp_path / "twin" / "checkpoint_2").exists()
