"""Plans of real models on TPUs, as a table (docs/pods.md).

Runs `t5x train --dry_run --topology` for each model, each way to train it and
each topology, one after the other, and keeps the plans. A plan that is there
already is not made again, so that the table may be made in parts. It needs
libtpu, and minutes of a free core for each plan. One that fails is a row of the
table, and the others are made; the exit status is 1 then.

  python -m benchmarks.plans --output build/plans --only llama3_2_1b

results/plans.json is the `--summary` of the plans in docs/pods.md.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class Model(NamedTuple):
  """A model to plan.

  Attributes:
    vocab: Size of its vocabulary.
    is_large: Whether its layers are sharded even if all chips have rows.
  """

  vocab: int
  is_large: bool


class Slice(NamedTuple):
  """Chips to plan for.

  Attributes:
    name: Google's name; that of a v5p counts two cores a chip.
    num_chips: Number of chips.
    shards: Shards of a large model's layers.
  """

  name: str
  num_chips: int
  shards: int


MODELS = {
  "qwen3_0_6b": Model(151_936, is_large=False),
  "llama3_2_1b": Model(128_256, is_large=False),
  "llama3_1_8b": Model(128_256, is_large=True),
  "qwen3_8b": Model(151_936, is_large=True),
}
TRAINED = ("all", "lora", "soft_prompt")
TOPOLOGIES = {
  "v5e:2x2": Slice("v5e-4", 4, 4),
  "v5e:4x4": Slice("v5e-16", 16, 8),
  "v5e:16x16": Slice("v5e-256", 256, 8),
  "v5p:2x2x2": Slice("v5p-16", 8, 4),
  "v6e:4x4": Slice("v6e-16", 16, 8),
}
QUESTIONS = 128
LENGTHS = "prefix=600,prompt=256,train=7473,test=1319"
HEAD = (
  *("model", "trained", "slice", "mesh", "fits", "GiB per device", "in"),
  *("s a step, at least", "of these sampling"),
)

Run = Callable[[list[str]], int]


def main(arguments: list[str] | None = None, run: Run | None = None) -> int:
  """Makes the plans that are missing, and prints the table of all.

  Args:
    arguments: Those of the command line; None is the process's own.
    run: Runs a command and returns its exit status; None starts a process.

  Returns:
    The exit status.
  """
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="", help="a part of a plan's name")
  parser.add_argument("--layers", help="passed on to t5x train")
  parser.add_argument(
    "--summary", type=pathlib.Path, help="write what the table shows, as JSON"
  )
  options = parser.parse_args(arguments)
  options.output.mkdir(parents=True, exist_ok=True)
  _say(HEAD)
  _say(["---"] * len(HEAD))
  has_failed, shown = False, []
  for place, model, trained in itertools.product(TOPOLOGIES, MODELS, TRAINED):
    one = (model, trained, place)
    path = options.output / file_name(*one, options.layers)
    if not path.exists() and options.only in path.name:
      status = (run or _run)(command(*one, options.layers, path))
      if status:
        has_failed = True
        _say(failed_row(*one, status))
        continue
    if path.exists():
      plan = json.loads(path.read_text())
      _say(row(model, trained, plan))
      shown.append([model, trained, shown_of(plan)])
  if options.summary:
    text = json.dumps(shown, indent=1, ensure_ascii=False)
    options.summary.write_text(text + "\n", encoding="utf-8")
  return int(has_failed)


def file_name(
  model: str, trained: str, topology: str, layers: str | None
) -> str:
  """Names a plan's file, which says whether all layers were compiled."""
  depth = "" if layers is None else f"_layers{layers}"
  return f"{model}_{trained}_{topology.replace(':', '_')}{depth}.json"


def num_shards(model: str, topology: str) -> int:
  """Returns NUM_MODEL_SHARDS: so many that each part of a minibatch has rows.

  Example:

    >>> num_shards("llama3_2_1b", "v5e:16x16")
    2
    >>> num_shards("llama3_1_8b", "v5p:2x2x2")
    4
  """
  place = TOPOLOGIES[topology]
  least = -(-place.num_chips // QUESTIONS)
  return max(least, place.shards) if MODELS[model].is_large else least


def command(
  model: str,
  trained: str,
  topology: str,
  layers: str | None,
  path: pathlib.Path,
) -> list[str]:
  """Returns the command that makes a plan."""
  files = ["gin/runs/gsm8k_tiny.gin", f"gin/plans/{model}.gin"]
  settings = {
    "BATCH_SIZE": QUESTIONS,
    "PROMPT_LENGTH": 856,
    "MAX_LENGTH": 256,
    "NUM_MODEL_SHARDS": num_shards(model, topology),
  }
  assumed = f"vocab={MODELS[model].vocab},{LENGTHS}"
  if trained == "all":
    settings["PARAM_DTYPE"] = "'float32'"
  else:
    files.append(f"gin/tuning/{trained}.gin")
  if trained == "soft_prompt":
    assumed += ",soft=64"
  return [
    *(sys.executable, "-m", "cot_latent.cli", "train", "--dry_run"),
    *(f"--gin_file={name}" for name in files),
    *(f"--gin.{name}={value}" for name, value in settings.items()),
    *(f"--topology={topology}", f"--assume={assumed}"),
    *([] if layers is None else [f"--layers={layers}"]),
    f"--output={path}",
  ]


def row(model: str, trained: str, plan: dict[str, Any]) -> list[str]:
  """Returns the cells of a plan's row.

  They are what was compiled, whether it fits, the memory of the function that
  needs the most, that function, and the least time of a step.
  """
  verdict, run, mesh = plan["verdict"], plan["run"], plan["mesh"]
  depths = plan["compiled_depths"]
  if depths != [plan["depth"]]:
    layers = " and ".join(map(str, depths))
    model = f"{model}, from {layers} of {plan['depth']} layers"
  padding = [f"{name} {part:.0%}" for name, part in verdict["padding"].items()]
  needed, available = (verdict[x] / 2**30 for x in ("needed", "available"))
  return [
    *_named(model, trained, plan["topology"]),
    ", padding: ".join([f"{mesh['data']} x {mesh['model']}", *padding]),
    "yes" if verdict["fits"] else "no",
    f"{needed:.2f} of {available:.2f}",
    verdict["program"],
    "–" if run is None else f"{run['step']:.3g}",
    "–" if run is None else f"{run['step_sampling']:.3g}",
  ]


def shown_of(plan: dict[str, Any]) -> dict[str, Any]:
  """Returns what `row` reads of a plan."""

  def part(whole: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: whole[name] for name in names}

  named = ("fits", "needed", "available", "program", "padding")
  run = plan["run"] and part(plan["run"], "step", "step_sampling")
  return part(plan, "topology", "mesh", "compiled_depths", "depth") | {
    "verdict": part(plan["verdict"], *named),
    "run": run,
  }


def failed_row(
  model: str, trained: str, topology: str, status: int
) -> list[str]:
  """Returns the cells of a plan that was not made."""
  cells = [*_named(model, trained, topology), f"failed (status {status})"]
  return cells + ["–"] * (len(HEAD) - len(cells))


def _named(model: str, trained: str, topology: str) -> list[str]:
  named = {"lora": "LoRA", "soft_prompt": "soft prompt"}.get(trained, trained)
  return [model, named, TOPOLOGIES[topology].name]


def _run(command: list[str]) -> int:
  done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
  return done.returncode


def _say(cells) -> None:
  print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
  sys.exit(main())
