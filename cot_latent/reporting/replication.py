"""How far two runs agree: to the bit, in their choices, or in their findings.

The expected agreement depends on what they share. With the same machine type,
software and number of devices it is every bit. With another number of devices
it is every random choice, until rounding changes one. With other hardware or
software it is the statistics.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cot_latent.reporting import environment, pairing, reading, record, seals

BITWISE, CHOICES, CONSISTENT, DIFFERENT = (
  "bitwise equal",
  "same random choices",
  "statistically consistent",
  "different",
)
_TOLERANCE = 0.01  # of floating-point metrics, relative
_LEAST_SIZE = 1e-3  # smaller metrics count as this large
_SHOWN = 5


class Comparison(NamedTuple):
  """The agreement of two runs.

  Attributes:
    verdict: BITWISE, CHOICES, CONSISTENT or DIFFERENT.
    evidence: Reasons, one line each.
    differences: Differences in the reports and then in the steps, one line
      each, the first difference of a kind first.
  """

  verdict: str
  evidence: list[str]
  differences: list[str]


def compare(one: pathlib.Path, other: pathlib.Path) -> Comparison:
  """Compares two runs by their reports, and what is beside them.

  Args:
    one: Path of a report.json.
    other: Path of another.

  Raises:
    UserError: if one of them is no report, or it, its journal or its outputs
      were edited.
  """
  opened = [reading.open_report(p, record.JOURNAL) for p in (one, other)]
  journals = [
    _shared_rows(path, parts[record.JOURNAL])
    for path, (_, parts) in zip((one, other), opened, strict=True)
  ]
  a, b = (report for report, _ in opened)
  differences = _section_differences(a, b)
  mine, theirs = journals
  same_choices = None
  if mine is not None and theirs is not None:
    steps, same_choices = _step_differences(mine, theirs)
    differences += steps
  if a["digest"] == b["digest"]:
    return Comparison(BITWISE, [f"digest {a['digest']} of both"], differences)
  statistics, is_consistent = pairing.compare_accuracies(
    pairing.Run(one, a), pairing.Run(other, b)
  )
  lacking = [
    f"{path} has no journal beside it, so that steps are not compared"
    for path, rows in zip((one, other), journals, strict=True)
    if rows is None
  ]
  if same_choices is not None and _same_outcome(a, b):
    return Comparison(CHOICES, [same_choices], differences)
  verdict = CONSISTENT if is_consistent else DIFFERENT
  return Comparison(verdict, [*statistics, *lacking], differences)


def _shared_rows(
  path: pathlib.Path, journal: bytes | None
) -> list[dict[str, Any]] | None:
  """Returns the rows that a repetition must share; None without a journal."""
  if journal is None:
    return None
  rows = reading.parse_rows(journal, str(path.with_name(record.JOURNAL)))
  return [
    seals.shared_fields(row) for row in rows if seals.is_shared(row["kind"])
  ]


def _section_differences(
  a: Mapping[str, Any], b: Mapping[str, Any]
) -> list[str]:
  """Lists what differs in the reports, section by section."""
  found = [
    f"{section}: {name} is {was!r:.60} and {now_is!r:.60}"
    for section, name, was, now_is in record.what_differs(a, b)
  ]
  code = environment.code_differences(a["code"], b["code"])
  found += [
    f"code: {name} is {was!r:.60} and {now_is!r:.60}"
    for name, (was, now_is) in [*code.items()][:_SHOWN]
  ]
  if len(code) > _SHOWN:
    found.append(f"code: {len(code) - _SHOWN} more files or packages differ")
  if ("t5x" in a) != ("t5x" in b):
    found.append("t5x: only one of them ran inside T5X")
  for section in ("t5x", "environment", "model", "results"):
    if section not in a or section not in b:
      continue
    changed = seals.differences(a[section], b[section])
    found += [
      f"{section}: {name} is {was!r:.60} and {now_is!r:.60}"
      for name, was, now_is in changed[:1]
    ]
  return found


def _step_differences(
  a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]
) -> tuple[list[str], str | None]:
  """Compares two journals row by row.

  Returns:
    The first difference; and, if all random choices are equal, a line about it.
  """
  found: list[str] = []
  worst, where = 0.0, ""
  for one, other in zip(a, b, strict=False):
    at = f"step {one['step']}, {one['kind']}"
    if (one["step"], one["kind"]) != (other["step"], other["kind"]):
      there = f"step {other['step']}, {other['kind']}"
      return [*found, f"{at}: the other has {there} there"], None
    for name, was, now_is in seals.differences(one, other):
      found = found or [f"{at}: {name} is {was!r:.60} and {now_is!r:.60}"]
      if one["kind"] in ("params", "sample", "output"):
        continue  # the remaining fields are in choices and results
      gap = _gap(was, now_is)
      if gap > _TOLERANCE:
        return found, None
      if gap > worst:
        worst, where = gap, f" ({name} at step {one['step']})"
  if len(a) != len(b):
    return [*found, f"journal: {len(a)} and {len(b)} rows"], None
  steps = sum(row["kind"] == "metrics" for row in a)
  return found, (
    f"all draws, acceptances and counts of {steps} steps are the same; other "
    f"metrics differ by at most {worst:.1e} of their size{where}"
  )


def _gap(was: Any, now_is: Any) -> float:
  """Returns the relative difference of two floats; otherwise infinity."""
  if not (isinstance(was, float) and isinstance(now_is, float)):
    return math.inf
  return abs(was - now_is) / max(abs(was), abs(now_is), _LEAST_SIZE)


def _same_outcome(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
  return a["results"] == b["results"] and not record.what_differs(a, b)
