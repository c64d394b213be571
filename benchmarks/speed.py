"""The speed of sampling and gradients, compared with peers and the limit.

`python -m benchmarks.speed --output benchmarks/results` writes speed.json,
speed.md, speed.png and speed.svg there. With --workload only some workloads are
measured, and the other figures stay unchanged.

In each round everything is measured once, one after another: the machine, and
each contender. Figures are medians over the rounds, so that other load on the
machine affects all of them alike. Figures of W3 are means, because each of its
rounds has other draws. Everything that compiles is run once before.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import matplotlib
import matplotlib.figure
import numpy as np

from benchmarks import limits, workloads
from benchmarks.variance import STYLE
from cot_latent.reporting.tables import rendering

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "t5x")
_GREY, _BLUE, _ORANGE = "#9a9a9a", "#0072B2", "#D55E00"


def median(values: Iterable[float]) -> float:
  """Returns the median as a number that JSON can hold."""
  return float(np.median(list(values)))


def machine() -> dict[str, Any]:
  """Describes this machine without names or paths."""
  packages = {}
  for name in _PACKAGES:
    try:
      packages[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  devices = {d.device_kind for d in jax.devices() if d.platform != "cpu"}
  return {
    "cores": os.cpu_count(),
    "accelerators": sorted(devices),
    "system": f"{platform.system()} {platform.machine()}",
    "python": platform.python_version(),
    "packages": packages,
  }


def installed_peers() -> list[str]:
  """Lists the members of workloads.PEERS that can be run here."""
  return [
    name
    for name in workloads.PEERS
    if importlib.util.find_spec(name.lower()) is not None
  ]


def _load() -> float | None:
  return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def measure(
  workload: workloads.Workload,
  repeats: int,
  say: Callable[[str], None],
  scale: int = 1,
) -> dict[str, Any]:
  """Measures a workload and its peers in turn.

  Args:
    workload: The workload.
    repeats: Number of rounds.
    say: Called with a line about each run.
    scale: Divisor of the sizes of the arrays that rates are measured with.

  Returns:
    All figures.
  """
  device = limits.Machine(scale=scale)
  rates, loads = [], []
  runs: dict[str, list[dict[str, float]]] = {
    name: [] for name in workload.contenders
  }
  for name, run in workload.contenders.items():
    say(f"{name}: compiling")
    # PyTorch compiles nothing.
    if name != workloads.TRANSFORMERS:
      run()
      workload.untimed.get(name, lambda: None)()
  for _ in range(repeats):
    rates.append(device.measure())
    loads.append(_load())
    for name, run in workload.contenders.items():
      began, cpu_began = time.perf_counter(), time.process_time()
      amount = run()
      seconds = time.perf_counter() - began
      cpu_seconds = time.process_time() - cpu_began
      began = time.perf_counter()
      workload.untimed.get(name, lambda: None)()
      outside = time.perf_counter() - began if name in workload.untimed else 0.0
      runs[name].append(
        {
          "amount": amount,
          "seconds": seconds,
          "cpu_seconds": cpu_seconds,
          "outside_inner_loop_seconds": outside,
        }
      )
      say(f"{name}: {amount:g} {workload.unit} in {seconds:.2f} s")
  rate = limits.Rates(*(median(each) for each in zip(*rates, strict=True)))
  found: dict[str, Any] = {}
  for name, measured in runs.items():
    found[name] = {
      "rate": median(run["amount"] / run["seconds"] for run in measured),
      "seconds": median(run["seconds"] for run in measured),
      "runs": measured,
    }
    if name in workload.work:
      amount = median(run["amount"] for run in measured)
      least = limits.seconds(
        limits.Work(*(part * amount for part in workload.work[name])), rate
      )
      inner = median(
        run["seconds"] - run["outside_inner_loop_seconds"] for run in measured
      )
      found[name] |= {
        "limit_seconds": least,
        "inner_loop_seconds": inner,
        "share_of_limit": {
          part: least_seconds / inner for part, least_seconds in least.items()
        },
      }
  return {
    "title": workload.title,
    "unit": workload.unit,
    "contenders": found,
    "target": workload.target,
    "rates": rate._asdict(),
    "load": loads,
  }


def measure_steps(
  steps: dict[str, Callable[[int], workloads.Step]],
  repeats: int,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Measures the steps of W3 in turn, each round with other draws."""
  say("compiling")
  for run in steps.values():
    run(0)
  runs: dict[str, list[workloads.Step]] = {name: [] for name in steps}
  loads = []
  for number in range(repeats):
    loads.append(_load())
    for name, run in steps.items():
      runs[name].append(run(number))
      say(f"{name}: {runs[name][-1].seconds:.2f} s")
  return {
    "title": "a whole step of TRICE",
    "steps": {
      name: {
        **{
          field: float(np.mean([getattr(step, field) for step in measured]))
          for field in workloads.Step._fields
        },
        "runs": [step._asdict() for step in measured],
      }
      for name, measured in runs.items()
    },
    "load": loads,
  }


def table(found: dict[str, Any]) -> str:
  """Writes the figures as Markdown."""
  lines = [
    "| | ours | transformers | T5X | speed-up over the faster | target | "
    "limit: memory | limit: arithmetic |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for name in workloads.SAMPLING_AND_GRADIENT:
    if name not in found:
      continue
    result = found[name]
    peers = [result["contenders"].get(peer) for peer in workloads.PEERS]
    fastest = max((peer["rate"] for peer in peers if peer), default=None)
    for contender, figures in result["contenders"].items():
      if contender in workloads.PEERS:
        continue
      share = figures["share_of_limit"]
      cells = [
        f"{name} {result['title']}" + contender.removeprefix(workloads.OURS),
        _rate(result, figures),
        *(_rate(result, peer) if peer else "–" for peer in peers),
        f"{figures['rate'] / fastest:.1f} ×" if fastest else "–",
        f"{result['target']:g} ×",
        f"{share['memory']:.0%}" if share["memory"] else "–",
        f"{share['arithmetic']:.0%}",
      ]
      lines.append(f"| {' | '.join(cells)} |")
  if "W3" in found:
    lines += [
      "",
      "| W3: a step of TRICE | seconds | of these sampling | accepted | "
      "rows differentiated |",
      "|---|---|---|---|---|",
    ]
    for name, step in found["W3"]["steps"].items():
      cells = [
        name,
        f"{step['seconds']:.1f}",
        f"{step['sampling_seconds']:.1f}",
        f"{step['accept_rate']:.0%}",
        f"{step['num_rows']:.1f}",
      ]
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _rate(result: dict[str, Any], figures: dict[str, Any]) -> str:
  if result["unit"] == "gradients":
    return f"{figures['seconds']:.1f} s"
  return f"{figures['rate']:,.0f} {result['unit']}/s"


def draw(found: dict[str, Any]) -> matplotlib.figure.Figure:
  """Draws a panel for each workload."""
  names = [name for name in workloads.NAMES if name in found]
  with matplotlib.rc_context(STYLE):
    figure = matplotlib.figure.Figure(
      figsize=(3.4 * len(names), 3.8), layout="constrained"
    )
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
      if name == "W3":
        _draw_steps(axes, found[name])
      else:
        _draw_rates(axes, name, found[name])
    return figure


def _draw_rates(axes: Any, name: str, result: dict[str, Any]) -> None:
  is_time = result["unit"] == "gradients"
  figures = result["contenders"]
  for place, (contender, each) in enumerate(figures.items()):
    value = each["seconds" if is_time else "rate"]
    colour = _GREY if contender in workloads.PEERS else _BLUE
    axes.bar(place, value, color=colour, width=0.7)
    axes.text(
      place, value, f"{value:,.3g}", ha="center", va="bottom", fontsize=9
    )
  labels = [contender.replace(", ", "\n") for contender in figures]
  axes.set_xticks(range(len(figures)), labels, fontsize=8)
  axes.grid(axis="x", visible=False)
  axes.set_axisbelow(True)
  unit = "seconds" if is_time else f"{result['unit']}/s"
  axes.set_title(f"{name}: {unit}", loc="left", fontsize=11)


def _draw_steps(axes: Any, result: dict[str, Any]) -> None:
  lines: dict[str, list[tuple[float, float]]] = {}
  for name, step in result["steps"].items():
    label, _, acceptance = name.partition(", acceptance ")
    lines.setdefault(label, []).append((float(acceptance), step["seconds"]))
  marks = ((_ORANGE, "-", "o"), (_BLUE, "--", "s"))
  for (label, points), mark in zip(lines.items(), marks, strict=True):
    colour, dash, marker = mark
    axes.plot(
      *zip(*points, strict=True),
      color=colour,
      linestyle=dash,
      marker=marker,
      label=label,
    )
  axes.set_ylim(bottom=0)
  axes.set_xlabel("acceptance")
  axes.set_title("W3: seconds a step", loc="left", fontsize=11)
  axes.legend(frameon=False)


def write(found: dict[str, Any], output: pathlib.Path) -> None:
  """Writes figures, table and plot."""
  output.mkdir(parents=True, exist_ok=True)
  text = json.dumps(found, indent=1)
  (output / "speed.json").write_text(text + "\n", encoding="utf-8")
  (output / "speed.md").write_text(table(found), encoding="utf-8")
  figure = draw(found)
  with matplotlib.rc_context(STYLE):
    for ending, content in rendering.render(figure).items():
      (output / f"speed{ending}").write_bytes(content)


def run(
  names: Sequence[str],
  sizes: workloads.Sizes,
  repeats: int,
  with_peers: Collection[str] = workloads.PEERS,
  say: Callable[[str], None] = print,
  scale: int = 1,
) -> dict[str, Any]:
  """Measures workloads of these names."""
  found = {}
  for name in names:
    say(name)
    if name == "W3":
      result = measure_steps(workloads.trice_step(sizes), repeats, say)
    else:
      workload = workloads.SAMPLING_AND_GRADIENT[name](sizes, with_peers)
      result = measure(workload, repeats, say, scale)
    found[name] = result | {"repeats": repeats, "machine": machine()}
  return found


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, and writes the results."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--workload", nargs="+", choices=workloads.NAMES, default=workloads.NAMES
  )
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument(
    "--num_slots", type=int, nargs="+", help="numbers of slots for W1"
  )
  parser.add_argument(
    "--peers",
    nargs="*",
    choices=workloads.PEERS,
    default=installed_peers(),
    help="default: those that are installed",
  )
  parser.add_argument(
    "--output", type=pathlib.Path, default=pathlib.Path("benchmarks/results")
  )
  options = parser.parse_args(arguments)
  sizes = workloads.Sizes()
  if options.num_slots:
    sizes = workloads.Sizes(num_slots=tuple(options.num_slots))
  known = options.output / "speed.json"
  found = json.loads(known.read_text()) if known.is_file() else {}
  for name in options.workload:
    measured = run([name], sizes, options.repeats, options.peers)
    for result in measured.values():
      result["command"] = (
        f"python -m benchmarks.speed --workload {name} "
        f"--repeats {options.repeats}"
      )
    found |= measured
    write(found, options.output)  # so far, in case the next workload fails


if __name__ == "__main__":
  main()
