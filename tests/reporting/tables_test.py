"""A table is made of reports alone, or is not made."""

import csv
import io
import json
import math
import pathlib
import re
import sys

import pytest

from cot_latent.errors import UserError
from cot_latent.reporting import stats
from cot_latent.reporting.comparison import Estimate
from cot_latent.reporting.tables import cells as table_cells
from cot_latent.reporting.tables import make as make_tables
from cot_latent.reporting.tables import plot as table_plot
from cot_latent.reporting.tables import reports as table_reports
from cot_latent.reporting.tables import spec as table_spec
from cot_latent.reporting.tables import text as table_text
from tests.reporting import made_up
from tests.reporting.made_up import make_report, write_case

TEXTS = (".md", ".tex", ".csv", ".cells.json")
ENDINGS = (*TEXTS, ".png", ".svg")
T2 = 4.302652730  # Student's quantile of two degrees of freedom


def read_csv(folder, name="chain"):
  text = (folder / f"{name}.csv").read_text()
  return list(csv.DictReader(io.StringIO(text)))


def number(rows, method, column, statistic, seed="", source="reports"):
  (found,) = [
    float(row["value"])
    for row in rows
    if (row["method"], row["column"], row["statistic"], row["seed"])
    == (method, column, statistic, str(seed))
    and row["source"] == source
  ]
  return found


def filled(path):
  spec = table_spec.read(path)
  return table_cells.fill(spec, table_reports.collect(spec))


# What is made.


def test_the_table_in_markdown(tmp_path):
  text = make_tables.make(write_case(tmp_path))
  assert text == (tmp_path / "chain.md").read_text()
  lines = text.splitlines()
  # 180, 184 and 188 of 200, and 6 more than the baseline with an s.d. of 2.
  assert lines[:8] == [
    "# Chained arithmetic",
    "",
    "A tiny model.",
    "",
    "| Method | Greedy | Votes | Sampled |",
    "| --- | ---: | ---: | ---: |",
    "| TRICE | **92.0 ± 5.0** | 95.5 ± 1.2 | 1,000 |",
    "| TRICE, basic | 89.0 ± 2.5 | 95.5 ± 1.2 | 4,000 |",
  ]
  assert lines[-1] == (r"| TRICE | +3.0 \[+0.5, +5.5\] | 0.0 \[−2.2, +2.2\] |")
  for note in ("3 seeds (0, 1, 2)", "200 questions of chain", "of 8 samples"):
    assert note in text


def test_numbers_are_at_full_precision(tmp_path):
  make_tables.make(write_case(tmp_path))
  rows = read_csv(tmp_path)
  for method, correct in made_up.GREEDY.items():
    for seed, right in enumerate(correct):
      assert number(rows, method, "Greedy", "value", seed) == right / 200
  half = T2 * 0.02 / math.sqrt(3)
  for statistic, wanted in {
    "n": 3,
    "mean": 0.92,
    "sd": 0.02,
    "t_low": 0.92 - half,
    "t_high": 0.92 + half,
    "difference_mean": 0.03,
    "difference_sd": 0.01,
    "difference_t_low": 0.03 - half / 2,
    "difference_t_high": 0.03 + half / 2,
    "is_best": 1,
  }.items():
    found = number(rows, "trice", "Greedy", statistic)
    assert found == pytest.approx(wanted, abs=1e-11)
  assert number(rows, "trice", "Votes", "is_best") == 0
  assert number(rows, "trice_basic", "Sampled", "mean") == 4000
  named = {(row["method"], row["statistic"]) for row in rows}
  assert ("trice_basic", "difference_mean") not in named
  assert {row["unit"] for row in rows} == {"share", "sequences"}


def test_every_cell_names_its_reports(tmp_path):
  make_tables.make(write_case(tmp_path))
  made = json.loads((tmp_path / "chain.cells.json").read_text())
  assert len(made["cells"]) == 2 * 3
  for cell in made["cells"]:
    assert [report["seed"] for report in cell["reports"]] == [0, 1, 2]
    for named in [*cell["reports"], *cell.get("baseline_reports", [])]:
      report = json.loads((tmp_path / "runs" / named["file"]).read_text())
      assert named["digest"] == report["digest"]
      assert named["run_id"] == report["identity"]["run_id"]
    assert all(cell["method"] in r["run_id"] for r in cell["reports"])
  has_difference = {
    (c["method"], c["column"]) for c in made["cells"] if "difference" in c
  }
  assert has_difference == {("trice", "Greedy"), ("trice", "Votes")}


def test_reports_in_folders_give_the_same(tmp_path):
  one, other = tmp_path / "one", tmp_path / "other"
  one.mkdir()
  other.mkdir()
  text = make_tables.make(write_case(one))
  path = write_case(other)
  for compact in list((other / "runs").iterdir()):
    seed, method = int(compact.stem[-1]), compact.stem[:-2]
    compact.unlink()
    sampled = 1000 if method == "trice" else 4000
    report = make_report(
      method,
      seed,
      made_up.GREEDY[method][seed],
      made_up.VOTES[method][seed],
      sampled,
    )
    made_up.write(other / "runs" / compact.stem / "report.json", report)
  assert make_tables.make(path) == text
  assert (one / "chain.csv").read_bytes() == (other / "chain.csv").read_bytes()


def test_one_seed_has_the_interval_over_questions(tmp_path):
  text = make_tables.make(write_case(tmp_path, seeds=[1]))
  low, high = stats.wilson_interval(184, 200)
  assert f"| TRICE | 92.0 \\[{100 * low:.1f}, {100 * high:.1f}\\] |" in text
  assert "one seed (1), with Wilson’s 95% interval" in text
  rows = read_csv(tmp_path)
  assert number(rows, "trice", "Greedy", "wilson_low") == low
  assert number(rows, "trice", "Greedy", "wilson_high") == high
  assert {"sd", "t_low", "difference_t_low"}.isdisjoint(
    row["statistic"] for row in rows
  )
  # A difference of one pair has no interval, and nothing is best.
  assert "| TRICE | +3.0 | +0.5 |" in text
  assert "**" not in text


COST_SPEC = made_up.SPEC.replace("sequences_sampled", "{cost}")


@pytest.mark.parametrize(
  ("cost", "shown"),
  [
    ("sequences_sampled", "1,000"),
    ("sequences_scored", "2,000"),
    ("seconds", "72 s"),  # 70.5, 71.5 and 72.5
  ],
)
def test_costs(tmp_path, cost, shown):
  text = make_tables.make(
    write_case(tmp_path, COST_SPEC.replace("{cost}", cost))
  )
  (line,) = re.findall(r"^\| TRICE \| \*\*.*$", text, re.MULTILINE)
  assert line.endswith(f" {shown} |")


@pytest.mark.parametrize(
  ("step", "is_first"), [(0, True), (10, False), (99, False)]
)
def test_the_result_is_of_the_step_that_is_asked_for(tmp_path, step, is_first):
  spec = made_up.SPEC.replace(
    'decoder = "greedy"', f'decoder = "greedy"\nstep = {step}'
  )
  text = make_tables.make(write_case(tmp_path, spec))
  # 30, 31 and 32 of 200
  assert ("| TRICE | 15.5 ± " in text) == is_first


def test_a_step_without_evaluation_is_refused(tmp_path):
  spec = made_up.SPEC.replace(
    'decoder = "greedy"', 'decoder = "greedy"\nstep = 3'
  )
  with pytest.raises(UserError, match=r"has 0 results of .* at step 3, and"):
    make_tables.make(write_case(tmp_path, spec))


MIXTURE_SPEC = """
title = "A mixture"
reports = "runs"
baseline = "trice"
[[rows]]
method = "trice"
[[columns]]
label = "All"
decoder = "greedy"
[[columns]]
label = "Mean"
decoder = "greedy"
average = "2 tasks"
[[columns]]
label = "Part"
decoder = "greedy"
task = "part_v1"
"""


def write_mixture(folder, spec=MIXTURE_SPEC):
  path = folder / "mixture.toml"
  path.write_text(spec)
  part = made_up.result(10, "greedy", 44) | {"task": "part_v1"}
  whole = made_up.result(10, "greedy", 100, {"2 tasks": 0.375})
  made_up.write(folder / "runs/a.json", make_report(results=[whole, part]))
  return path


def test_a_mixture(tmp_path):
  text = make_tables.make(write_mixture(tmp_path))
  # An average over tasks has no interval over questions.
  (line,) = re.findall(r"^\| trice \|.*$", text, re.MULTILINE)
  cells = [cell.strip() for cell in line.split("|")[2:-1]]
  assert cells[0].startswith("50.0 \\[")
  assert cells[1] == "37.5"
  assert cells[2].startswith("22.0 \\[")


PAPER_SPEC = """
title = "Ours and theirs"
reports = "runs"
baseline = "trice_basic"
rows = [
  { method = "trice", label = "TRICE" },
  { method = "trice_basic" },
  { method = "star", label = "STaR" },
]
columns = [
  { label = "Greedy", decoder = "greedy" },
  { label = "Valid", paper_only = true },
]
paper = [
  { row = "trice", column = "Greedy", value = 67.8, where = "A" },
  { row = "star", column = "Greedy", value = 62, where = "A" },
  { row = "star", column = "Greedy", value = 61.5, where = "B" },
  { row = "star", column = "Valid", value = 91.6, where = "A" },
]
"""


def test_figures_of_papers_stand_beside_ours(tmp_path):
  text = make_tables.make(write_case(tmp_path, PAPER_SPEC))
  lines = text.splitlines()
  assert lines[2] == "| Method | Greedy | Greedy (A) | Greedy (B) | Valid (A) |"
  assert lines[4:7] == [
    "| TRICE | **92.0 ± 5.0** | 67.8 | – | – |",
    r"| trice\_basic | 89.0 ± 2.5 | – | – | – |",
    "| STaR | not run | 62.0 | 61.5 | 91.6 |",
  ]
  rows = read_csv(tmp_path)
  assert number(rows, "trice", "Greedy", "value", source="A") == 0.678
  assert number(rows, "star", "Greedy", "value", source="B") == 0.615
  # Of what was not run there is neither a difference nor a point.
  (differences,) = re.findall(r"Differences to.*", text, re.DOTALL)
  assert "STaR" not in differences
  assert [
    p.label for p in table_plot.points(filled(tmp_path / "chain.toml"))
  ] == [
    "TRICE",
    "trice_basic",
  ]


def test_a_transposed_table(tmp_path):
  spec = "transposed = true\n" + PAPER_SPEC
  lines = make_tables.make(write_case(tmp_path, spec)).splitlines()
  assert lines[2] == (
    r"|  | TRICE | TRICE (A) | trice\_basic | STaR | STaR (A) | STaR (B) |"
  )
  assert lines[4:6] == [
    "| Greedy | **92.0 ± 5.0** | 67.8 | 89.0 ± 2.5 | not run | 62.0 | 61.5 |",
    "| Valid | – | – | – | – | 91.6 | – |",
  ]


def test_nothing_run_at_all(tmp_path):
  path = write_case(tmp_path, PAPER_SPEC, methods=())
  path.write_text(
    PAPER_SPEC.replace('row = "trice",', 'row = "trice_basic",').replace(
      '  { method = "trice", label = "TRICE" },\n', ""
    )
  )
  text = make_tables.make(path)
  assert text.count("not run") == 2 + 1  # and the note on it
  assert "Differences" not in text
  made = {p.name for p in tmp_path.iterdir() if p.is_file()}
  assert made == {"chain.toml"} | {f"chain{ending}" for ending in TEXTS}


@pytest.mark.parametrize(
  ("estimate", "unit", "shown"),
  [
    (Estimate(1, 0.5), "share", "50.0"),
    (Estimate(2, 0.5, 0.1, 0.25, 0.75, "t"), "share", "50.0 ± 25.0"),
    (
      Estimate(1, 0.5, None, 0.25, 0.75, "wilson"),
      "share",
      "50.0 [25.0, 75.0]",
    ),
    (Estimate(1, -0.0001), "share", "0.0"),
    (Estimate(1, -0.25), "share", "−25.0"),
    (Estimate(2, 1234567.5), "sequences", "1,234,568"),
    (Estimate(2, 1234.4), "seconds", "1,234 s"),
    (Estimate(2, 2.345), "seconds", "2.3 s"),
  ],
)
def test_how_numbers_are_shown(estimate, unit, shown):
  assert table_text.show(estimate, unit) == shown


# The same bytes.


def check_same_bytes(make, tmp_path, monkeypatch):
  """Makes one table in two places, from files written in another order."""
  made = []
  for name, order in (("a", 1), ("another/place", -1)):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    path = write_case(folder)
    runs = sorted((folder / "runs").iterdir())[::order]
    contents = {run: run.read_bytes() for run in runs}
    for run in runs:
      run.unlink()
    for run, content in contents.items():
      run.write_bytes(content)
    monkeypatch.chdir(folder)
    make(pathlib.Path("chain.toml") if order == 1 else path, folder / "out")
    made.append(
      {p.name: p.read_bytes() for p in sorted((folder / "out").iterdir())}
    )
  assert made[0].keys() == {f"chain{ending}" for ending in ENDINGS}
  assert made[0] == made[1]


def test_equal_reports_give_equal_bytes(tmp_path, monkeypatch):
  check_same_bytes(make_tables.make, tmp_path, monkeypatch)


def with_the_path(path, output):
  make_tables.make(path, output)
  with (output / "chain.tex").open("a") as file:
    file.write(f"% from {path}\n")


def in_the_folder_s_order(path, output):
  make_tables.make(path, output)
  names = sorted(
    (path.parent / "runs").iterdir(), key=lambda p: p.stat().st_ino
  )
  (output / "chain.csv").write_text("\n".join(name.name for name in names))


def with_a_date(path, output):
  make_tables.make(path, output)
  (output / "chain.svg").write_text(
    str((path.parent / "runs").stat().st_mtime_ns)
  )


@pytest.mark.parametrize(
  "broken", [with_the_path, in_the_folder_s_order, with_a_date]
)
def test_what_depends_on_the_machine_is_noticed(tmp_path, monkeypatch, broken):
  with pytest.raises(AssertionError):
    check_same_bytes(broken, tmp_path, monkeypatch)


def test_no_file_has_a_date_or_a_path(tmp_path):
  path = write_case(tmp_path)
  make_tables.make(path)
  for ending in ENDINGS:
    content = (tmp_path / f"chain{ending}").read_bytes()
    assert str(tmp_path).encode() not in content
    assert b"<dc:date>" not in content
    assert b"\r" not in content or ending == ".png"


# LaTeX.

_SPECIAL = re.compile(r"(?<!\\)[%#~^]|(?<!\\)_")


def check_latex(text):
  """Checks that LaTeX would take a text: nothing unescaped or unbalanced."""
  body = text.partition("\n")[2]  # after the comment
  assert not _SPECIAL.search(body)
  # The backslashes that there are belong to these.
  for command in re.findall(r"\\([A-Za-z]+|.)", body, re.DOTALL):
    assert command in {
      *("begin", "end", "centering", "caption", "label", "toprule"),
      *("midrule", "bottomrule", "textbf", "medskip", "smallskip", "par"),
      *("footnotesize", "pm", "textbackslash", "textbar", "textless"),
      *("textgreater", "textasciitilde", "textasciicircum"),
      *("\\", "&", "%", "$", "#", "_", "{", "}"),
    }
  depth = 0
  for brace in re.findall(r"\\[\\{}]|[{}]", body):
    depth += {"{": 1, "}": -1}.get(brace, 0)
    assert depth >= 0
  assert depth == 0
  open_now = []
  for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
    if kind == "begin":
      open_now.append(name)
    else:
      assert open_now.pop() == name
  assert not open_now
  for line in body.splitlines():
    assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0
  for columns, lines in re.findall(
    r"\\begin\{tabular\}\{(l+r*)\}\n(.*?)\\end\{tabular\}", body, re.DOTALL
  ):
    for line in lines.splitlines():
      if not line.startswith("\\") or line.startswith("\\text"):
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
        assert line[0] not in "[*"


NASTY = r"[a] 50% & #1_x {y} $z^2$ ~ \n \\ <b> | ± "
NASTY_SPEC = (
  made_up.SPEC.replace('"TRICE"', f"'{NASTY}'")
  .replace('"Greedy"', f"'{NASTY}'")
  .replace('"A tiny model."', f"'{NASTY}'")
  .replace('"Chained arithmetic"', f"'{NASTY}'")
)


@pytest.mark.parametrize("spec", [made_up.SPEC, NASTY_SPEC, PAPER_SPEC])
def test_latex_is_balanced_and_escaped(tmp_path, spec):
  make_tables.make(write_case(tmp_path, spec))
  text = (tmp_path / "chain.tex").read_text()
  check_latex(text)
  assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
  assert r"\textbf{92.0 $\pm$ 5.0}" in text


@pytest.mark.parametrize(
  "broken",
  [
    str,
    lambda text: re.sub(r"([&%$#_{}])", r"\\\1", text),  # no backslash, ~, ^
    lambda text: re.sub(r"[\\&#%_{}~^<>|]", "", text),  # a dollar
  ],
)
def test_other_escapes_are_rejected(tmp_path, monkeypatch, broken):
  odd = NASTY_SPEC.replace("$z^2$", "$z^2")
  table = filled(write_case(tmp_path, odd))
  check_latex(table_text.latex(table))
  monkeypatch.setattr(table_text, "_latex", broken)
  with pytest.raises((AssertionError, IndexError)):
    check_latex(table_text.latex(table))


def test_markdown_is_escaped(tmp_path):
  text = make_tables.make(write_case(tmp_path, NASTY_SPEC))
  for line in re.findall(r"^\|.*$", text, re.MULTILINE):
    assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5)
  assert "<b>" not in text.replace("\\<", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_spreadsheet_finds_no_formula(tmp_path, start):
  formula = f"{start}cmd|'/c calc'!A1"
  spec = made_up.SPEC.replace('"TRICE"', f'"{formula}"').replace(
    '"Greedy"', f'"{formula}"'
  )
  make_tables.make(write_case(tmp_path, spec))
  rows = read_csv(tmp_path)
  own = [row for row in rows if row["method"] == "trice"]
  assert own
  assert {row["row"] for row in own} == {f"'{formula}"}
  assert f"'{formula}" in {row["column"] for row in own}
  # Our numbers stay numbers.
  lows = [r["value"] for r in rows if r["statistic"] == "difference_t_low"]
  assert any(float(low) < 0 for low in lows)


def test_what_a_report_says_stays_text(tmp_path):
  path = write_case(tmp_path)
  for file in (tmp_path / "runs").iterdir():
    report = json.loads(file.read_text())
    report["data"]["task"] = task = "a\x1b]0;b\x07\n\n# c &lt; $d$"
    for row in report["results"]:
      row["task"] = task
    made_up.write(file, made_up.sealed(report))
  text = make_tables.make(path)
  assert r"questions of a\\x1b\]0;b\\x07\\n\\n# c \&lt; \$d\$, split" in text
  latex = (tmp_path / "chain.tex").read_text()
  check_latex(latex)
  back = r"\textbackslash{}"
  assert f"a{back}x1b]0;b{back}x07{back}n{back}n\\# c \\&lt; \\$d\\$" in latex
  for made in tmp_path.glob("chain.*"):
    if made.suffix != ".png":
      assert not re.search("[\x07\x1b]", made.read_text())


# What is refused.


def check_refused(path, *parts):
  """Checks that nothing is written, and why, in one line."""
  before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
  with pytest.raises(UserError) as caught:
    make_tables.make(path)
  message = str(caught.value)
  assert "\n" not in message
  for part in parts:
    assert part in message
  after = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
  assert after == before


TASK = "configuration__experiment__task"
TEST = "data__splits__test"
CHANGES = [
  ({"status": "running"}, "is of a run that is running: let it end"),
  ({"status": "failed"}, "is of a run that is failed"),
  ({"status": "interrupted"}, "is of a run that is interrupted"),
  ({"suspect": ["no draw was right"]}, "is suspect: no draw was right: mend"),
  ({"schema_version": 1}, "has schema version 1; this program reads 2"),
  ({"identity__method": "tricky"}, "is of method 'tricky', which no row names"),
  ({f"{TEST}__fingerprint": "c"}, "test fingerprint is 'c' and not "),
  (
    {"results": [made_up.result(10, "greedy", 9) | {"total": 9}]},
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
  assert make_tables.make(path)


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


def test_a_baseline_without_reports(tmp_path):
  spec = PAPER_SPEC.replace('baseline = "trice_basic"', 'baseline = "star"')
  check_refused(write_case(tmp_path, spec), "row 'star', the baseline, has no")


def test_an_average_that_is_not_there(tmp_path):
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
  text = make_tables.make(write_by_task(tmp_path, spec))
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
  assert "| 62.5" in make_tables.make(path)
  path.write_text(spec.replace("step = 5", "step = 3"))
  with pytest.raises(UserError, match=r"has 0 results .* at step 3"):
    make_tables.make(path)


def test_a_task_that_one_method_lacks(tmp_path):
  spec = MIXTURE_SPEC.replace('"part_v1"', '"other_v1"').replace(
    "[[columns]]", '[[rows]]\nmethod = "star"\n[[columns]]', 1
  )
  path = write_by_task(tmp_path, spec, ("trice", "star"))
  assert make_tables.make(path)
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
    assert "With prompts of their own: TRICE." in make_tables.make(path)
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
  ('baseline = "trice_basic"', 'baseline = "x"', "baseline 'x' is no row's"),
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
    "step = -1 is not 'last' or a step's number",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\nstep = "first"',
    "step = 'first' is not 'last' or a step's number",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\nstep = true',
    "step = True is not 'last' or a step's number",
  ),
  (
    'decoder = "greedy"',
    'decoder = "greedy"\ntask = "a"\naverage = "b"',
    "give one of task and average",
  ),
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
    assert make_tables.make(path)
  else:
    check_refused(path, str(path), message)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    (
      'row = "trice"',
      'row = "tric"',
      "paper[1]: row 'tric' is no row's method",
    ),
    (
      'column = "Greedy"',
      'column = "G"',
      "paper[1]: column 'G' is no column's",
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
    make_tables.make(path)
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
    with pytest.raises(UserError, match="is no folder: give another with"):
      make_tables.make(path, output)


def test_another_folder(tmp_path):
  path = write_case(tmp_path)
  make_tables.make(path, tmp_path / "new/out")
  names = {p.name for p in (tmp_path / "new/out").iterdir()}
  assert names == {f"chain{ending}" for ending in ENDINGS}
  assert not (tmp_path / "chain.md").exists()


# The plot.


def test_what_is_plotted(tmp_path):
  table = filled(write_case(tmp_path))
  one, other = table_plot.points(table)
  assert (one.label, one.cost, one.accuracy) == ("TRICE", 1000, 92)
  assert (other.label, other.cost, other.accuracy) == ("TRICE, basic", 4000, 89)
  assert other.high == pytest.approx(89 + 100 * T2 * 0.01 / math.sqrt(3))
  left, right = table_plot.draw([one, other], table).axes
  assert left.get_xlabel() == "Greedy, %"
  assert [t.get_text() for t in left.get_yticklabels()] == [
    "TRICE",
    "TRICE, basic",
  ]
  assert left.yaxis_inverted()  # the first row is at the top
  for line, (bars, point) in enumerate(
    zip(left.containers, (one, other), strict=True)
  ):
    (x,), (y,) = bars.lines[0].get_data()
    assert (x, y) == (point.accuracy, line)
    (((low, _), (high, _)),) = bars.lines[2][0].get_segments()
    assert (low, high) == pytest.approx((point.low, point.high))
  assert right.get_xscale() == "log"
  costs = [(*line.get_xdata(), *line.get_ydata()) for line in right.lines]
  assert costs == [(one.cost, 0), (other.cost, 1)]
  colours = {bars.lines[0].get_color() for bars in left.containers}
  assert len(colours) == 2  # the baseline has one of its own


def test_intervals_end_at_the_ends_of_what_there_can_be(tmp_path):
  path = write_case(tmp_path)
  for seed, greedy in enumerate((200, 199, 200)):
    file = tmp_path / f"runs/trice-{seed}.json"
    made_up.write(file, make_report("trice", seed, greedy))
  best, _ = table_plot.points(filled(path))
  assert best.high == 100 > best.accuracy > best.low


def test_a_user_s_own_style_changes_nothing(tmp_path):
  import matplotlib

  table = filled(write_case(tmp_path))
  wanted = table_plot.render(table)
  with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
    assert table_plot.render(table) == wanted
    assert matplotlib.rcParams["font.size"] == 30
  assert wanted[".png"].startswith(b"\x89PNG")


# The tables that the repository has.

SPECS = sorted((made_up.ROOT / "reports/tables").glob("*.toml"))


def test_the_paper_s_figures_agree_with_each_other():
  specs = {path.stem: table_spec.read(path) for path in SPECS}
  assert {"chain", *(f"paper_table{n}" for n in (1, 2, 3))} <= specs.keys()
  one, three = specs["paper_table1"], specs["paper_table3"]
  assert [len(specs[f"paper_table{n}"].paper) for n in (1, 2, 3)] == [
    18,
    17,
    364,
  ]
  by_task = {(f.row, f.column): f.value for f in three.paper}
  quoted = {(f.row, f.column): f.value for f in one.paper}
  for row in one.rows:
    for column, name in (("Greedy", "greedy"), ("Self-consistency", "SC")):
      if (row.method, column) not in quoted:
        continue
      mean = quoted[row.method, column]
      assert by_task[row.method, f"Average, {name}"] == mean
      values = [
        value
        for (method, label), value in by_task.items()
        if method == row.method
        and label.endswith(f", {name}")
        and not label.startswith("Average")
      ]
      assert len(values) == 27
      # The paper rounds each task to a tenth, and the mean.
      assert abs(math.fsum(values) / 27 - mean) < 0.1


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_repository_s_tables(tmp_path, path):
  spec = table_spec.read(path)
  known = [*made_up.ROOT.glob("gin/methods/*.gin")]
  known += made_up.ROOT.glob("gin/studies/*/*.gin")
  methods = {p.stem for p in known}
  for row in spec.rows:
    assert row.method.removesuffix("_few_shot") in methods
  if spec.reports.exists():
    # Made anew from the reports that are kept, they are the same to the byte.
    make_tables.make(path, tmp_path)
    kept = sorted(path.parent.glob(f"{path.stem}.[!t]*"))
    kept.append(path.with_suffix(".tex"))
    assert len(kept) == 6
    for file in kept:
      assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
  if path.stem.startswith("paper") and not spec.reports.exists():
    text = make_tables.make(path, tmp_path)
    check_latex((tmp_path / f"{path.stem}.tex").read_text())
    measured = [column for column in spec.columns if column.is_measured]
    cells = len(spec.rows) * len(measured)
    assert text.count("| not run ") == cells
