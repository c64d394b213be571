"""Opens reports that were written before, by whomever.

Every command that reads a report gets it from here, so that none of them takes
an edited one for what a run left, or ends in a traceback on a report that lacks
something. `open_report` checks the form, the seals and the digest, and of the
files beside the report those that the command is about to read. A report that
was copied away from these files can be read alone.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import record, schema, seals
from cot_latent.runtime import files


class Opened(NamedTuple):
  """A report that is as its run left it.

  Attributes:
    report: The report.
    parts: The content of each part that was asked for, by its path; None for
      one that is not there. Of the journal, what the report knows of.
  """

  report: dict[str, Any]
  parts: dict[str, bytes | None]


def open_report(path: pathlib.Path, *parts: str) -> Opened:
  """Opens a report for reading.

  Args:
    path: The report's file.
    *parts: Paths of the files beside it that are going to be read.

  Raises:
    UserError: If the report, or one of these parts, is not as the run left it;
      says which.
  """
  report = record.read_file(path)
  seals.check(report, str(path))
  if seals.digest(report) != report["digest"]:
    raise UserError(
      f"{path}: its digest is not that of what it holds: {seals.REMEDY}"
    )
  schema.check_verdicts(report, str(path))
  contents: dict[str, bytes | None] = dict.fromkeys(parts)
  for part in report["parts"]:
    if part["path"] in contents:
      content, fault = read_part(path.parent, part)
      if fault is not None:
        raise UserError(f"{path}: part {part['path']}: {fault}: {seals.REMEDY}")
      contents[part["path"]] = content
  return Opened(report, contents)


def read_part(
  folder: pathlib.Path, part: Mapping[str, Any]
) -> tuple[bytes | None, str | None]:
  """Reads a file beside a report, and compares its hash.

  Args:
    folder: The report's.
    part: The report's entry for it.

  Returns:
    The content, None if the file is not there or has a fault; and the fault,
    None if there is none.
  """
  path = folder / part["path"]
  try:
    is_inside = path.resolve().is_relative_to(folder.resolve())
    if not is_inside:
      return None, "lies outside the run's folder"
    if not path.exists():
      return None, None
    if not path.is_file():
      return None, "is not a file"
    with path.open("rb") as file:
      # Of the journal, which a run goes on writing, what it was then.
      is_journal = part["path"] == record.JOURNAL
      content = file.read(part["num_bytes"] + (0 if is_journal else 1))
  except OSError as error:
    return None, f"cannot be read: {error.strerror}"
  except RuntimeError:  # links in a circle
    return None, "cannot be read: too many links"
  if files.sha256(content) != part["sha256"]:
    return None, "it was changed"
  return content, None


def parse_rows(content: bytes, where: str) -> list[dict[str, Any]]:
  """Reads the rows of a journal.

  Args:
    content: The journal's.
    where: How an error names it, such as its path.

  Returns:
    The rows, each with its step and kind.

  Raises:
    UserError: If a line is no row that a run writes; names the line.
  """
  rows = []
  for number, line in enumerate(content.splitlines(), start=1):
    place = f"{where}, line {number}"
    try:
      row = files.parse_json(line)
    except (ValueError, RecursionError):
      raise UserError(f"{place}: no JSON: {seals.REMEDY}") from None
    schema.check_row(row, place)
    rows.append(row)
  return rows


def load_report(place: str | pathlib.Path) -> dict[str, Any]:
  """Reads a run's report, checked, with the metrics of each step.

  Args:
    place: The report's file, or the run's folder.

  Returns:
    The report as report.schema.json describes it. Where the journal is beside
    it, "metrics" has a row for each step, and "samples" some completions.

  Raises:
    UserError: If it is no report, or was edited.

  Example:

    report = load_report("runs/quickstart")
    accuracy = [row["chain/accept_rate"] for row in report["metrics"]]
  """
  path = pathlib.Path(place)
  if path.is_dir():
    path /= "report.json"
  opened = open_report(path, record.JOURNAL)
  content = opened.parts[record.JOURNAL]
  if content is None:
    return opened.report
  where = str(path.parent / record.JOURNAL)
  return opened.report | record.split(parse_rows(content, where))
