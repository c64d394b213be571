"""A folder holds one run's report, whole at any time, or is left alone."""

import copy
import json
import re

import pytest

from cot_latent.errors import UserError
from cot_latent.reporting import page, record
from cot_latent.runtime import files
from tests.reporting import made_up

HEADER = made_up.make_header(steps=4)
HEADER["configuration"]["experiment"]["evaluation"] = {"votes": [1, 2]}
HEADER["data"]["splits"]["train"]["fingerprint"] = "ab"
TIMES = ("sampling", "checking", "gradient", "rest")
LIVE = made_up.metrics()
SAMPLE = {
  "source": "greedy",
  **dict.fromkeys(("id", "question", "answer", "completion"), "a"),
  "extracted": None,
  "is_correct": False,
}


def add_step(log, step):
  seconds = {f"time/{part}": step + n / 8 for n, part in enumerate(TIMES)}
  log.step(step, LIVE | seconds | {"num_scored": step})


def fill(log, steps=range(1, 5)):
  log.took("base", 2.0, num_scored=100)
  log.took("memory_start", 3.0, num_sampled=9)
  found = made_up.evaluation(
    7, made_up.result(0, "greedy", 100), samples=[SAMPLE]
  )
  log.evaluated(0, 0.5, found)
  for step in steps:
    add_step(log, step)


def finished(folder, status="complete"):
  """A run's folder, and the report that its last write gave."""
  made = made_up.open_log(folder, copy.deepcopy(HEADER))
  fill(made)
  report = made.write(status)
  made.close()
  return report


def with_changes(changes, header=HEADER):
  """A header with some leaves replaced, by dotted name."""
  changed = copy.deepcopy(header)
  for name, value in changes.items():
    *path, last = name.split(".")
    place = changed
    for key in path:
      place = place[key]
    place[last] = value
  return changed


def test_written_is_what_is_read(tmp_path):
  report = finished(tmp_path)
  assert record.read(tmp_path) == json.loads(json.dumps(report))
  assert "chain-trice-s0-1a2b3c4d" in (tmp_path / "report.html").read_text(
    encoding="utf-8"
  )


@pytest.mark.parametrize(
  ("status", "error"),
  [
    ("running", None),
    ("complete", None),
    ("interrupted", None),
    ("failed", "ValueError: no"),
  ],
)
def test_status_and_times(tmp_path, status, error):
  made = made_up.open_log(tmp_path, copy.deepcopy(HEADER))
  report = made.write(status, error)
  made.close()
  assert record.read(tmp_path) == report
  assert report["schema_version"] == record.SCHEMA_VERSION
  assert (report["status"], report["error"]) == (status, error)
  assert report["identity"]["started"] == HEADER["identity"]["started"]
  ended = report["identity"]["ended"]
  if status == "running":
    assert ended is None
  else:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", ended)
    assert ended > HEADER["identity"]["started"]
  for section in ("configuration", "data", "environment", "plan", "code"):
    assert report[section] == HEADER[section]


def test_costs_are_sums_over_the_journal(tmp_path):
  report = finished(tmp_path)
  cost = report["cost"]
  # Four steps that take 4 step + (0 + 1 + 2 + 3) / 8 seconds each.
  assert cost["step_seconds"] == {
    "sampling": 10.0,
    "checking": 10.5,
    "gradient": 11.0,
    "rest": 11.5,
  }
  assert cost["seconds"] == {
    "base": 2.0,
    "memory_start": 3.0,
    "steps": 43.0,
    "evaluation": 0.5,
    "total": 48.5,
  }
  assert cost["sequences_sampled"] == 9 + 7 + 4 * 10
  assert cost["sequences_scored"] == 100 + (1 + 2 + 3 + 4)
  assert cost["tokens_sampled"] == 4 * 100
  assert report["results"] == [made_up.result(0, "greedy", 100)]
  whole = record.read_whole(tmp_path)
  assert [row["step"] for row in whole["metrics"]] == [1, 2, 3, 4]
  assert whole["samples"] == [{"step": 0, **SAMPLE}]


def test_rows_of_a_kind():
  rows = [
    {"step": 1, "kind": "a", "x": 1},
    {"step": 1, "kind": "b", "x": 2},
    {"step": 2, "kind": "a", "x": 3},
  ]
  assert record.of_kind(rows, "a") == [{"step": 1, "x": 1}, {"step": 2, "x": 3}]
  assert record.of_kind(rows, "b") == [{"step": 1, "x": 2}]
  assert record.of_kind(rows, "c") == []


def test_a_report_without_measurements_costs_nothing(tmp_path):
  made = made_up.open_log(tmp_path, copy.deepcopy(HEADER))
  report = made.write("running")
  made.close()
  assert report["results"] == []
  assert report["diagnostics"]["steps"] == 0
  assert report["cost"]["seconds"]["total"] == 0
  assert report["cost"]["sequences_sampled"] == 0
  assert report["cost"]["sequences_scored"] == 0


@pytest.mark.parametrize("resume_at", [0, 2, 4])
def test_resuming_equals_never_having_stopped(tmp_path, resume_at):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  whole.mkdir()
  parts.mkdir()
  expected = finished(whole)
  finished(parts, "interrupted")  # at step 4, after the checkpoint
  made = made_up.open_log(parts, copy.deepcopy(HEADER), resume_at)
  for step in range(resume_at + 1, 5):
    add_step(made, step)
  report = made.write("complete")
  made.close()
  for section in ("results", "cost", "diagnostics", "parts", "digest"):
    assert report[section] == expected[section]
  assert record.read(parts) == report
  for section in ("metrics", "samples"):
    assert (
      record.read_whole(parts)[section] == record.read_whole(whole)[section]
    )


def test_a_report_with_nan_is_not_written(tmp_path):
  before = finished(tmp_path, "running")
  header = with_changes({"data.splits.train.num_examples": float("nan")})
  made = made_up.open_log(tmp_path, header, 4)
  with pytest.raises(ValueError, match="not JSON compliant"):
    made.write("complete")
  made.close()
  assert record.read(tmp_path) == before


def test_a_page_that_fails_leaves_a_report_that_can_be_read(
  tmp_path, monkeypatch
):
  finished(tmp_path, "running")
  html = (tmp_path / "report.html").read_bytes()

  def fail(report):
    raise RuntimeError("no page")

  monkeypatch.setattr(page, "render", fail)
  made = made_up.open_log(tmp_path, copy.deepcopy(HEADER), 4)
  with pytest.raises(RuntimeError):
    made.write("complete")
  made.close()
  assert record.read(tmp_path)["diagnostics"]["steps"] == 4
  assert (tmp_path / "report.html").read_bytes() == html
  assert not list(tmp_path.glob(".*"))


def check_refused(folder, *parts):
  with pytest.raises(UserError) as caught:
    record.read(folder)
  message = str(caught.value)
  assert "\n" not in message
  for part in parts:
    assert part in message


def snapshot(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_that_does_not_exist_or_is_empty(tmp_path):
  assert record.read(tmp_path / "no" / "no") is None
  assert record.read(tmp_path) is None
  assert list(tmp_path.iterdir()) == []


def test_half_a_report_does_not_count(tmp_path):
  files.partial_path(tmp_path / "report.json").write_text('{"schema_ver')
  assert record.read(tmp_path) is None


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_file_in_the_place_of_the_folder(tmp_path, below):
  path = tmp_path / "file"
  path.write_text("mine")
  check_refused(path / below, "MODEL_DIR", f"{path} is a file, not a folder")
  assert path.read_text() == "mine"


@pytest.mark.parametrize(
  "name", ["thesis.tex", "checkpoints/1/x", "journal.jsonl", "report.html"]
)
def test_foreign_files(tmp_path, name):
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("mine")
  before = snapshot(tmp_path)
  check_refused(tmp_path, str(tmp_path), "is not empty", "another folder")
  files.partial_path(tmp_path / "report.json").write_text("{")
  check_refused(tmp_path, "is not empty")
  assert before.items() <= snapshot(tmp_path).items()


def test_a_folder_named_report_json(tmp_path):
  (tmp_path / "report.json").mkdir()
  check_refused(tmp_path, "holds no report.json")


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b'"text"',
    b"{}",
    b'{"status": "complete"}',
    b'{"schema_version": 3}',
    b'{"schema_version": 3, "data": 1, "configuration": 2, "environment": 3}',
    bytes(range(256)),
  ],
)
def test_another_report(tmp_path, content):
  path = tmp_path / "report.json"
  path.write_bytes(content)
  check_refused(tmp_path, f"{path} is not a report of this program")
  assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 1, 2, None])
def test_another_schema_version(tmp_path, version):
  report = finished(tmp_path) | {"schema_version": version}
  (tmp_path / "report.json").write_text(json.dumps(report))
  check_refused(
    tmp_path, f"schema version {version}", f"reads {record.SCHEMA_VERSION}"
  )


def check_same(check, old, header, difference):
  """Checks that a check names a difference, or is content without any."""
  if difference is None:
    check("folder", old, header)
    return
  with pytest.raises(UserError) as caught:
    check("folder", old, header)
  message = str(caught.value)
  assert "\n" not in message
  assert "MODEL_DIR folder belongs to another run: " in message
  assert f": {difference}; choose another MODEL_DIR" in message


EXPERIMENT = "configuration.experiment"
SPLIT = "data.splits.train"
CHANGES = [
  ({}, None),
  # Where a run is stored, how often it saves, and what only describes it.
  ({f"{EXPERIMENT}.model_dir": "runs/y"}, None),
  ({f"{EXPERIMENT}.checkpoint_period": 3}, None),
  ({f"{EXPERIMENT}.task.source.data_dir": "/elsewhere"}, None),
  ({f"{EXPERIMENT}.base.source.data_dir": "/elsewhere"}, None),
  ({f"{EXPERIMENT}.task.source.cache": "/a.npz"}, None),
  ({f"{EXPERIMENT}.base.source.cache": "/a.npz"}, None),
  (
    {f"{EXPERIMENT}.base.source.task": "gsm8k"},
    "configuration base.source.task was 'chain' there and is 'gsm8k' here",
  ),
  ({"environment.python": "3.12", "identity.started": "later"}, None),
  ({"configuration.resolved": "SEED = 0  # again"}, None),
  # All else is another run.
  ({f"{EXPERIMENT}.seed": 1}, "configuration seed was 0 there and is 1 here"),
  (
    {f"{EXPERIMENT}.task.max_length": 41},
    "configuration task.max_length was 40 there and is 41 here",
  ),
  (
    {f"{EXPERIMENT}.method.num_scored": 8},
    "configuration method.num_scored was None there and is 8 here",
  ),
  (
    {f"{EXPERIMENT}.method": None},
    "configuration method was {'name': 'trice', 'num_draws': 1, "
    "'num_scored': None} there and is None here",
  ),
  (
    {f"{EXPERIMENT}.evaluation.votes": [1, 3]},
    "configuration evaluation.votes[1] was 2 there and is 3 here",
  ),
  (
    {f"{EXPERIMENT}.added": 5},
    "configuration added was None there and is 5 here",
  ),
  (
    {f"{SPLIT}.fingerprint": "cd"},
    "data splits.train.fingerprint was 'ab' there and is 'cd' here",
  ),
  (
    {"randomness.settings.jax_enable_x64": True},
    "randomness settings.jax_enable_x64 was False there and is True here",
  ),
  # The first one is named, in the order configuration, data, randomness, and
  # not one that does not matter.
  (
    {
      "randomness.settings.jax_enable_x64": True,
      f"{SPLIT}.fingerprint": "cd",
      f"{EXPERIMENT}.task.source.task": "gsm8k",
      f"{EXPERIMENT}.seed": 1,
      f"{EXPERIMENT}.model_dir": "runs/y",
      f"{EXPERIMENT}.checkpoint_period": 3,
    },
    "configuration seed was 0 there and is 1 here",
  ),
]


def looks_at_nothing(directory, old, header):
  """Lets everything go on."""


def looks_at_the_seed(directory, old, header):
  """Compares one field."""
  seeds = [x["configuration"]["experiment"]["seed"] for x in (old, header)]
  if seeds[0] != seeds[1]:
    record.check_same_run(directory, old, header)


def looks_at_everything(directory, old, header):
  """Takes every field for one that matters."""
  if old["configuration"] != header["configuration"]:
    raise UserError("another run")


def check_every_change(check, old):
  for changes, difference in CHANGES:
    check_same(check, old, with_changes(changes), difference)


@pytest.mark.parametrize(("changes", "difference"), CHANGES)
def test_another_run_is_identified_by_its_first_difference(
  tmp_path, changes, difference
):
  finished(tmp_path)
  old = record.read(tmp_path)
  header = with_changes(changes)
  check_same(record.check_same_run, old, header, difference)


@pytest.mark.parametrize(
  "broken", [looks_at_nothing, looks_at_the_seed, looks_at_everything]
)
def test_wrong_checks_are_rejected(tmp_path, broken):
  finished(tmp_path)
  old = record.read(tmp_path)
  with pytest.raises((AssertionError, UserError, pytest.fail.Exception)):
    check_every_change(broken, old)


@pytest.mark.parametrize("name", ["base.start.path", "base.path"])
def test_another_checkpoint_to_begin_with_is_another_run(tmp_path, name):
  """A header has no hash of its weights; two reports have."""
  old, moved = (
    with_changes(
      {f"{EXPERIMENT}.base": {"path": path}}
      if name == "base.path"
      else {f"{EXPERIMENT}.base.start": {"path": path}}
    )
    for path in ("/a/model", "/b/model")
  )
  with pytest.raises(UserError, match=f"{name} was '/a/model' there"):
    record.check_same_run(tmp_path, old, moved)
  record.check_same_run(tmp_path, old, copy.deepcopy(old))
  assert record.what_differs(old, moved) == []


def test_what_json_changes_makes_no_difference(tmp_path):
  # Tuples come back from a report as lists.
  finished(tmp_path)
  header = with_changes({f"{EXPERIMENT}.evaluation.votes": (1, 2)})
  record.check_same_run(tmp_path, record.read(tmp_path), header)


def test_a_journal_that_lacks_steps_is_refused(tmp_path):
  finished(tmp_path)
  made_up.open_log(tmp_path, copy.deepcopy(HEADER), 4).close()
  with pytest.raises(UserError, match=r"lacks step 5, though .* of step 6"):
    made_up.open_log(tmp_path, copy.deepcopy(HEADER), 6)
  path = tmp_path / "journal.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:-2]) + '{"step": 3, "ki')
  with pytest.raises(UserError, match="lacks step 3"):
    made_up.open_log(tmp_path, copy.deepcopy(HEADER), 4)
  path.unlink()
  with pytest.raises(UserError, match="lacks step 0"):
    made_up.open_log(tmp_path, copy.deepcopy(HEADER), 4)
