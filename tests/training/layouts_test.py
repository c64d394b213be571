"""The same run on every mesh of devices."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
# A gradient's terms are added in another order on each mesh, and Adam turns
# what that changes into steps: up to 3e-5 was seen after these 45. A single step
# at the learning rate of 1e-2 moves a parameter by up to 1e-2.
TOLERANCE = 5e-4


def run(folder, method, *meshes):
  """Makes the run on each mesh; returns what it printed and its arrays."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.training.layouts", folder, method, *meshes],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
  arrays = [dict(np.load(f"{folder}/{mesh}.npz")) for mesh in meshes]
  return dict(zip(meshes, zip(map(json.loads, lines), arrays), strict=True))


def assert_agree(one, other, num_questions=24):
  (said, arrays), (said_too, arrays_too) = one, other
  assert said["choices"] == said_too["choices"]
  assert said["correct"] == said_too["correct"]
  for name, array in arrays.items():
    if name.startswith("memory/"):
      np.testing.assert_array_equal(
        array[:num_questions], arrays_too[name][:num_questions], err_msg=name
      )
    else:
      np.testing.assert_allclose(
        array, arrays_too[name], rtol=0, atol=TOLERANCE, err_msg=name
      )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("layouts"))
  return run(folder, "trice", "1x1", "8x1", "2x4")


@pytest.mark.parametrize("mesh", ["8x1", "2x4"])
def test_a_mesh_changes_nothing_but_rounding(runs, mesh):
  assert_agree(runs["1x1"], runs[mesh])
  said, arrays = runs["1x1"]
  assert len(set(said["choices"])) == 5
  assert (arrays["memory/accepted_at"] > 0).any()


def test_agreement_says_something(runs):
  """The broken twins: one choice, one row, or a parameter's step is off."""
  said, arrays = runs["1x1"]
  other = said | {"choices": [*said["choices"][:-1], "0"]}
  tokens = arrays["memory/tokens"] + (np.arange(24) == 7)[:, None]
  name = "params['layer_0']['query']['kernel']"
  moved = arrays[name] + 1e-3
  for broken in (
    (other, arrays),
    (said, arrays | {"memory/tokens": tokens}),
    (said, arrays | {name: moved}),
  ):
    with pytest.raises(AssertionError):
      assert_agree(runs["1x1"], broken)


def test_arrays_are_cut_as_the_rules_say(runs):
  """[E, H, D] kernels by heads, [E, F] ones by F, the memory by all devices."""
  parts = {mesh: said["parts"] for mesh, (said, _) in runs.items()}
  assert parts["1x1"] == {
    "query": [16, 4, 4],
    "moments": [16, 4, 4],
    "gate": [16, 32],
    "memory": [24, 8],
  }
  assert parts["8x1"] == parts["1x1"] | {"memory": [3, 8]}
  assert parts["2x4"] == {
    "query": [16, 1, 4],
    "moments": [16, 1, 4],
    "gate": [16, 8],
    "memory": [3, 8],
  }
  assert runs["2x4"][0]["mesh"] == {"data": 2, "model": 4}


@pytest.mark.slow
def test_more_meshes(tmp_path):
  # Five parts divide neither 24 questions nor a minibatch of 8.
  meshes = ["1x1", "2x1", "4x2", "5x1", "3x2"]
  runs = run(str(tmp_path), "trice", *meshes)
  for mesh in meshes[1:]:
    assert_agree(runs["1x1"], runs[mesh])
  assert runs["5x1"][0]["parts"]["memory"] == [5, 8]


@pytest.mark.slow
def test_outer_loops_on_a_mesh(tmp_path):
  runs = run(str(tmp_path), "star", "1x1", "4x2", "5x1")
  for mesh in ("4x2", "5x1"):
    assert_agree(runs["1x1"], runs[mesh])
