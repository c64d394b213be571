"""A table's cells, computed from the runs of its methods."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import comparison, stats
from cot_latent.reporting.bootstrap import Stratum
from cot_latent.reporting.comparison import Estimate
from cot_latent.reporting.tables import questions
from cot_latent.reporting.tables.reports import Run
from cot_latent.reporting.tables.spec import Column, Spec


class Cell(NamedTuple):
  """A column's values from the runs of a method.

  Attributes:
    values: Values by seed; an accuracy is between 0 and 1.
    estimate: Estimate of their mean. For one seed its interval is over
      questions: Wilson's for an accuracy.
    difference: Difference to the baseline, paired by seed and question; None
      for the baseline itself and for costs.
    is_best: Whether it is better than every other row's, by `comparison.best`;
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


class _Values(NamedTuple):
  """A method's values in a column: by seed, and by question."""

  by_seed: dict[int, float]
  strata: list[Stratum] | None


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
      method: _values(spec, own, column) for method, own in runs.items()
    }
    is_cost = column.cost is not None
    compare = functools.cache(functools.partial(_difference, values))
    best = None if is_cost else comparison.best([*values], compare)
    for method, own in values.items():
      cells[method, column.label] = Cell(
        own.by_seed,
        _estimate(spec, runs[method], column, own),
        None
        if is_cost or method == spec.baseline
        else compare(method, spec.baseline),
        method == best,
      )
  return Table(spec, dict(runs), cells)


def _difference(
  values: Mapping[str, _Values], method: str, other: str
) -> Estimate:
  own, baseline = values[method], values[other]
  return comparison.add_questions(
    comparison.difference(own.by_seed, baseline.by_seed),
    comparison.subtract(own.strata, baseline.strata),
  )


def _estimate(
  spec: Spec, runs: list[Run], column: Column, values: _Values
) -> Estimate:
  found = comparison.add_questions(
    comparison.estimate(list(values.by_seed.values())), values.strata
  )
  if column.unit == "share" and found.with_questions is not None:
    # A few seeds that differ widen it beyond what an accuracy can be.
    low, high = found.with_questions
    found = found._replace(with_questions=(max(low, 0.0), min(high, 1.0)))
  is_simple = column.average is None and not column.is_of_votes
  if len(runs) > 1 or column.decoder is None or not is_simple:
    return found
  result = _result(spec, runs[0], column)
  low, high = stats.wilson_interval(result["correct"], result["total"])
  return found._replace(low=low, high=high, kind="wilson")


def _values(spec: Spec, runs: Sequence[Run], column: Column) -> _Values:
  if column.cost is not None:
    return _Values({run.seed: run.cost[column.cost] for run in runs}, None)
  found = [
    (_result(spec, run, column), _parts(spec, run, column)) for run in runs
  ]
  strata = questions.strata(found, column)
  means = sum(
    stratum.weight * stratum.values.mean(axis=1) for stratum in strata
  )
  return _Values(
    {
      run.seed: _exact(row, column, float(mean))
      for run, (row, _), mean in zip(runs, found, means, strict=True)
    },
    strata,
  )


def _exact(row: Mapping[str, Any], column: Column, mean: float) -> float:
  """An accuracy as the report has it; of what votes give, the mean."""
  if column.is_of_votes:
    return stats.rounded(mean)
  if column.average is not None:
    return row["averages"][column.average]
  return row["correct"] / row["total"]


def _parts(spec: Spec, run: Run, column: Column) -> list[dict[str, Any]]:
  """Finds the results of the tasks that a column's average is over."""
  if column.average is None:
    return []
  whole = _result(spec, run, column)
  averages = whole.get("averages") or {}
  if column.average not in averages:
    known = ", ".join(map(repr, averages))
    known = known or "none, because its task is not a mixture"
    raise UserError(
      f"{spec.reports / run.file} has no average {column.average!r} for column "
      f"{column.label!r}; it has {known}"
    )
  same = ("split", "decoder", "step")
  parts = [
    row
    for row in run.results
    if row is not whole and all(row[key] == whole[key] for key in same)
  ]
  counts = {row["task"]: (row["correct"], row["total"]) for row in parts}
  if not counts or column.average not in stats.averages(counts):
    raise UserError(
      f"{spec.reports / run.file} has an average {column.average!r} and not "
      "the results of its tasks: run it again"
    )
  return parts


def _result(spec: Spec, run: Run, column: Column) -> dict[str, Any]:
  """Finds the one result that a column shows, or is computed from."""
  last = run.last_step
  step = last if column.step == "last" else min(column.step, last)
  decoder = "self_consistency" if column.is_of_votes else column.decoder
  wanted = {
    "task": column.task or run.task,
    "split": run.split,
    "decoder": decoder,
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
      f"{decoder!r} on {wanted['task']!r} at step {step}, and column "
      f"{column.label!r} needs one: run it with that evaluation, or remove the "
      "column"
    )
  (row,) = found
  if column.k is not None and column.k > row["num_samples"]:
    raise UserError(
      f"{spec.reports / run.file} has {row['num_samples']} samples per "
      f"question, and column {column.label!r} needs k = {column.k} of them: "
      "lower k"
    )
  return row
