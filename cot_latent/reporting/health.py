"""Whether a run is suspect: signs that its numbers are useless.

Training that learns nothing mostly seems to end well: a loss, an accuracy, exit
status 0. The metrics of its steps show it, and so does the way in which the
completions of its last evaluation ended.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cot_latent.reporting import metric_names as names
from cot_latent.runtime.validation import check_types, check_within

_Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits beyond which a run is suspect.

  Attributes:
    most_truncated: Share of the fresh draws, over all steps, that MAX_LENGTH
      cut; also of the completions of the last evaluation.
    most_unparseable: Share of the fresh draws without an answer; also of the
      questions of the last evaluation.
    most_steps_without_gradient: Number of successive steps without a gradient,
      although not all draws were correct.
  """

  most_truncated: float = 0.5
  most_unparseable: float = 0.5
  most_steps_without_gradient: int = 20

  def __post_init__(self):
    check_types(self)
    check_within(self, "most_truncated", 0, 1)
    check_within(self, "most_unparseable", 0, 1)
    check_within(self, "most_steps_without_gradient", 0, math.inf)


def measure(
  metrics: Sequence[_Row], limits: Mapping[str, float]
) -> dict[str, Any]:
  """Measures what shows whether a run is suspect.

  Args:
    metrics: One row per step.
    limits: The fields of Limits.

  Returns:
    The section `diagnostics`; without steps only the limits are in it.
  """
  found: dict[str, Any] = {"limits": dict(limits), "steps": len(metrics)}
  if not metrics:
    return found

  has_scale = all(names.SCALE in row for row in metrics)

  def curve(key: str) -> dict[str, float]:
    return _curve([row[key] for row in metrics])

  return found | {
    "acceptance": curve(names.ACCEPT_RATE),
    "memory_correct": curve(names.MEMORY_CORRECT),
    "memory_age": curve(names.MEMORY_AGE),
    "truncated": curve(names.CAPPED),
    "unparseable": curve(names.UNPARSEABLE),
    "steps_accepting": _count(metrics, lambda r: r[names.ACCEPT_RATE] > 0),
    "steps_skipped": _count(metrics, lambda r: r[names.IS_SKIPPED]),
    "steps_not_finite": _count(metrics, lambda r: not r[names.IS_FINITE]),
    "steps_without_gradient_in_a_row": _longest(metrics, _is_dead),
    **({"scale": curve(names.SCALE)} if has_scale else {}),
    **_gap(metrics),
    **_where_known(metrics),
  }


def red_flags(
  diagnostics: Mapping[str, Any], results: Sequence[_Row]
) -> list[str]:
  """Lists signs that a run's results are useless; usually there are none.

  Args:
    diagnostics: What `measure` returns.
    results: Rows of the run's evaluations, in the order of the journal.
  """
  signs = _signs_of_steps(diagnostics) if diagnostics["steps"] else []
  return signs + signs_of_evaluation(results, diagnostics["limits"])


def _signs_of_steps(diagnostics: Mapping[str, Any]) -> list[str]:
  steps, limits = diagnostics["steps"], diagnostics["limits"]
  truncated, unparseable = (
    diagnostics[name]["mean"] for name in ("truncated", "unparseable")
  )
  without = diagnostics["steps_without_gradient_in_a_row"]
  signs = {
    "no question ever had a correct rationale, so that nothing was learnt": (
      diagnostics["steps_skipped"] == steps
    ),
    "no fresh rationale was ever correct": not diagnostics["steps_accepting"],
    f"{truncated:.0%} of the fresh rationales were cut by MAX_LENGTH": (
      truncated > limits["most_truncated"]
    ),
    f"{unparseable:.0%} of the fresh rationales had no answer": (
      unparseable > limits["most_unparseable"]
    ),
    f"{without} steps in a row had no gradient": (
      without > limits["most_steps_without_gradient"]
    ),
  }
  return [sign for sign, is_seen in signs.items() if is_seen]


def signs_of_evaluation(
  results: Sequence[_Row], limits: Mapping[str, float]
) -> list[str]:
  """Judges the last evaluation; earlier ones may have been worse.

  Args:
    results: Rows of evaluations, in the order of the journal.
    limits: The fields of Limits.
  """
  last = max((row["step"] for row in results), default=0)
  wholes: dict[str, _Row] = {}
  for row in results:
    if row["step"] == last:
      wholes.setdefault(row["decoder"], row)  # before a mixture's tasks
  signs = []
  for decoder, row in wholes.items():
    place = f"of the {decoder.replace('_', '-')} evaluation at step {last}"
    cut = row["num_cut"] / (row["total"] * row["num_samples"])
    without = row["num_unparseable"] / row["total"]
    if cut > limits["most_truncated"]:
      signs.append(f"{cut:.0%} of the completions {place} were cut")
    if without > limits["most_unparseable"]:
      signs.append(f"{without:.0%} of the questions {place} got no answer")
  return signs


def _curve(values: Sequence[float]) -> dict[str, float]:
  mean = sum(values) / len(values)
  return {"first": values[0], "last": values[-1], "mean": mean}


def _where_known(metrics: Sequence[_Row]) -> dict[str, dict[str, float]]:
  """Returns the metrics that only some methods measure, or only some steps."""
  found = {}
  for name, key in (
    ("eta", names.ETA),
    ("score_ratio", names.SCORE_RATIO),
    ("paper_ratio", names.PAPER_RATIO),
    ("log_likelihood", names.LOG_LIKELIHOOD),
  ):
    known = [row[key] for row in metrics if row.get(key) is not None]
    if known:
      found[name] = _curve(known)
  return found


def _gap(metrics: Sequence[_Row]) -> dict[str, float]:
  """Returns the largest gap between sampler and scorer, if it was measured.

  The control variate assumes that both have the same distribution.
  """
  found = [row[names.LOG_PROB_GAP] for row in metrics]
  gaps = [gap for gap in found if gap is not None]
  return {"largest_log_prob_gap": max(gaps)} if gaps else {}


def _is_dead(row: _Row) -> bool:
  """Whether a step had no gradient, although not everything is learnt."""
  return row[names.GRADIENT_NORM] == 0 and row[names.ACCEPT_RATE] < 1


def _count(rows: Sequence[_Row], is_one: Callable[[_Row], Any]) -> int:
  return sum(bool(is_one(row)) for row in rows)


def _longest(rows: Sequence[_Row], is_one: Callable[[_Row], bool]) -> int:
  longest = length = 0
  for row in rows:
    length = length + 1 if is_one(row) else 0
    longest = max(longest, length)
  return longest
