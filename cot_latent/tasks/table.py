"""Tasks of your own from a CSV or JSONL file of questions and answers."""

import csv
import functools
import io
import numbers
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cot_latent.data.answers import checkers
from cot_latent.data.answers import forms as answer_forms
from cot_latent.errors import UserError
from cot_latent.runtime import text_files
from cot_latent.tasks import common
from cot_latent.tasks.datasets.bbh import split_rows


def register(
  name: str,
  path: str | os.PathLike[str] | Mapping[str, str],
  *,
  question: str = "question",
  answer: str = "answer",
  rationale: str | None = None,
  kind: checkers.Kind = "text",
  form: answer_forms.Form = "sentence",
) -> None:
  """Registers a task whose rows are in a table.

  Args:
    name: The task's name.
    path: Path of a file whose name ends with .csv (with a header) or .jsonl. It
      is split 60/40 by the questions' text, as in BIG-Bench Hard. Or one path
      per split, such as {"train": "a.csv", "test": "b.csv"}.
    question: Name of the column of questions.
    answer: Name of the column of answers.
    rationale: Name of the column of rationales, if there is one; only a base
      model and supervised baselines use them.
    kind: Kind of the answers (`checkers.Kind`). A row with another answer is an
      error.
    form: Form in which the model states its answer: "sentence" (`So the answer
      is X.`) or, for numbers, "tag" (`<answer>X</answer>`).

  Raises:
    UserError: For bad arguments; for a fault of a file when it is read.
  """
  paths = dict(path) if isinstance(path, Mapping) else {"": path}
  columns = (question, answer) + ((rationale,) if rationale else ())

  @functools.cache
  def read() -> dict[str, list[dict[str, str]]]:
    found = {
      split: _make_rows(name, split, pathlib.Path(file), columns, kind, form)
      for split, file in paths.items()
    }
    if "" in found:
      rows = found.pop("")
      sides = split_rows([{"input": row["question"]} for row in rows])
      for split, side in zip(("train", "test"), sides, strict=True):
        found[split] = [rows[number] for number, _ in side]
    return found

  splits = ["train", "test"] if "" in paths else list(paths)
  common.register(
    name,
    common.rows_source(lambda split: read()[split], splits),
    lambda: {split: len(rows) for split, rows in read().items()},
    answer=kind,
    form=form,
    rationale_splits=splits if rationale else (),
  )


def _make_rows(
  name: str,
  split: str,
  path: pathlib.Path,
  columns: tuple[str, ...],
  kind: checkers.Kind,
  form: answer_forms.Form,
) -> list[dict[str, str]]:
  """Reads a file's rows and checks them."""
  rows: list[dict[str, str]] = []
  for place, row in _read(path, columns):
    text_files.require_strings(path, place, row, columns)
    question, answer, *rationale = (row[column].strip() for column in columns)
    if form == "tag":
      number = checkers.normalize_number(answer)
      if number is None:
        raise UserError(
          f"{path}, {place}: the answer {answer!r:.60} is not a number, which "
          "form='tag' needs; register the task with form='sentence'"
        )
      answer = number
    checkers.check_answers(path, [(place, answer)], kind)
    gap = "\n" if form == "tag" else " "
    rows.append(
      {
        "id": "/".join(filter(None, [name, split, f"{len(rows):05}"])),
        "question": question,
        "answer": answer,
        "targets": gap.join([*rationale, answer_forms.close(form, answer)]),
      }
    )
  return rows


def _read(
  path: pathlib.Path, columns: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields rows with their places; a number in JSON becomes its text."""
  if path.suffix == ".jsonl":
    for place, row in text_files.read_jsonl(path):
      if isinstance(row, dict):
        row = {key: _as_text(value) for key, value in row.items()}
      yield place, row
  elif path.suffix == ".csv":
    reader = csv.DictReader(
      # Spreadsheets write a byte order mark.
      io.StringIO(text_files.read_text(path), newline=""),
      strict=True,
    )
    try:
      missing = set(columns) - set(reader.fieldnames or ())
      if missing:
        raise UserError(
          f"{path}: the header has no column {min(missing)!r}, only "
          f"{', '.join(reader.fieldnames or ())}"
        )
      for row in reader:
        if None in row:  # for example, the rest of a text with a comma
          raise UserError(
            f"{path}, line {reader.line_num}: more cells than the header has; "
            'a text with commas needs "quotes"'
          )
        yield f"line {reader.line_num}", row
    except csv.Error as error:
      # The line number of the inner reader, which has found the fault.
      raise UserError(
        f"{path}, line {reader.reader.line_num}: not valid CSV ({error})"
      ) from None
  else:
    raise UserError(f"{path}: the file's name must end with .csv or .jsonl")


def _as_text(value: Any) -> Any:
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return str(value) if is_number else value
