"""A run's plan and outcome as a few lines of text."""

import pathlib
from collections.abc import Mapping
from typing import Any

_PLAN_ROWS = (
  ("base model", "base"),
  ("memory start", "memory_start"),
  ("steps", "steps"),
  ("evaluation", "evaluation"),
)


def plan_text(plan: Mapping[str, Any]) -> str:
  """Tells what a run will cost, by phase."""
  sampled, scored = plan["sampled_by_phase"], plan["scored_by_phase"]
  lines = [f"{'sequences':<14}{'sampled':>12}{'scored, at most':>18}"]
  for label, key in _PLAN_ROWS:
    lines.append(
      f"{label:<14}{sampled.get(key, 0):>12,}{scored.get(key, 0):>18,}"
    )
  lines.append(
    f"{'all':<14}{plan['sequences_sampled']:>12,}"
    f"{plan['sequences_scored']:>18,}"
  )
  return "\n".join(lines)


def left_out_text(data: Mapping[str, Any]) -> str:
  """Tells what became of examples that were too long, "" if there were none.

  Returns:
    A line for those left out and one for those truncated.
  """
  lines = []
  for key, what in (
    ("num_left_out", "left out"),
    ("num_truncated", "truncated"),
  ):
    parts = [
      f"{split[key]:,} of {split['num_left_out'] + split['num_examples']:,} "
      f"in {name}"
      for name, split in data["splits"].items()
      if split.get(key)
    ]
    if parts:
      lines.append(f"{what}, being too long: {'; '.join(parts)}")
  return "\n".join(lines)


def report_text(report: Mapping[str, Any], directory: pathlib.Path) -> str:
  """Tells held-out accuracy before and after, and where the report is."""
  # Of a mixture the whole comes first, and its tasks after it.
  whole = report["results"][0].get("task")
  results = [row for row in report["results"] if row.get("task") == whole]
  decoders = dict.fromkeys(row["decoder"] for row in results)
  last = report["plan"]["steps"]
  lines = [
    f"{'held-out accuracy':<22}{'before':>8}{'after':>8}   95% interval after"
  ]
  for decoder in decoders:
    ends = {row["step"]: row for row in results if row["decoder"] == decoder}
    before, after = ends[0], ends[last]
    low, high = after["interval"]
    name = decoder.replace("_", "-")
    if after["num_samples"] > 1:
      name += f" ({after['num_samples']})"
    lines.append(
      f"{name:<22}{before['accuracy']:>8.3f}{after['accuracy']:>8.3f}   "
      f"{low:.3f} to {high:.3f}"
    )
  total = report["cost"]["seconds"]["total"]
  lines += filter(None, [left_out_text(report["data"])])
  lines += [f"suspect: {sign}" for sign in report["suspect"]]
  lines += [
    f"{last} steps of {report['identity']['method']} on "
    f"{report['identity']['task']}; {total:.0f} s in all",
    f"report: {directory / 'report.html'} and {directory / 'report.json'}",
  ]
  return "\n".join(lines)
