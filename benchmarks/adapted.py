"""W4: a pretrained model's shape with low-rank updates, beside peft.

`python -m benchmarks.adapted --output benchmarks/results` writes adapted.json
and adapted.md there. Weights are random, of SmolLM2-135M's shape, with updates
of rank 16 on all projections.

Each contender has a process of its own, so that its peak memory is its own too.
They work in turn, one at a time, and the others wait. A figure is the least of
the rounds: what else the machine does only adds to it. On a machine that is
busy, pin all to one core (`taskset -c 0`) and compare CPU seconds: waiting
threads of PyTorch count as work.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import limits, speed, workloads
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.lora import TARGETS, Lora
from cot_latent.training import mstep, tuning
from cot_latent.training.experiment import OptimizerConfig

OURS, PEER, MACHINE = "ours", "transformers + peft", "machine"
DTYPES = ("float32", "bfloat16")
# What is done, the unit, and by how much ours must be faster.
PARTS = {
  "full length": ("tokens", 1.5),
  "geometric lengths": ("tokens", 2.5),
  "gradient": ("gradients", 1.2),
}
_VOCAB_SIZE, _EOS = 49_152, 2
_LORA = Lora(rank=16, alpha=32.0, targets=TARGETS)
_ROWS, _PROMPT, _LENGTH = 32, 128, 64  # of sampling at full length
_NUM_GEOMETRIC, _LONGEST, _MEAN = 64, 128, 64
_GRADIENT_ROWS, _ROWS_AT_ONCE = 24, 6  # a quarter, as the trainer has it

Run = Callable[[], float]


def config(dtype: Any, num_layers: int = 30) -> DecoderConfig:
  """SmolLM2-135M's shape."""
  return DecoderConfig(
    num_layers=num_layers,
    embed_dim=576,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_dim=1536,
    norm_eps=1e-5,
    scale_embeddings=False,
    dtype=dtype,
    param_dtype=dtype,
  )


def _tokens(seed: int, rows: int, length: int) -> np.ndarray:
  generator = np.random.default_rng(seed)
  return generator.integers(3, _VOCAB_SIZE, (rows, length)).astype(np.int32)


def _random_params(model: Any) -> Any:
  """Parameters without compiling an initializer of so many layers."""
  generator = np.random.default_rng(0)

  def fill(path, leaf):
    if path[-1].key == "scale":
      return jnp.ones(leaf.shape, leaf.dtype)
    values = generator.standard_normal(leaf.shape, np.float32)
    return jnp.asarray(0.02 * values, leaf.dtype)

  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(fill, shapes)


def ours(part: str, dtype: str, num_layers: int) -> Run:
  """The work in this package."""
  sizes = config(dtype, num_layers)
  if part == "gradient":
    return _our_gradient(sizes)
  is_full = part == "full length"
  model = workloads.with_eos_rate(
    *(sizes, _VOCAB_SIZE, _LENGTH if is_full else _LONGEST),
    0.0 if is_full else 1 / _MEAN,
    eos_id=_EOS,
    lora=_LORA,
  )
  params = _random_params(model)
  number = _ROWS if is_full else _NUM_GEOMETRIC
  prompts = _tokens(1, number, _PROMPT)
  keys = jax.random.split(jax.random.key(0), number)

  def sample():
    draws = model.sample(params, prompts, keys, num_slots=_ROWS)
    return float(model.network.ending.lengths(draws.tokens)[0].sum())

  return sample


def _our_gradient(sizes: DecoderConfig) -> Run:
  model = workloads.with_eos_rate(
    sizes, _VOCAB_SIZE, _LENGTH, 0.0, eos_id=_EOS, lora=_LORA
  )
  trained, frozen = tuning.split(_random_params(model), _LORA)
  optimizer = mstep.build_optimizer(OptimizerConfig(1e-3))
  step = mstep.build_step(model, optimizer, _ROWS_AT_ONCE)
  state = [trained, mstep.init_optimizer(model, optimizer, trained)]
  batch = _batch()

  def run():
    updated = step(*state, frozen, 0.0, *batch)
    state[:] = updated.params, updated.opt_state
    jax.block_until_ready(state)
    return 1.0

  return run


def _batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Prompts, targets and weights of the gradient."""
  weights = np.random.default_rng(2).normal(size=_GRADIENT_ROWS)
  return (
    _tokens(3, _GRADIENT_ROWS, _PROMPT),
    _tokens(4, _GRADIENT_ROWS, _LENGTH),
    weights.astype(np.float32),
  )


def peer(part: str, dtype: str, num_layers: int) -> Run:
  """The work in transformers and peft."""
  from benchmarks import peers

  model = peers.adapted(config(dtype, num_layers), _VOCAB_SIZE, dtype, _LORA)
  if part == "gradient":
    gradient, batch = peers.gradient(model, _ROWS_AT_ONCE), _batch()
    return lambda: float(gradient(*batch) > 0)
  is_full = part == "full length"
  # As fast as peft can: updates are added to the weights before.
  model.merge_adapter()
  sample = peers.sampler(
    *(model, _LENGTH if is_full else _LONGEST, _EOS),
    *(0.0 if is_full else 1 / _MEAN, _ROWS),
  )
  prompts = _tokens(1, _ROWS if is_full else _NUM_GEOMETRIC, _PROMPT)
  return lambda: float(sample(prompts))


def _machine(part: str, dtype: str, num_layers: int) -> Run:
  """Floating-point operations a second of large float32 products."""
  del part, dtype, num_layers
  device = limits.Machine(scale=2)
  return lambda: device.measure().large


_CONTENDERS = {OURS: ours, PEER: peer, MACHINE: _machine}


def _work(connection: Any, name: str, arguments: tuple[Any, ...]) -> None:
  """A process: makes the work, then does it once for each message."""
  run = _CONTENDERS[name](*arguments)
  began = time.perf_counter()
  run()
  connection.send(time.perf_counter() - began)
  while connection.recv():
    began, cpu_began = time.perf_counter(), time.process_time()
    amount = run()
    connection.send(
      {
        "amount": amount,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "load": os.getloadavg()[0],
      }
    )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  connection.send(peak * (1 if sys.platform == "darwin" else 1024))


def measure(
  part: str,
  dtype: str,
  repeats: int,
  names: Sequence[str] = tuple(_CONTENDERS),
  say: Callable[[str], None] = print,
  num_layers: int = 30,
) -> dict[str, Any]:
  """Measures one part in turn.

  Args:
    part: Name of the part, one of `PARTS`.
    dtype: Type of parameters and activations.
    repeats: Rounds.
    names: Contenders.
    say: Called with a line about each run.
    num_layers: Layers of the model; a test's are fewer.

  Returns:
    For each contender its runs, the first call's seconds, which compiles, and
    the peak memory in bytes.
  """
  context = multiprocessing.get_context("spawn")
  found: dict[str, Any] = {}
  connections = {}
  for name in names:
    here, there = context.Pipe()
    arguments = (part, dtype, num_layers)
    process = context.Process(target=_work, args=(there, name, arguments))
    process.start()
    there.close()  # a process that dies is an EOFError here
    connections[name] = here, process
    found[name] = {"first_seconds": here.recv(), "runs": []}
  for _ in range(repeats):
    for name, (connection, _) in connections.items():
      connection.send(True)
      found[name]["runs"].append(connection.recv())
      newest = found[name]["runs"][-1]
      say(
        f"{part}, {dtype}, {name}: {newest['seconds']:.2f} s, CPU "
        f"{newest['cpu_seconds']:.2f} s, load {newest['load']:.1f}"
      )
  for name, (connection, process) in connections.items():
    connection.send(False)
    found[name]["peak_bytes"] = connection.recv()
    process.join()
  return found


def best(contender: dict[str, Any], clock: str = "seconds") -> float:
  """The least seconds, or "cpu_seconds", for each unit of the amount."""
  return min(run[clock] / run["amount"] for run in contender["runs"])


def share_of_matrix_rate(found: dict[str, Any], num_layers: int = 30) -> float:
  """The gradient's operations a second, of the machine's best in the rounds.

  Frozen kernels have two products, not three: no gradient of their own.
  """
  work = limits.gradient(
    *(config("float32", num_layers), _VOCAB_SIZE, 0, _PROMPT, _LENGTH),
    _GRADIENT_ROWS,
  )
  rate = max(run["amount"] for run in found[MACHINE]["runs"])
  return work.large * 2 / 3 / best(found[OURS]) / rate


def table(results: dict[str, Any]) -> str:
  """Writes the figures as Markdown."""
  lines = [
    f"| | {OURS} | {PEER} | speed-up | in CPU seconds | target | "
    f"{OURS}: compiling | {OURS}: memory | {PEER}: memory | load |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  for name, result in results["parts"].items():
    part = name.partition(", ")[0]
    unit, target = PARTS[part]
    contenders = result["contenders"]
    mine, theirs = contenders[OURS], contenders.get(PEER)
    loads = [run["load"] for run in mine["runs"]]
    compiling = mine["first_seconds"] - min(r["seconds"] for r in mine["runs"])
    cells = [
      name,
      _shown(best(mine), unit),
      _shown(best(theirs), unit) if theirs else "–",
      _factor(mine, theirs, "seconds") if theirs else "–",
      _factor(mine, theirs, "cpu_seconds") if theirs else "–",
      f"{target:g} ×",
      f"{compiling:.0f} s",
      f"{mine['peak_bytes'] / 1e9:.1f} GB",
      f"{theirs['peak_bytes'] / 1e9:.1f} GB" if theirs else "–",
      f"{min(loads):.1f} to {max(loads):.1f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _factor(mine: dict[str, Any], theirs: dict[str, Any], clock: str) -> str:
  return f"{best(theirs, clock) / best(mine, clock):.2f} ×"


def _shown(seconds: float, unit: str) -> str:
  if unit == "gradients":
    return f"{seconds:.1f} s"
  return f"{1 / seconds:,.0f} {unit}/s"


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, and writes what was found."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
  parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument(
    "--contenders", nargs="+", choices=_CONTENDERS, default=_CONTENDERS
  )
  parser.add_argument(
    "--output", type=pathlib.Path, default=pathlib.Path("benchmarks/results")
  )
  options = parser.parse_args(arguments)
  options.output.mkdir(parents=True, exist_ok=True)
  known = options.output / "adapted.json"
  results = json.loads(known.read_text()) if known.is_file() else {"parts": {}}
  for dtype in options.dtypes:
    for part in options.parts:
      found = measure(part, dtype, options.repeats, tuple(options.contenders))
      result: dict[str, Any] = {
        "contenders": found,
        "machine": speed.machine(),
      }
      if part == "gradient" and dtype == "float32" and MACHINE in found:
        result["share_of_matrix_rate"] = share_of_matrix_rate(found)
      results["parts"][f"{part}, {dtype}"] = result
      known.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
      text = table(results)
      (options.output / "adapted.md").write_text(text, encoding="utf-8")
  print(table(results))


if __name__ == "__main__":
  main()
