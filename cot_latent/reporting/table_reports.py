"""The reports that a table is made of, each of them checked.

A table is only as good as its worst report, so that nothing is left out or
passed over: whatever does not fit stops the table, with a line that names it.
"""

import itertools
import pathlib
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import record, seals
from cot_latent.reporting.table_spec import Row, Spec


class Run(NamedTuple):
  """What a table needs of a report.

  Attributes:
    file: its path below the folder of reports, with slashes.
    digest: of the report.
    run_id: of the run.
    method: its name.
    seed: the run's.
    task: the task's name.
    split: that was evaluated.
    num_questions: of that split.
    fingerprint: of the split, prompts included.
    ids: hash over the questions' ids.
    settings: of the evaluation.
    last_step: of the training.
    results: rows of results.
    cost: by the names of table_spec.COSTS.
  """

  file: str
  digest: str
  run_id: str
  method: str
  seed: int
  task: str
  split: str
  num_questions: int
  fingerprint: str
  ids: str
  settings: dict[str, Any]
  last_step: int
  results: list[dict[str, Any]]
  cost: dict[str, float]


def collect(spec: Spec) -> dict[str, list[Run]]:
  """Reads and checks all reports of a table.

  Args:
    spec: the table.

  Returns:
    Method -> its runs, by seed, in the order of the rows. Rows that only have
    figures of a paper are left out.

  Raises:
    UserError: naming the first file or row that does not fit.
  """
  rows = {row.method: row for row in spec.rows}
  runs: dict[str, list[Run]] = {method: [] for method in rows}
  for file in _files(spec.reports):
    run = _read(spec.reports, file)
    if run.method not in rows:
      raise UserError(
        f"{spec.reports / file} is of method {run.method!r}, which no row "
        "names: add a row, or move the file elsewhere"
      )
    runs[run.method].append(run)
  quoted = {figure.row for figure in spec.paper}
  for method, own in runs.items():
    if not own and method not in quoted:
      raise UserError(
        f"row {method!r}: {spec.reports} has no report of this method: run it, "
        "or remove the row"
      )
    own.sort(key=lambda run: run.seed)
    for one, other in itertools.pairwise(own):
      if one.seed == other.seed:
        raise UserError(
          f"{spec.reports / other.file} has the same method and seed "
          f"({one.seed}) as {one.file}: keep one of them"
        )
  runs = {method: own for method, own in runs.items() if own}
  if runs:
    _check_comparable(spec, rows, runs)
  return runs


def _files(folder: pathlib.Path) -> list[str]:
  """Finds reports, in an order that is the same everywhere."""
  paths = [*folder.glob("*.json"), *folder.glob("*/report.json")]
  files = [path.relative_to(folder).as_posix() for path in paths]
  return sorted(file for file in files if not file.startswith("."))


def _read(folder: pathlib.Path, file: str) -> Run:
  path = folder / file
  report = record.read_file(path)
  seals.check(report, str(path))
  if report["suspect"]:
    raise UserError(f"{path} is suspect: {report['suspect'][0]}: mend the run")
  if report["status"] != "complete":
    raise UserError(
      f"{path} is of a run that is {report['status']}: let it end, with the "
      "command that started it"
    )
  try:
    return _run(file, report)
  except (KeyError, TypeError, IndexError):
    raise UserError(f"{path} is not a report of this program") from None


def _run(file: str, report: dict[str, Any]) -> Run:
  """Takes what is needed out of a report."""
  identity, cost = report["identity"], report["cost"]
  experiment = report["configuration"]["experiment"]
  split = report["data"]["splits"][experiment["task"]["test_split"]]
  return Run(
    file=file,
    digest=report["digest"],
    run_id=identity["run_id"],
    method=identity["method"],
    seed=identity["seed"],
    task=report["data"]["task"],
    split=experiment["task"]["test_split"],
    num_questions=split["num_examples"],
    fingerprint=split["fingerprint"],
    ids=split["ids_sha256"],
    settings={
      "num_samples": experiment["evaluation"]["num_samples"],
      "max_length": experiment["task"]["max_length"],
      "prompt_length": experiment["task"]["prompt_length"],
    },
    last_step=report["plan"]["steps"],
    results=report["results"],
    cost={
      "sequences_sampled": cost["sequences_sampled"],
      "sequences_scored": cost["sequences_scored"],
      "seconds": cost["seconds"]["total"],
    },
  )


def _check_comparable(
  spec: Spec, rows: dict[str, Row], runs: dict[str, list[Run]]
) -> None:
  """Checks that all were evaluated alike, with the baseline's seeds."""
  if spec.baseline not in runs:
    raise UserError(
      f"row {spec.baseline!r}, the baseline, has no report in {spec.reports}, "
      f"and row {next(iter(runs))!r} has: run it, or take another baseline"
    )
  seeds = [run.seed for run in runs[spec.baseline]]
  model = runs[spec.baseline][0]
  for method, own in runs.items():
    for run in own:
      _check_alike(spec.reports / run.file, run, model, rows[method])
    if [run.seed for run in own] != seeds:
      raise UserError(
        f"row {method!r} has seeds {_listed(run.seed for run in own)}, and the "
        f"baseline {spec.baseline!r} has {_listed(seeds)}: both need the same"
      )


def _check_alike(path: pathlib.Path, run: Run, model: Run, row: Row) -> None:
  own, wanted = (
    {
      "task": one.task,
      "split": one.split,
      **one.settings,
      "number of test questions": one.num_questions,
      "test fingerprint": one.fingerprint,
    }
    for one in (run, model)
  )
  if row.own_prompts:
    for values, ids in ((own, run.ids), (wanted, model.ids)):
      del values["test fingerprint"], values["prompt_length"]
      values["hash of the test questions' ids"] = ids
  for name, value in own.items():
    if value != wanted[name]:
      raise UserError(
        f"{path}: {name} is {value!r:.20} and not {wanted[name]!r:.20} as in "
        f"the baseline's {model.file}: run one of them again, evaluated alike"
      )


def _listed(values) -> str:
  return ", ".join(map(str, values))
