"""A table as text: Markdown, LaTeX, CSV, and the sources of its cells."""

import csv
import decimal
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cot_latent.reporting.comparison import Estimate
from cot_latent.reporting.tables import notes
from cot_latent.reporting.tables.cells import Cell, Table
from cot_latent.reporting.tables.numbers import show, show_difference
from cot_latent.reporting.tables.reports import Run
from cot_latent.reporting.tables.spec import Column, Row
from cot_latent.runtime import terminal

NO_VALUE = "–"
CSV_HEADER = (
  "method",
  "row",
  "column",
  "source",
  "unit",
  "statistic",
  "seed",
  "value",
)

_FORMULA = ("=", "+", "-", "@")  # a formula in a spreadsheet begins with these
_LATEX = {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
  "|": r"\textbar{}",
  '"': "''",
  "±": r"$\pm$",
  "−": "$-$",
  "–": "--",
  **{char: f"\\{char}" for char in "&%$#_{}"},
}


class Text(NamedTuple):
  """An entry of a grid."""

  text: str
  is_bold: bool = False


class Grid(NamedTuple):
  """A table of texts; every line begins with its label."""

  header: list[str]
  lines: list[list[Text]]


def markdown(table: Table) -> str:
  """Writes the table, and the differences to the baseline below it."""
  spec = table.spec
  parts = [f"# {_markdown(spec.title)}"]
  if spec.caption:
    parts.append(_markdown(spec.caption))
  parts.append(_markdown_grid(_values(table)))
  parts += [_markdown(note) for note in notes.notes(table)]
  if differences := _differences(table):
    parts.append(_markdown(notes.differences_title(table)))
    parts.append(_markdown_grid(differences))
  return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
  """Writes the table for LaTeX with the package booktabs."""
  spec = table.spec
  caption = f"{_latex(spec.title)}. {_latex(spec.caption)}".rstrip()
  label = re.sub(r"[^A-Za-z0-9-]", "-", spec.name)
  lines = [
    "% Made by `t5x tables`; needs \\usepackage{booktabs}.",
    r"\begin{table}[t]",
    r"\centering",
    rf"\caption{{{caption}}}",
    rf"\label{{tab:{label}}}",
    *_latex_grid(_values(table)),
  ]
  if differences := _differences(table):
    lines += [
      "",
      rf"\medskip {_latex(notes.differences_title(table))}",
      "",
      r"\smallskip",
      *_latex_grid(differences),
    ]
  for note in notes.notes(table):
    lines += ["", rf"{{\footnotesize {_latex(note)}\par}}"]
  return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_lines(table: Table) -> str:
  """Writes every number at full precision, one per line.

  Shares are shares of 1, also in figures of a paper. The intervals are 95%
  intervals, and are named by their kind.
  """
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(CSV_HEADER)
  for row, column, cell in _cells(table):
    start = _csv(row.method, row.label, column.label, "reports", column.unit)
    for seed, value in cell.values.items():
      writer.writerow([*start, "value", seed, value])
    for name, value in _statistics(cell):
      writer.writerow([*start, name, "", value])
  columns = {column.label: column for column in table.spec.columns}
  rows = {row.method: row for row in table.spec.rows}
  for figure in table.spec.paper:
    column, row = columns[figure.column], rows[figure.row]
    value = figure.value
    if column.unit == "share":
      # In decimals, because 67.8 / 100 is not 0.678.
      value = float(decimal.Decimal(repr(value)).scaleb(-2))
    start = _csv(
      *(row.method, row.label, column.label, figure.where, column.unit)
    )
    writer.writerow([*start, "value", "", value])
  return file.getvalue()


def provenance(table: Table) -> dict[str, Any]:
  """Lists the reports of each cell."""
  spec = table.spec
  cells = []
  for row, column, cell in _cells(table):
    entry = {
      "method": row.method,
      "column": column.label,
      "mean": cell.estimate.mean,
      "reports": _sources(table.runs[row.method]),
    }
    if cell.difference is not None:
      entry["difference"] = cell.difference.mean
      entry["baseline_reports"] = _sources(table.runs[spec.baseline])
    cells.append(entry)
  return {"title": spec.title, "baseline": spec.baseline, "cells": cells}


def _cells(table: Table) -> Iterator[tuple[Row, Column, Cell]]:
  for row in table.spec.rows:
    for column in table.spec.columns:
      if cell := table.cells.get((row.method, column.label)):
        yield row, column, cell


def _statistics(cell: Cell) -> Iterator[tuple[str, float]]:
  """Yields the statistics of a cell, by name."""
  for prefix, estimate in (
    ("", cell.estimate),
    ("difference_", cell.difference),
  ):
    if estimate is None:
      continue
    yield f"{prefix}n", estimate.num
    yield f"{prefix}mean", estimate.mean
    if estimate.sd is not None:
      yield f"{prefix}sd", estimate.sd
    if estimate.low is not None and estimate.high is not None:
      yield f"{prefix}{estimate.kind}_low", estimate.low
      yield f"{prefix}{estimate.kind}_high", estimate.high
    if estimate.with_questions is not None:
      low, high = estimate.with_questions
      yield f"{prefix}seeds_and_questions_low", low
      yield f"{prefix}seeds_and_questions_high", high
  yield "is_best", int(cell.is_best)


def _sources(runs: Sequence[Run]) -> list[dict[str, str]]:
  return [_source(part) for run in runs for part in run.reports]


def _source(run: Run) -> dict[str, Any]:
  return {
    "file": run.file,
    "digest": run.digest,
    "run_id": run.run_id,
    "seed": run.seed,
  }


def _values(table: Table) -> Grid:
  """Lays out our values, and beside them those of papers."""
  quoted = {(f.row, f.column, f.where): f.value for f in table.spec.paper}

  def entry(row: Row, column: Column, where: str | None) -> Text:
    if where is not None:
      value = quoted.get((row.method, column.label, where))
      return Text(NO_VALUE if value is None else _figure(value, column))
    if not column.is_measured:
      return Text(NO_VALUE)
    if row.method not in table.runs:
      return Text(notes.NOT_RUN)
    cell = table.cells[row.method, column.label]
    return Text(show(cell.estimate, column.unit), cell.is_best)

  return _lay_out(table, table.spec.rows, table.spec.columns, entry)


def _differences(table: Table) -> Grid | None:
  """Lays out the differences to the baseline; None if there are none."""
  spec = table.spec
  columns = [column for column in spec.columns if column.decoder is not None]
  rows = [row for row in spec.rows if row.method in table.runs]
  rows = [row for row in rows if row.method != spec.baseline]
  if not rows or not columns:
    return None

  def entry(row: Row, column: Column, where: str | None) -> Text:
    difference = table.cells[row.method, column.label].difference
    assert difference is not None  # neither a cost nor the baseline
    return Text(show_difference(difference, column.unit))

  return _lay_out(table, rows, columns, entry, with_paper=False)


def _lay_out(
  table: Table,
  rows: Sequence[Row],
  columns: Sequence[Column],
  entry: Callable[[Row, Column, str | None], Text],
  with_paper: bool = True,
) -> Grid:
  """Makes a grid; a source of quoted figures has a column beside ours."""
  figures = table.spec.paper if with_paper else ()
  if table.spec.is_transposed:
    heads = [
      (row, where, _head(row.label, where))
      for row in rows
      for where in [
        None,
        *dict.fromkeys(f.where for f in figures if f.row == row.method),
      ]
    ]
    return Grid(
      ["", *(text for _, _, text in heads)],
      [
        [
          Text(column.label),
          *(entry(row, column, where) for row, where, _ in heads),
        ]
        for column in columns
      ],
    )
  sides = [
    (column, where, _head(column.label, where))
    for column in columns
    for where in [
      *([None] if column.is_measured else []),
      *dict.fromkeys(f.where for f in figures if f.column == column.label),
    ]
  ]
  return Grid(
    ["Method", *(text for _, _, text in sides)],
    [
      [
        Text(row.label),
        *(entry(row, column, where) for column, where, _ in sides),
      ]
      for row in rows
    ],
  )


def _head(label: str, where: str | None) -> str:
  return label if where is None else f"{label} ({where})"


def _figure(value: float, column: Column) -> str:
  if column.unit == "share":
    return f"{value:.1f}"
  return show(Estimate(1, value), column.unit)


def _csv(*texts: str) -> list[str]:
  """Escapes text that a spreadsheet would take for a formula."""
  shown = [terminal.printable(text, is_line=True) for text in texts]
  return [f"'{text}" if text[:1] in _FORMULA else text for text in shown]


def _markdown(text: str) -> str:
  """Escapes text that Markdown would take for markup."""
  shown = terminal.printable(text, is_line=True)
  return re.sub(r"([\\`*_|<>\[\]&~$])", r"\\\1", shown)


def _markdown_grid(grid: Grid) -> str:
  lines = [
    [_markdown(text) for text in grid.header],
    ["---", *["---:"] * (len(grid.header) - 1)],
  ]
  for line in grid.lines:
    texts = [_markdown(text.text) for text in line]
    lines.append(
      [
        f"**{text}**" if entry.is_bold else text
        for text, entry in zip(texts, line, strict=True)
      ]
    )
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex(text: str) -> str:
  """Escapes text that LaTeX would take for a command."""
  shown = terminal.printable(text, is_line=True)
  return "".join(_LATEX.get(char, char) for char in shown)


def _latex_grid(grid: Grid) -> list[str]:
  def line(texts: Sequence[str]) -> str:
    joined = " & ".join(texts)
    # After the previous line, these would be taken for arguments of its end.
    return rf"{'{}' if joined[:1] in '[*' else ''}{joined} \\"

  return [
    rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
    r"\toprule",
    line([_latex(text) for text in grid.header]),
    r"\midrule",
    *(
      line(
        [
          rf"\textbf{{{_latex(entry.text)}}}"
          if entry.is_bold
          else _latex(entry.text)
          for entry in entries
        ]
      )
      for entries in grid.lines
    ),
    r"\bottomrule",
    r"\end{tabular}",
  ]
