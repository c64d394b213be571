"""Whether two runs are correct equally often, tested on their shared questions.

Runs answer the same questions, so only questions count that one run answered
correctly and the other incorrectly.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting import reading, seals
from cot_latent.runtime import files

LEVEL = 0.01  # of the test over all results together
_KEYS = ("task", "split", "decoder", "step", "total")
_Row = Mapping[str, Any]


class Run(NamedTuple):
  """A run with what it answered.

  Attributes:
    path: Path of its report.
    report: The report.
  """

  path: pathlib.Path
  report: Mapping[str, Any]


class _Tested(NamedTuple):
  """A result of both runs: the test's p-value, and what it saw."""

  p_value: float
  found: str
  name: str
  row: _Row


def compare_accuracies(one: Run, other: Run) -> tuple[list[str], bool]:
  """Tests whether accuracies are equal.

  McNemar's exact test on the stored outputs; where these are missing, Fisher's
  on the counts, which takes the two runs' questions for different ones.

  Args:
    one: A run.
    other: Another.

  Returns:
    What was found, a line each; and whether no accuracy differs by more than
    chance.

  Raises:
    UserError: If outputs are not as the run left them.

  Reference: McNemar 1947, in the exact form of the binomial test.
  """
  theirs = {_key(row): row for row in other.report["results"]}
  pairs = [
    (row, theirs[_key(row)])
    for row in one.report["results"]
    if _key(row) in theirs
  ]
  sizes = len(one.report["results"]) + len(other.report["results"])
  num_alone = sizes - 2 * len(pairs)
  if num_alone or not pairs:
    return [f"{num_alone} results have no counterpart"], False
  outputs: dict[tuple[pathlib.Path, str], Any] = {}
  tested: list[_Tested] = []
  lacking: dict[pathlib.Path, str] = {}
  for row, their_row in pairs:
    verdicts = [_verdicts(run, row, outputs) for run in (one, other)]
    for run, found in zip((one, other), verdicts, strict=True):
      if found is None:
        lacking.setdefault(
          run.path,
          f"{run.path} has no outputs of {row['decoder']} at step "
          f"{row['step']} beside it, so that counts are compared, by Fisher's "
          "exact test, as if the questions were others",
        )
    tested.append(_test(row, their_row, verdicts))
  worst = min(tested, key=lambda each: each.p_value)
  least = LEVEL / len(tested)
  relation = "above" if worst.p_value > least else "not above"
  return [
    f"of {len(tested)} accuracies, {worst.row['decoder']} at step "
    f"{worst.row['step']} differs most: {worst.found}, p = {worst.p_value:.2g} "
    f"by {worst.name} exact test, which is {relation} {least:.2g} ({LEVEL} "
    f"over {len(tested)} tests)",
    *lacking.values(),
  ], worst.p_value > least


def mcnemar(one_alone: int, other_alone: int) -> float:
  """Returns the p-value of McNemar's exact two-sided test.

  Args:
    one_alone: Number of questions that only the one run answered correctly.
    other_alone: Number of questions that only the other run answered correctly.

  Example:

    >>> mcnemar(0, 5)
    0.0625
  """
  import scipy.stats  # slow to import

  number = one_alone + other_alone
  if not number:
    return 1.0
  return float(scipy.stats.binomtest(one_alone, number).pvalue)


def _test(
  row: _Row, their_row: _Row, verdicts: Sequence[dict[Any, bool] | None]
) -> _Tested:
  mine, theirs = verdicts
  if mine is None or theirs is None:
    import scipy.stats

    counts = [
      [r["correct"], r["total"] - r["correct"]] for r in (row, their_row)
    ]
    p_value = float(scipy.stats.fisher_exact(counts).pvalue)
    found = (
      f"{row['correct']} and {their_row['correct']} of {row['total']} correct"
    )
    return _Tested(p_value, found, "Fisher's", row)
  shared = mine.keys() & theirs.keys()
  alone, their_alone = (
    sum(a[key] and not b[key] for key in shared)
    for a, b in ((mine, theirs), (theirs, mine))
  )
  found = (
    f"of {len(shared)} shared questions {alone} are correct in the first alone "
    f"and {their_alone} in the second alone"
  )
  return _Tested(mcnemar(alone, their_alone), found, "McNemar's", row)


def _key(row: _Row) -> tuple[Any, ...]:
  return tuple(row[key] for key in _KEYS)


def _verdicts(
  run: Run, row: _Row, outputs: dict[tuple[pathlib.Path, str], Any]
) -> dict[Any, bool] | None:
  """Which of a result's questions are correct, by task and id.

  Args:
    run: The run.
    row: The result.
    outputs: What was read before; added to.

  Returns:
    None where the outputs are not there.
  """
  same = ("split", "decoder", "step")
  for part in run.report["parts"]:
    if all(part.get(key) == row[key] for key in same):
      place = run.path, part["path"]
      if place not in outputs:
        outputs[place] = _read(run.path, part)
      whole = outputs[place]
      if whole is None:
        return None
      # A mixture's own result is over all of its tasks.
      is_task = any(task == row["task"] for task, _ in whole)
      return {
        (task, name): is_correct
        for (task, name), is_correct in whole.items()
        if not is_task or task == row["task"]
      }
  return None


def _read(path: pathlib.Path, part: _Row) -> dict[Any, bool] | None:
  content, fault = reading.read_part(path.parent, part)
  if fault is not None:
    raise UserError(f"{path}: part {part['path']}: {fault}: {seals.REMEDY}")
  if content is None:
    return None
  try:
    lines = [files.parse_json(line) for line in content.splitlines()]
    return {
      (line["task"], line["id"]): bool(line["is_correct"]) for line in lines
    }
  except (ValueError, KeyError, TypeError, RecursionError):
    raise UserError(
      f"{path}: part {part['path']}: it is not what a run writes: "
      f"{seals.REMEDY}"
    ) from None
