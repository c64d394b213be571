"""Tables of made-up reports, which the tests of tables share."""

import csv
import io

from cot_latent.reporting.tables import cells as table_cells
from cot_latent.reporting.tables import reports as table_reports
from cot_latent.reporting.tables import spec as table_spec
from tests.reporting import made_up
from tests.reporting.made_up import make_report

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
  parts = [
    made_up.result(10, "greedy", right)
    | {"task": f"{name}_v1", "total": 100}
    | {"verdicts": "1" * right + "0" * (100 - right)}
    for name, right in (("part", 44), ("other", 56))
  ]
  whole = made_up.result(10, "greedy", 100, {"2 tasks": 0.5})
  made_up.write(folder / "runs/a.json", make_report(results=[whole, *parts]))
  return path


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
