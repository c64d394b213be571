"""A plan as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_GIB, _MIB = 2**30, 2**20
_PHASES = (
  ("base", "base model"),
  ("memory_start", "memory start"),
  ("steps", "steps"),
  ("evaluation", "evaluation"),
)


def plan_text(plan: Mapping[str, Any]) -> str:
  """Describes a plan: programs, arrays that are kept, the run, the verdict."""
  return "\n".join(
    [
      *headline(plan),
      "",
      *table(PROGRAM_HEAD, [program_cells(row) for row in plan["programs"]]),
      *_notes(plan),
      "",
      *table(("kept on each device", "type", "GiB"), _state(plan["state"])),
      "",
      *run_lines(plan),
      "",
      *verdict_lines(plan),
    ]
  )


def headline(plan: Mapping[str, Any]) -> list[str]:
  """Describes what is planned, in a few lines."""
  mesh, chip, lengths = plan["mesh"], plan["chip"], plan["lengths"]
  depth = plan["depth"]  # None inside T5X, where all layers are compiled
  how = f"all {depth} layers compiled" if depth else "all layers compiled"
  if (compiled := plan.get("compiled_depths", [])) not in ([], [depth]):
    depths = " and ".join(map(str, compiled))
    how = f"from models of {depths} of the {plan['depth']} layers"
  return [
    f"{plan['topology']}: {plan['num_chips']} chips, {chip['memory_gib']} "
    f"GiB, {chip['memory_gbps']:.0f} GB/s, {chip['tflops']:.0f} TFLOP/s, links "
    f"{chip['link_gbps']:.0f} GB/s; mesh {mesh['data']} x {mesh['model']} "
    "(data x model)",
    f"{plan['num_params']:,} parameters, {how}",
    f"compiling took {plan['compile_seconds']:,.0f} s",
    f"prompts of {lengths['prefix']} + {lengths['prompt']} tokens, rationales "
    f"of {plan['max_length']}, {plan['batch_size']} questions per step",
  ]


PROGRAM_HEAD = (
  *("function", "GiB", "args", "out", "alias", "temp", "code", "other"),
  *("TFLOP", "sent MiB", "ms", "limit"),
)


def program_cells(row: Mapping[str, Any]) -> list[str]:
  """Writes a program as cells; those of a decoding loop are of a token."""
  inside = row["token_seconds"] is not None
  place = "per_token" if inside else "outside"
  flops = row["flops_per_token"] if row["flops_per_token"] else row["flops"]
  kinds = row["collectives"].get(place, {})
  sent = sum(kind["sent"] for kind in kinds.values())
  seconds = row["token_seconds"] if inside else row["seconds"]
  parts = "arguments", "outputs", "aliased", "temporaries", "code", "beside"
  return [
    row["name"] + (" (per token)" if row["flops_per_token"] else ""),
    gib(row["needed"]),
    *(
      "-" if row["out_of_memory"] and part != "beside" else gib(row[part])
      for part in parts
    ),
    f"{flops / 1e12:.3g}",
    f"{sent / _MIB:.3g}",
    "-" if seconds is None else f"{1e3 * seconds:.3g}",
    row["token_limit"] if inside else row["limit"],
  ]


def collective_lines(plan: Mapping[str, Any]) -> list[str]:
  """Lists each program's collectives, outside and inside the loop."""
  lines = []
  for row in plan["programs"]:
    for place, label in (("outside", ""), ("per_token", ", per token")):
      kinds = row["collectives"].get(place, {})
      if kinds:
        listed = "; ".join(
          f"{kind} {one['count']:.0f} x, {one['bytes'] / _MIB:.3g} MiB"
          for kind, one in kinds.items()
        )
        lines.append(f"{row['name']}{label}: {listed}")
  return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Aligns cells: the first column to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  return [
    "  ".join(
      cell.ljust(width) if number == 0 else cell.rjust(width)
      for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
    for cells in (head, *rows)
  ]


def gib(number: float) -> str:
  """Writes bytes as GiB."""
  return f"{number / _GIB:.3g}"


def _state(state: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  rows = [[row["name"], row["type"], gib(row["bytes"])] for row in state]
  return [*rows, ["all", "", gib(sum(row["bytes"] for row in state))]]


def _notes(plan: Mapping[str, Any]) -> list[str]:
  return [
    "GiB per device: args + out - alias + temp + code + other. alias: results "
    "that reuse the",
    "memory of arguments; other: the run's other arrays. TFLOP on all chips, "
    "of products as",
    "traced (loops times their length). ms: a lower bound, the largest of "
    "TFLOP over the chips'",
    "peak, bytes over the memory's bandwidth, and sent over the links'.",
    "",
    "collectives, bytes on a device:",
    *collective_lines(plan),
  ]


def run_lines(plan: Mapping[str, Any]) -> list[str]:
  """Describes the bounds of the run."""
  run = plan["run"]
  if run is None:
    return ["no bounds of the run: a function does not fit into memory"]
  rate = run["tokens_per_second"]
  lines = [
    f"a step takes {run['step']:.3g} s at least, if all rationales are full "
    f"length: sampling {run['step_sampling']:.3g}, gradient "
    f"{run['step_gradient']:.3g}"
    + ("" if rate is None else f"; {rate:,.0f} tokens/s at most")
  ]
  if "run" not in run:  # T5X's steps begin at those of a checkpoint
    return lines
  phases = ", ".join(f"{label} {run[key]:,.0f}" for key, label in _PHASES)
  return [
    *lines,
    f"the run takes {run['run']:,.0f} s at least ({phases}): "
    f"{run['chip_hours']:,.1f} chip-hours",
  ]


def verdict_lines(plan: Mapping[str, Any]) -> list[str]:
  """Says whether the run fits, and what would help."""
  verdict = plan["verdict"]
  word = "fits" if verdict["fits"] else "does not fit"
  parts = ", ".join(
    f"{name} {gib(size)}"
    for name, size in sorted(verdict["parts"].items(), key=lambda x: -x[1])
  )
  lines = [
    f"{word}: {verdict['program']} needs the most, {gib(verdict['needed'])} of "
    f"{gib(verdict['available'])} GiB ({parts})"
  ]
  if verdict["largest"]:
    lines.append(f"the largest array that it makes: {verdict['largest']}")
  if verdict["settings"]:
    lines.append(f"the largest of what the run keeps: {verdict['kept']}")
    lines += ["what would help:", *(f"- {one}" for one in verdict["settings"])]
  return lines + verdict["idle"]
