"""What does not fit makes no table, and is named in a line."""

import json
import pathlib
import re
import sys

import pytest

from cot_latent.errors import UserError
from cot_latent.reporting.tables.make import make_tables
from tests.reporting import made_up
from tests.reporting.made_up import make_report, write_case
from tests.reporting.tables_cases import (
  ENDINGS,
  MIXTURE_SPEC,
  PAPER_SPEC,
  write_mixture,
)

# What is refused.


def check_refused(path, *parts):
  """Checks that nothing is written, and why, in one line."""
  before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
  with pytest.raises(UserError) as caught:
    make_tables(path)
  message = str(caught.value)
  assert "\n" not in message
  for part in parts:
    assert part in message
  after = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
  assert after == before


TASK = "configuration__experiment__task"
TEST = "data__splits__test"
CHANGES = [
  ({"status": "running"}, "is a run that is running: finish it"),
  ({"status": "failed"}, "is a run that is failed"),
  ({"status": "interrupted"}, "is a run that is interrupted"),
  (
    {"suspect": ["no draw was correct"]},
    "is suspect: no draw was correct: fix",
  ),
  ({"schema_version": 1}, "has schema version 1; this program reads 3"),
  ({"identity__method": "tricky"}, "is of method 'tricky', which no row names"),
  ({f"{TEST}__fingerprint": "c"}, "test fingerprint is 'c' and not "),
  (
    {
      "results": [
        made_up.result(10, "greedy", 9) | {"total": 9, "verdicts": "1" * 9}
      ]
    },
    "number of test questions is 9 and not 200",
  ),
  ({"data__task": "chain_v2"}, "task is 'chain_v2' and not 'chain_v1'"),
  ({f"{TASK}__max_length": 41}, "max_length is 41 and not 40 as in"),
  ({f"{TASK}__prompt_length": 33}, "prompt_length is 33 and not 32 as in"),
  (
    {"configuration__experiment__evaluation__num_samples": 9},
    "num_samples is 9 and not 8 as in the baseline's trice_basic-0.json",
  ),
  ({"results": []}, "has 0 results of decoder 'greedy' on 'chain_v1' at step"),
  (
    {"plan__steps": 11},
    "has 0 results of decoder 'greedy' on 'chain_v1' at st",
  ),
  ({"results": [made_up.result(10, "greedy", 9)] * 2}, "has 2 results of dec"),
  (
    {"results": [made_up.result(10, "greedy", 9) | {"verdicts": "10"}]},
    "$.results[0].verdicts: they are not those of its counts",
  ),
  ({"cost": {}}, "is not a report of this program"),
  ({"data": []}, "is not a report of this program"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGES)
def test_a_report_that_does_not_fit(tmp_path, changes, message):
  path = write_case(tmp_path)
  report = tmp_path / "runs/trice-1.json"
  made_up.write(report, make_report("trice", 1, **changes))
  check_refused(path, f"{report}", message)


def test_what_is_left_out_of_no_report_makes_a_table(tmp_path):
  # What the refusals above start from is taken.
  path = write_case(tmp_path)
  made_up.write(tmp_path / "runs/trice-1.json", make_report("trice", 1))
  assert make_tables(path)


@pytest.mark.parametrize(
  "content",
  [b"", b"{", b"[]", b"3", b"null", b"{}", bytes(range(256)), b"[" * 10**5],
)
def test_a_file_that_is_no_report(tmp_path, content):
  path = write_case(tmp_path)
  file = tmp_path / "runs/notes.json"
  file.write_bytes(content)
  check_refused(path, f"{file} is not a report of this program")


def test_a_report_that_cannot_be_read(tmp_path):
  path = write_case(tmp_path)
  (tmp_path / "runs/x.json").mkdir()
  check_refused(path, f"{tmp_path / 'runs/x.json'} cannot be read")


def test_an_edited_report(tmp_path):
  path = write_case(tmp_path)
  file = tmp_path / "runs/trice-1.json"
  file.write_text(file.read_text().replace('"correct": 184', '"correct": 194'))
  check_refused(path, f"{file}: section results was edited")


def test_other_seeds_than_the_baseline_s(tmp_path):
  path = write_case(tmp_path)
  (tmp_path / "runs/trice-1.json").unlink()
  check_refused(
    path, "row 'trice' has seeds 0, 2, and the baseline 'trice_basic' has 0, 1"
  )
  made_up.write(tmp_path / "runs/a.json", make_report("trice", 7))
  check_refused(path, "row 'trice' has seeds 0, 2, 7, and")


def test_the_same_seed_twice(tmp_path):
  path = write_case(tmp_path)
  made_up.write(tmp_path / "runs/b/report.json", make_report("trice", 1))
  check_refused(
    path,
    f"{tmp_path / 'runs'}/",
    "has the same method and seed (1) as",
    "b/report.json",
    "trice-1.json",
  )


def test_a_row_without_reports(tmp_path):
  path = write_case(tmp_path, methods=["trice_basic"])
  check_refused(path, "row 'trice':", "has no report of this method")
  # A folder that is not there is an empty one.
  path.write_text(path.read_text().replace('"runs"', '"none"'))
  check_refused(path, "row 'trice':", f"{tmp_path / 'none'} has no report")


def test_a_folder_of_reports_that_no_disk_can_have(tmp_path):
  path = write_case(tmp_path, methods=["trice_basic"])
  path.write_text(path.read_text().replace('"runs"', f'"{"a" * 300}"'))
  check_refused(path, "cannot be read", "too long")


def test_a_baseline_without_reports(tmp_path):
  spec = PAPER_SPEC.replace('baseline = "trice_basic"', 'baseline = "star"')
  check_refused(write_case(tmp_path, spec), "row 'star', the baseline, has no")


def test_an_average_that_does_not_exist(tmp_path):
  path = write_mixture(tmp_path, MIXTURE_SPEC.replace("2 tasks", "27 tasks"))
  check_refused(
    path, "runs/a.json has no average '27 tasks'", "it has '2 tasks'"
  )


def write_by_task(folder, spec=MIXTURE_SPEC, methods=("trice",), seeds=(0,)):
  """Reports of runs on one task each."""
  path = folder / "mixture.toml"
  path.write_text(spec)
  for task, right in (("chain_v1", 100), ("other_v1", 150)):
    for method in methods:
      for seed in seeds:
        results = [
          made_up.result(step, "greedy", right + seed) | {"task": task}
          for step in (0, 5, 10)
        ]
        report = make_report(method, seed, data__task=task, results=results)
        made_up.write(folder / f"runs/{method}-{task}-{seed}.json", report)
  return path


def test_tasks_that_were_learnt_one_by_one(tmp_path):
  spec = MIXTURE_SPEC.replace('"part_v1"', '"other_v1"')
  text = make_tables(write_by_task(tmp_path, spec))
  (line,) = re.findall(r"^\| .*trice .*$", text, re.MULTILINE)
  shown = [cell.split()[0] for cell in line.strip("| ").split("|")[1:]]
  assert shown[0] == "62.5"  # all: 250 of 400
  assert "62.5" in shown[1]  # the mean over tasks
  made = json.loads((tmp_path / "mixture.cells.json").read_text())
  files_of = [r["file"] for r in made["cells"][0]["reports"]]
  assert files_of == ["trice-chain_v1-0.json", "trice-other_v1-0.json"]


def test_tasks_learnt_one_by_one_before_the_end(tmp_path):
  spec = MIXTURE_SPEC.replace('"part_v1"', '"other_v1"').replace(
    'decoder = "greedy"', 'decoder = "greedy"\nstep = 5'
  )
  path = write_by_task(tmp_path, spec)
  assert "| 62.5" in make_tables(path)
  path.write_text(spec.replace("step = 5", "step = 3"))
  with pytest.raises(UserError, match=r"has 0 results .* at step 3"):
    make_tables(path)


def test_a_task_that_one_method_lacks(tmp_path):
  spec = MIXTURE_SPEC.replace('"part_v1"', '"other_v1"').replace(
    "[[columns]]", '[[rows]]\nmethod = "star"\n[[columns]]', 1
  )
  path = write_by_task(tmp_path, spec, ("trice", "star"))
  assert make_tables(path)
  for made in tmp_path.glob("mixture.[!t]*"):
    made.unlink()
  (tmp_path / "runs/star-other_v1-0.json").unlink()
  check_refused(
    path, "row 'trice' has a report on task 'other_v1'", "row 'star' has none"
  )


def test_a_task_with_two_reports(tmp_path):
  path = write_by_task(tmp_path)
  report = (tmp_path / "runs/trice-other_v1-0.json").read_text()
  (tmp_path / "runs/x.json").write_text(report)
  check_refused(path, "x.json has the same method and seed (0) as")


OWN_PROMPTS = made_up.SPEC.replace(
  'label = "TRICE"', 'label = "TRICE"\nown_prompts = true'
)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({f"{TEST}__fingerprint": "c"}, None),
    ({f"{TASK}__prompt_length": 33}, None),
    ({f"{TEST}__ids_sha256": "c" * 64}, "the test questions' ids is 'ccc"),
    ({f"{TASK}__max_length": 41}, "max_length is 41 and not 40"),
  ],
)
def test_prompts_of_its_own(tmp_path, changes, message):
  path = write_case(tmp_path, OWN_PROMPTS)
  report = make_report("trice", 1, **changes)
  made_up.write(tmp_path / "runs/trice-1.json", report)
  if message is None:
    assert "With prompts of their own: TRICE." in make_tables(path)
  else:
    check_refused(path, "trice-1.json", message)


SPEC_CHANGES = [
  ("title = ", "tilte = ", "title is missing: give a text"),
  ("caption = ", "captoin = ", "no key 'captoin'; did you mean caption?"),
  ("title = ", "title =", None),
  ('"Chained arithmetic"', "3", "title = 3 is not a text"),
  ('"Chained arithmetic"', '" "', "title is empty"),
  ('"A tiny model."', r'"\u001b[2J"', r"caption = '\x1b[2J' has a control"),
  (
    'reports = "runs"',
    'reports = "runs"\npaper = 3',
    "paper = 3 is not ta",
  ),
  (
    'baseline = "trice_basic"',
    'baseline = "x"',
    "baseline 'x' is not the method of a row",
  ),
  ('method = "trice_basic"', 'method = "trice"', "'trice' is there twice"),
  ('"TRICE, basic"', '"TRICE"', "rows: label 'TRICE' is there twice"),
  ('"Votes"', '"Greedy"', "columns: label 'Greedy' is there twice"),
  ('method = "trice"\n', "", "rows[1]: method is missing"),
  ('decoder = "greedy"', 'decoder = "greed"', "columns[1]: decoder = 'greed'"),
  ('decoder = "greedy"', "", "give one of decoder, cost and paper_only"),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\ncost = "seconds"',
    "columns[1]: give one of decoder, cost",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\nstep = -1',
    "step = -1 is not 'last' or a whole number from 0",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\nstep = "first"',
    "step = 'first' is not 'last' or a whole number from 0",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\nstep = true',
    "step = True is not 'last' or a whole number from 0",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\ntask = "a"\naverage = "b"',
    "give one of task and average",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\nk = 2',
    "columns[1]: decoder = 'pass@k' needs k, from 1",
  ),
  ('decoder = "greedy"', 'decoder = "pass@k"', "'pass@k' needs k, from 1"),
  ("[[rows]]", "[[lines]]", "rows is missing: give tables, [[rows]]"),
  ("title = ", 'plot = "Sampled"\ntitle = ', "plot = 'Sampled' is not the la"),
  ("title = ", "transposed = 1\ntitle = ", "transposed = 1 is not true or"),
  ("title = ", "rows = [1]\ntitle = ", "cannot be read: Cannot"),
  ("title = ", "title ", "cannot be read: Expected '='"),
]


@pytest.mark.parametrize(("old", "new", "message"), SPEC_CHANGES)
def test_a_description_that_does_not_fit(tmp_path, old, new, message):
  path = write_case(tmp_path, made_up.SPEC.replace(old, new))
  if message is None:
    assert make_tables(path)
  else:
    check_refused(path, str(path), message)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    (
      'row = "trice"',
      'row = "tric"',
      "paper[1]: row 'tric' is not the method of a row",
    ),
    (
      'column = "Greedy"',
      'column = "G"',
      "paper[1]: column 'G' is not the label of a column",
    ),
    ("67.8", '"67.8"', "paper[1]: value = '67.8' is not a number"),
    ("67.8", "nan", "paper[1]: value = nan is not a number"),
    ("67.8", "true", "paper[1]: value = True is not a number"),
    ("67.8", "678.0", "value = 678 is not between 0 and 100, in percent"),
    ('where = "A"', 'wher = "A"', "paper[1]: where is missing"),
    ('where = "B"', 'where = "A"', "('star', 'Greedy', 'A') is there twice"),
  ],
)
def test_a_figure_that_does_not_fit(tmp_path, old, new, message):
  check_refused(write_case(tmp_path, PAPER_SPEC.replace(old, new, 1)), message)


def test_no_description(tmp_path):
  check_refused(tmp_path / "no.toml", f"no file {tmp_path / 'no.toml'}")
  (tmp_path / "b.toml").write_bytes(bytes(range(256)))
  check_refused(tmp_path / "b.toml", "b.toml cannot be read")


# All or nothing.


def write_old(folder):
  for ending in (".md", ".svg"):
    (folder / f"chain{ending}").write_text("old")


@pytest.mark.parametrize("failing", range(1, len(ENDINGS) + 1))
def test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, failing):
  path = write_case(tmp_path)
  write_old(tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  replace, calls = pathlib.Path.replace, []

  def fail(self, target):
    calls.append(target)
    if len(calls) == failing:
      raise OSError("no")
    return replace(self, target)

  monkeypatch.setattr(pathlib.Path, "replace", fail)
  with pytest.raises(OSError, match="no"):
    make_tables(path)
  after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  assert after == before


def test_without_matplotlib_nothing_is_written(tmp_path, monkeypatch):
  for name in [*sys.modules]:
    if name.partition(".")[0] == "matplotlib":
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  check_refused(
    write_case(tmp_path),
    "t5x tables draws with matplotlib, which is not installed: pip install",
  )


def test_a_folder_in_the_place_of_a_file(tmp_path):
  path = write_case(tmp_path)
  (tmp_path / "chain.csv").mkdir()
  check_refused(path, f"{tmp_path / 'chain.csv'} is a folder")


def test_a_file_in_the_place_of_the_folder(tmp_path):
  path = write_case(tmp_path)
  for output in (path, path / "below"):
    with pytest.raises(
      UserError, match="is not a folder: give another one with"
    ):
      make_tables(path, output)


def test_another_folder(tmp_path):
  path = write_case(tmp_path)
  make_tables(path, tmp_path / "new/out")
  names = {p.name for p in (tmp_path / "new/out").iterdir()}
  assert names == {f"chain{ending}" for ending in ENDINGS}
  assert not (tmp_path / "chain.md").exists()
