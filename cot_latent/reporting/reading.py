"""Opens finished reports, whoever wrote them.

Every command gets its reports from here. So no command takes an edited report
for a run's own, or ends in a traceback on an incomplete report. `open_report`
checks the form, the seals, the digest, and the files beside the report that the
command is about to read. A report that was copied without these files can be
read alone.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import record, schema, seals
from cot_latent.runtime import files


class Opened(NamedTuple):
  """A report that is unchanged since its run.

  Attributes:
    report: The report.
    parts: Content of each requested part, by its path; None for a missing part.
      Of the journal, only the rows that the report covers.
  """

  report: dict[str, Any]
  parts: dict[str, bytes | None]


def open_report(path: pathlib.Path, *parts: str) -> Opened:
  """Opens a report for reading.

  Args:
    path: Path of the report.
    *parts: Paths of the files beside it that are going to be read.

  Raises:
    UserError: If the report or one of these parts was changed; names it.
  """
  report = record.read_file(path)
  seals.check(report, str(path))
  if seals.digest(report) != report["digest"]:
    raise UserError(
      f"{path}: its digest does not match its content: {seals.REMEDY}"
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
    folder: The report's folder.
    part: The report's entry for the file.

  Returns:
    The content, None if the file is missing or has a fault; and the fault,
    None if there is none.
  """
  path = folder / part["path"]
  try:
    is_inside = path.resolve().is_relative_to(folder.resolve())
    if not is_inside:
      return None, "is outside the run's folder"
    if not path.exists():
      return None, None
    if not path.is_file():
      return None, "is not a file"
    with path.open("rb") as file:
      # A running run extends its journal; only the part covered is hashed.
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
    content: Content of the journal.
    where: Its name in errors, such as its path.

  Returns:
    The rows, each with its step and kind.

  Raises:
    UserError: If a line is not a row that a run writes; names the line.
  """
  rows = []
  for number, line in enumerate(content.splitlines(), start=1):
    place = f"{where}, line {number}"
    try:
      row = files.parse_json(line)
    except (ValueError, RecursionError):
      raise UserError(f"{place}: not JSON: {seals.REMEDY}") from None
    schema.check_row(row, place)
    rows.append(row)
  return rows


def load_report(place: str | pathlib.Path) -> dict[str, Any]:
  """Reads a run's report, checks it, and adds the metrics of each step.

  Args:
    place: Path of the report, or of the run's folder.

  Returns:
    The report as report.schema.json describes it. If the journal is beside it,
    "metrics" has a row for each step, and "samples" has some completions.

  Raises:
    UserError: If it is not a report, or was edited.

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
