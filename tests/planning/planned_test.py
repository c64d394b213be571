"""`t5x train --dry_run --topology`: mistakes, and a small plan."""

import importlib.util
import json

import pytest

from cot_latent import cli

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
QUICKSTART = "--gin_file=gin/runs/quickstart.gin"
PLAN = (QUICKSTART, "--dry_run", "--topology=v5e:2x2")


def call(capsys, *arguments):
  capsys.readouterr()
  status = cli.main(["train", *arguments])
  return status, capsys.readouterr()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([QUICKSTART, "--topology=v5e:2x2"], "--topology needs --dry_run"),
    ([QUICKSTART, "--dry_run", "--layers=1"], "--layers needs --topology"),
    ([QUICKSTART, "--dry_run", "--topology=v5e"], "give a chip of v5e, v5p"),
    ([QUICKSTART, "--dry_run", "--topology=v9:2x2"], "give a chip of v5e, v5p"),
    ([*PLAN, "--assume=vocab=9"], "--assume: give prompt=NUMBER"),
    ([*PLAN, "--assume=words=9"], "'words=9' is not NAME=NUMBER"),
    (
      ["--gin_file=gin/t5x/trice_chain.gin", *PLAN[1:]],
      "gin/t5x/trice_chain.gin is a run inside T5X",
    ),
    ([*PLAN, "--output=/nowhere/plan.json"], "there is no folder /nowhere"),
  ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
  status, printed = call(capsys, *arguments)
  assert status == 2
  assert printed.err.count("\n") == 1
  assert message in printed.err


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_a_plan_needs_libtpu(capsys):
  status, printed = call(capsys, *PLAN, "--assume=vocab=259,prompt=24")
  assert status == 2
  assert "pip install 'cot-latent[tpu-plan]'" in printed.err


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
@pytest.mark.parametrize(
  ("topology", "shards", "message"),
  [
    ("v5e:3x3", 1, "libtpu has no such topology (Topology layout"),
    ("v5e:2x2", 3, "a mesh of 1 x 3 (data x model) does not fit the 4 devices"),
    ("v6e:4x4", 8, "axis 'heads' of 4 cannot be cut into 8"),
  ],
)
def test_what_cannot_be_planned_is_one_line(capsys, topology, shards, message):
  settings = f"--topology={topology}", f"--gin.NUM_MODEL_SHARDS={shards}"
  assumed = "--assume=vocab=259,prompt=24"
  status, printed = call(capsys, *PLAN[:2], *settings, assumed)
  assert status == 2
  assert message in printed.err.splitlines()[-1]


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_a_plan_names_what_a_run_needs(capsys, tmp_path):
  output = tmp_path / "plan.json"
  status, printed = call(
    capsys,
    *(*PLAN, "--assume=vocab=259,prompt=24,train=40,test=20"),
    *("--layers=1", f"--output={output}", "--gin.NUM_MODEL_SHARDS=2"),
    *("--gin.BATCH_SIZE=8", "--gin.MEMORY_START='prior'"),
    *("--gin.BASE=@experiment.Checkpoint()", "--gin.NUM_VOTES=0"),
    "--gin.experiment.Checkpoint.path='none'",
  )
  assert status == 0, printed.err
  assert "fits: " in printed.out
  plan = json.loads(output.read_text())
  assert plan["mesh"] == {"data": 2, "model": 2}
  assert plan["compiled_depths"] == [1, 2]
  rows = {row["name"]: row for row in plan["programs"]}
  # Logits of 8 rows, by the larger of the products.
  assert rows["step: sample"]["flops_per_token"] > 2 * 8 * 64 * 259
  assert 0 < plan["run"]["step_sampling"] < plan["run"]["step"]
  assert not plan["verdict"]["calls_host"]
  page = output.with_suffix(".html").read_text()
  assert "step: gradient" in page
  assert "://" not in page
