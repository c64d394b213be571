"""Checks of a report: everything in it that can be computed again."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import objective, reading, record, seals
from cot_latent.runtime import files

# A line of outputs -> the answer counted, whether it is correct, and how many
# of the completions are.
Rescore = Callable[[Mapping[str, Any]], tuple[str | None, bool, int]]


class Check(NamedTuple):
  """The result of one check.

  Attributes:
    what: Name of the check.
    found: The fault; None if there is none.
    is_done: False if the check could not be made.
  """

  what: str
  found: str | None
  is_done: bool = True


def verify(
  report: Mapping[str, Any], folder: pathlib.Path, rescore: Rescore | None
) -> list[Check]:
  """Checks a report, and all files that belong to it.

  Args:
    report: A report that fits its schema.
    folder: The report's folder.
    rescore: Extracts answers from stored completions; None if the report's task
      cannot be scored again.

  Returns:
    The checks in the order in which they were made.
  """
  checks = [
    Check("schema", None),
    Check("hashes of its sections", _complaint(seals.check, report)),
    Check(
      "digest",
      None if seals.digest(report) == report["digest"] else "it differs",
    ),
  ]
  contents = {}
  for part in report["parts"]:
    content, fault = reading.read_part(folder, part)
    contents[part["path"]] = content
    is_done = content is not None or fault is not None
    checks.append(Check(part["path"], fault, is_done))
  journal = contents.get(record.JOURNAL)
  if journal is None:
    checks.append(Check("sections from the journal", None, is_done=False))
  else:
    checks += _check_journal(report, journal)
  for part in report["parts"]:
    if "decoder" in part:
      content = contents[part["path"]]
      checks.append(_check_outputs(report, part, content, rescore))
  return checks


def _complaint(check: Callable, *arguments) -> str | None:
  try:
    check(*arguments)
  except UserError as error:
    return str(error)
  return None


def _check_journal(report: Mapping[str, Any], content: bytes) -> list[Check]:
  """Makes the report's sections again from the journal."""
  try:
    rows = reading.parse_rows(content, record.JOURNAL)
  except UserError as error:
    return [Check("sections from the journal", str(error))]
  try:
    again = record.measured(rows, report["diagnostics"]["limits"])
  except ValueError as error:  # lists of a forged row that do not fit
    return [
      Check("sections from the journal", f"its lists do not fit: {error}")
    ]
  checks = []
  for name, section in again.items():
    had = report[name]
    if isinstance(section, dict):
      had = {key: had.get(key) for key in section}
    elif name == "parts":
      own = (record.DIFF, record.CONFIG)  # which the journal does not have
      had = [part for part in had if part["path"] not in own]
    differences = seals.differences(had, section)
    found = None
    if differences:
      where, was, now_is = differences[0]
      found = f"{where} is {was!r:.60}, but the journal gives {now_is!r:.60}"
    checks.append(Check(f"{name} from the journal", found))
  is_same = seals.journal_content(rows) == report["journal_content"]
  checks.append(Check("journal_content", None if is_same else "it differs"))
  return checks


def _check_outputs(
  report: Mapping[str, Any],
  part: Mapping[str, Any],
  content: bytes | None,
  rescore: Rescore | None,
) -> Check:
  """Scores stored completions again, and counts."""
  what = f"results from {part['path']}"
  if content is None:
    return Check(what, None, is_done=False)
  own = [
    row
    for row in report["results"]
    if all(row[key] == part[key] for key in ("step", "split", "decoder"))
  ]
  try:
    lines = [files.parse_json(line) for line in content.splitlines()]
    found = _misjudged(lines, rescore) if rescore else None
    found = found or _miscount(own, lines)
  # A forged file may have any form.
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    found = f"a run does not write this ({type(error).__name__}: {error})"
  return Check(what, found, is_done=rescore is not None)


def _misjudged(
  lines: Sequence[Mapping[str, Any]], rescore: Rescore
) -> str | None:
  for number, line in enumerate(lines, start=1):
    try:
      extracted, is_correct, num_correct = rescore(line)
    except UserError as error:
      return f"line {number}: {error}"
    if (extracted, is_correct) != (line["extracted"], line["is_correct"]):
      return (
        f"line {number}: the answer {line['extracted']!r:.40} was counted, but "
        f"scoring again gives {extracted!r:.40}"
      )
    if line.get("num_correct", num_correct) != num_correct:
      return (
        f"line {number}: {line['num_correct']} completions were counted "
        f"correct, and scored again {num_correct} are"
      )
  return None


def _miscount(
  results: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]
) -> str | None:
  if not results:
    return "the report has no such result"
  tasks = {line["task"] for line in lines}
  for row in results:
    # A mixture's own row is over all of its tasks.
    own = [
      line
      for line in lines
      if line["task"] == row["task"] or (row["task"] not in tasks)
    ]
    correct = sum(line["is_correct"] for line in own)
    counted = {
      "correct": correct,
      "total": len(own),
      "accuracy": correct / max(1, len(own)),
      "num_unparseable": sum(line["extracted"] is None for line in own),
      "verdicts": "".join("01"[line["is_correct"]] for line in own),
    }
    if row["num_samples"] > 1:
      votes = [line["num_correct"] for line in own]
      counted["correct_votes"] = votes
      counted["objective"] = objective.summarise(votes, row["num_samples"])
    for name, value in counted.items():
      if row[name] != value:
        return f"{name} is {row[name]!s:.60} and the outputs give {value!s:.60}"
  return None
