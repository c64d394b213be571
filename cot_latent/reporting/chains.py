"""What each question's chain did, from the steps that drew for it.

A step draws K rationales for each of its M questions; the last right one, if
any is, replaces the question's memory. A row of the journal says under `visits`
which questions they were, how many of their draws were right, whether the
memory is right afterwards, and its log-probability in that step.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cot_latent.reporting import metric_names as names
from cot_latent.reporting import objective, stats

_NUM_BINS = 10
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
    evaluated: Steps after which the training objective is told, besides the
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
    acceptance: a, above 0.

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
  times = [autocorrelation_time(chain.acceptance()) for chain in moved]
  return {
    "questions": len(chains),
    "num_draws": num_draws,
    "never_correct": sum(not chain.is_correct for chain in chains),
    "never_moved": len(chains) - len(moved),
    "acceptance": _distribution(
      [chain.acceptance() for chain in chains], 0.0, 1.0
    ),
    "age": _distribution([last - chain.moved_at for chain in moved], 0.0),
    "autocorrelation_time": _distribution(times, 1.0),
    "log_prob_drift": _distribution(drifts),
  }


def _distribution(
  values: Sequence[float], low: float | None = None, high: float | None = None
) -> dict[str, Any] | None:
  """A histogram of ten bins between round ends; None without values."""
  if not values:
    return None
  if low is None:
    low = float(math.floor(min(values)))
  if high is None:
    # A whole number for each bin.
    wide = max(math.ceil((max(values) - low) / _NUM_BINS), 1)
    high = low + _NUM_BINS * wide
  edges = [
    stats.rounded(low + (high - low) * i / _NUM_BINS)
    for i in range(_NUM_BINS + 1)
  ]
  counts, _ = np.histogram(values, edges)
  return {
    "edges": edges,
    "counts": counts.tolist(),
    "median": stats.rounded(statistics.median(values)),
  }
