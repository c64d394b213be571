"""Hashes that identify a report: its text, and what its run computed.

There are two questions, and a hash for each. Was the file changed since its run
wrote it? `hashes` has the hash of each section, and `seal` is over these. Did
another run compute the same? `digest` is over what a run computes, and not over
anything in which two equal runs differ: times, places, machines, restarts. The
hashes guard against slips, not against forgers, who could compute them again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cot_latent.errors import UserError
from cot_latent.reporting import metric_names

SEALS = ("hashes", "seal")
REMEDY = "copy it again from its run's folder, or run it again"
# Settings that do not change what a run computes: its folder and its sources,
# how often it saves, when it is suspect, and on how many devices it runs (which
# changes rounding).
FREE_FIELDS = (
  "model_dir",
  "checkpoint_period",
  "base_dir",
  "limits",
  "mesh",
  "task.source.data_dir",
  "task.source.cache",
  "base.source.data_dir",
  "base.source.cache",
  "base.path",
  "tuning.source.data_dir",
  "tuning.source.cache",
)
_START = "base.start.path"
# Paths of the checkpoint that a run, or the fit of its base model, begins with.
STARTS = (_START, "base.path")
# Files that are identified by their content: the report's section on the data
# has a vocabulary's hash, and the journal that of the parameters.
_BY_CONTENT = (
  _START,
  "task.source.vocabulary",
  "base.source.vocabulary",
  "tuning.source.vocabulary",
)
# Rows of the journal that two runs of the same thing share, and what of these
# they do not.
_SHARED_KINDS = (
  *("metrics", "result", "sample", "stuck", "output", "params", "phase"),
)
_OWN_FIELDS = ("seconds", "was_read", "num_scored", "num_bytes")

_Row = Mapping[str, Any]


def seal(report: Mapping[str, Any]) -> dict[str, Any]:
  """Computes the seals of a report without seals."""
  hashes = {name: sha256(section) for name, section in report.items()}
  return {"hashes": hashes, "seal": sha256(hashes)}


def check(report: Mapping[str, Any], where: str = "the report") -> None:
  """Checks that a report is unchanged since its run.

  Args:
    report: The report.
    where: Its name in errors, such as its file.

  Raises:
    UserError: If a section was changed; names the first one in the alphabet.
  """
  hashes, sealed = (report.get(name) for name in SEALS)
  if not isinstance(hashes, dict) or not isinstance(sealed, str):
    raise UserError(
      f"{where} has no hashes, so nothing tells whether it was edited: {REMEDY}"
    )
  for name in sorted((report.keys() | hashes.keys()) - {*SEALS}):
    if name not in hashes:
      raise UserError(f"{where}: section {name} was added afterwards: {REMEDY}")
    if name not in report:
      raise UserError(f"{where}: section {name} is missing: {REMEDY}")
    if sha256(report[name]) != hashes[name]:
      raise UserError(f"{where}: section {name} was edited: {REMEDY}")
  if sha256(hashes) != sealed:
    raise UserError(f"{where}: section hashes was edited: {REMEDY}")


def digest(report: Mapping[str, Any]) -> str:
  """Returns the hash over what a run computed, `journal_content` included."""
  return sha256(computed(report))


def computed(report: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a run computed and what that depends on, from a report."""
  experiment = report["configuration"]["experiment"]
  return {
    "experiment": {
      name: without_place(name, value)
      for name, value in leaves(experiment)
      if not is_free(name) and value != {}
    },
    "data": report["data"],
    "model": report["model"],
    "randomness": decisive_randomness(report),
    "results": report["results"],
    "journal": report["journal_content"],
  }


def without_place(name: str, value: Any) -> Any:
  """Returns a setting without what does not matter: the path of a file.

  Args:
    name: Its dotted name.
    value: Its value.
  """
  if name not in _BY_CONTENT or value is None:
    return value
  # A file of an installed package has the same name everywhere, which is kept.
  is_package = name == _START and str(value).startswith("package:")
  return value if is_package else "a file"


def decisive_randomness(report: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the section without its prose."""
  section = report["randomness"].items()
  return {name: value for name, value in section if name != "rule"}


def journal_content(rows: Iterable[_Row]) -> str:
  """Returns the hash over the journal's rows that a repetition must share.

  Args:
    rows: Rows, each with its `kind`.
  """
  total = hashlib.sha256()
  for row in rows:
    if is_shared(row["kind"]):
      total.update(_canonical(shared_fields(row)))
  return total.hexdigest()


def is_shared(kind: str) -> bool:
  """Whether two equal runs share the rows of a kind."""
  return kind in _SHARED_KINDS


def shared_fields(row: _Row) -> dict[str, Any]:
  """Returns a row without times, which a repetition need not share."""
  own = _OWN_FIELDS if row.get("kind") != "metrics" else ()
  return {
    name: value
    for name, value in row.items()
    if name not in own and not name.startswith(metric_names.TIMES)
  }


def is_free(name: str) -> bool:
  """Whether a setting, by its dotted name, is one of FREE_FIELDS."""
  return any(
    name == free or name.startswith(f"{free}.") for free in FREE_FIELDS
  )


def leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
  """Lists (dotted name, value) of a tree's leaves; lists count as leaves."""
  if not isinstance(tree, Mapping) or not tree:
    return [(name, tree)]
  found = []
  for key in sorted(tree):
    found += leaves(tree[key], f"{name}.{key}" if name else key)
  return found


def differences(
  old: Any, new: Any, name: str = ""
) -> list[tuple[str, Any, Any]]:
  """Lists (dotted name, old value, new value) where two trees differ."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    found = []
    for key in sorted(old.keys() | new.keys()):
      inner = f"{name}.{key}" if name else key
      found += differences(old.get(key), new.get(key), inner)
    return found
  if _is_list(old) and _is_list(new) and len(old) == len(new):
    found = []
    for place, (one, other) in enumerate(zip(old, new, strict=True)):
      found += differences(one, other, f"{name}[{place}]")
    return found
  return [] if old == new else [(name, old, new)]


def _is_list(value: Any) -> bool:
  return isinstance(value, Sequence) and not isinstance(value, str)


def sha256(value: Any) -> str:
  """Returns the sha256 over a value's JSON, as written and read again."""
  return hashlib.sha256(_canonical(json.loads(json.dumps(value)))).hexdigest()


def _canonical(value: Any) -> bytes:
  return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
