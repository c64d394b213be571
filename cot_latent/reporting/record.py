"""The run's record: report.json and the page made from it.

The record is written whole each time, at the start, at every checkpoint and at
the end, so that a reader always finds a valid report that says how far the run
is. What was measured lies in a journal beside it, from which the report's
metrics, results and costs are made.

A report has the hash of each of its sections, and a digest over the hashes.
They tell whether a report was changed afterwards, even where its large sections
were dropped. They guard against slips, not against forgers, who would compute
them anew.
"""

import datetime
import hashlib
import json
import pathlib
from typing import Any

from cot_latent.errors import UserError
from cot_latent.reporting import files, page

SCHEMA_VERSION = 1
_MOST_CAPPED = 0.5  # share of draws cut by the length limit
_LARGE = ("metrics", "samples")  # what a compact report does without
_SEALS = ("hashes", "digest")
# Where a run lies and how often it saves do not change what it computes.
_FREE_FIELDS = (
  "model_dir",
  "checkpoint_period",
  "base_dir",
  "task.source.data_dir",
  "task.source.cache",
  "base.source.data_dir",
  "base.source.cache",
)


class Record:
  """The report of one run while it is being made."""

  def __init__(
    self,
    directory: pathlib.Path,
    header: dict[str, Any],
    resume_at: int | None,
  ):
    """Opens the record of a run that starts or goes on.

    Args:
      directory: the run's folder.
      header: the sections that stay as they are (identity, configuration,
        data, environment, plan).
      resume_at: the step that the run goes on from; None at the start.

    Raises:
      UserError: if the journal lacks steps that were taken before.
    """
    self._directory = directory
    self._header = header
    path = directory / "journal.jsonl"
    if resume_at is not None:
      steps = [row["step"] for row in files.read_rows(path, resume_at)]
      if missing := {*range(resume_at + 1)} - {*steps}:
        raise UserError(
          f"{path} lacks step {min(missing)}, though the checkpoint is of step "
          f"{resume_at}: put the journal back, or choose another MODEL_DIR"
        )
    self.journal = files.Journal(path, resume_at)

  def write(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Writes report.json and report.html.

    Args:
      status: running, complete, failed or interrupted.
      error: what went wrong, in a line.

    Returns:
      The report.
    """
    report = build(self._header, self.journal, status, error)
    files.write_atomically(
      self._directory / "report.json", files.to_json(report)
    )
    files.write_atomically(self._directory / "report.html", page.render(report))
    return report

  def close(self) -> None:
    """Closes the journal."""
    self.journal.close()


def build(
  header: dict[str, Any],
  journal: files.Journal,
  status: str,
  error: str | None,
) -> dict[str, Any]:
  """Makes the report from its parts, with its hashes."""
  metrics = journal.of_kind("metrics")
  phases = {row["phase"]: row["seconds"] for row in journal.of_kind("phase")}
  evaluations = journal.of_kind("evaluation_seconds")
  parts = ("sampling", "checking", "gradient", "rest")
  split = {p: sum(row[f"time/{p}"] for row in metrics) for p in parts}
  seconds = {
    **phases,
    "steps": sum(split.values()),
    "evaluation": sum(row["seconds"] for row in evaluations),
  }
  counted = [*metrics, *journal.of_kind("phase"), *evaluations]
  identity = header["identity"]
  ended = None if status == "running" else now()
  report = {
    **header,
    "schema_version": SCHEMA_VERSION,
    "status": status,
    "error": error,
    "suspect": suspect(metrics),
    "identity": identity | {"ended": ended},
    "metrics": metrics,
    "results": journal.of_kind("result"),
    "samples": journal.of_kind("sample"),
    "cost": {
      "steps_skipped": sum(row["estimator/is_skipped"] for row in metrics),
      "seconds": seconds | {"total": sum(seconds.values())},
      "step_seconds": split,
      "sequences_sampled": sum(r.get("num_sampled", 0) for r in counted),
      "sequences_scored": sum(r.get("num_scored", 0) for r in counted),
    },
  }
  return report | _seals(report)


def compact(report: dict[str, Any]) -> dict[str, Any]:
  """Drops a report's large sections, and keeps their hashes.

  Returns:
    All but `metrics` and `samples`; `verify` takes it as it takes the whole.
  """
  return {name: part for name, part in report.items() if name not in _LARGE}


def verify(report: dict[str, Any], where: str = "the report") -> None:
  """Checks that a report, whole or compact, is as its run left it.

  Args:
    report: as it was read.
    where: how to name it in an error, such as its file.

  Raises:
    UserError: naming the first section, by the alphabet, that was changed.
  """
  mend = "take it again from its run's folder, or run it again"
  hashes, digest = (report.get(name) for name in _SEALS)
  if not isinstance(hashes, dict) or not isinstance(digest, str):
    raise UserError(
      f"{where} has no hashes, and nothing tells whether it was edited: {mend}"
    )
  for name in sorted((report.keys() | hashes.keys()) - {*_SEALS}):
    if name not in hashes:
      raise UserError(f"{where}: section {name} was added afterwards: {mend}")
    if name not in report:
      if name in _LARGE:
        continue
      raise UserError(f"{where}: section {name} is missing: {mend}")
    if _sha256(report[name]) != hashes[name]:
      raise UserError(f"{where}: section {name} was edited: {mend}")
  if _sha256(hashes) != digest:
    raise UserError(f"{where}: section hashes was edited: {mend}")


def _seals(report: dict[str, Any]) -> dict[str, Any]:
  hashes = {name: _sha256(section) for name, section in report.items()}
  return {"hashes": hashes, "digest": _sha256(hashes)}


def _sha256(value: Any) -> str:
  """The sha256 over a value's JSON, as it is after being written and read."""
  read_back = json.loads(json.dumps(value))
  text = json.dumps(read_back, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def suspect(metrics: list[dict[str, Any]]) -> list[str]:
  """Says what makes a run's results worth nothing; mostly there is nothing."""
  if not metrics:
    return []

  def always(key: str, value: float) -> bool:
    return all(row[key] == value for row in metrics)

  capped = sum(row["draws/capped_fraction"] for row in metrics) / len(metrics)
  signs = {
    "no question ever had a right rationale, so that nothing was learnt": (
      always("estimator/is_skipped", 1)
    ),
    "no fresh rationale was ever right": always("chain/accept_rate", 0),
    f"{capped:.0%} of the fresh rationales were cut by MAX_LENGTH": (
      capped > _MOST_CAPPED
    ),
  }
  return [sign for sign, is_seen in signs.items() if is_seen]


def read(directory: pathlib.Path) -> dict[str, Any] | None:
  """Reads the report of a folder.

  Returns:
    The report, or None if the folder is not there or empty; a report of which
    only a part was written before a kill does not count.

  Raises:
    UserError: if the folder holds something else, or a report that this
      version cannot read.
  """
  for place in (directory, *directory.parents):
    if place.is_file():
      raise UserError(f"MODEL_DIR {directory}: {place} is a file, not a folder")
  partial = files.partial_path(directory / "report.json")
  if not directory.is_dir() or not {*directory.iterdir()} - {partial}:
    return None
  path = directory / "report.json"
  if not path.is_file():
    raise UserError(
      f"MODEL_DIR {directory} is not empty and holds no report.json: choose "
      "another folder, so that nothing in it is lost"
    )
  try:
    report = json.loads(path.read_text(encoding="utf-8"))
    version = report["schema_version"]
    if version == SCHEMA_VERSION:
      _parts(report)
  except (ValueError, KeyError, TypeError):
    raise UserError(f"{path} is not a report of this program") from None
  if version != SCHEMA_VERSION:
    raise UserError(
      f"{path} has schema version {version}; this program reads "
      f"{SCHEMA_VERSION}"
    )
  return report


def check_same_run(
  directory: pathlib.Path, old: dict[str, Any], header: dict[str, Any]
) -> None:
  """Checks that a folder's run is the one that is asked for.

  Args:
    directory: the run's folder.
    old: the report in it.
    header: of the run that is to go on there.

  Raises:
    UserError: naming the first thing that differs.
  """
  wanted = json.loads(json.dumps(_parts(header)))
  for section, had in _parts(old).items():
    wants = wanted[section]
    for name, was, now_is in _differences(had, wants):
      if name not in _FREE_FIELDS:
        raise UserError(
          f"MODEL_DIR {directory} belongs to another run: {section} {name} "
          f"was {was!r:.60} there and is {now_is!r:.60} here; choose another "
          "MODEL_DIR, or use the old configuration to go on with it"
        )


def _parts(report: dict[str, Any]) -> dict[str, Any]:
  """What tells one run from another."""
  return {
    "configuration": report["configuration"]["experiment"],
    "data": report["data"],
    "settings": report["environment"]["settings"],
  }


def now() -> str:
  """The time, in UTC, to the second."""
  time = datetime.datetime.now(datetime.UTC)
  return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _differences(old: Any, new: Any, name: str = ""):
  """Yields (dotted name, old value, new value) where two trees differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(old.keys() | new.keys()):
      inner = f"{name}.{key}" if name else key
      yield from _differences(old.get(key), new.get(key), inner)
  elif old != new:
    yield name, old, new
