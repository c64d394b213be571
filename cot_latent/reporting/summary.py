"""A run's plan and outcome as a few lines of text."""

import pathlib
from collections.abc import Mapping
from typing import Any

from cot_latent.reporting import environment
from cot_latent.runtime import terminal

_PLAN_ROWS = (
  ("base model", "base"),
  ("memory start", "memory_start"),
  ("steps", "steps"),
  ("evaluation", "evaluation"),
)

_DIAGNOSTICS = (
  "acceptance",
  "memory_correct",
  "truncated",
  "unparseable",
  "eta",
  "score_ratio",
  "paper_ratio",
  "log_likelihood",
)


def plan_text(plan: Mapping[str, Any]) -> str:
  """Describes the cost of a run, by phase."""
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
  """Describes what happened to examples that were too long, "" if none were.

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
  return terminal.join(lines)


def overview(report: Mapping[str, Any]) -> str:
  """Describes a run, finished or not: its identity, results and cost."""
  identity, code = report["identity"], report["code"]
  modified = ", modified" if code["is_modified"] else ""
  resumes = report["continuity"]["resumes"]
  lines = [
    f"{identity['run_id']}: {report['status']}",
    *(f"suspect: {sign}" for sign in report["suspect"]),
    *([f"error: {report['error']}"] if report["error"] else []),
    "",
    _field("method", f"{identity['method']} on {identity['task']}"),
    _field("seed", identity["seed"]),
    _field("began", f"{identity['started']}, ended {identity['ended'] or '-'}"),
    _field("code", f"{code['tool_version']}, {_code_name(code)}{modified}"),
    *_t5x_lines(report),
    _field("parameters", f"{report['model']['num_params']:,}"),
    _field("devices", ", ".join(report["environment"]["devices"])),
    _field(
      "resumed", ", ".join(f"at step {r['step']}" for r in resumes) or "-"
    ),
    "",
    f"{'step':>6}  {'accuracy':<30}{'correct':>8}{'of':>6}   95% interval",
  ]
  for row in report["results"]:
    low, high = row["interval"]
    name = f"{row['task']}, {row['decoder'].replace('_', '-')}"
    lines.append(
      f"{row['step']:>6}  {name:<30}{row['correct']:>8}{row['total']:>6}   "
      f"{row['accuracy']:.3f}, {low:.3f} to {high:.3f}"
    )
  lines += _objective_lines(report)
  live = report["diagnostics"]
  if "acceptance" in live:
    lines += ["", f"{'':<22}{'first':>8}{'last':>8}{'mean':>8}"]
    for name in filter(live.get, _DIAGNOSTICS):
      values = [live[name][key] for key in ("first", "last", "mean")]
      numbers = "".join(f"{value:>8.3f}" for value in values)
      lines.append(f"{name.replace('_', ' '):<22}{numbers}")
    if "largest_log_prob_gap" in live:
      gap = live["largest_log_prob_gap"]
      lines.append(f"{'sampler to scorer':<22}{gap:>8.1e} nats at most")
  lines += _chain_lines(live)
  cost = report["cost"]
  lines += [
    "",
    _field("sequences sampled", f"{cost['sequences_sampled']:,}"),
    _field("sequences scored", f"{cost['sequences_scored']:,}"),
    *(_field(f"{k}, s", f"{v:.1f}") for k, v in cost["seconds"].items()),
    *_start_lines(cost),
    "",
    _field("digest", report["digest"]),
  ]
  for one in report["replication"]:
    lines.append(_field("repeated", f"{one['at']}: {one['verdict']}"))
    lines += [f"  {line}" for line in one["evidence"]]
  return terminal.join(lines)


def _objective_lines(report: Mapping[str, Any]) -> list[str]:
  """The objective of held-out and of training questions, and pass@k."""
  rows = (
    [
      (f"{row['step']:>6}  {row['task']}", row["num_samples"], row["objective"])
      for row in report["results"]
      if "objective" in row
    ]
    + [
      (f"{row['step']:>6}  {row['task']}", found["num_samples"], found)
      for row in report["results"]
      if (found := row.get("answer_likelihood"))
    ]
    + [
      (f"{row['step']:>6}  training, last draws", row["num_draws"], row)
      for row in report["diagnostics"].get("training", [])
    ]
  )
  if not rows:
    return []
  lines = ["", f"{'step':>6}  {'log p(answer | question)':<30}   nats, pass@k"]
  for name, number, found in rows:
    likelihood = found["log_likelihood"]
    low, high = likelihood["interval"]
    rates = ", ".join(
      f"@{k} {estimate['value']:.3f}"
      for k, estimate in sorted(
        found.get("pass_at", {}).items(), key=lambda each: int(each[0])
      )
    )
    lines.append(
      f"{f'{name} ({number})':<40} {likelihood['value']:.3f}, {low:.3f} to "
      f"{high:.3f}{rates and f'; {rates}'}"
    )
  return lines


def _chain_lines(diagnostics: Mapping[str, Any]) -> list[str]:
  """How the chains of the questions moved; of each quantity the median."""
  chains = diagnostics.get("chains")
  if chains is None:
    return []
  lines = [
    "",
    f"chains of {chains['questions']:,} questions: "
    f"{chains['never_correct']:,} never correct, {chains['never_moved']:,} "
    "never moved; medians:",
  ]
  for name, unit in (
    ("acceptance", "of a question's visits"),
    ("age", "steps"),
    ("autocorrelation_time", "visits"),
    ("log_prob_drift", "nats since acceptance"),
  ):
    if (found := chains[name]) is not None:
      lines.append(
        f"{name.replace('_', ' '):<22}{found['median']:>8.3g} {unit}"
      )
  return lines


def _code_name(code: Mapping[str, Any]) -> str:
  name = environment.code_name(code)
  return name[:12] if code["revision"] else name


def _t5x_lines(report: Mapping[str, Any]) -> list[str]:
  """Describes T5X, if the run was inside it."""
  part = report.get("t5x")
  if part is None:
    return []
  known = part["revision"] or part["version"]
  revision = f"{known or part['files_sha256']:.12}"
  mesh = " x ".join(
    f"{size} {axis}" for axis, size in part["partitioning"]["mesh"].items()
  )
  return [
    _field(
      "inside T5X",
      f"{revision}{', modified' if part['is_modified'] else ''}, from its "
      f"step {part['began_at']:,}, mesh {mesh}",
    )
  ]


def _start_lines(cost: Mapping[str, Any]) -> list[str]:
  """Describes the time until the first step, if the report has it."""
  lines = []
  if cost.get("first_step_seconds") is not None:
    seconds = cost["first_step_seconds"]
    lines.append(_field("to the first step", f"{seconds:.1f} s"))
  if compilation := cost.get("compilation"):
    lines.append(
      _field(
        "compiled",
        f"{compilation['num_compiled']} functions, "
        f"{compilation['num_read']} found on disk; "
        f"{compilation['seconds']:.1f} s",
      )
    )
  return lines


def _field(name: str, value: Any) -> str:
  return f"{name:<18}  {value}"


def report_text(report: Mapping[str, Any], directory: pathlib.Path) -> str:
  """Describes held-out accuracy before and after, and where the report is."""
  # For a mixture the whole comes first, and then its tasks.
  whole = next((row.get("task") for row in report["results"]), None)
  results = [row for row in report["results"] if row.get("task") == whole]
  decoders = dict.fromkeys(row["decoder"] for row in results)
  last = report["plan"]["steps"]
  lines = [
    f"{'held-out accuracy':<22}{'before':>8}{'after':>8}   95% interval after"
  ]
  for decoder in decoders:
    ends = {row["step"]: row for row in results if row["decoder"] == decoder}
    if not {0, last} <= ends.keys():
      continue
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
  lines += left_out_text(report["data"]).splitlines()
  lines += [f"suspect: {sign}" for sign in report["suspect"]]
  lines += [
    f"{last} steps of {report['identity']['method']} on "
    f"{report['identity']['task']}; {total:.0f} s in all",
    f"report: {directory / 'report.html'} and {directory / 'report.json'}",
  ]
  return terminal.join(lines)
