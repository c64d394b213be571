"""The report of a run inside T5X, against what T5X itself wrote."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys

import jax
import jsonschema
import numpy as np
import pytest

from cot_latent.commands import compare, export, show, verify
from cot_latent.em.evaluation import Output
from cot_latent.errors import RunError, UserError
from cot_latent.reporting import record, replication, schema, seals
from cot_latent.reporting.tables.make import make_tables
from cot_latent.runtime import files
from cot_latent.t5x import launch, storage
from cot_latent.t5x import report as reports
from tests import processes
from tests.t5x import runs, small
from tests.t5x.trainer_test import train

STEPS = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp("whole") / "run"
  runs.run_well(directory)
  return directory


@pytest.fixture
def run(whole, tmp_path):
  """A copy, to be damaged."""
  return shutil.copytree(whole, tmp_path / "copy")


def read(directory):
  return record.read_file(directory / "report.json")


def test_it_says_what_the_run_was(whole):
  report = read(whole)
  assert report["status"] in record.FINISHED
  assert report["identity"]["method"] == "trice"
  assert report["identity"]["argv"][:3] == ["python", "-m", "t5x.train"]
  assert report["plan"]["steps"] == report["diagnostics"]["steps"] == STEPS
  assert report["data"]["splits"].keys() == {"train", "test"}
  assert report["model"]["params_sha256"].keys() == {"0", str(STEPS)}
  cost = report["cost"]
  assert cost["sequences_sampled"] == report["plan"]["sequences_sampled"]
  assert 0 < cost["sequences_scored"] <= report["plan"]["sequences_scored"]
  compilation = cost["compilation"]
  assert compilation["num_compiled"] + compilation["num_read"] > 0
  paths = [row["path"] for row in report["continuity"]["checkpoints"]]
  assert paths == [f"checkpoint_{step}" for step in (0, 2, 4, 6)]
  seals.check(report)


def test_it_says_what_t5x_was(whole):
  part = read(whole)["t5x"]
  assert part["revision"] is None or len(part["revision"]) == 40
  assert len(part["files_sha256"]) == 64
  assert part["began_at"] == 0
  sharding = part["partitioning"]
  assert sharding["mesh"] == {"data": 1, "model": 1}
  assert sharding["num_devices"] == sharding["num_partitions"] == 1
  assert ["vocab", "model"] in sharding["logical_axis_rules"]
  config = (whole / "config.gin").read_bytes()
  report = read(whole)
  assert report["configuration"]["resolved"] == config.decode()
  (kept,) = (p for p in report["parts"] if p["path"] == "config.gin")
  assert kept["sha256"] == hashlib.sha256(config).hexdigest()


def test_a_part_of_another_form_is_no_report(whole):
  report = json.loads((whole / "report.json").read_text())
  check = jsonschema.Draft202012Validator(schema.load()).validate
  check(report)
  del report["t5x"]["partitioning"]["mesh"]
  with pytest.raises(jsonschema.ValidationError):
    check(report)
  del report["t5x"]
  check(report)


def test_the_results_are_those_that_t5x_found(whole):
  (path,) = (whole / "inference_eval").glob("*-metrics.jsonl")
  theirs = [json.loads(line) for line in path.read_text().splitlines()]
  results = read(whole)["results"]
  assert [row["step"] for row in results] == [0, 2, 4, 6]
  assert [row["step"] for row in theirs] == [0, 2, 4, 6]
  for own, their in zip(results, theirs, strict=True):
    # T5X's may count completions that were cut.
    gap = their["accuracy"] - own["accuracy"]
    assert -1e-9 <= gap <= own["num_cut"] / own["total"] + 1e-9


def test_the_memory_is_that_of_the_last_checkpoint(whole):
  stored = runs.memory(whole, STEPS)
  with np.load(whole / "outputs" / f"{STEPS:06}-memory.npz") as kept:
    for name in ("tokens", "is_correct", "num_accepted"):
      np.testing.assert_array_equal(kept[name], stored[name])
  (path,) = (whole / f"checkpoint_{STEPS}").rglob("*.memory.npz")
  last = read(whole)["continuity"]["checkpoints"][-1]
  found = hashlib.sha256(path.read_bytes()).hexdigest()
  assert last["memory_sha256"] == found


def test_a_run_as_it_was_left_is_verified(whole):
  text, is_well = verify.verify(str(whole))
  assert is_well, text
  # The toy task has a checker of its own; all else is checked.
  (left_out,) = (line for line in text.splitlines() if "skipped: " in line)
  assert left_out.count("results from outputs/") == 4
  assert left_out.count(",") == 3


@pytest.mark.parametrize(
  ("bound", "is_greedy"),
  [
    ({"topk": 1}, True),
    ({"temperature": 0.0}, True),
    ({"topk": 0, "temperature": 0.7}, False),
    ({}, False),
  ],
)
def test_an_evaluation_that_draws_samples_is_left_out(
  bound, is_greedy, monkeypatch, capsys
):
  settings = {f"temperature_sample.{k}": value for k, value in bound.items()}
  monkeypatch.setattr(reports.checks, "_bound", settings.get)
  report = object()
  evaluator = reports.Evaluator(lambda: None, report)
  assert evaluator._report is (report if is_greedy else None)
  assert ("draws samples" in capsys.readouterr().err) == (not is_greedy)


def test_completions_are_scored_again(tmp_path):
  directory = tmp_path / "run"
  task = ["--gin.TASK='chain'", "--gin.TASK_MODULE=None"]
  runs.run_well(directory, *task, "--gin.TRAIN_STEPS=0", by_t5x=False)
  assert read(directory)["status"] in record.FINISHED
  text, is_well = verify.verify(str(directory))
  assert is_well, text
  assert "skipped: " not in text
  path = directory / "outputs" / "000000-test-greedy.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lines[3] |= {"extracted": lines[3]["target"], "is_correct": True}
  path.write_text("".join(map(files.to_json_line, lines)))
  text, is_well = verify.verify(str(directory))
  assert not is_well
  assert f"{path.name}: it was changed" in text


@pytest.mark.parametrize(
  "name",
  [
    "report.json",
    "journal.jsonl",
    "config.gin",
    f"outputs/{STEPS:06}-memory.npz",
    f"outputs/{STEPS:06}-test-greedy.jsonl",
  ],
)
def test_a_change_is_found(run, name):
  path = run / name
  content = path.read_bytes()
  place = next(
    i for i in range(len(content) // 2, len(content)) if content[i] in b"123456"
  )
  other = bytes([content[place] + 1])
  path.write_bytes(content[:place] + other + content[place + 1 :])
  _, is_well = verify.verify(str(run))
  assert not is_well


def test_killed_and_resumed_it_is_the_same_report(whole, tmp_path):
  directory = tmp_path / "run"
  runs.run_until(directory, 2)
  before = read(directory)
  assert before["status"] == "running"
  runs.run_well(directory)
  report = read(directory)
  (resumed,) = report["continuity"]["resumes"]
  assert 2 <= resumed["step"] < STEPS
  assert report["identity"]["started"] == before["identity"]["started"]
  found = replication.compare(whole / "report.json", directory / "report.json")
  assert found.verdict == replication.BITWISE, found
  assert verify.verify(str(directory))[1]
  # Started once more, nothing changes.
  content = (directory / "report.json").read_bytes()
  runs.run_well(directory)
  assert (directory / "report.json").read_bytes() == content
  # And it is no other seed's.
  done = runs.run(directory, "--gin.SEED=1")
  assert done.returncode != 0
  assert "belongs to another run" in done.stderr
  assert (directory / "report.json").read_bytes() == content


def refused(directory, message, *flags):
  """Checks that one line refuses to run there."""
  done = runs.run(directory, *flags)
  assert done.returncode != 0
  (line,) = [x for x in done.stderr.splitlines() if x.startswith("t5x: error")]
  assert message in line


def test_a_complete_report_without_checkpoints_is_kept(run):
  for path in run.glob("checkpoint_*"):
    shutil.rmtree(path)
  content = (run / "report.json").read_bytes()
  refused(run, "complete run, and its last checkpoint is gone")
  assert (run / "report.json").read_bytes() == content


@pytest.mark.slow
def test_a_run_counts_from_its_checkpoint(whole, tmp_path):
  directory = tmp_path / "run"
  base = f"--gin.INITIAL_CHECKPOINT_PATH='{whole}/checkpoint_{STEPS}'"
  refused(directory, "counts the 6 steps", base, "--gin.TRAIN_STEPS=5")
  assert not list(directory.glob("checkpoint_*"))
  flags = [base, f"--gin.TRAIN_STEPS={STEPS + 4}"]
  runs.run_until(directory, STEPS + 2, *flags)
  runs.run_well(directory, *flags)
  report = read(directory)
  assert report["t5x"]["began_at"] == STEPS
  assert report["plan"]["steps"] == 4
  assert [row["step"] for row in report["results"]] == [0, 2, 4]
  assert (
    report["model"]["params_sha256"]["0"]
    == (read(whole)["model"]["params_sha256"][str(STEPS)])
  )
  done = rerun(tmp_path, directory)
  assert done.returncode == 0, done.stderr[-3000:]
  assert f"verdict: {replication.BITWISE}" in done.stdout
  # A method without steps ends where it begins.
  method = ["--gin_file=gin/methods/few_shot.gin"]
  alone = tmp_path / "alone"
  runs.run_well(alone, *method, base, f"--gin.TRAIN_STEPS={STEPS}")
  report = read(alone)
  assert (report["plan"]["steps"], len(report["results"])) == (0, 1)


def test_sigterm_is_said_by_t5x_train_too(tmp_path):
  directory = tmp_path / "run"
  runs.run_until(directory, 2, by=signal.SIGTERM, status=143)
  report = read(directory)
  assert (report["status"], report["error"]) == ("interrupted", None)


def test_what_fails_outside_of_steps_and_evaluations_is_said(tmp_path):
  directory = tmp_path / "run"
  done = runs.run(directory, "--gin_file=tests/t5x/unknown_action.gin")
  assert done.returncode != 0
  report = read(directory)
  assert report["status"] == "failed"
  assert report["error"].startswith("ValueError: actions keys must be one of")


def test_compare_names_another_partitioning(whole, run):
  path = run / "report.json"
  report = json.loads(path.read_text())
  report["t5x"]["partitioning"]["num_devices"] = 8
  path.write_text(files.to_json(record.sealed(report)))
  text, is_same = compare.compare(str(whole), str(run))
  assert is_same  # another number of devices does not make another run
  assert "t5x: partitioning.num_devices is 1 and 8" in text
  del report["t5x"]
  path.write_text(files.to_json(record.sealed(report)))
  text, _ = compare.compare(str(whole), str(run))
  assert "only one of them ran inside T5X" in text


def test_the_commands_read_it(whole, run, tmp_path):
  assert "inside T5X" in show.describe(str(whole))
  page = (whole / "report.html").read_text()
  assert "<summary>T5X</summary>" in page
  assert "logical axis rules" in page
  path = run / "report.json"
  report = json.loads(path.read_text()) | {"status": "complete"}
  path.write_text(files.to_json(record.sealed(report)))
  with pytest.raises(UserError, match="is a run inside T5X") as raised:
    export.export(str(run), "nowhere", None, None)
  assert "\n" not in str(raised.value)


def rerun(folder, *arguments):
  command = [sys.executable, "-m", "cot_latent.cli", "rerun"]
  return subprocess.run(
    [*command, "--allow_import=tests.t5x.registered", *map(str, arguments)],
    cwd=folder,
    env=runs.environment(),
    capture_output=True,
    text=True,
    timeout=processes.LIMIT,
  )


def test_it_is_repeated_from_its_report_alone(run, tmp_path):
  (run / "config.gin").unlink()
  done = rerun(tmp_path, run)
  assert done.returncode == 0, done.stderr[-3000:]
  assert f"verdict: {replication.BITWISE}" in done.stdout
  old = read(run)
  again = read(tmp_path / f"runs/{old['identity']['run_id']}-rerun-1")
  assert again["digest"] == old["digest"]
  assert old["replication"][-1]["verdict"] == replication.BITWISE
  assert again["t5x"] == old["t5x"]


@pytest.mark.slow
def test_a_repetition_with_other_code_is_refused_unless_allowed(run, tmp_path):
  path = run / "report.json"
  report = json.loads(path.read_text())
  name = "cot_latent.em.estep"
  assert name in report["code"]["files"]
  report["code"]["files"][name] = "0" * 64
  path.write_text(files.to_json(record.sealed(report)))
  output = tmp_path / "again"
  done = rerun(tmp_path, run, f"--output={output}")
  assert done.returncode == 2
  (line,) = [line for line in done.stderr.splitlines() if "t5x: error" in line]
  assert "cannot be repeated here: code files.cot_latent.em.estep" in line
  assert not output.exists()
  done = rerun(tmp_path, run, f"--output={output}", "--allow=code")
  assert done.returncode == 0, done.stderr[-3000:]
  assert f"verdict: {replication.BITWISE}" in done.stdout


def test_tables_are_made_of_it(run, tmp_path):
  path = run / "report.json"
  report = json.loads(path.read_text())
  changes = {"status": "complete", "suspect": []}
  path.write_text(files.to_json(record.sealed(report | changes)))
  folder = tmp_path / "reports"
  folder.mkdir()
  shutil.copy(path, folder / "one.json")
  spec = tmp_path / "table.toml"
  spec.write_text(
    'title = "Inside T5X"\n'
    'reports = "reports"\n'
    'baseline = "trice"\n'
    'rows = [{ method = "trice", label = "TRICE" }]\n'
    'columns = [{ label = "Greedy", decoder = "greedy" }]\n'
  )
  text = make_tables(spec)
  accuracy = report["results"][-1]["accuracy"]
  assert f"{100 * accuracy:.1f}" in text


# In this process.


@pytest.fixture
def made(monkeypatch, tmp_path):
  """A trainer of a model whose step is the gradient, and its report."""
  model = small.encoder_decoder(small.sgd())
  latent = small.make_latent(model, monkeypatch)
  report = reports.Report(latent, str(tmp_path / "run"), 3, 3)
  return model, latent, report, tmp_path / "run"


def test_the_gradients_norm_is_that_of_the_step(made):
  model, latent, report, directory = made
  with small.make_trainer(model, latent, report=report) as trainer:
    before = small.host(trainer.train_state.params)
    train(trainer, 1)
    after = small.host(trainer.train_state.params)
    (row,) = record.of_kind(report._log.rows, "metrics")
  moved = jax.tree.map(lambda a, b: (a - b) / small.RATE, before, after)
  norm = np.sqrt(sum((part**2).sum() for part in jax.tree.leaves(moved)))
  assert row["grad/norm"] == pytest.approx(norm, rel=1e-3)
  assert row["optimizer/learning_rate"] == pytest.approx(small.RATE)
  report = read(directory)
  assert report["status"] == "interrupted"
  assert report["error"] == "stopped at step 1 of 3"


def test_what_ended_the_run_is_said(made, monkeypatch):
  model, latent, report, directory = made

  def fail(*arguments):
    raise RunError("the reason")

  with small.make_trainer(model, latent, report=report) as trainer:
    train(trainer, 1)
    monkeypatch.setattr(trainer, "_weigh", fail)
    with pytest.raises(RunError):
      train(trainer, 1, start=1)
  found = read(directory)
  assert (found["status"], found["error"]) == ("failed", "RunError: the reason")


def test_what_ended_it_is_said_where_t5x_train_catches_it(made, monkeypatch):
  model, latent, report, directory = made

  def end(*_, **__):
    raise UserError("the reason\n  In call to configurable 'train'")

  monkeypatch.setattr(launch.runpy, "run_module", end)
  with small.make_trainer(model, latent, report=report) as trainer:
    train(trainer, 1)
    with pytest.raises(UserError, match=r"^the reason$"):
      launch.run((), (), ())
  found = read(directory)
  assert found["status"] == "failed"
  assert found["error"].startswith("UserError: the reason")


def test_two_processes_do_not_share_a_folder(made):
  model, latent, report, directory = made
  other = reports.Report(latent, str(directory), 3, 3)
  with (
    small.make_trainer(model, latent, report=report),
    pytest.raises(UserError, match="in use by another process"),
  ):
    small.make_trainer(model, latent, report=other)


def test_steps_that_are_missing_are_named(made, monkeypatch):
  model, latent, report, directory = made
  with small.make_trainer(model, latent, report=report) as trainer:
    train(trainer, 2)
    report.saving(2, "0" * 64)
    state, chains = trainer.train_state, latent.iterator.chains
  again = reports.Report(latent, str(directory), 3, 3)
  journal = directory / record.JOURNAL
  rows = files.read_rows(journal, None)
  kept = [row for row in rows if row["step"] != 1]
  journal.write_text("".join(map(files.to_json_line, kept)))
  settings = (chains.step, chains.began_at, False, state.params)
  with pytest.raises(UserError, match="lacks step 1"):
    again.open(*settings, trainer._partitioner, None)
  journal.write_text("".join(map(files.to_json_line, rows)))
  again = reports.Report(latent, str(directory), 3, 3)
  again.open(*settings, trainer._partitioner, None)
  assert [r["step"] for r in read(directory)["continuity"]["resumes"]] == [2]


@pytest.mark.parametrize("comes_again", [True, False])
def test_an_evaluation_is_dropped_where_it_comes_again(
  made, monkeypatch, comes_again
):
  model, latent, report, directory = made
  with small.make_trainer(model, latent, report=report) as trainer:
    train(trainer, 2)
    answer = Output("0", "x", "a", "1", ["1"], [True], "1", True, 1)
    report.evaluated(2, [answer], seconds=1.0)
    report.saving(2, "0" * 64)
    state, chains = trainer.train_state, latent.iterator.chains
  monkeypatch.setattr(reports.checks, "evaluates_first", lambda: comes_again)
  again = reports.Report(latent, str(directory), 3, 3)
  settings = (chains.step, chains.began_at, False, state.params)
  again.open(*settings, trainer._partitioner, None)
  rows = files.read_rows(directory / record.JOURNAL, None)
  left = record.of_kind(rows, "evaluation_seconds")
  assert len(left) == (0 if comes_again else 1)


def test_a_bucket_gets_what_is_written(tmp_path):
  bucket = tmp_path / "bucket"
  (bucket / "outputs").mkdir(parents=True)
  (bucket / record.JOURNAL).write_text("before\n")
  kept = storage.Store(str(bucket), is_remote=True)
  kept.fetch()
  assert kept.folder != bucket
  assert (kept.folder / record.JOURNAL).read_text() == "before\n"
  (kept.folder / record.JOURNAL).write_text("before\nafter\n")
  (kept.folder / "outputs").mkdir()
  (kept.folder / "outputs" / "one").write_text("1")
  assert (bucket / record.JOURNAL).read_text() == "before\n"
  kept.push()
  assert (bucket / record.JOURNAL).read_text() == "before\nafter\n"
  assert (bucket / "outputs" / "one").read_text() == "1"
  assert kept.config() is None
  (bucket / "config.gin").write_text("SEED = 0")
  assert kept.config() == b"SEED = 0"
