"""What a table shows, read from a TOML file and checked."""

import difflib
import math
import os
import pathlib
import tomllib
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from cot_latent.errors import UserError

DECODERS = ("greedy", "self_consistency")
COSTS = ("sequences_sampled", "sequences_scored", "seconds")

_Table = Mapping[str, Any]


class Row(NamedTuple):
  """A method.

  Attributes:
    method: its name in the reports.
    label: what the table calls it.
    own_prompts: whether it is meant to have other prompts than the baseline,
      as a method without rationales has. Then its questions are compared by
      their ids, and its prompt length is not compared.
  """

  method: str
  label: str
  own_prompts: bool


class Column(NamedTuple):
  """A quantity: an accuracy, a cost, or something that only a paper reports.

  Attributes:
    label: what the table calls it.
    decoder: of DECODERS, for an accuracy.
    step: of the evaluation; "last" is that of the run's end, which stands for
      all later steps as well.
    task: one of a mixture's tasks; None takes the run's own, all of it.
    average: which of a mixture's averages; None takes the accuracy over all.
    cost: of COSTS, for a cost.
  """

  label: str
  decoder: str | None
  step: Literal["last"] | int
  task: str | None
  average: str | None
  cost: str | None

  @property
  def unit(self) -> str:
    """One of share, sequences, seconds."""
    if self.cost is None:
      return "share"
    return "seconds" if self.cost == "seconds" else "sequences"

  @property
  def is_measured(self) -> bool:
    """Whether reports have it."""
    return self.decoder is not None or self.cost is not None


class Figure(NamedTuple):
  """A number quoted from a paper.

  Attributes:
    row: the method.
    column: the column's label.
    value: in percent where the column is a share.
    where: the source, which heads the column that the number is put in.
  """

  row: str
  column: str
  value: float
  where: str


class Spec(NamedTuple):
  """A table.

  Attributes:
    name: of the files that are made, without endings.
    title: in a few words.
    caption: in a sentence or more.
    reports: the folder with the reports.
    baseline: the method that the others are compared with.
    rows: at least one.
    columns: at least one.
    paper: quoted numbers.
    plot: the column that is drawn against the cost; None without accuracies.
    is_transposed: whether the columns are written as lines.
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
    path: of a TOML file; what it may hold is in reports/README.md.

  Raises:
    UserError: if it cannot be read, or holds something else.
  """
  try:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"no file {path}: give a table's TOML file") from None
  except (OSError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{path} cannot be read: {reason}") from None
  values = _Values(str(path), table)
  spec = Spec(
    name=path.stem,
    title=values.text("title"),
    caption=values.text("caption", ""),
    # Without "..", for it stands in messages.
    reports=pathlib.Path(
      os.path.normpath(path.parent / values.text("reports"))
    ),
    baseline=values.text("baseline"),
    rows=tuple(_row(inner) for inner in values.tables("rows")),
    columns=tuple(_column(inner) for inner in values.tables("columns")),
    paper=tuple(_figure(inner) for inner in values.tables("paper", [])),
    plot=values.text("plot", None),
    is_transposed=values.truth("transposed"),
  )
  values.check_all_used()
  return _check(spec, str(path))


class _Values:
  """A TOML table whose values are taken one by one, with their types."""

  def __init__(self, where: str, table: _Table):
    self.where, self._table, self._used = where, table, set[str]()

  def take(self, key: str, kinds, what: str, *default: Any) -> Any:
    self._used.add(key)
    if key not in self._table:
      if default:
        return default[0]
      raise UserError(f"{self.where}: {key} is missing: give {what}")
    value = self._table[key]
    # TOML's true is an int to Python.
    if isinstance(value, bool) != (kinds is bool) or (
      not isinstance(value, kinds)
    ):
      raise UserError(f"{self.where}: {key} = {value!r:.40} is not {what}")
    return value

  def text(self, key: str, *default: Any) -> Any:
    text = self.take(key, str, "a text", *default)
    if text is None or text in default:
      return text
    if not text.strip():
      raise UserError(f"{self.where}: {key} is empty: give a text")
    return " ".join(text.split())

  def truth(self, key: str) -> bool:
    return self.take(key, bool, "true or false", False)

  def tables(self, key: str, *default: Any) -> list["_Values"]:
    tables = self.take(key, list, f"tables, [[{key}]]", *default)
    if not all(isinstance(inner, dict) for inner in tables):
      raise UserError(f"{self.where}: {key} are not tables, [[{key}]]")
    if not tables and not default:
      raise UserError(f"{self.where}: {key} is empty: give one at least")
    return [
      _Values(f"{self.where}: {key}[{place}]", inner)
      for place, inner in enumerate(tables, start=1)
    ]

  def one_of(self, key: str, choices: Collection, *default: Any) -> Any:
    what = "one of " + ", ".join(map(repr, choices))
    value = self.take(key, (str, int), what, *default)
    if value is not None and value not in choices:
      raise UserError(f"{self.where}: {key} = {value!r:.40} is not {what}")
    return value

  def step(self) -> Literal["last"] | int:
    what = "'last' or a step's number"
    step = self.take("step", (str, int), what, "last")
    if step != "last" and not (isinstance(step, int) and step >= 0):
      raise UserError(f"{self.where}: step = {step!r:.40} is not {what}")
    return step

  def check_all_used(self) -> None:
    for key in self._table:
      if key not in self._used:
        near = difflib.get_close_matches(key, self._used, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{self.where}: there is no key {key!r}{hint}")


def _row(values: _Values) -> Row:
  method = values.text("method")
  row = Row(method, values.text("label", method), values.truth("own_prompts"))
  values.check_all_used()
  return row


def _column(values: _Values) -> Column:
  column = Column(
    label=values.text("label"),
    decoder=values.one_of("decoder", DECODERS, None),
    step=values.step(),
    task=values.text("task", None),
    average=values.text("average", None),
    cost=values.one_of("cost", COSTS, None),
  )
  kinds = [
    column.decoder is not None,
    column.cost is not None,
    values.truth("paper_only"),
  ]
  if sum(kinds) != 1:
    raise UserError(
      f"{values.where}: give one of decoder, cost and paper_only = true"
    )
  if column.task is not None and column.average is not None:
    raise UserError(f"{values.where}: give one of task and average")
  values.check_all_used()
  return column


def _figure(values: _Values) -> Figure:
  figure = Figure(
    row=values.text("row"),
    column=values.text("column"),
    value=float(values.take("value", (int, float), "a number")),
    where=values.text("where"),
  )
  if not math.isfinite(figure.value):
    raise UserError(f"{values.where}: value = {figure.value} is not a number")
  values.check_all_used()
  return figure


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
      f"{where}: baseline {spec.baseline!r} is no row's method: give one of "
      f"{', '.join(methods)}"
    )
  for place, figure in enumerate(spec.paper, start=1):
    at = f"{where}: paper[{place}]"
    if figure.row not in methods:
      raise UserError(f"{at}: row {figure.row!r} is no row's method")
    if figure.column not in columns:
      raise UserError(f"{at}: column {figure.column!r} is no column's label")
    is_share = columns[figure.column].unit == "share"
    if figure.value < 0 or (is_share and figure.value > 100):
      raise UserError(
        f"{at}: value = {figure.value:g} is not between 0 and 100, in percent"
        if is_share
        else f"{at}: value = {figure.value:g} is below 0"
      )
  accuracies = [c.label for c in spec.columns if c.decoder is not None]
  if spec.plot is not None and spec.plot not in accuracies:
    raise UserError(
      f"{where}: plot = {spec.plot!r} is not the label of an accuracy"
    )
  last = [c.label for c in spec.columns if c.decoder and c.step == "last"]
  return spec._replace(plot=spec.plot or next(iter(last), None))


def _check_distinct(what: str, values: Collection) -> None:
  seen = set()
  for value in values:
    if value in seen:
      raise UserError(f"{what} {value!r} is there twice: name each once")
    seen.add(value)
