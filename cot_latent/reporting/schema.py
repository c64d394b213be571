"""The form of a report and of its journal's rows: report.schema.json."""

import functools
import importlib.resources
import json
from typing import Any

import jsonschema

from cot_latent.errors import UserError

_ANY_KIND = "any"  # what rows of kinds that the schema does not know must have


@functools.cache
def load() -> dict[str, Any]:
  """The JSON Schema of a report; its definition `rows` has the journal's."""
  package = importlib.resources.files("cot_latent.reporting")
  text = (package / "report.schema.json").read_text(encoding="utf-8")
  return json.loads(text)


def check_report(report: Any, where: str) -> None:
  """Checks that a report has the form that its schema describes.

  Args:
    report: What was read.
    where: How an error names it, such as its file.

  Raises:
    UserError: If it does not; names the first place.
  """
  fault = _fault(_validator(None), report) or _miscounted(report["results"])
  if fault is not None:
    raise UserError(f"{where} is not a report of this program: {fault}")


def check_row(row: Any, where: str) -> None:
  """Checks that a row of a journal has what the schema wants of its kind.

  Args:
    row: What was read.
    where: How an error names it, such as its file and line.

  Raises:
    UserError: If it does not; names the first place.
  """
  kind = row.get("kind") if isinstance(row, dict) else None
  if not isinstance(kind, str):
    raise UserError(f"{where} is not a row of a journal: it has no kind")
  bare = {key: value for key, value in row.items() if key != "kind"}
  known = load()["$defs"]["rows"]
  fault = _fault(_validator(kind if kind in known else _ANY_KIND), bare)
  if fault is not None:
    raise UserError(f"{where} is not a row of a journal ({kind:.40}): {fault}")


def _miscounted(results: list[dict[str, Any]]) -> str | None:
  """Says which result has more correct answers than questions."""
  for place, row in enumerate(results):
    if row["correct"] > row["total"]:
      return f"$.results[{place}]: {row['correct']} of {row['total']} correct"
  return None


def check_verdicts(report: dict[str, Any], where: str) -> None:
  """Checks that each result has the verdicts that it counts.

  Args:
    report: One that fits its schema.
    where: How an error names it, such as its file.

  Raises:
    UserError: If a result has others.
  """
  fault = _misjudged(report["results"])
  if fault is not None:
    raise UserError(f"{where} is not a report of this program: {fault}")


def _misjudged(results: list[dict[str, Any]]) -> str | None:
  """Says which result's verdicts are not those of its questions."""
  for place, row in enumerate(results):
    where, verdicts = f"$.results[{place}]", row["verdicts"]
    if (verdicts.count("1"), len(verdicts)) != (row["correct"], row["total"]):
      return f"{where}.verdicts: they are not those of its counts"
    votes = row.get("correct_votes", [])
    if votes and (
      len(votes) != row["total"] or max(votes) > row["num_samples"]
    ):
      return f"{where}.correct_votes: they are not of its questions"
  return None


def _fault(validator: Any, value: Any) -> str | None:
  """Says what does not fit first, by the place; None if all does."""
  try:
    found = [(e.json_path, e.message) for e in validator.iter_errors(value)]
  except RecursionError:
    return "it is nested too deep"
  if not found:
    return None
  path, message = min(found)
  return f"{path}: {' '.join(message.split()):.120}"


@functools.cache
def _validator(kind: str | None) -> Any:
  """Returns the validator of a kind of rows, or of reports."""
  part = load()
  if kind is not None:
    part = {"$ref": f"#/$defs/rows/{kind}", "$defs": part["$defs"]}
  draft = jsonschema.Draft202012Validator
  # JSON Schema takes 1e30 for a whole number.
  checker = draft.TYPE_CHECKER.redefine("integer", lambda _, x: type(x) is int)
  return jsonschema.validators.extend(draft, type_checker=checker)(part)
