"""`t5x train --dry_run --topology`: mistakes, and a small plan."""

import importlib.util
import json
import pathlib
import tomllib

import pytest

from cot_latent import cli
from cot_latent.models import scanned
from cot_latent.planning import lengths

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
QUICKSTART = "--gin_file=gin/runs/quickstart.gin"
SHARDS = "--gin.NUM_MODEL_SHARDS"
PLAN = (QUICKSTART, "--dry_run", "--topology=v5e:2x2")
SOFT = (*PLAN, "--gin_file=gin/tuning/soft_prompt.gin")
ASSUMED = "--assume=vocab=259,prompt=24"


def call(capsys, *arguments):
  capsys.readouterr()
  status = cli.main(["train", *arguments])
  return status, capsys.readouterr()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([QUICKSTART, "--topology=v5e:2x2"], "--topology needs --dry_run"),
    (
      [*PLAN, ASSUMED, "--gin_file=gin/methods/trice_mh.gin"],
      "--topology: a run with LIKELIHOOD = @likelihood.answer_given_rationale()"
      " is not planned",
    ),
    ([QUICKSTART, "--dry_run", "--layers=1"], "--layers needs --topology"),
    ([QUICKSTART, "--dry_run", "--topology=v5e"], "give a chip of v5e, v5p"),
    ([QUICKSTART, "--dry_run", "--topology=v9:2x2"], "give a chip of v5e, v5p"),
    ([*PLAN, "--assume=vocab=9"], "--assume: give prompt=NUMBER"),
    ([*PLAN, "--assume=words=9"], "'words=9' is not NAME=NUMBER"),
    ([*PLAN, "--output=/nowhere/plan.json"], "there is no folder /nowhere"),
    ([*PLAN, "--output=plan.html"], "give a name that ends in .json"),
    ([*PLAN, "--output=/dev/stdout"], "give a name that ends in .json"),
    (
      [*PLAN, f"{ASSUMED},test=0"],
      "--assume: give test=NUMBER, a number",
    ),
    ([*PLAN, f"{ASSUMED},train=0"], "does not fit train=0 questions"),
    ([*PLAN, f"{ASSUMED},prompt=9"], "--assume: prompt is given twice"),
    ([*PLAN, f"{ASSUMED},soft=4"], "soft=4, but no soft prompt is trained"),
    (
      [*PLAN, f"{ASSUMED},prefix=600"],
      "prefix + prompt are 624 tokens, and no prompt of a run is above "
      "PROMPT_LENGTH = 32: set --gin.PROMPT_LENGTH=624",
    ),
    ([*PLAN, f"{ASSUMED},guide=64"], "guide_prefix + guide are 64 tokens"),
    (
      [*SOFT, f"{ASSUMED},soft=0"],
      "soft prompt's tokens, a number above 0",
    ),
    ([*SOFT, ASSUMED], "--assume: give soft=NUMBER"),
    (
      [*SOFT, "--gin.tuning.SoftPrompt.length=8", f"{ASSUMED},soft=4"],
      "soft=4, but SoftPrompt.length = 8",
    ),
  ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
  status, printed = call(capsys, *arguments)
  assert status == 2
  assert printed.err.count("\n") == 1
  assert message in printed.err


def test_a_page_that_cannot_be_written_is_one_line(capsys, tmp_path):
  (tmp_path / "plan.html").mkdir()
  output = f"--output={tmp_path / 'plan.json'}"
  status, printed = call(capsys, *PLAN, ASSUMED, output)
  assert status == 2
  assert f"{tmp_path / 'plan.html'} is a folder" in printed.err


@pytest.fixture
def no_data(monkeypatch):
  def fail(_):
    raise AssertionError("data are read")

  monkeypatch.setattr(lengths, "of_data", fail)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("assumed", [[], [ASSUMED]])
def test_a_plan_needs_libtpu(capsys, assumed):
  status, printed = call(capsys, *PLAN, *assumed)
  assert status == 2
  project = pathlib.Path(__file__).parents[2] / "pyproject.toml"
  extras = tomllib.loads(project.read_text())["project"]
  [needed] = extras["optional-dependencies"]["tpu-plan"]
  assert f"pip install '{needed}'" in printed.err


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
  ("topology", "setting", "message"),
  [
    ("v5e:3x3", "--layers=1", "libtpu has no such topology (Topology layout"),
    ("v5e:2x2", "--layers=2", "models of 3 and 5 layers would be compiled"),
    ("v5e:1x1", "--layers=1", "is one chip, and only runs on two or more are"),
    (
      "v5e:2x2",
      "--gin.partitioning.MeshConfig.data=1",
      "the run's mesh is one chip of these, and only runs on two or more are",
    ),
    (
      "v5e:2x2",
      f"{SHARDS}=3",
      "1 x 3 (data x model) does not fit the 4 devices",
    ),
  ],
)
def test_what_cannot_be_planned_is_one_line(capsys, topology, setting, message):
  """It is found before data are read."""
  settings = f"--topology={topology}", setting
  status, printed = call(capsys, *PLAN[:2], *settings)
  assert status == 2
  assert message in printed.err.splitlines()[-1]


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_a_model_that_cannot_be_sharded_is_one_line(capsys):
  settings = "--topology=v6e:4x4", f"{SHARDS}=8", ASSUMED
  status, printed = call(capsys, *PLAN[:2], *settings)
  assert status == 2
  message = "parts: set NUM_MODEL_SHARDS to 1 or 2 or 4"
  assert message in printed.err.splitlines()[-1]


SIZES = {
  "num_layers": 2,
  "embed_dim": 256,
  "num_heads": 4,
  "head_dim": 64,
  "mlp_dim": 1024,
  "num_kv_heads": 2,
}
SMALL = (
  *("--gin_file=gin/runs/gsm8k_tiny.gin", "--dry_run"),
  *("--gin_file=gin/plans/llama3_2_1b.gin", "--gin.PARAM_DTYPE='float32'"),
  *(f"--gin.decoder.DecoderConfig.{k}={v}" for k, v in SIZES.items()),
  *("--gin.BATCH_SIZE=16", "--gin.EVAL_BATCH_SIZE=16", "--gin.NUM_VOTES=0"),
  "--gin.REMAT=True",
  *("--gin.MAX_LENGTH=32", "--assume=vocab=4096,prompt=128,train=40,test=16"),
)
# Kernel and gradients of one layer's smallest product, [256, 128] bfloat16.
SMALLEST = 256 * 128 * 2


def make_plan(folder, topology, *more):
  """The plan of two layers, two shards of parameters; and its page."""
  output = folder / "plan.json"
  arguments = *SMALL, f"{SHARDS}=2", f"--topology={topology}", *more
  assert cli.main(["train", *arguments, f"--output={output}"]) == 0
  return json.loads(output.read_text()), output.with_suffix(".html").read_text()


@pytest.fixture(
  scope="module",
  params=[
    pytest.param(
      one, marks=pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
    )
    for one in ("v5e:2x2", "v6e:4x4")
  ],
)
def plan(request, tmp_path_factory):
  """Layers are unrolled on the one topology, and looped on the other."""
  with pytest.MonkeyPatch.context() as patch:
    if request.param == "v6e:4x4":
      patch.setattr(scanned, "LEAST_PARAMS", 0)
    return make_plan(tmp_path_factory.mktemp("plan"), request.param)


def test_a_plan_names_what_a_run_needs(plan):
  plan, page = plan
  assert plan["mesh"] == {"data": plan["num_chips"] // 2, "model": 2}
  assert plan["compile_seconds"] > 0
  assert "compiling took" in page
  rows = {row["name"]: row for row in plan["programs"]}
  assert all(row["code"] > 0 for row in plan["programs"])
  # Logits of 16 rows alone.
  assert rows["E-step: sample"]["flops_per_token"] > 2 * 16 * 256 * 4096
  assert 0 < plan["run"]["step_sampling"] < plan["run"]["step"]
  assert plan["verdict"]["fits"]
  assert not plan["verdict"]["calls_host"]
  assert "M-step: gradient" in page
  assert "://" not in page


def test_the_state_is_cut_over_all_chips(plan):
  for row in plan[0]["state"][:2]:
    # Norms are whole.
    assert row["bytes"] < 1.01 * row["whole_bytes"] / plan[0]["num_chips"] + 2e4


def test_no_program_has_more_memory_than_it_must(plan):
  """Beside a part of the state: one layer's weights, a few rows."""
  plan, _ = plan
  rows = {row["name"]: row for row in plan["programs"]}
  stored, whole = (plan["state"][0][key] for key in ("bytes", "whole_bytes"))
  arguments = {
    "sampling: parameters": stored,
    "E-step: sample": whole / 2 / 2,  # bfloat16, two shards
    "M-step: sums": 0,
    "M-step: gradient": 2 * stored,
    "M-step: update": 4 * stored,
  }
  for name, size in arguments.items():
    # Small arrays are padded.
    assert rows[name]["arguments"] < 1.1 * size + 2**16, name
  # Parameters of one data shard in float32, all layers at once, would be more:
  # they are half of the whole, and what else there is 0.6 of it.
  for name, row in rows.items():
    assert row["temporaries"] < 0.7 * whole, name


def test_weights_are_gathered_once_before_rows_are_drawn(plan):
  plan, _ = plan
  rows = {row["name"]: row for row in plan["programs"]}
  whole = plan["state"][0]["whole_bytes"]
  gathered = rows["sampling: parameters"]["collectives"]["outside"]
  # In bfloat16, half of them on each device.
  assert gathered["all-gather"]["bytes"] > 0.9 * whole / 2 / 2
  inside = rows["E-step: sample"]["collectives"]["per_token"]
  assert inside.get("all-gather", {"bytes": 0})["bytes"] < SMALLEST
  assert inside["all-reduce"]["bytes"] < SMALLEST


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_no_updates_are_gathered_for_each_token(tmp_path):
  lora = "--gin_file=gin/tuning/lora.gin", "--gin.PARAM_DTYPE='bfloat16'"
  plan, _ = make_plan(tmp_path, "v5e:2x2", *lora)
  rows = {row["name"]: row for row in plan["programs"]}
  inside = rows["E-step: sample"]["collectives"]["per_token"]
  # The smallest array of an update is [16, 2, 64] bfloat16.
  assert inside.get("all-gather", {"bytes": 0})["bytes"] < 16 * 2 * 64 * 2


def test_gradients_are_summed_to_where_they_are_stored(plan):
  rows = {row["name"]: row for row in plan[0]["programs"]}
  found = rows["M-step: gradient"]["collectives"]["outside"]
  # In float32; those of either half of the model.
  whole = plan[0]["state"][0]["whole_bytes"]
  assert found["reduce-scatter"]["bytes"] > 0.9 * whole / 2
  # Each layer twice, in bfloat16: its inputs alone are stored.
  assert found["all-gather"]["bytes"] < whole / 2


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_what_does_not_fit_says_which_arrays_and_what_would_help(capsys):
  """A vocabulary so large that moments alone fill the chips."""
  assumed = "--assume=vocab=40000000,prompt=32,train=40,test=16"
  arguments = *SMALL[:-1], assumed, "--topology=v5e:2x2"
  status, printed = call(capsys, *arguments)
  assert status == 0
  assert "does not fit: " in printed.out
  assert "the largest of what the run keeps: optimizer's moments" in printed.out
  assert "- gin/tuning/lora.gin: gradients and moments" in printed.out
  assert "- a topology of more chips" in printed.out
  assert "no bounds of the run" in printed.out


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
@pytest.mark.parametrize("tuned", [None, "lora", "soft_prompt"])
def test_every_layer_of_a_real_model_compiles(tuned, tmp_path):
  files = ["gin/runs/gsm8k_tiny.gin", "gin/plans/llama3_2_1b.gin"]
  settings = ["--gin.BATCH_SIZE=128", "--gin.MAX_LENGTH=256"]
  settings.append("--gin.PROMPT_LENGTH=856")
  if tuned is None:
    settings.append("--gin.PARAM_DTYPE='float32'")
  else:
    files.append(f"gin/tuning/{tuned}.gin")
  assumed = "vocab=128256,prefix=600,prompt=256,train=7473,test=1319"
  if tuned == "soft_prompt":
    assumed += ",soft=64"
  output = tmp_path / "plan.json"
  arguments = [
    *(f"--gin_file={name}" for name in files),
    *settings,
    *("--dry_run", "--topology=v5e:4x4", f"--assume={assumed}"),
    f"--output={output}",
  ]
  assert cli.main(["train", *arguments]) == 0
  plan = json.loads(output.read_text())
  assert plan["compiled_depths"] == [16]
  assert plan["verdict"]["fits"]
  assert not plan["verdict"]["calls_host"]
