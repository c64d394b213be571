"""The reports of a table, each of them checked.

A table is only as good as its worst report. So nothing is skipped: a report
that does not fit stops the table, with a line that names it.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import reading, stats
from cot_latent.reporting.tables.spec import Row, Spec


class Run(NamedTuple):
  """The fields of a report that a table needs.

  Attributes:
    file: Path below the folder of reports, with slashes.
    digest: Digest of the report.
    run_id: Id of the run.
    method: Name of the method.
    seed: Seed of the run.
    task: Name of the task.
    split: Split that was evaluated.
    num_questions: Number of its questions that were answered.
    fingerprint: Fingerprint of the split, prompts included.
    ids: Hash over the questions' ids.
    settings: Settings of the evaluation.
    last_step: Last step of the training.
    results: Rows of results.
    cost: Costs by the names that a column may use.
    parts: The runs on one task each that are merged in this one, by task; empty
      for a run with a report of its own.
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
  parts: tuple["Run", ...] = ()

  @property
  def reports(self) -> tuple["Run", ...]:
    """Returns the runs that have a report each."""
    return self.parts or (self,)


def collect(spec: Spec) -> dict[str, list[Run]]:
  """Reads and checks all reports of a table.

  Args:
    spec: The table.

  Returns:
    Method -> its runs, by seed, in the order of the rows. Rows that have only
    figures of a paper are left out.

  Raises:
    UserError: If a file or row does not fit; names the first one.
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
    runs[method] = _merge_tasks(spec.reports, own)
  runs = {method: own for method, own in runs.items() if own}
  if runs:
    _check_comparable(spec, rows, runs)
  return runs


def _merge_tasks(folder: pathlib.Path, runs: list[Run]) -> list[Run]:
  """Merges the runs of a seed that learnt one task each.

  Raises:
    UserError: If a task has two runs with the same seed.
  """
  merged = []
  runs = sorted(runs, key=lambda run: (run.seed, run.task))
  for seed, group in itertools.groupby(runs, key=lambda run: run.seed):
    parts = list(group)
    for one, other in itertools.pairwise(parts):
      if one.task == other.task:
        raise UserError(
          f"{folder / other.file} has the same method and seed ({seed}) as "
          f"{one.file}: keep one of them"
        )
    merged.append(parts[0] if len(parts) == 1 else _merge(parts))
  return merged


def _merge(parts: Sequence[Run]) -> Run:
  """Merges runs on several tasks: their results, averages, and summed costs."""
  first, name = parts[0], f"{len(parts)} tasks"
  results = [row for part in parts for row in part.results]
  evaluations = dict.fromkeys((r["decoder"], r["step"]) for r in results)
  for decoder, step in evaluations:
    rows = [r for r in results if (r["decoder"], r["step"]) == (decoder, step)]
    if len(rows) != len(parts):
      continue  # an evaluation that some tasks lack
    counts = {row["task"]: (row["correct"], row["total"]) for row in rows}
    results.append(
      {
        "task": name,
        "split": first.split,
        "decoder": decoder,
        "step": step,
        "correct": sum(correct for correct, _ in counts.values()),
        "total": sum(total for _, total in counts.values()),
        "num_samples": rows[0]["num_samples"],
        "verdicts": "".join(row["verdicts"] for row in rows),
        "correct_votes": [
          votes for row in rows for votes in row.get("correct_votes", [])
        ],
        "averages": stats.averages(counts),
      }
    )
  return first._replace(
    task=name,
    num_questions=sum(part.num_questions for part in parts),
    results=results,
    cost={key: sum(p.cost[key] for p in parts) for key in first.cost},
    parts=tuple(parts),
  )


def _files(folder: pathlib.Path) -> list[str]:
  """Finds reports, in an order that is the same everywhere."""
  try:
    paths = [*folder.glob("*.json"), *folder.glob("*/report.json")]
  except OSError as error:  # such as a name that is too long
    raise UserError(f"{folder} cannot be read: {error.strerror}") from None
  files = [path.relative_to(folder).as_posix() for path in paths]
  return sorted(file for file in files if not file.startswith("."))


def _read(folder: pathlib.Path, file: str) -> Run:
  path = folder / file
  report = reading.open_report(path).report
  if report["suspect"]:
    raise UserError(
      f"{path} is suspect: {report['suspect'][0]}: fix the run, and repeat it"
    )
  if report["status"] != "complete":
    raise UserError(
      f"{path} is a run that is {report['status']}: finish it, with the "
      "command that started it"
    )
  try:
    return _run(file, report)
  except (KeyError, TypeError, IndexError):
    raise UserError(f"{path} is not a report of this program") from None


def _run(file: str, report: dict[str, Any]) -> Run:
  """Reads the needed fields of a report."""
  identity, cost = report["identity"], report["cost"]
  experiment = report["configuration"]["experiment"]
  split = report["data"]["splits"][experiment["task"]["test_split"]]
  task, results = report["data"]["task"], report["results"]
  # T5X may ask only the first of them (EVALUATOR_NUM_EXAMPLES).
  answered = [row["total"] for row in results if row["task"] == task]
  return Run(
    file=file,
    digest=report["digest"],
    run_id=identity["run_id"],
    method=identity["method"],
    seed=identity["seed"],
    task=task,
    split=experiment["task"]["test_split"],
    num_questions=min(answered, default=split["num_examples"]),
    fingerprint=split["fingerprint"],
    ids=split["ids_sha256"],
    settings={
      "num_samples": experiment["evaluation"]["num_samples"],
      "max_length": experiment["task"]["max_length"],
      "prompt_length": experiment["task"]["prompt_length"],
    },
    last_step=report["plan"]["steps"],
    results=results,
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
      f"and row {next(iter(runs))!r} has: run it, or use another baseline"
    )
  seeds = [run.seed for run in runs[spec.baseline]]
  model = runs[spec.baseline][0]
  for method, own in runs.items():
    for run in own:
      _check_tasks(spec, run, model)
      for part, other in zip(run.reports, model.reports, strict=True):
        _check_alike(spec.reports / part.file, part, other, rows[method])
    if [run.seed for run in own] != seeds:
      raise UserError(
        f"row {method!r} has seeds {_listed(run.seed for run in own)}, and the "
        f"baseline {spec.baseline!r} has {_listed(seeds)}: both need the same"
      )


def _check_tasks(spec: Spec, run: Run, model: Run) -> None:
  """Checks that runs on several tasks have the baseline's tasks."""
  if not run.parts and not model.parts:
    return
  own, wanted = ({p.task for p in one.reports} for one in (run, model))
  if different := sorted(own ^ wanted):
    has, lacks = (run, model) if different[0] in own else (model, run)
    raise UserError(
      f"{spec.reports}: row {has.method!r} has a report on task "
      f"{different[0]!r} with seed {has.seed}, and row {lacks.method!r} has "
      f"none with seed {lacks.seed}: both need the same"
    )
  if {p.last_step for p in run.reports} != {run.last_step}:
    raise UserError(
      f"{spec.reports}: row {run.method!r} has runs of different lengths with "
      f"seed {run.seed}: give them the same TRAIN_STEPS"
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
        f"the baseline's {model.file}: run one of them again, with "
        "the same evaluation"
      )


def _listed(values) -> str:
  return ", ".join(map(str, values))
