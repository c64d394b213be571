"""The report of a run: how it is made from the journal's rows, read, checked.

What is large is stored beside report.json: the journal, with what was measured
at every step and a few samples, of which the report is made; the outputs and
memories; the changes to the code, if it was changed. The report has their
hashes.

`report.schema.json` says what a report holds; `seals`, what its hashes are for.
"""

import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cot_latent.errors import UserError
from cot_latent.reporting import chains, health, page, schema, seals
from cot_latent.reporting import metric_names as names
from cot_latent.runtime import files, lock

SCHEMA_VERSION = 3
FINISHED = ("complete", "suspect")  # such a run has nothing left to do
# Files beside the report.
JOURNAL, DIFF = "journal.jsonl", "code.diff"
CONFIG = "config.gin"  # by T5X, of a run inside it
_TIMES = ("sampling", "checking", "gradient", "rest")
_Row = dict[str, Any]


def replace(path: pathlib.Path, report: Mapping[str, Any]) -> None:
  """Replaces a report, and the page beside it if there is one.

  Raises:
    UserError: if it cannot be written.
  """
  rows = files.read_rows(path.parent / JOURNAL, None)
  try:
    files.write_atomically(path, files.to_json(report))
    if (html := path.with_suffix(".html")).is_file():
      files.write_atomically(html, page.render({**report, **split(rows)}))
  except OSError as error:
    raise UserError(
      f"{path} cannot be written ({error.strerror}), so the verdict, "
      f"{report['replication'][-1]['verdict']}, is not noted there"
    ) from None


def split(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
  """Takes from a journal what a report leaves out."""
  return {
    "metrics": of_kind(rows, "metrics"),
    "samples": of_kind(rows, "sample"),
    "stuck": of_kind(rows, "stuck"),
  }


def of_kind(rows: Sequence[_Row], kind: str) -> list[_Row]:
  """The rows of a kind, without the kind, in the order added."""
  return [
    {key: value for key, value in row.items() if key != "kind"}
    for row in rows
    if row["kind"] == kind
  ]


def build_report(
  header: Mapping[str, Any],
  rows: Sequence[_Row],
  status: str,
  error: str | None,
) -> dict[str, Any]:
  """Makes the report from its parts, with its hashes.

  Args:
    header: The sections that do not change during a run.
    rows: The journal's rows.
    status: As for `RunLog.write`.
    error: What went wrong, in a line.
  """
  live = measured(rows, header["diagnostics"]["limits"])
  flags = health.red_flags(live["diagnostics"], live["results"])
  if status == "complete" and flags:
    status = "suspect"
  identity = header["identity"]
  report = {
    **header,
    **live,
    "schema_version": SCHEMA_VERSION,
    "status": status,
    "error": error,
    "suspect": flags,
    "identity": identity | {"ended": None if status == "running" else now()},
    "model": header["model"] | live["model"],
    "continuity": header["continuity"] | live["continuity"],
    "journal_content": seals.journal_content(rows),
    "parts": [*header["parts"], *live["parts"]],
  }
  return sealed(report)


def measured(
  rows: Sequence[_Row], limits: Mapping[str, float]
) -> dict[str, Any]:
  """Makes the sections, or the parts of sections, that come from the journal.

  Args:
    rows: Rows of the journal.
    limits: The fields of `health.Limits`.
  """
  metrics = of_kind(rows, "metrics")
  phases = of_kind(rows, "phase")
  evaluations = of_kind(rows, "evaluation_seconds")
  step_seconds = {
    p: sum(row[names.TIMES + p] for row in metrics) for p in _TIMES
  }
  seconds = {
    **{row["phase"]: row["seconds"] for row in phases},
    "steps": sum(step_seconds.values()),
    "evaluation": sum(row["seconds"] for row in evaluations),
  }
  counted = [*metrics, *phases, *evaluations]
  usage, results = of_kind(rows, "usage"), of_kind(rows, "result")
  evaluated = {row["step"] for row in results}

  def total(name: str) -> int:
    return sum(row.get(name, 0) for row in counted)

  return {
    "results": results,
    "diagnostics": health.measure(metrics, limits)
    | chains.measure(metrics, evaluated),
    "cost": {
      "steps_skipped": sum(row[names.IS_SKIPPED] for row in metrics),
      "seconds": seconds | {"total": sum(seconds.values())},
      "step_seconds": step_seconds,
      "sequences_sampled": total(names.NUM_SAMPLED),
      "sequences_scored": total(names.NUM_SCORED),
      "tokens_sampled": total(names.NUM_TOKENS),
      "peak_memory_bytes": max(
        (row["peak_memory_bytes"] for row in usage), default=0
      ),
      **_start(usage),
    },
    "model": {
      "params_sha256": {
        str(row["step"]): row["sha256"] for row in of_kind(rows, "params")
      }
    },
    "continuity": {"checkpoints": of_kind(rows, "checkpoint")},
    "parts": [journal_part(rows), *of_kind(rows, "output")],
  }


def _start(usage: Sequence[_Row]) -> dict[str, Any]:
  """Returns the cost of the start, once a checkpoint was saved.

  Of several processes, one after the other, that which compiled most counts.
  """
  if not usage:
    return {}
  compilations = [row["compilation"] for row in usage]
  seconds = (row["first_step_seconds"] for row in usage)
  return {
    "first_step_seconds": next((s for s in seconds if s is not None), None),
    "compilation": max(compilations, key=lambda one: one["num_compiled"]),
  }


def journal_part(rows: Sequence[_Row]) -> dict[str, Any]:
  """Identifies the journal as it is now, so that later rows do not count."""
  content = "".join(map(files.to_json_line, rows)).encode()
  return {
    "path": JOURNAL,
    "sha256": files.sha256(content),
    "num_bytes": len(content),
  }


def sealed(report: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the report with digest and seals of its current content."""
  bare = {k: v for k, v in report.items() if k not in (*seals.SEALS, "digest")}
  bare["digest"] = seals.digest(bare)
  return bare | seals.seal(bare)


def with_verdict(
  report: Mapping[str, Any], verdict: Mapping[str, Any]
) -> dict[str, Any]:
  """The report with one more replication."""
  return sealed(
    {**report, "replication": [*report["replication"], dict(verdict)]}
  )


def read(directory: pathlib.Path) -> dict[str, Any] | None:
  """Reads the report of a folder.

  Returns:
    The report, or None if the folder is not there or empty; what a run writes
    before its first report, and a part of that, do not count.

  Raises:
    UserError: if the folder holds something else, or a report that this
      version cannot read.
  """
  for place in (directory, *directory.parents):
    if place.is_file():
      raise UserError(f"MODEL_DIR {directory}: {place} is a file, not a folder")
  path, diff = directory / "report.json", directory / DIFF
  begun = {directory / lock.NAME, diff, *map(files.partial_path, (path, diff))}
  if not directory.is_dir() or not {*directory.iterdir()} - begun:
    return None
  if not path.is_file():
    raise UserError(
      f"MODEL_DIR {directory} is not empty and holds no report.json: choose "
      "another folder, so that nothing in it is lost"
    )
  return read_file(path)


def read_file(path: pathlib.Path) -> dict[str, Any]:
  """Reads a report.

  Raises:
    UserError: If it is not a report, or if this version cannot read it.
  """
  foreign = UserError(f"{path} is not a report of this program")
  try:
    report = files.parse_json(path.read_text(encoding="utf-8"))
    version = report["schema_version"]
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  except (ValueError, KeyError, TypeError, RecursionError):
    raise foreign from None
  if version != SCHEMA_VERSION:
    raise UserError(
      f"{path} has schema version {version!r:.40}; this program reads "
      f"{SCHEMA_VERSION}: run it again"
    )
  schema.check_report(report, str(path))
  return report


def read_whole(directory: pathlib.Path) -> dict[str, Any]:
  """Reads a run's report with the metrics and samples beside it."""
  path = directory / JOURNAL
  rows = files.read_rows(path, None)
  for number, row in enumerate(rows, start=1):
    schema.check_row(row, f"{path}, line {number}")
  return read_file(directory / "report.json") | split(rows)


def check_same_run(
  directory: pathlib.Path, old: dict[str, Any], header: dict[str, Any]
) -> None:
  """Checks that a folder holds the run that is asked for.

  Args:
    directory: The run's folder.
    old: The report in the folder.
    header: The header of the run that will resume there.

  Raises:
    UserError: If the runs differ; names the first difference.
  """
  for section, name, was, now_is in what_differs(old, header, with_start=True):
    raise UserError(
      f"MODEL_DIR {directory} belongs to another run: {section} {name} "
      f"was {was!r:.60} there and is {now_is!r:.60} here; choose another "
      "MODEL_DIR, or use the old configuration to resume it"
    )


def what_differs(
  old: Mapping[str, Any], new: Mapping[str, Any], *, with_start: bool = False
) -> list[tuple[str, str, Any, Any]]:
  """Lists what makes two runs different ones.

  Args:
    old: A report, or its header.
    new: Another one.
    with_start: Whether the path of the checkpoint to begin with counts. Two
      reports tell by their parameters whether it was the same one; a header
      does not.

  Returns:
    (section, dotted name, old value, new value), in the order of the sections:
    configuration, data, randomness.
  """
  found = []
  had, wants = (json.loads(json.dumps(_decisive(r))) for r in (old, new))
  for section, part in had.items():
    found += [
      (section, name, was, now_is)
      for name, was, now_is in seals.differences(part, wants[section])
      if (with_start and name in seals.STARTS)
      or not (
        seals.is_free(name)
        or seals.without_place(name, was) == seals.without_place(name, now_is)
      )
    ]
  return found


def _decisive(report: Mapping[str, Any]) -> dict[str, Any]:
  """What tells one run from another."""
  return {
    "configuration": report["configuration"]["experiment"],
    "data": report["data"],
    "randomness": seals.decisive_randomness(report),
  }


def now() -> str:
  """The time, in UTC, to the second."""
  time = datetime.datetime.now(datetime.UTC)
  return time.strftime("%Y-%m-%dT%H:%M:%SZ")
