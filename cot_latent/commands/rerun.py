"""`t5x rerun`: repeats a run from its report alone, and compares."""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cot_latent.commands import arguments, ending, inside_t5x, quiet, reports
from cot_latent.errors import UserError

HELP = "repeat a run from its report alone, and compare the two"

# Compared before the run, under the names that --allow takes.
ALLOWANCES = ("code", "packages", "data", "randomness")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments for the report, the new run and allowed differences."""
  parser.add_argument(
    "--output", metavar="DIR", help="the new run's folder (default: in runs/)"
  )
  parser.add_argument(
    "--data_dir", metavar="DIR", help="the folder with bbh/ and gsm8k/"
  )
  parser.add_argument(
    "--allow",
    default="",
    metavar="NAMES",
    help="comma-separated things that may differ from the report: code, "
    "packages, data, randomness",
  )
  reports.add_checkpoint(parser)
  reports.add_allow_import(parser)
  reports.add_argument(parser)


def run(options: argparse.Namespace) -> int:
  """Repeats the run and prints the comparison."""
  allowed = arguments.names(options.allow)
  for name in allowed:
    if name not in ALLOWANCES:
      raise UserError(
        f"--allow={options.allow}: {name!r} is not one of "
        f"{', '.join(ALLOWANCES)}"
      )
  quiet.silence_logs()
  return ending.verdict(
    *rerun(
      options.report,
      options.output,
      options.data_dir,
      options.checkpoint,
      allowed,
      options.allow_import,
    )
  )


def rerun(
  name: str,
  output: str | None,
  data_dir: str | None,
  checkpoint: str | None,
  allowed: Collection[str],
  allowed_imports: Sequence[str] = (),
) -> tuple[str, bool]:
  """Repeats a run from its report alone, and compares the two.

  Args:
    name: Path of the report or of the run's folder.
    output: The new run's folder; None chooses one in runs/.
    data_dir: The value of DATA_DIR; None uses that of the run.
    checkpoint: The value of CHECKPOINT, or of T5X's INITIAL_CHECKPOINT_PATH;
      None uses that of the run.
    allowed: Members of ALLOWANCES that may differ.
    allowed_imports: Modules that the report's configuration may import besides
      those that any report may.

  Returns:
    The comparison as text, and whether the new run is the same.

  Raises:
    UserError: If the report was edited, or if something that the run depends on
      differs.
  """
  from cot_latent.commands import resolved
  from cot_latent.configuration import errors as gin_errors
  from cot_latent.configuration import trust
  from cot_latent.reporting import (
    environment,
    reading,
    record,
    replication,
    seals,
  )

  path = reports.find(name)
  report = reading.open_report(path).report
  if report["status"] not in record.FINISHED:
    raise UserError(
      f"{path} is a run that is {report['status']}: only a complete run can be "
      "compared with its repetition"
    )
  folder = _new_folder(report, output)
  check = functools.partial(_check_same, path, report, allowed)
  if "t5x" in report:
    text = report["configuration"]["resolved"]
    with gin_errors.explained(str(path)):
      trust.check(text, allowed_imports, str(path))
    launch = inside_t5x.launch(name)
    launch.repeat(report, folder, data_dir, checkpoint, check)
  else:
    config, gin_record = resolved.parse(
      path, report, checkpoint, allowed_imports
    )
    config = _moved(config, str(folder), data_dir)
    _repeat(config, gin_record, check)
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
  text = reports.comparison_text(found)
  text += f"\nnoted in {path}; the new run is in {folder}"
  return text, reports.is_repetition(found)


def _repeat(
  config: Any,
  gin_record: dict[str, Any],
  check: Callable[[Mapping[str, Any]], None],
) -> None:
  """Runs an experiment; `check` receives the new header first."""
  from cot_latent.training import train

  prepared = train.prepare(config, gin_record)
  check(prepared.header)
  train.train(prepared)


def _new_folder(report: Mapping[str, Any], output: str | None) -> pathlib.Path:
  """Names the folder of a repetition: the first that holds no complete run."""
  from cot_latent.reporting import record

  if output is not None:
    folder = pathlib.Path(output)
    old = record.read(folder)
    if old is not None and old["status"] in record.FINISHED:
      raise UserError(
        f"--output={output} already holds a complete run: name another folder"
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
  """Returns the experiment in another folder, and with its data elsewhere."""

  def moved(part):
    source = getattr(part, "source", None)
    if source is None:  # some bases and prompts have no task
      return part
    changes: dict[str, Any] = {}
    if data_dir is not None:
      changes["data_dir"] = data_dir
    # The data are compared by hash, so that no cache is needed.
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
  """Refuses a repetition that would differ, and names the first field."""
  from cot_latent.reporting import environment, record

  found = [
    (
      "packages" if name.startswith("packages.") else "code",
      name,
      *values,
    )
    for name, values in environment.code_differences(
      report["code"], header["code"]
    ).items()
    # File hashes tell more than a revision: two revisions can have equal code.
    if name.startswith(("files.", "packages."))
  ]
  found += record.what_differs(report, header)
  for section, name, was, now_is in found:
    if section in allowed:
      continue
    fix = (
      f"or add --allow={section}"
      if section in ALLOWANCES
      else "or report it, because this version reads the configuration in "
      "another way"
    )
    if section in ("code", "packages") and report["code"]["revision"]:
      fix = f"check out {report['code']['revision']:.12}, {fix}"
    raise UserError(
      f"{path} cannot be repeated here: {section} {name} was {was!r:.40} and "
      f"is {now_is!r:.40}; fix that, {fix}"
    )
