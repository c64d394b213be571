"""What `t5x rerun`, `compare`, `verify` and `show` do."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cot_latent.errors import UserError
from cot_latent.reporting import (
  environment,
  reading,
  record,
  replication,
  seals,
  summary,
  verification,
)
from cot_latent.runtime import terminal

# What `rerun` compares before it begins, by the names that allow a difference.
ALLOWANCES = ("code", "packages", "data", "randomness")
_EXPECTED = (replication.BITWISE, replication.CHOICES)


def find(name: str) -> pathlib.Path:
  """Finds a report: the file itself, or report.json of a folder."""
  path = pathlib.Path(name)
  if path.is_dir():
    path /= "report.json"
  if not path.is_file():
    raise UserError(f"no report {path}: give a report.json or a run's folder")
  return path


def show(name: str) -> str:
  """Describes a run in the terminal."""
  return summary.overview(reading.open_report(find(name)).report)


def verify(name: str) -> tuple[str, bool]:
  """Checks a report and all that lies beside it.

  Returns:
    A line for each check that failed or could not be made, and a last one; and
    whether all is well.
  """
  path = find(name)
  report = record.read_file(path)
  checks = verification.verify(report, path.parent, _rescorer(report))
  lines = [f"{c.what}: {c.found}" for c in checks if c.found is not None]
  num_failed = len(lines)
  skipped = [c.what for c in checks if not c.is_done and c.found is None]
  if skipped:
    lines.append(f"not checked, for it is not there: {', '.join(skipped)}")
  num_done = len(checks) - len(skipped)
  lines.append(
    f"{path}: {num_failed} of {num_done} checks failed"
    if num_failed
    else f"{path}: {num_done} checks passed"
  )
  return terminal.join(lines), not num_failed


def compare(one: str, other: str) -> tuple[str, bool]:
  """Compares two runs.

  Returns:
    The differences and the verdict; and whether they are the same run.
  """
  found = replication.compare(find(one), find(other))
  return _text(found), found.verdict in _EXPECTED


def rerun(
  name: str,
  output: str | None,
  data_dir: str | None,
  checkpoint: str | None,
  allowed: Collection[str],
  repeat_inside_t5x: Callable[..., None],
) -> tuple[str, bool]:
  """Repeats a run from its report alone, and compares.

  Args:
    name: of the report.
    output: the new run's folder; None takes one in runs/.
    data_dir: as DATA_DIR; None takes what the run had.
    checkpoint: as CHECKPOINT, or T5X's INITIAL_CHECKPOINT_PATH; None takes
      what the run had.
    allowed: of ALLOWANCES, what may differ.
    repeat_inside_t5x: `t5x.launch.repeat`, for the report of a run inside T5X.

  Returns:
    The comparison; and whether the new run is the same.

  Raises:
    UserError: if the report was edited, or what the run depends on differs.
  """
  path = find(name)
  report = reading.open_report(path).report
  if report["status"] not in record.FINISHED:
    raise UserError(
      f"{path} is of a run that is {report['status']}: only a run that is "
      "complete can be compared with its repetition"
    )
  folder = _new_folder(report, output)
  check = functools.partial(_check_same, path, report, allowed)
  if "t5x" in report:
    repeat_inside_t5x(report, folder, data_dir, checkpoint, check)
  else:
    _repeat(report, folder, data_dir, checkpoint, check)
  found = replication.compare(path, folder / "report.json")
  again = reading.open_report(folder / "report.json").report
  verdict = {
    "at": record.now(),
    "verdict": found.verdict,
    "evidence": found.evidence,
    "digest": again["digest"],
    "code": environment.code_differences(report["code"], again["code"]),
    "environment": {
      where: [was, now_is]
      for where, was, now_is in seals.differences(
        report["environment"], again["environment"]
      )
    },
  }
  record.replace(path, record.with_verdict(report, verdict))
  text = f"{_text(found)}\nnoted in {path}; the new run is in {folder}"
  return text, found.verdict in _EXPECTED


def _repeat(
  report: Mapping[str, Any],
  folder: pathlib.Path,
  data_dir: str | None,
  checkpoint: str | None,
  check: Callable[[Mapping[str, Any]], None],
) -> None:
  """Runs the experiment of a report; `check` gets the new header before."""
  from cot_latent.training import train

  config, gin_record = _parse(report, checkpoint)
  config = _moved(config, str(folder), data_dir)
  prepared = train.prepare(config, gin_record)
  check(prepared.header)
  train.train(prepared)


def export(name: str, output: str, checkpoint: str | None, dtype: Any) -> str:
  """Writes a run's model as a folder that `transformers` loads.

  Args:
    name: of the report.
    output: the folder.
    checkpoint: where the one is now that the run began with; None is where it
      was.
    dtype: of the tensors; None is each one's own in the checkpoint.

  Returns:
    What was written.

  Raises:
    UserError: if there is nothing that can be written.
  """
  path = find(name)
  report = reading.open_report(path).report
  if "t5x" in report:
    raise UserError(
      f"{path} is of a run inside T5X, whose checkpoints python -m "
      "cot_latent.t5x.moving makes a folder of (docs/t5x.md)"
    )
  from cot_latent.training import export as exporting

  config, _ = _parse(report, checkpoint)
  step = exporting.export(config, path.parent, pathlib.Path(output), dtype)
  return f"{output}: the model of {path.parent} after step {step}"


def _parse(report: Mapping[str, Any], checkpoint: str | None):
  """Builds a report's experiment, whose checkpoint may have moved."""
  from cot_latent.configuration import parsing

  text = report["configuration"]["resolved"]
  if checkpoint is not None:
    if "%CHECKPOINT" not in text:
      raise UserError("--checkpoint: the run began with none (CHECKPOINT)")
    text += f"\nCHECKPOINT = {checkpoint!r}\n"
  return parsing.parse_resolved(text)


def _text(found: replication.Comparison) -> str:
  lines = [f"differs: {line}" for line in found.differences]
  lines += [f"verdict: {found.verdict}", *(f"  {e}" for e in found.evidence)]
  return terminal.join(lines)


def _new_folder(report: Mapping[str, Any], output: str | None) -> pathlib.Path:
  """Names the folder of a repetition: one that is not complete yet."""
  if output is not None:
    folder = pathlib.Path(output)
    old = record.read(folder)
    if old is not None and old["status"] in record.FINISHED:
      raise UserError(
        f"--output={output} holds a run that is complete already: name another"
      )
    return folder
  run_id, number = report["identity"]["run_id"], 1
  while True:
    folder = pathlib.Path(f"runs/{run_id}-rerun-{number}")
    old = record.read(folder)
    if old is None or old["status"] not in record.FINISHED:
      return folder
    number += 1


def _moved(config, model_dir: str, data_dir: str | None):
  """The experiment in another folder, its data perhaps elsewhere."""

  def moved(part):
    source = getattr(part, "source", None)
    if source is None:  # not all bases and prompts are made of a task
      return part
    changes: dict[str, Any] = {}
    if data_dir is not None:
      changes["data_dir"] = data_dir
    # The data are compared by hash, so that a cache is not needed for that.
    if source.cache is not None and not pathlib.Path(source.cache).is_file():
      changes["cache"] = None
    return dataclasses.replace(
      part, source=dataclasses.replace(source, **changes)
    )

  return dataclasses.replace(
    config,
    model_dir=model_dir,
    base_dir=None,
    task=moved(config.task),
    base=moved(config.base),
    tuning=moved(config.tuning),
  )


def _check_same(
  path: pathlib.Path,
  report: Mapping[str, Any],
  allowed: Collection[str],
  header: Mapping[str, Any],
) -> None:
  """Refuses a repetition that would not be one, naming the first field."""
  found = [
    (
      "packages" if name.startswith("packages.") else "code",
      name,
      *values,
    )
    for name, values in environment.code_differences(
      report["code"], header["code"]
    ).items()
    # Files tell more than a revision does: two may hold the same code.
    if name.startswith(("files.", "packages."))
  ]
  found += record.what_differs(report, header)
  for section, name, was, now_is in found:
    if section in allowed:
      continue
    mend = (
      f"or say --allow={section}"
      if section in ALLOWANCES
      else "or report it, for this version reads the configuration otherwise"
    )
    if section in ("code", "packages") and report["code"]["revision"]:
      mend = f"check out {report['code']['revision']:.12}, {mend}"
    raise UserError(
      f"{path} cannot be repeated here: {section} {name} was {was!r:.40} and "
      f"is {now_is!r:.40}; mend that, {mend}"
    )


def _rescorer(report: Mapping[str, Any]) -> verification.Rescore | None:
  """How completions are scored again; None with a checker of the task's own."""
  from cot_latent.data import scoring
  from cot_latent.data.answers import forms as answer_forms

  described = report["data"]["answers"]
  if described["form"] is None:
    return None
  rules = {}
  for task, kind in described["kinds"].items():
    ways = answer_forms.conventions(
      task,
      described["form"],
      tuple(kind) if isinstance(kind, list) else kind,
      described["is_direct"],
    )
    rules[task] = next(iter(ways.values()))

  def rescore(line: Mapping[str, Any]) -> tuple[str | None, bool]:
    return scoring.score_completions(rules[line["task"]], line)

  return rescore
