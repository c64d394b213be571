"""The table of plans, without making one."""

import itertools
import json
import pathlib

import pytest

from benchmarks import plans
from cot_latent import cli
from cot_latent.errors import UserError
from cot_latent.planning import plan

ROOT = pathlib.Path(__file__).parents[2]
ALL = [*itertools.product(plans.MODELS, plans.TRAINED, plans.TOPOLOGIES)]
MADE = {
  "topology": "v5p:2x2x2",
  "mesh": {"data": 2, "model": 4},
  "depth": 32,
  "compiled_depths": [2, 3],
  "run": {"step": 1.5, "step_sampling": 0.25},
  "verdict": {
    "fits": True,
    "program": "E-step: prefill",
    "needed": 3 * 2**30,
    "available": 95.74 * 2**30,
    "padding": {"gradient": 0.25},
  },
}


def make_or_fail(command):
  """Makes a plan for v5p, and fails for v5e."""
  [output] = [x for x in command if x.startswith("--output=")]
  if "--topology=v5e:2x2" in command:
    return 2
  pathlib.Path(output.removeprefix("--output=")).write_text(json.dumps(MADE))
  return 0


def test_a_plan_that_fails_is_a_row_and_the_others_are_made(tmp_path, capsys):
  only = "--only=llama3_1_8b_lora_v5"
  arguments = [f"--output={tmp_path}", only, "--layers=1"]
  assert plans.main(arguments, make_or_fail) == 1
  rows = capsys.readouterr().out.splitlines()[2:]
  assert rows[0].startswith(
    "| llama3_1_8b | LoRA | v5e-4 | failed (status 2) | – |"
  )
  assert rows[-1] == (
    "| llama3_1_8b, from 2 and 3 of 32 layers | LoRA | v5p-16 | "
    "2 x 4, padding: gradient 25% | yes | 3.00 of 95.74 | E-step: prefill | "
    "1.5 | 0.25 |"
  )
  assert len({row.count("|") for row in rows}) == 1
  # Nothing fails where nothing is made; whole plans are other files.
  assert plans.main([f"--output={tmp_path}", "--only=none"], make_or_fail) == 0
  assert len(capsys.readouterr().out.splitlines()) == 2


def test_no_time_is_told_where_xla_itself_ran_out_of_memory():
  whole = MADE | {"compiled_depths": [32], "run": None}
  whole["verdict"] = MADE["verdict"] | {"fits": False, "padding": {}}
  assert plans.row("qwen3_8b", "all", whole) == [
    *("qwen3_8b", "all", "v5p-16", "2 x 4", "no", "3.00 of 95.74"),
    *("E-step: prefill", "–", "–"),
  ]


def test_a_summary_has_what_the_table_shows(tmp_path, capsys):
  only, summary = "--only=llama3_1_8b_lora_v5p", tmp_path / "summary.json"
  arguments = [f"--output={tmp_path}", only, f"--summary={summary}"]
  assert plans.main(arguments, make_or_fail) == 0
  *_, line = capsys.readouterr().out.splitlines()
  ((*named, plan),) = json.loads(summary.read_text())
  assert line == f"| {' | '.join(plans.row(*named, plan))} |"


def test_the_table_in_the_docs_is_that_of_the_summary():
  summary = json.loads((ROOT / "benchmarks/results/plans.json").read_text())
  wanted = [f"| {' | '.join(plans.row(*one))} |" for one in summary]
  lines = (ROOT / "docs/pods.md").read_text().splitlines()
  start = lines.index(f"| {' | '.join(plans.HEAD)} |") + 2
  assert lines[start : start + len(wanted)] == wanted
  assert lines[start + len(wanted)] == ""
  assert len(wanted) > 30


@pytest.mark.parametrize("model", plans.MODELS)
def test_all_chips_have_rows(model):
  for topology, place in plans.TOPOLOGIES.items():
    shards = plans.num_shards(model, topology)
    assert plans.QUESTIONS % (place.num_chips // shards) == 0
    assert place.num_chips % shards == 0


@pytest.mark.parametrize("trained", plans.TRAINED)
@pytest.mark.parametrize("model", plans.MODELS)
def test_a_command_is_accepted(model, trained, capsys, monkeypatch):
  def stop(config, topology, layers):
    assert config.model.num_heads % config.mesh.model == 0
    raise UserError(f"{topology}, {layers} of {config.model.num_layers}")

  monkeypatch.setattr(plan, "prepare", stop)
  path = pathlib.Path("plan.json")
  command = plans.command(model, trained, "v5e:16x16", "1", path)
  assert cli.main(command[3:]) == 2
  assert "v5e:16x16, 1 of" in capsys.readouterr().err


def test_files_are_named_by_what_is_compiled():
  names = [plans.file_name(*one, layers) for one in ALL for layers in (None, 1)]
  assert len({*names}) == 2 * len(ALL)
