"""Results of single questions, from which intervals over questions are made.

S seeds, Q questions, n samples per question.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cot_latent.reporting import objective, stats
from cot_latent.reporting.bootstrap import Stratum
from cot_latent.reporting.tables.spec import Column

_Row = Mapping[str, Any]


def values(row: _Row, column: Column) -> np.ndarray:
  """Gives what a result's questions contribute to a column, [Q]."""
  if not column.is_of_votes:
    return np.array([verdict == "1" for verdict in row["verdicts"]], float)
  num_samples = row["num_samples"]
  table = (
    objective.log_likelihood(num_samples)
    if column.k is None
    else objective.pass_at(num_samples, column.k)
  )
  return table[row["correct_votes"]]


def strata(
  found: Sequence[tuple[_Row, Sequence[_Row]]], column: Column
) -> list[Stratum]:
  """Arranges the questions that a column's mean is over.

  Args:
    found: For each seed the result that the column shows, and the results of
      the tasks that its average is over.
    column: The column.

  Returns:
    One part, of all questions, or for an average a part for each task.
  """
  if column.average is None:
    return [Stratum(1.0, np.stack([values(row, column) for row, _ in found]))]
  totals = {row["task"]: row["total"] for row in found[0][1]}
  shares = average_weights(totals, column.average)
  by_task = [
    {row["task"]: values(row, column) for row in parts} for _, parts in found
  ]
  return [
    Stratum(share, np.stack([rows[task] for rows in by_task]))
    for task, share in shares.items()
  ]


def average_weights(totals: Mapping[str, int], name: str) -> dict[str, float]:
  """Finds what each task's mean counts in an average, which is linear in them.

  Args:
    totals: Task -> questions.
    name: One of `stats.averages`.

  Example:

    >>> average_weights({"easy": 10, "hard": 30}, "examples")
    {'easy': 0.25, 'hard': 0.75}
  """
  return {
    chosen: stats.averages(
      {
        task: (total * (task == chosen), total)
        for task, total in totals.items()
      }
    )[name]
    for chosen in totals
  }
