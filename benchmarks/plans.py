"""Plans of real models on TPUs, as a table (docs/pods.md).

Runs `t5x train --dry_run --topology` for each model, each way to train it and
each topology, one after the other, and keeps the plans. A plan that is there
already is not made again, so that the table may be made in parts. It needs
libtpu, and minutes of a free core for each plan.

  python -m benchmarks.plans --output build/plans --only llama3_2_1b
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

# Model -> vocabulary, and the largest number of shards of a layer.
MODELS = {
  "qwen3_0_6b": (151_936, 1),
  "llama3_2_1b": (128_256, 1),
  "llama3_1_8b": (128_256, 8),
  "qwen3_8b": (151_936, 8),
}
TRAINED = ("all", "lora", "soft_prompt")
TOPOLOGIES = {
  "v5e:2x2": 4,
  "v5e:4x4": 16,
  "v5e:16x16": 256,
  "v5p:2x2x4": 16,
  "v6e:4x4": 16,
}
LENGTHS = "prefix=600,prompt=256,soft=64,train=7473,test=1319"
HEAD = ("model", "trained", "topology", "mesh", "fits", "GiB", "s per step")


def main() -> None:
  """Makes the plans that are missing, and prints the table of all."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="", help="a part of a plan's name")
  parser.add_argument("--layers", help="passed on to t5x train")
  options = parser.parse_args()
  options.output.mkdir(parents=True, exist_ok=True)
  print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
  for model, trained, topology in itertools.product(
    MODELS, TRAINED, TOPOLOGIES
  ):
    name = f"{model}_{trained}_{topology.replace(':', '_')}"
    path = options.output / f"{name}.json"
    if not path.exists() and options.only in name:
      make_plan(model, trained, topology, options.layers, path)
    if path.exists():
      plan = json.loads(path.read_text())
      print("| " + " | ".join(row(model, trained, plan)) + " |", flush=True)


def make_plan(
  model: str,
  trained: str,
  topology: str,
  layers: str | None,
  path: pathlib.Path,
) -> None:
  """Makes one plan, in a process of its own."""
  vocab, most = MODELS[model]
  files = ["gin/runs/gsm8k_tiny.gin", f"gin/plans/{model}.gin"]
  settings = {
    "BATCH_SIZE": 128,
    "MAX_LENGTH": 256,
    "NUM_MODEL_SHARDS": min(most, TOPOLOGIES[topology]),
  }
  if trained == "all":
    settings["PARAM_DTYPE"] = "'float32'"
  else:
    files.append(f"gin/tuning/{trained}.gin")
  command = [
    *(sys.executable, "-m", "cot_latent.cli", "train", "--dry_run"),
    *(f"--gin_file={name}" for name in files),
    *(f"--gin.{name}={value}" for name, value in settings.items()),
    *(f"--topology={topology}", f"--assume=vocab={vocab},{LENGTHS}"),
    *([] if layers is None else [f"--layers={layers}"]),
    f"--output={path}",
  ]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def row(model: str, trained: str, plan: dict) -> list[str]:
  """Returns the cells of a plan's row."""
  verdict, run, mesh = plan["verdict"], plan["run"], plan["mesh"]
  return [
    model,
    trained.replace("_", " "),
    plan["topology"],
    f"{mesh['data']} x {mesh['model']}",
    "yes" if verdict["fits"] else f"no: {verdict['program']}",
    f"{verdict['needed'] / 2**30:.3g} of {verdict['available'] / 2**30:.4g}",
    "-" if run is None else f"{run['step']:.3g}",
  ]


if __name__ == "__main__":
  main()
