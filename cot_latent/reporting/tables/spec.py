"""The description of a table, read from a TOML file and checked."""

import os
import pathlib
import tomllib
from collections.abc import Collection
from typing import Literal, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting.tables import fields


class Row(NamedTuple):
  """A method.

  Attributes:
    method: Name in the reports.
    label: Name in the table; the method's name if left out.
    own_prompts: Whether its prompts differ from the baseline's on purpose,
      as a method without rationales has. Then its questions are compared by
      their ids, and its prompt length is not compared.
  """

  method: str
  label: str = ""
  own_prompts: bool = False


class Column(NamedTuple):
  """A quantity: an accuracy, a cost, or something that only a paper reports.

  Attributes:
    label: Name in the table.
    decoder: Decoder of an evaluation, for an accuracy; or "pass@k" or
      "log_likelihood", which are computed from the samples of self-consistency.
    k: Number of samples, for pass@k.
    step: Step of the evaluation; "last" is the run's end, which also counts for
      all later steps.
    task: One of a mixture's tasks; None is the run's own task, or all of it.
    average: Name of one of a mixture's averages; None is the accuracy over all
      questions.
    cost: Name of one of a report's costs, for a cost.
    paper_only: Whether only papers report it.
  """

  label: str
  decoder: (
    Literal["greedy", "self_consistency", "pass@k", "log_likelihood"] | None
  ) = None
  k: int | None = None
  step: Literal["last"] | int = "last"
  task: str | None = None
  average: str | None = None
  cost: Literal["sequences_sampled", "sequences_scored", "seconds"] | None = (
    None
  )
  paper_only: bool = False

  @property
  def unit(self) -> str:
    """One of share, nats, sequences, seconds."""
    if self.cost is None:
      return "nats" if self.decoder == "log_likelihood" else "share"
    return "seconds" if self.cost == "seconds" else "sequences"

  @property
  def is_of_votes(self) -> bool:
    """Whether it is computed from how many samples per question are correct."""
    return self.decoder in ("pass@k", "log_likelihood")

  @property
  def is_measured(self) -> bool:
    """Whether reports have it."""
    return not self.paper_only


class Figure(NamedTuple):
  """A number quoted from a paper.

  Attributes:
    row: The method.
    column: The column's label.
    value: Number, in percent if the column is a share.
    where: The source, which heads the column with the number.
  """

  row: str
  column: str
  value: float
  where: str


class _File(NamedTuple):
  """The content of a description; see `Spec`."""

  title: str
  reports: str
  baseline: str
  rows: tuple[Row, ...]
  columns: tuple[Column, ...]
  paper: tuple[Figure, ...] = ()
  caption: str = ""
  plot: str | None = None
  transposed: bool = False


class Spec(NamedTuple):
  """A table.

  Attributes:
    name: Name of the output files, without endings.
    title: A few words.
    caption: A sentence or more.
    reports: Folder with the reports.
    baseline: The method with which the others are compared.
    rows: At least one row.
    columns: At least one column.
    paper: Quoted numbers.
    plot: The column that is drawn beside the cost; None without accuracies.
    is_transposed: Whether the columns are written as lines.
  """

  name: str
  title: str
  caption: str
  reports: pathlib.Path
  baseline: str
  rows: tuple[Row, ...]
  columns: tuple[Column, ...]
  paper: tuple[Figure, ...]
  plot: str | None
  is_transposed: bool


def read(path: pathlib.Path) -> Spec:
  """Reads a table's description.

  Args:
    path: Path of a TOML file; reports/README.md describes its content.

  Raises:
    UserError: If it cannot be read, or has other content.
  """
  try:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"no file {path}: give a table's TOML file") from None
  except (OSError, ValueError, RecursionError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{path} cannot be read: {reason:.200}") from None
  file = fields.read(_File, table, str(path))
  spec = Spec(
    name=path.stem,
    title=file.title,
    caption=file.caption,
    # Without "..", because it appears in messages.
    reports=pathlib.Path(os.path.normpath(path.parent / file.reports)),
    baseline=file.baseline,
    rows=tuple(
      row._replace(label=row.label or row.method) for row in file.rows
    ),
    columns=file.columns,
    paper=tuple(
      figure._replace(value=float(figure.value)) for figure in file.paper
    ),
    plot=file.plot,
    is_transposed=file.transposed,
  )
  return _check(spec, str(path))


def _check(spec: Spec, where: str) -> Spec:
  """Checks that the parts fit each other."""
  methods = [row.method for row in spec.rows]
  columns = {column.label: column for column in spec.columns}
  _check_distinct(f"{where}: rows: method", methods)
  _check_distinct(f"{where}: rows: label", [row.label for row in spec.rows])
  _check_distinct(f"{where}: columns: label", [c.label for c in spec.columns])
  _check_distinct(
    f"{where}: paper: row, column and where",
    [(figure.row, figure.column, figure.where) for figure in spec.paper],
  )
  if spec.baseline not in methods:
    raise UserError(
      f"{where}: baseline {spec.baseline!r} is not the method of a row: give "
      f"one of {', '.join(methods)}"
    )
  for place, figure in enumerate(spec.paper, start=1):
    at = f"{where}: paper[{place}]"
    if figure.row not in methods:
      raise UserError(f"{at}: row {figure.row!r} is not the method of a row")
    if figure.column not in columns:
      raise UserError(
        f"{at}: column {figure.column!r} is not the label of a column"
      )
    unit = columns[figure.column].unit
    is_share = unit == "share"
    if unit != "nats" and (
      figure.value < 0 or (is_share and figure.value > 100)
    ):
      raise UserError(
        f"{at}: value = {figure.value:g} is not between 0 and 100, in percent"
        if is_share
        else f"{at}: value = {figure.value:g} is below 0"
      )
  for place, column in enumerate(spec.columns, start=1):
    at = f"{where}: columns[{place}]"
    kinds = (column.decoder, column.cost, column.paper_only or None)
    if sum(kind is not None for kind in kinds) != 1:
      raise UserError(f"{at}: give one of decoder, cost and paper_only = true")
    if column.task is not None and column.average is not None:
      raise UserError(f"{at}: give one of task and average")
    if (column.decoder == "pass@k") != bool(column.k):
      raise UserError(
        f"{at}: decoder = 'pass@k' needs k, from 1 to the number of samples, "
        "and no other decoder has it"
      )
  accuracies = [
    c.label for c in spec.columns if c.decoder is not None and c.unit == "share"
  ]
  if spec.plot is not None and spec.plot not in accuracies:
    raise UserError(
      f"{where}: plot = {spec.plot!r} is not the label of an accuracy"
    )
  last = [
    c.label for c in spec.columns if c.label in accuracies and c.step == "last"
  ]
  return spec._replace(plot=spec.plot or next(iter(last), None))


def _check_distinct(what: str, values: Collection) -> None:
  seen = set()
  for value in values:
    if value in seen:
      raise UserError(f"{what} {value!r} is there twice: list each once")
    seen.add(value)
