"""A report is enough to repeat its run, and to check every number in it."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from cot_latent import cli
from cot_latent.commands import rerun
from cot_latent.configuration import parsing
from cot_latent.reporting import record, replication, seals
from cot_latent.runtime import files
from cot_latent.training import tuning
from tests.commands import inside_t5x

pytestmark = pytest.mark.usefixtures("compile_once", "read_once")

RUN = [
  "--gin_file=gin/runs/quickstart.gin",
  "--gin.BASE_STEPS=40",
  "--gin.TRAIN_STEPS=4",
  "--gin.BATCH_SIZE=8",
  "--gin.EVAL_PERIOD=2",
  "--gin.NUM_VOTES=2",
  "--gin.CHECKPOINT_PERIOD=2",
  "--gin.TRAIN_SPLIT='train[:200]'",
]


def train(directory, *more):
  arguments = ["train", *RUN, f"--gin.MODEL_DIR='{directory}'", *more]
  assert cli.main(arguments) == 0
  return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Runs of seed 0 and of seed 1."""
  root = tmp_path_factory.mktemp("runs")
  return train(root / "a"), train(root / "b", "--gin.SEED=1")


@pytest.fixture
def run(runs, tmp_path):
  """A copy of the first run, to be tampered with."""
  copied = tmp_path / "run"
  shutil.copytree(runs[0], copied, ignore=shutil.ignore_patterns("checkp*"))
  return copied


def call(capsys, *arguments):
  """The exit status of a command, and what it printed."""
  capsys.readouterr()
  status = cli.main([*map(str, arguments)])
  captured = capsys.readouterr()
  return status, captured.out + captured.err


def reseal(path, **changes):
  """Edits a report, hashes and all, as a forger would."""
  report = json.loads(path.read_text()) | changes
  path.write_text(files.to_json(record.sealed(report)))


# verify


def test_a_run_as_it_was_left_is_verified(runs, capsys):
  for directory in runs:
    status, text = call(capsys, "verify", directory)
    assert status == 0, text
    assert text.startswith(f"{directory}/report.json: ")
    assert text.endswith(" checks passed\n")
    assert call(capsys, "verify", directory / "report.json") == (status, text)


def test_a_report_by_itself_is_verified_as_far_as_it_can_be(run, capsys):
  alone = run.parent / "kept.json"
  shutil.copy(run / "report.json", alone)
  status, text = call(capsys, "verify", alone)
  assert status == 0
  assert "skipped: " in text
  assert "outputs/000004-test-greedy.jsonl" in text
  assert text.endswith("kept.json: 3 checks passed\n")


PARTS = [
  "report.json",
  "journal.jsonl",
  "outputs/000004-test-greedy.jsonl",
  "outputs/000004-test-self_consistency.jsonl",
]


@pytest.mark.parametrize("name", PARTS)
def test_a_digit_that_was_changed_is_found(run, name, capsys):
  path = run / name
  text = path.read_text()
  places = [i for i, letter in enumerate(text) if letter.isdigit()]
  for place in places[:: len(places) // 12]:
    other = str((int(text[place]) + 1) % 10)
    path.write_text(text[:place] + other + text[place + 1 :])
    status, said = call(capsys, "verify", run)
    assert status != 0, text[place - 40 : place + 40]
    assert "failed" in said or "is not a report" in said
  path.write_text(text)
  assert call(capsys, "verify", run)[0] == 0


def test_a_forged_result_is_found(run, capsys):
  path = run / "report.json"
  results = json.loads(path.read_text())["results"]
  results[-1]["correct"] += 1
  reseal(path, results=results)
  status, text = call(capsys, "verify", run)
  assert status == 1
  assert "results from the journal: [4].correct is " in text
  assert "results from outputs/000004-test-self_consistency.jsonl" in text


GREEDY = "outputs/000004-test-greedy.jsonl"


def forge_outputs(run, change):
  """Changes lines of stored outputs, and all hashes to match."""
  lines = [json.loads(x) for x in (run / GREEDY).read_text().splitlines()]
  content = "".join(map(files.to_json_line, change(lines)))
  (run / GREEDY).write_text(content)
  report = json.loads((run / "report.json").read_text())
  rows = [json.loads(x) for x in (run / record.JOURNAL).open()]
  for part in [*report["parts"], *rows]:
    if part.get("path") == GREEDY:
      part["sha256"] = files.sha256(content.encode())
      part["num_bytes"] = len(content)
  journal = "".join(map(files.to_json_line, rows))
  (run / record.JOURNAL).write_text(journal)
  for part in report["parts"]:
    if part["path"] == record.JOURNAL:
      part |= record.journal_part(rows)
  report["journal_content"] = seals.journal_content(rows)
  reseal(run / "report.json", **report)


def test_a_verdict_that_was_changed_is_found_by_scoring_again(run, capsys):
  name = GREEDY

  def change(lines):
    lines[2] |= {"extracted": lines[2]["target"], "is_correct": True}
    lines[2]["completion"] = "The answer is none of these."
    return lines

  forge_outputs(run, change)
  status, text = call(capsys, "verify", run)
  assert status == 1
  assert f"results from {name}: line 3: the answer " in text
  assert f"{name}: it was changed" not in text


@pytest.mark.parametrize(
  "line",
  [
    {"task": "no such task"},
    {"task": ["a", "list"]},
    {"completion": None},
    {"extracted": {}},
    {},
    [],
    None,
    7,
  ],
)
def test_outputs_of_another_form_are_one_line(run, line, capsys):
  def change(lines):
    forged = line
    if isinstance(line, dict) and line:
      forged = lines[0] | line
    return [forged, *lines[1:]]

  forge_outputs(run, change)
  status, text = call(capsys, "verify", run)
  assert status == 1
  assert f"results from {GREEDY}: " in text
  assert "1 of " in text.splitlines()[-1]


def test_a_part_outside_the_folder_is_not_read(run, capsys):
  part = {"path": "../x", "sha256": "0" * 64, "num_bytes": 3}
  reseal(run / "report.json", parts=[part])
  status, text = call(capsys, "verify", run)
  assert status == 1
  assert "../x: is outside the run's folder" in text


# compare


def test_another_seed_is_another_run(runs, capsys):
  status, text = call(capsys, "compare", runs[0], runs[1])
  assert status == 1
  assert "differs: configuration: seed is 0 and 1\n" in text
  assert "bitwise" not in text
  assert "same random choices" not in text


def edit_journal(directory, change):
  """Rewrites a run's journal, and its report to fit."""
  path = directory / "journal.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  change(rows)
  path.write_text("".join(map(files.to_json_line, rows)))
  report = json.loads((directory / "report.json").read_text())
  parts = [record.journal_part(rows), *report["parts"]]
  reseal(
    directory / "report.json",
    parts=list({part["path"]: part for part in parts[::-1]}.values()),
    journal_content=seals.journal_content(rows),
    model=report["model"] | {"params_sha256": {}},
  )


def nudge(name, factor):
  def change(rows):
    # The first step in which not all terms cancel.
    row = next(r for r in rows if r["kind"] == "metrics" and r[name])
    row[name] = row[name] * factor

  return change


def other_choice(rows):
  (row,) = (r for r in rows if r["kind"] == "metrics" and r["step"] == 3)
  row["choices"] = "0" * 16


@pytest.mark.parametrize(
  ("change", "verdict", "said"),
  [
    (nudge("grad/norm", 1.0001), replication.CHOICES, "at most 1.0e-04"),
    (nudge("grad/norm", 1.1), replication.CONSISTENT, ", metrics: grad"),
    (other_choice, replication.CONSISTENT, "step 3, metrics: choices is '"),
  ],
)
def test_how_far_runs_agree(runs, run, change, verdict, said, capsys):
  edit_journal(run, change)
  _, text = call(capsys, "compare", runs[0], run)
  assert f"verdict: {verdict}\n" in text
  assert said in text


def test_results_that_cannot_be_chance_are_different(runs, run, capsys):
  edit_journal(run, other_choice)
  report = json.loads((run / "report.json").read_text())
  results = report["results"]
  total = results[-1]["total"]
  results[-1] |= {"correct": total, "verdicts": "1" * total}
  reseal(run / "report.json", results=results)
  # Its outputs say otherwise, and are what counts while they are there.
  _, text = call(capsys, "compare", runs[0], run)
  assert "by McNemar's exact test, which is above 0.002" in text
  shutil.rmtree(run / "outputs")
  status, text = call(capsys, "compare", runs[0], run)
  assert status == 1
  assert "verdict: different\n" in text
  assert "by Fisher's exact test, which is not above 0.002" in text


# rerun


def test_a_run_is_repeated_from_its_report_alone(runs, run, capsys, tmp_path):
  output = tmp_path / "again"
  alone = tmp_path / "kept.json"
  shutil.copy(run / "report.json", alone)
  status, text = call(capsys, "rerun", alone, f"--output={output}")
  assert status == 0, text
  assert "verdict: bitwise equal\n" in text
  report = json.loads(alone.read_text())
  (verdict,) = report["replication"]
  assert verdict["verdict"] == "bitwise equal"
  assert record.read(output)["digest"] == report["digest"]
  for directory in (alone, output):
    assert call(capsys, "verify", directory)[0] == 0
  status, text = call(capsys, "compare", runs[0], output)
  assert status == 0, text
  assert "verdict: bitwise equal\n" in text
  status, text = call(capsys, "show", alone)
  assert status == 0
  assert ": bitwise equal\n  digest " in text
  status, text = call(capsys, "rerun", alone, f"--output={output}")
  assert status == 2
  assert "already holds a complete run" in text


def test_a_run_inside_t5x_is_not_repeated_without_t5x(
  run, capsys, tmp_path, monkeypatch
):
  path = tmp_path / "report.json"
  report = json.loads((run / "report.json").read_text())
  report["t5x"] = inside_t5x.SECTION
  path.write_text(files.to_json(record.sealed(report)))
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  output = tmp_path / "again"
  status, text = call(capsys, "rerun", path, f"--output={output}")
  assert status == 2
  assert f"{path} needs T5X, which is not installed: docs/t5x.md" in text
  assert not output.exists()


@pytest.mark.slow
def test_the_quickstart_that_is_kept_is_repeated(capsys, tmp_path):
  kept = tmp_path / "quickstart"
  shutil.copytree("reports/quickstart", kept)
  status, text = call(
    capsys,
    *("rerun", kept, f"--output={tmp_path / 'again'}"),
    "--allow=code,packages",
  )
  # Another machine rounds otherwise, and in the end chooses otherwise.
  assert (status == 0) != ("verdict: statistically consistent" in text)


def test_the_quickstart_that_is_kept_is_as_it_was_left(capsys):
  status, text = call(capsys, "verify", "reports/quickstart")
  assert status == 0, text


def change_code(report):
  report["code"]["files"]["cot_latent.cli"] = "0" * 64


def change_package(report):
  report["code"]["packages"]["jax"] = "0.1"


def change_data(report):
  report["data"]["splits"]["test"]["fingerprint"] = "0"


def change_generator(report):
  report["randomness"]["test_vectors"]["draw"][0] ^= 1


def change_configuration(report):
  report["configuration"]["experiment"]["steps"] = 5


REFUSALS = [
  (change_code, "code files.cot_latent.cli was", "add --allow=code"),
  (change_package, "packages packages.jax was '0.1'", "add --allow=packages"),
  (change_data, "data splits.test.fingerprint was '0'", "--allow=data"),
  (change_generator, "randomness test_vectors.draw[0]", "--allow=randomness"),
  (change_configuration, "configuration steps was 5 and is 4", "report it"),
]


@pytest.mark.parametrize(("change", "what", "fix"), REFUSALS)
def test_what_would_not_be_a_repetition_is_refused(
  run, change, what, fix, capsys, tmp_path
):
  path = run / "report.json"
  report = json.loads(path.read_text())
  change(report)
  reseal(path, **report)
  before = path.read_bytes()
  output = tmp_path / "again"
  status, text = call(capsys, "rerun", path, f"--output={output}")
  assert status == 2
  assert what in text
  assert fix in text
  assert len(text.splitlines()) == 1
  assert path.read_bytes() == before
  assert not output.exists()


@pytest.mark.slow
def test_a_difference_may_be_allowed(run, capsys, tmp_path):
  path = run / "report.json"
  report = json.loads(path.read_text())
  change_code(report)
  change_package(report)
  reseal(path, **report)
  arguments = ["rerun", path, f"--output={tmp_path / 'again'}"]
  assert call(capsys, *arguments, "--allow=code")[0] == 2
  status, text = call(capsys, *arguments, "--allow=code,packages")
  assert status == 0, text
  assert "differs: code: files.cot_latent.cli is" in text
  (verdict,) = json.loads(path.read_text())["replication"]
  assert set(verdict["code"]) == {"files.cot_latent.cli", "packages.jax"}


# Mistakes


def test_an_edited_report_is_not_repeated(run, capsys):
  path = run / "report.json"
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 3', 1))
  status, text = call(capsys, "rerun", path)
  assert status == 2
  assert "was edited" in text


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["verify", "{folder}/none.json"], "no report {folder}/none.json"),
    (["show", "{folder}"], "no report {folder}/report.json"),
    (["compare", "{folder}/a", "{folder}/b"], "no report {folder}/a"),
    (["rerun", "{folder}/x.json"], "x.json is not a report of this program"),
    (
      ["rerun", "{folder}/x.json", "--allow=jax"],
      "'jax' is not one of code",
    ),
  ],
)
def test_mistakes(arguments, said, tmp_path, capsys):
  (tmp_path / "x.json").write_text("{}")
  filled = [text.format(folder=tmp_path) for text in arguments]
  status, text = call(capsys, *filled)
  assert status == 2
  assert said.format(folder=tmp_path) in text
  assert len(text.splitlines()) == 1


def test_data_elsewhere_are_found_by_everything_that_reads_them():
  config, _ = parsing.parse(["gin/runs/quickstart.gin"], ["MODEL_DIR='x'"], [])
  prompt = tuning.SoftPrompt(source=config.task.source)
  config = dataclasses.replace(config, tuning=prompt)
  moved = rerun._moved(config, "y", "/elsewhere")
  for part in (moved.task, moved.base, moved.tuning):
    assert part.source.data_dir == "/elsewhere"
  # Parameters and prompts of no task stay as they are.
  config = dataclasses.replace(config, tuning=tuning.SoftPrompt(length=2))
  assert rerun._moved(config, "y", "/z").tuning == config.tuning
  config = dataclasses.replace(config, tuning=None)
  assert rerun._moved(config, "y", "/z").tuning is None


def test_a_running_run_cannot_be_repeated(run, capsys):
  reseal(run / "report.json", status="running")
  status, text = call(capsys, "rerun", run)
  assert status == 2
  assert "is a run that is running" in text


def test_a_suspect_run_fails_under_strict(tmp_path, capsys):
  arguments = [
    *("train", *RUN, "--gin.BASE_STEPS=1", "--gin.TRAIN_STEPS=2"),
    f"--gin.MODEL_DIR='{tmp_path / 'dead'}'",
  ]
  status, text = call(capsys, *arguments, "--strict")
  assert status == 1
  assert "t5x: error: the run is suspect: no question ever had" in text
  report = record.read(pathlib.Path(tmp_path / "dead"))
  assert report["status"] == "suspect"
  # It is still complete; without --strict it succeeds.
  assert call(capsys, *arguments)[0] == 0


@pytest.mark.slow
def test_gin_sets_when_a_run_is_suspect(run, capsys, tmp_path):
  limit = "--gin.health.Limits.most_unparseable="
  arguments = [*("train", *RUN), f"--gin.MODEL_DIR='{tmp_path / 'dead'}'"]
  assert call(capsys, *arguments, f"{limit}0.0", "--strict")[0] == 1
  report = record.read(tmp_path / "dead")
  assert report["diagnostics"]["limits"]["most_unparseable"] == 0
  sign, *of_evaluations = report["suspect"]
  assert sign.endswith("% of the fresh rationales had no answer")
  assert of_evaluations
  assert all(" evaluation at step 4 " in other for other in of_evaluations)
  # It is still the same run.
  assert report["digest"] == record.read(run)["digest"]
  status, text = call(capsys, *arguments, f"{limit}2.0")
  assert status == 2
  assert "Limits.most_unparseable" in text
