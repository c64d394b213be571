"""A study runs every arm with every seed, and goes on where it stopped."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from cot_latent import cli, configuration, study
from cot_latent.errors import UserError
from cot_latent.reporting import record, seals

COMMON = """
from __gin__ import dynamic_registration

include 'gin/models/tiny.gin'
include 'gin/tasks/chain.gin'
include 'gin/runs/common.gin'

TRAIN_STEPS = 2
BATCH_SIZE = 8
LEARNING_RATE = 2e-3
BASE_STEPS = 12
BASE_BATCH_SIZE = 8
BASE_LEARNING_RATE = 4e-3
EVAL_PERIOD = 2
EVAL_BATCH_SIZE = 200
NUM_VOTES = 0
CHECKPOINT_PERIOD = 1
"""
ARM = """
from __gin__ import dynamic_registration

include '{folder}/common.gin'
include 'gin/methods/{method}.gin'
"""
# Of a report, what no two runs of the same thing have in common.
VOLATILE = ("identity", "environment", "cost", "continuity", *seals.SEALS)


def write_study(folder, methods=("few_shot", "rloo")):
  folder.mkdir(parents=True)
  (folder / "common.gin").write_text(COMMON)
  for method in methods:
    text = ARM.format(folder=folder, method=method)
    (folder / f"{method}.gin").write_text(text)
  return folder


def read_reports(output):
  """The reports by run, without times and places."""
  found = {}
  for path in sorted(output.glob("*/report.json")):
    report = json.loads(path.read_text())
    assert report["status"] in record.FINISHED
    kept = {k: v for k, v in report.items() if k not in VOLATILE}
    kept["parts"] = [p for p in kept["parts"] if p["path"] != "journal.jsonl"]
    del kept["configuration"]
    found[path.parent.name] = kept
  return found


STUDIES = pathlib.Path(cli.__file__).parents[1] / "gin/studies"
ARMS = sorted(p for p in STUDIES.rglob("*.gin") if p.name != "common.gin")


@pytest.mark.parametrize("path", ARMS, ids=[path.stem for path in ARMS])
def test_every_arm_is_a_whole_run_of_its_own_name(path):
  """And within a study, arms differ in nothing but what the method is."""
  bindings = ["MODEL_DIR = 'x'", "SEED = 3"]
  config, _ = configuration.parse([str(path)], bindings, [])
  assert config.method.name == path.stem
  assert config.seed == 3
  reference, _ = configuration.parse(
    [str(path.with_name("trice.gin"))], bindings, []
  )
  same = ("model", "optimizer", "base", "evaluation", "seed")
  for name in same:
    assert getattr(config, name) == getattr(reference, name)
  if config.method.refit is None and config.steps:
    drawn = [
      c.steps * c.batch_size * c.method.num_draws for c in (config, reference)
    ]
    assert drawn[0] == drawn[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A study of two arms and two seeds that nothing disturbed."""
  root = tmp_path_factory.mktemp("study")
  folder, output = write_study(root / "arms"), root / "out"
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  assert cli.main(arguments) == 0
  return folder, output


def test_every_arm_has_every_seed(finished):
  _, output = finished
  names = {f"{m}-s{seed}" for m in ("few_shot", "rloo") for seed in (0, 1)}
  reports = read_reports(output)
  assert set(reports) == names
  assert reports["rloo-s0"]["results"] != reports["rloo-s1"]["results"] or (
    reports["rloo-s0"]["digest"] != reports["rloo-s1"]["digest"]
  )
  # Arms of one seed share their base model.
  assert len(list((output / "base").glob("*.npz"))) == 2


def test_what_is_complete_is_left_alone(finished, capsys):
  folder, output = finished
  before = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
  arguments = ["study", str(folder), "--seeds=2", f"--output={output}"]
  assert cli.main(arguments) == 0
  out = capsys.readouterr().out
  assert "===" not in out
  assert "all 4 runs are complete" in out
  after = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
  assert before == after


def test_a_dry_run_prints_commands_that_do_the_same(finished, tmp_path, capsys):
  folder, output = finished
  elsewhere = tmp_path / "out"
  arguments = ["study", str(folder), "--seeds=2", f"--output={elsewhere}"]
  assert cli.main([*arguments, "--dry_run"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4
  assert not elsewhere.exists()
  (line,) = [line for line in lines if "rloo-s1" in line]
  command, *rest = shlex.split(line)
  assert command == "t5x"
  assert cli.main(rest) == 0
  assert read_reports(elsewhere)["rloo-s1"] == read_reports(output)["rloo-s1"]


def test_a_failing_arm_does_not_stop_the_others(tmp_path, capsys):
  folder = write_study(tmp_path / "arms", ["few_shot"])
  (folder / "bad.gin").write_text("NO_SUCH = 3\n")
  output = tmp_path / "out"
  arguments = ["study", str(folder), "--seeds=1", f"--output={output}"]
  assert cli.main(arguments) == 1
  text = capsys.readouterr().err
  assert "t5x: error: 1 of 2 runs failed, the first: bad-s0: " in text
  assert set(read_reports(output)) == {"few_shot-s0"}


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["no/such/folder"], "no/such/folder has no arms"),
    (["{empty}"], "has no arms"),
    (["{empty}", "--seeds=0"], "'0' is not a number above 0"),
    (["{empty}", "--gin_file=a.gin"], "gin files are those of its folder"),
  ],
)
def test_mistakes(arguments, said, tmp_path, capsys):
  filled = [text.format(empty=tmp_path) for text in arguments]
  assert cli.main(["study", *filled]) == 2
  text = capsys.readouterr().err
  assert said in text
  assert len(text.splitlines()) == 1


def test_reports_are_collected(finished, tmp_path):
  folder, output = finished
  runs = study.plan(str(folder), 2, str(output), [])
  study.collect(runs, tmp_path / "kept")
  kept = sorted((tmp_path / "kept").glob("*.json"))
  assert [path.stem for path in kept] == sorted(run.name for run in runs)
  for path in kept:
    report = json.loads(path.read_text())
    seals.check(report)
  with pytest.raises(UserError, match="few_shot-s2 has no report"):
    study.collect(study.plan(str(folder), 3, str(output), []), tmp_path / "x")


@pytest.mark.slow
def test_a_study_that_is_killed_ends_with_the_same_reports(finished, tmp_path):
  """Killed five times, at times that depend on the machine."""
  folder, output = finished
  elsewhere = tmp_path / "out"
  command = [
    *(sys.executable, "-m", "cot_latent.cli", "study", str(folder)),
    *("--seeds=2", f"--output={elsewhere}"),
  ]
  for seconds in (8, 12, 10, 15, 9):
    process = subprocess.Popen(
      command,
      cwd=pathlib.Path(cli.__file__).parents[1],
      env=os.environ.copy(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
  subprocess.run(
    command, cwd=pathlib.Path(cli.__file__).parents[1], check=True, timeout=300
  )
  assert read_reports(elsewhere) == read_reports(output)
