"""T5X on TPUs that only libtpu describes: its meshes, and plans of runs."""

import importlib.util
import json

import jax
import pytest
from t5x import partitioning

from cot_latent import cli
from cot_latent.errors import UserError
from cot_latent.planning import chips
from cot_latent.t5x import one_line, planned

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
)
RUN = (
  "--gin_file=gin/t5x/trice_chain.gin",
  "--gin.MODEL_DIR='/nowhere/run'",
  "--gin.INITIAL_CHECKPOINT_PATH=None",
)
PAIRS = "--gin.NUM_PARTITIONS=None", "--gin.MODEL_PARALLEL_SUBMESH=(2, 1, 1, 1)"


def mesh(topology, **settings):
  """T5X's mesh as on these chips; sizes of its axes."""
  with planned._jax_sees(chips.describe_devices(topology)):
    return dict(partitioning.PjitPartitioner(**settings).mesh.shape)


@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_the_chips_that_share_parameters_are_named(topology):
  submesh = {"num_partitions": None, "model_parallel_submesh": (2, 2, 1, 1)}
  assert mesh(topology, **submesh) == {"data": 4, "model": 4}
  with pytest.raises(ValueError, match="No default mesh") as found:
    mesh(topology, num_partitions=4)
  with pytest.raises(UserError, match="set NUM_PARTITIONS = None and MODEL_PA"):
    one_line.explain(found.value)
  assert jax.devices()[0].platform == "cpu"


def make_plan(capsys, *more):
  """Plans a run: exit status, and what is on the terminal."""
  flags = "--dry_run", "--topology=v5e:2x2"
  status = cli.main(["train", *RUN, *flags, *more])
  return status, capsys.readouterr()


@pytest.mark.slow
def test_a_plan(capsys, tmp_path):
  output = tmp_path / "plan.json"
  fitted = "--gin_file=gin/methods/trice_fitted.gin"
  status, shown = make_plan(capsys, fitted, *PAIRS, f"--output={output}")
  assert status == 0, shown.err
  assert "compiling M-step: T5X's step" in shown.err
  assert "fits: " in shown.out
  assert "a step takes " in shown.out
  found = json.loads(output.read_text())
  assert found["mesh"] == {"data": 2, "model": 2}
  parameters, moments = found["state"]
  assert parameters["whole_bytes"] == 4 * found["num_params"]
  assert moments["whole_bytes"] >= 2 * parameters["whole_bytes"]
  # All but small arrays are in two parts.
  assert 0.5 <= parameters["bytes"] / parameters["whole_bytes"] < 0.52
  draw, step, fit = found["programs"]
  assert draw["flops_per_token"] > 0
  assert step["flops"] > draw["flops"] > 0
  assert fit["flops"] > step["flops"]
  # T5X's state is replaced in place.
  assert step["aliased"] > parameters["bytes"] + moments["bytes"] - 100
  assert found["run"]["step"] > 0
  assert not found["verdict"]["calls_host"]
  assert "Plan for v5e:2x2" in output.with_suffix(".html").read_text()


@pytest.mark.parametrize(
  ("more", "message"),
  [
    ((), "T5X cannot place NUM_PARTITIONS on TPU v5 lite: set NUM_PARTITIONS"),
    (("--layers=1",), "--layers: a run inside T5X is planned as it is"),
    (("--assume=vocab=9",), "--assume: a run inside T5X is planned as it is"),
    (
      (
        "--gin.NUM_PARTITIONS=None",
        "--gin.MODEL_PARALLEL_SUBMESH=(3, 1, 1, 1)",
      ),
      "(3, 1, 1, 1) does not divide the (2, 2, 1, 1) chips",
    ),
  ],
)
def test_what_cannot_be_planned_is_one_line(capsys, more, message):
  status, shown = make_plan(capsys, *more)
  assert status == 2
  assert message in shown.err
  assert "Traceback" not in shown.err


def test_t5x_s_own_training_is_not_planned(capsys):
  status = cli.main(
    [
      *("train", "--gin_file=gin/t5x/chain_base.gin"),
      *("--gin.MODEL_DIR='/nowhere/run'", "--dry_run", "--topology=v5e:2x2"),
    ]
  )
  assert status == 2
  assert "draws no rationales, and is not planned" in capsys.readouterr().err
