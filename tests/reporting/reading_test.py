"""A report that is read is as its run left it; else a line says what is not."""

import json
import os
import shutil

import pytest

from cot_latent import cli
from cot_latent.commands import study
from cot_latent.errors import UserError
from cot_latent.reporting import reading, record, schema
from cot_latent.runtime import files
from tests.reporting import made_up, reports_fuzz

JOURNAL = record.JOURNAL


@pytest.fixture
def run(tmp_path):
  """The folder of a small finished run."""
  reports_fuzz.write_run(tmp_path / "run")
  return tmp_path / "run"


@pytest.fixture
def edited(run):
  """Another folder of the same run, whose accuracy was raised by hand."""
  other = shutil.copytree(run, run.with_name("edited"))
  text = (other / "report.json").read_text()
  assert '"accuracy": 0.25' in text
  (other / "report.json").write_text(
    text.replace('"accuracy": 0.25', '"accuracy": 1.0')
  )
  return other


def call(capsys, *arguments):
  """The exit status of a command, and what it printed on each stream."""
  capsys.readouterr()
  status = cli.main([*map(str, arguments)])
  return status, *capsys.readouterr()


def check_one_line(found, *parts):
  status, out, err = found
  assert (status, out) == (2, "")
  assert err.startswith("t5x: error: ")
  assert err.count("\n") == 1
  for part in parts:
    assert part in err


def write(run, **changes):
  """Edits a report, hashes and all, as a forger would."""
  report = json.loads((run / "report.json").read_text())
  for name, value in changes.items():
    *path, last = name.split("__")
    place = report
    for key in path:
      place = place[int(key) if isinstance(place, list) else key]
    if value is None:
      del place[last]
    else:
      place[last] = value
  made_up.write(run / "report.json", made_up.sealed(report))


# Edits.


@pytest.mark.parametrize("command", ["compare", "show", "rerun", "export"])
def test_no_command_takes_an_edited_report(run, edited, command, capsys):
  more = {"compare": [run], "export": ["--output=x"]}.get(command, [])
  found = call(capsys, command, edited, *more)
  check_one_line(found, "edited/report.json: section results was edited: copy")


def test_a_table_and_a_study_take_no_edited_report(run, edited, tmp_path):
  with pytest.raises(UserError, match="section results was edited"):
    study.collect([study.Run("a", [], [], edited)], tmp_path / "kept")
  assert not list((tmp_path / "kept").iterdir())
  study.collect([study.Run("a", [], [], run)], tmp_path / "kept")
  kept = tmp_path / "kept/a.json"
  assert json.loads(kept.read_text()) == record.read_file(run / "report.json")


@pytest.mark.parametrize("content", [b"", b"{}\n"])
def test_an_edited_journal_makes_no_equal_runs(run, content, capsys):
  other = shutil.copytree(run, run.with_name("other"))
  assert call(capsys, "compare", run, other)[:2] == (
    0,
    "verdict: bitwise equal\n  digest "
    f"{record.read_file(run / 'report.json')['digest']} of both\n",
  )
  (other / JOURNAL).write_bytes(content)
  check_one_line(
    call(capsys, "compare", run, other),
    "other/report.json: part journal.jsonl: it was changed: copy it again",
  )
  # What reads no journal still reads the report.
  assert call(capsys, "show", other)[0] == 0


def test_a_growing_journal_is_read_as_far_as_the_report_knows(run):
  before = (run / JOURNAL).read_bytes()
  (run / JOURNAL).write_bytes(before + b'{"step": 3, "ki')
  opened = reading.open_report(run / "report.json", JOURNAL)
  assert opened.parts == {JOURNAL: before}


def test_a_report_without_its_parts_is_read(run):
  alone = shutil.copy(run / "report.json", run.parent / "kept.json")
  opened = reading.open_report(run.parent / "kept.json", JOURNAL)
  assert opened.parts == {JOURNAL: None}
  assert opened.report == json.loads(alone.read_text())


def test_a_digest_of_another_run_is_refused(run):
  report = json.loads((run / "report.json").read_text())
  report["digest"] = "0" * 64
  bare = {k: v for k, v in report.items() if k not in ("hashes", "seal")}
  made_up.write(run / "report.json", bare | reports_fuzz.seals.seal(bare))
  with pytest.raises(UserError, match="its digest does not match its content"):
    reading.open_report(run / "report.json")


@pytest.mark.parametrize(
  ("replace", "fault"),
  [
    (lambda path: path.mkdir(), "is not a file"),
    (os.mkfifo, "is not a file"),
    (lambda path: path.symlink_to(path), "cannot be read"),
    (
      lambda path: path.symlink_to(path.parents[2] / "x"),
      "is outside the run's folder",
    ),
    (
      lambda path: (
        path.parent.rename(path.parents[2] / "x1")
        and path.parent.symlink_to(path.parents[2] / "x1")
      ),
      "is outside the run's folder",
    ),
    (lambda path: path.write_bytes(b"x" * 10**6), "it was changed"),
  ],
)
def test_a_part_of_another_kind_is_not_read(run, replace, fault):
  (run.parent / "x").write_bytes(b"")
  (run / reports_fuzz.OUTPUTS).unlink()
  replace(run / reports_fuzz.OUTPUTS)
  with pytest.raises(UserError, match=f"greedy.jsonl: {fault}"):
    reading.open_report(run / "report.json", reports_fuzz.OUTPUTS)


# Reports that lack something.


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (
      {"diagnostics__acceptance": None},
      "$.diagnostics: 'acceptance' is a required",
    ),
    (
      {"diagnostics__acceptance": {}},
      "$.diagnostics.acceptance: 'first' is a req",
    ),
    ({"data__answers": {}}, "$.data.answers: 'form' is a required property"),
    ({"parts__1__split": None}, "$.parts[1]: 'split' is a dependency of"),
    ({"parts__1__step": None}, "$.parts[1]: 'step' is a dependency of 'dec"),
    ({"parts__1__path": "a\x00b"}, "$.parts[1].path: 'a\\x00b' does not"),
    ({"results__0__correct": 1e30}, "$.results[0].correct: 1e+30 is greater"),
    ({"results__0__correct": 1.0}, "$.results[0].correct: 1.0 is not of type"),
    ({"results__0__total": 10**30}, "is not a report of this program"),
    ({"results__0__total": 0}, "0 is less than the minimum of 1"),
    ({"results__0__correct": 5}, "$.results[0]: 5 of 4 correct"),
    ({"cost__seconds__total": float("inf")}, "is not a report of this program"),
    ({"plan__steps": None}, "$.plan: 'steps' is a required property"),
  ],
)
def test_an_incomplete_report_is_one_line(run, changes, said, capsys):
  for command in ("show", "verify"):
    assert call(capsys, command, run)[0] == 0
  # What the schema forbids can be written by a forger, if not by us.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(made_up.files, "to_json", json.dumps)
    write(run, **changes)
  for command in (["show"], ["verify"], ["compare", run]):
    check_one_line(call(capsys, *command, run), "run/report.json", said)


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("[1]", "line 2 is not a row of a journal: it has no kind"),
    ('{"kind": "params"}', "line 2 is not a row of a journal (params): $: 's"),
    ('{"kind": "new", "step": -1}', "(new): $.step: -1 is less than the mini"),
    ('{"kind": "metrics", "step": 1}', "(metrics): $: 'chain/accept_rate' is"),
    ('{"kind": "params", "step": 1e30}', "(params): $: 'sha256' is a required"),
    ("{", "line 2: not JSON"),
    ('{"kind": "new", "step": NaN}', "line 2: not JSON"),
  ],
)
def test_a_journal_of_other_lines_is_one_line(run, line, said, capsys):
  lines = (run / JOURNAL).read_text().splitlines()
  lines[1] = line
  content = "".join(f"{one}\n" for one in lines).encode()
  reports_fuzz.with_part(run, JOURNAL, content)
  check_one_line(call(capsys, "compare", run, run), JOURNAL, said)
  status, out, _ = call(capsys, "verify", run)
  assert status == 1
  assert f"sections from the journal: {JOURNAL}, line 2" in out
  assert said in out


def test_rows_of_all_kinds_are_taken():
  quickstart = reports_fuzz.QUICKSTART / JOURNAL
  rows = reading.parse_rows(quickstart.read_bytes(), "journal")
  # Where all goes well no question is stuck.
  known = schema.load()["$defs"]["rows"].keys() - {"any", "stuck"}
  assert {row["kind"] for row in rows} - {"stuck"} == known
  assert rows == files.read_rows(quickstart, None)


# What it says stays text.


def test_what_a_report_says_is_shown_and_not_obeyed(run, capsys):
  write(
    run,
    error="\x1b]0;owned\x07 no\r\nverdict: bitwise equal",
    identity__run_id="\x1b[2J\u202eid",
  )
  status, out, _ = call(capsys, "show", run)
  assert status == 0
  lines = out.splitlines()
  assert lines[0] == r"\x1b[2J\u202eid: complete"
  assert lines[1] == (r"error: \x1b]0;owned\x07 no\r\nverdict: bitwise equal")
