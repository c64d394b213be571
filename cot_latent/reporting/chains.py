"""What each question's chain did, from the steps that drew for it.

A step draws K rationales for each of its M questions; the last correct one, if
any is, replaces the question's memory. A row of the journal says under `visits`
which questions they were, how many of their draws were correct, whether the
memory is correct afterwards, and its log-probability in that step.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cot_latent.reporting import charts, objective, stats
from cot_latent.reporting import metric_names as names

_NUM_BINS = 10  # or a few more
_LEAST_DRAWS = 8  # of a question, from which the training objective is taken
_Row = Mapping[str, Any]


@dataclasses.dataclass
class _Chain:
  """One question's chain so far; steps and visits count from 1."""

  recent: collections.deque
  num_visits: int = 0
  num_moves: int = 0
  moved_at: int = 0
  is_correct: bool = False
  at_acceptance: float | None = None  # nats
  now: float | None = None  # nats, of a later visit

  def visit(
    self, step: int, num_correct: int, is_correct: bool, nats: float | None
  ) -> None:
    self.num_visits += 1
    self.is_correct = is_correct
    self.recent.append(num_correct)
    if num_correct:
      self.num_moves, self.moved_at = self.num_moves + 1, step
      self.at_acceptance, self.now = nats, None
    elif nats is not None:
      self.now = nats

  def acceptance(self) -> float:
    return self.num_moves / self.num_visits

  def drift(self) -> float | None:
    if self.at_acceptance is None or self.now is None:
      return None
    return self.now - self.at_acceptance


def measure(
  metrics: Sequence[_Row], evaluated: Collection[int]
) -> dict[str, Any]:
  """Sums up the chains of a run.

  Args:
    metrics: A row a step.
    evaluated: Steps after which the training objective is reported, besides the
      last one.

  Returns:
    `chains` and `training` as report.schema.json describes them; nothing of a
    run that draws nothing in its steps.
  """
  rows = [row for row in metrics if row.get(names.VISITS)]
  if not rows:
    return {}
  num_draws = rows[0][names.VISITS]["num_draws"]
  window = -(-_LEAST_DRAWS // num_draws)
  chains: dict[int, _Chain] = {}
  told, training = {*evaluated, rows[-1]["step"]}, []
  for row in rows:
    visits, step = row[names.VISITS], row["step"]
    columns = ("question", "num_correct", "is_correct", "log_prob")
    for question, *visit in zip(*(visits[c] for c in columns), strict=True):
      if question not in chains:
        chains[question] = _Chain(collections.deque(maxlen=window))
      chains[question].visit(step, *visit)
    if step in told:
      training += _training(step, chains.values(), window, num_draws)
  last = rows[-1]["step"]
  return {
    "chains": _summary(list(chains.values()), last, num_draws),
    "training": training,
  }


def autocorrelation_time(acceptance: float) -> float:
  """Gives the integrated autocorrelation time of an independence sampler.

  A chain that moves in a visit with probability a, to a place that does not
  depend on where it was, has autocorrelation (1 - a)^t at lag t, for every
  function of its state. Hence 1 + 2 sum_t (1 - a)^t = (2 - a) / a visits are
  worth one independent draw.

  Args:
    acceptance: Acceptance a, above 0.

  Example:

    >>> autocorrelation_time(0.5)
    3.0
  """
  return (2 - acceptance) / acceptance


def _training(
  step: int, chains: Iterable[_Chain], window: int, num_draws: int
) -> list[dict[str, Any]]:
  """The objective on questions with enough draws; no row where none has."""
  votes = [sum(chain.recent) for chain in chains if len(chain.recent) == window]
  if not votes:
    return []
  number = window * num_draws
  return [
    {
      "step": step,
      "questions": len(votes),
      "num_draws": number,
      **objective.summarise(votes, number),
    }
  ]


def _summary(
  chains: Sequence[_Chain], last: int, num_draws: int
) -> dict[str, Any]:
  moved = [chain for chain in chains if chain.num_moves]
  drifts = [drift for chain in chains if (drift := chain.drift()) is not None]
  ages = [last - chain.moved_at for chain in moved]
  times = [autocorrelation_time(chain.acceptance()) for chain in moved]
  return {
    "questions": len(chains),
    "num_draws": num_draws,
    "never_correct": sum(not chain.is_correct for chain in chains),
    "never_moved": len(chains) - len(moved),
    "acceptance": _distribution(
      [chain.acceptance() for chain in chains],
      [i / _NUM_BINS for i in range(_NUM_BINS + 1)],
    ),
    "age": _distribution(ages, _edges(ages, low=0, narrowest=1)),
    "autocorrelation_time": _distribution(times, _edges(times, low=1)),
    "log_prob_drift": _distribution(drifts, _edges(drifts)),
  }


def _edges(
  values: Sequence[float], low: float | None = None, narrowest: float = 0
) -> list[float]:
  """Round edges of about ten equal bins, from `low` if it is given."""
  if not values:
    return []
  start, end = min(values) if low is None else low, max(values)
  width = charts.round_up((end - start) / _NUM_BINS) if end > start else 1.0
  width = max(width, narrowest)
  if low is None:
    start = width * math.floor(start / width)
  number = math.floor((end - start) / width + 1e-9) + 1
  return [stats.rounded(start + width * i) for i in range(number + 1)]


def _distribution(
  values: Sequence[float], edges: Sequence[float]
) -> dict[str, Any] | None:
  """A histogram and the median; None without values."""
  if not values:
    return None
  counts, _ = np.histogram(values, edges)
  return {
    "edges": list(edges),
    "counts": counts.tolist(),
    "median": stats.rounded(statistics.median(values)),
  }
