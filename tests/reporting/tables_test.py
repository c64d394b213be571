"""A table is made of reports alone."""

import json
import math
import pathlib
import re

import matplotlib
import pytest
from matplotlib import font_manager

import cot_latent as cl
from cot_latent.errors import UserError
from cot_latent.reporting import stats
from cot_latent.reporting.comparison import Estimate
from cot_latent.reporting.tables import plot as table_plot
from cot_latent.reporting.tables import rendering
from cot_latent.reporting.tables import spec as table_spec
from cot_latent.reporting.tables import text as table_text
from cot_latent.reporting.tables.make import make_tables
from tests.asserts import message_of
from tests.reporting import made_up
from tests.reporting.made_up import make_report, write_case
from tests.reporting.tables_cases import (
  ENDINGS,
  PAPER_SPEC,
  T2,
  TEXTS,
  filled,
  number,
  read_csv,
  write_mixture,
)
from tests.reporting.tables_text_test import check_latex

# What is made.


def test_paths_may_be_strings(tmp_path):
  path = write_case(tmp_path)
  text = cl.tables(str(path), output=str(tmp_path / "other"))
  assert text == make_tables(path)
  for made in (tmp_path / "other").iterdir():
    assert made.read_bytes() == (tmp_path / made.name).read_bytes()


def test_the_table_in_markdown(tmp_path):
  text = make_tables(write_case(tmp_path))
  assert text == (tmp_path / "chain.md").read_text()
  lines = text.splitlines()
  # 180, 184 and 188 of 200, and 46 more than the baseline with an s.d. of 2.
  assert lines[:8] == [
    "# Chained arithmetic",
    "",
    "A tiny model.",
    "",
    "| Method | Greedy | Votes | Sampled |",
    "| --- | ---: | ---: | ---: |",
    r"| TRICE | **92.0 ± 5.0 \[85.4, 98.4\]** | 95.5 ± 1.2 \[92.1, 98.5\] "
    "| 1,000 |",
    r"| TRICE, basic | 69.0 ± 2.5 \[61.8, 75.8\] | 95.5 ± 1.2 \[91.9, 98.4\] "
    "| 4,000 |",
  ]
  assert lines[-1] == (
    r"| TRICE | +23.0 ± 2.5 \[+16.6, +30.0\] | 0.0 ± 2.2 \[−3.1, +2.7\] |"
  )
  for note in (
    "bootstrap over seeds and questions",
    "3 seeds (0, 1, 2)",
    "200 questions of chain",
    "of 8 samples",
  ):
    assert note in text


def test_numbers_are_at_full_precision(tmp_path):
  make_tables(write_case(tmp_path))
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
    "difference_mean": 0.23,
    "difference_sd": 0.01,
    "difference_t_low": 0.23 - half / 2,
    "difference_t_high": 0.23 + half / 2,
    "is_best": 1,
  }.items():
    found = number(rows, "trice", "Greedy", statistic)
    assert found == pytest.approx(wanted, abs=1e-11)
  # Wider than without the questions' error, which all seeds share.
  for prefix in ("", "difference_"):
    for end, sign in (("low", 1), ("high", -1)):
      with_questions, over_seeds = (
        number(rows, "trice", "Greedy", f"{prefix}{kind}_{end}")
        for kind in ("seeds_and_questions", "t")
      )
      assert sign * with_questions < sign * over_seeds
  assert number(rows, "trice", "Votes", "is_best") == 0
  assert number(rows, "trice_basic", "Sampled", "mean") == 4000
  named = {(row["method"], row["statistic"]) for row in rows}
  assert ("trice_basic", "difference_mean") not in named
  assert {row["unit"] for row in rows} == {"share", "sequences"}


def test_an_interval_of_accuracies_ends_at_none_and_all(tmp_path, monkeypatch):
  """Student's factor for three seeds would take it beyond."""
  greedy = {"trice": (200, 200, 150), "trice_basic": (0, 0, 50)}
  monkeypatch.setattr(made_up, "GREEDY", greedy)
  text = make_tables(write_case(tmp_path))
  assert r"91.7 ± 35.9 \[" in text
  rows = read_csv(tmp_path)
  for method, end, wanted in (("trice", "high", 1), ("trice_basic", "low", 0)):
    found = number(rows, method, "Greedy", f"seeds_and_questions_{end}")
    assert found == wanted
  difference = number(
    rows, "trice", "Greedy", "difference_seeds_and_questions_high"
  )
  assert difference > 1


def test_every_cell_names_its_reports(tmp_path):
  make_tables(write_case(tmp_path))
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
  text = make_tables(write_case(one))
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
  assert make_tables(path) == text
  assert (one / "chain.csv").read_bytes() == (other / "chain.csv").read_bytes()


def test_one_seed_has_the_interval_over_questions(tmp_path):
  text = make_tables(write_case(tmp_path, seeds=[1]))
  low, high = stats.wilson_interval(184, 200)
  assert f"| TRICE | 92.0 \\[{100 * low:.1f}, {100 * high:.1f}\\] |" in text
  assert "one seed (1), with Wilson’s 95% interval over questions." in text
  rows = read_csv(tmp_path)
  assert number(rows, "trice", "Greedy", "wilson_low") == low
  assert number(rows, "trice", "Greedy", "wilson_high") == high
  assert {"sd", "t_low", "difference_t_low"}.isdisjoint(
    row["statistic"] for row in rows
  )
  # A difference of one pair has that of its questions, and nothing is best.
  assert r"| TRICE | +23.0 \[+17.5, +29.0\] | +0.5 \[0.0, +1.5\] |" in text
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
  text = make_tables(write_case(tmp_path, COST_SPEC.replace("{cost}", cost)))
  (line,) = re.findall(r"^\| TRICE \| \*\*.*$", text, re.MULTILINE)
  assert line.endswith(f" {shown} |")


@pytest.mark.parametrize(
  ("step", "is_first"), [(0, True), (10, False), (99, False)]
)
def test_the_result_is_of_the_step_that_is_asked_for(tmp_path, step, is_first):
  spec = made_up.SPEC.replace(
    'decoder = "greedy"', f'decoder = "greedy"\nstep = {step}'
  )
  text = make_tables(write_case(tmp_path, spec))
  # 30, 31 and 32 of 200
  assert ("| TRICE | 15.5 ± " in text) == is_first


def test_a_step_without_evaluation_is_refused(tmp_path):
  spec = made_up.SPEC.replace(
    'decoder = "greedy"', 'decoder = "greedy"\nstep = 3'
  )
  with pytest.raises(UserError, match=r"has 0 results of .* at step 3, and"):
    make_tables(write_case(tmp_path, spec))


def test_a_mixture(tmp_path):
  text = make_tables(write_mixture(tmp_path))
  (line,) = re.findall(r"^\| trice \|.*$", text, re.MULTILINE)
  cells = [cell.strip() for cell in line.split("|")[2:-1]]
  assert cells[0].startswith("50.0 \\[")
  # Two tasks of 100 questions each, resampled apart.
  assert cells[1].startswith("50.0 \\[")
  assert cells[2].startswith("44.0 \\[")


VOTES_SPEC = (
  made_up.SPEC.replace(
    'decoder = "self_consistency"', 'decoder = "pass@k"\nk = 2'
  )
  + """
[[columns]]
label = "Log-likelihood"
decoder = "log_likelihood"
"""
)


def test_what_votes_give(tmp_path):
  """Of 8 votes 6 are correct where the answer is, and else 1."""
  text = make_tables(write_case(tmp_path, VOTES_SPEC))
  rows, right = read_csv(tmp_path), made_up.VOTES["trice"][0] / 200
  pass_at = right * (1 - 2 / 56) + (1 - right) * (1 - 7 * 6 / 56)
  found = number(rows, "trice", "Votes", "value", 0)
  assert found == pytest.approx(pass_at, abs=1e-11)
  likelihood = number(rows, "trice", "Log-likelihood", "mean")
  assert -0.5 < likelihood < 0
  assert f"| {likelihood:.3f} ± ".replace("-", "−") in text
  assert "estimated without bias from 8" in text
  assert "in points and nats" in text
  assert {row["unit"] for row in rows} == {"share", "nats", "sequences"}


def test_more_samples_than_there_are(tmp_path):
  path = write_case(tmp_path, VOTES_SPEC.replace("k = 2", "k = 9"))
  message = message_of(make_tables, path)
  assert message.endswith(
    "has 8 samples per question, and column 'Votes' needs k = 9 of them: "
    "lower k"
  )


def test_figures_of_papers_are_beside_ours(tmp_path):
  text = make_tables(write_case(tmp_path, PAPER_SPEC))
  lines = text.splitlines()
  assert lines[2] == "| Method | Greedy | Greedy (A) | Greedy (B) | Valid (A) |"
  assert lines[4:7] == [
    r"| TRICE | **92.0 ± 5.0 \[85.4, 98.4\]** | 67.8 | – | – |",
    r"| trice\_basic | 69.0 ± 2.5 \[61.8, 75.8\] | – | – | – |",
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
  lines = make_tables(write_case(tmp_path, spec)).splitlines()
  assert lines[2] == (
    r"|  | TRICE | TRICE (A) | trice\_basic | STaR | STaR (A) | STaR (B) |"
  )
  assert lines[4:6] == [
    r"| Greedy | **92.0 ± 5.0 \[85.4, 98.4\]** | 67.8 | "
    r"69.0 ± 2.5 \[61.8, 75.8\] | not run | 62.0 | 61.5 |",
    "| Valid | – | – | – | – | 91.6 | – |",
  ]


def test_nothing_run_at_all(tmp_path):
  path = write_case(tmp_path, PAPER_SPEC, methods=())
  path.write_text(
    PAPER_SPEC.replace('row = "trice",', 'row = "trice_basic",').replace(
      '  { method = "trice", label = "TRICE" },\n', ""
    )
  )
  text = make_tables(path)
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
    (
      Estimate(2, 0.5, 0.1, 0.25, 0.75, "t", (0.2, 0.8)),
      "share",
      "50.0 ± 25.0 [20.0, 80.0]",
    ),
    (
      Estimate(1, -0.5, None, -0.75, -0.25, "bootstrap"),
      "nats",
      "−0.500 [−0.750, −0.250]",
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
  check_same_bytes(make_tables, tmp_path, monkeypatch)


def with_the_path(path, output):
  make_tables(path, output)
  with (output / "chain.tex").open("a") as file:
    file.write(f"% from {path}\n")


def in_the_folder_s_order(path, output):
  make_tables(path, output)
  names = sorted(
    (path.parent / "runs").iterdir(), key=lambda p: p.stat().st_ino
  )
  (output / "chain.csv").write_text("\n".join(name.name for name in names))


def with_a_date(path, output):
  make_tables(path, output)
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
  make_tables(path)
  for ending in ENDINGS:
    content = (tmp_path / f"chain{ending}").read_bytes()
    assert str(tmp_path).encode() not in content
    assert b"<dc:date>" not in content
    assert b"\r" not in content or ending == ".png"


def test_the_font_is_matplotlibs_own_and_not_the_systems():
  found = font_manager.findfont(rendering.own_font(), fallback_to_default=False)
  folder = pathlib.Path(matplotlib.get_data_path()).resolve()
  assert pathlib.Path(found).resolve().is_relative_to(folder)


# The tables that the repository has.

SPECS = sorted((made_up.ROOT / "reports/tables").glob("*.toml"))


def test_the_papers_figures_agree_with_each_other():
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
    # Made again from the kept reports, they are the same to the byte.
    make_tables(path, tmp_path)
    kept = sorted(path.parent.glob(f"{path.stem}.[!t]*"))
    kept.append(path.with_suffix(".tex"))
    assert len(kept) == 6
    for file in kept:
      assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
  if path.stem.startswith("paper") and not spec.reports.exists():
    text = make_tables(path, tmp_path)
    check_latex((tmp_path / f"{path.stem}.tex").read_text())
    measured = [column for column in spec.columns if column.is_measured]
    cells = len(spec.rows) * len(measured)
    assert text.count("| not run ") == cells
