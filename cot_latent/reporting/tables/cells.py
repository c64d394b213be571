"""A table's cells, computed from the runs of its methods."""

from collections.abc import Mapping
from typing import NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import comparison, stats
from cot_latent.reporting.comparison import Estimate
from cot_latent.reporting.tables.reports import Run
from cot_latent.reporting.tables.spec import Column, Spec


class Cell(NamedTuple):
  """A column's values from the runs of a method.

  Attributes:
    values: Values by seed; an accuracy is a share of 1.
    estimate: Estimate of their mean. For one seed's accuracy, with the Wilson
      interval over questions.
    difference: Difference to the baseline, paired by seed; None for the
      baseline itself and for costs.
    is_best: Whether it is better than every other row's (`comparison.best`);
      False for costs.
  """

  values: dict[int, float]
  estimate: Estimate
  difference: Estimate | None
  is_best: bool


class Table(NamedTuple):
  """A table's contents.

  Attributes:
    spec: Description of the table.
    runs: Method -> its runs, by seed; methods that ran.
    cells: (method, column's label) -> cell; methods that ran, and columns that
      reports have.
  """

  spec: Spec
  runs: dict[str, list[Run]]
  cells: dict[tuple[str, str], Cell]


def fill(spec: Spec, runs: Mapping[str, list[Run]]) -> Table:
  """Computes a table's cells.

  Args:
    spec: Description of the table.
    runs: Method -> its runs, by seed, from `reports.collect`.

  Raises:
    UserError: If a report lacks a result.
  """
  cells = {}
  for column in spec.columns:
    if not column.is_measured:
      continue
    values = {
      method: {run.seed: _value(spec, run, column) for run in own}
      for method, own in runs.items()
    }
    is_cost = column.cost is not None
    best = None if is_cost else comparison.best(values)
    for method, own in values.items():
      cells[method, column.label] = Cell(
        own,
        _estimate(spec, runs[method], column, own),
        None
        if is_cost or method == spec.baseline
        else comparison.difference(own, values[spec.baseline]),
        method == best,
      )
  return Table(spec, dict(runs), cells)


def _estimate(
  spec: Spec, runs: list[Run], column: Column, values: dict[int, float]
) -> Estimate:
  found = comparison.estimate(list(values.values()))
  if len(runs) > 1 or column.decoder is None or column.average is not None:
    return found
  result = _result(spec, runs[0], column)
  low, high = stats.wilson_interval(result["correct"], result["total"])
  return found._replace(low=low, high=high, kind="wilson")


def _value(spec: Spec, run: Run, column: Column) -> float:
  if column.cost is not None:
    return run.cost[column.cost]
  result = _result(spec, run, column)
  if column.average is None:
    return result["correct"] / result["total"]
  averages = result.get("averages") or {}
  if column.average not in averages:
    known = ", ".join(map(repr, averages)) or "none, because it is no mixture"
    raise UserError(
      f"{spec.reports / run.file} has no average {column.average!r} for column "
      f"{column.label!r}; it has {known}"
    )
  return averages[column.average]


def _result(spec: Spec, run: Run, column: Column) -> dict:
  """Finds the result that a column shows."""
  last = run.last_step
  step = last if column.step == "last" else min(column.step, last)
  wanted = {
    "task": column.task or run.task,
    "split": run.split,
    "decoder": column.decoder,
    "step": step,
  }
  found = [
    row
    for row in run.results
    if all(row.get(key) == value for key, value in wanted.items())
  ]
  if len(found) != 1:
    raise UserError(
      f"{spec.reports / run.file} has {len(found)} results of decoder "
      f"{column.decoder!r} on {wanted['task']!r} at step {step}, and column "
      f"{column.label!r} needs one: run it with that evaluation, or remove the "
      "column"
    )
  return found[0]
