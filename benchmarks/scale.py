"""The cost of a run with many examples on each host, measured in simulation.

Starts several processes on this machine. Each does what a host does before the
first step: it makes its part of the memory, saves and restores its part of a
checkpoint, permutes an epoch, and moves minibatches of chains. Texts and
prompts, which each host has whole, are made in the first process alone, because
this machine has to hold all processes. There is no model; its size does not
depend on the number of examples.

  python -m benchmarks.scale --num_examples 10000000 --processes 4

Prints the cost of each phase, and the prediction of docs/pods.md.
"""

import argparse
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

# Bytes of a Python string besides its ASCII text, rounded up to a multiple of
# 16, and of a place in a list.
_STRING, _PLACE = 49 + 8, 8


def predicted_bytes(
  num_examples: int,
  num_hosts: int,
  prompt_length: int,
  guide_length: int,
  max_length: int,
  text_length: int,
) -> dict[str, int]:
  """Predicts a host's memory with the cost model of docs/pods.md.

  Args:
    num_examples: Number of examples N.
    num_hosts: Number of hosts that share the memory.
    prompt_length: Tokens P of a padded prompt.
    guide_length: Tokens of a padded hinted prompt.
    max_length: Rationale length T.
    text_length: Characters of an example's id, question and answer.

  Returns:
    Bytes of the texts, on each host, and of the host's part of the memory.
  """
  texts = 3 * (_STRING + _PLACE) + text_length + _PLACE  # the last: its task
  tokens = 4 * (prompt_length + guide_length) + 8  # with the id's words
  row = 4 * max_length + 1 + 3 * 4
  return {
    "texts": num_examples * (texts + tokens),
    "memory": -(-num_examples // num_hosts) * row,
  }


def main() -> None:
  """Reads the arguments; starts the processes, or is one of them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_examples", type=int, default=10_000_000)
  parser.add_argument("--processes", type=int, default=4)
  parser.add_argument("--prompt_length", type=int, default=8)
  parser.add_argument("--max_length", type=int, default=16)
  parser.add_argument("--batch_size", type=int, default=128)
  parser.add_argument("--process", nargs=3, metavar=("INDEX", "PORT", "DIR"))
  options = parser.parse_args()
  if options.process:
    _be_a_host(options)
  else:
    _start_hosts(options)


def _start_hosts(options: argparse.Namespace) -> None:
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  with tempfile.TemporaryDirectory() as folder:
    hosts = [
      subprocess.Popen(
        [
          *(sys.executable, "-m", "benchmarks.scale", *sys.argv[1:]),
          *("--process", str(index), str(port), folder),
        ],
        stdout=subprocess.PIPE,
        text=True,
      )
      for index in range(options.processes)
    ]
    lines = [host.communicate()[0].splitlines() for host in hosts]
    if any(host.returncode for host in hosts):
      sys.exit("a process failed")
  phases = [
    [json.loads(line) for line in own if line.startswith("{")] for own in lines
  ]
  print(f"{'phase':<12} {'seconds':>8} {'GB more':>8}  in the slowest, largest")
  for rows in zip(*phases, strict=True):
    seconds = max(row["seconds"] for row in rows)
    gigabytes = max(row["bytes"] for row in rows) / 1e9
    print(f"{rows[0]['phase']:<12} {seconds:8.1f} {gigabytes:8.2f}")
  expected = predicted_bytes(
    options.num_examples,
    options.processes,
    options.prompt_length,
    options.prompt_length,
    options.max_length,
    len(_id(0)) + len(_question(0)) + len(_answer(0)),
  )
  print({name: f"{size / 1e9:.2f} GB" for name, size in expected.items()})


def _id(number: int) -> str:
  return f"made/{number:08}"


def _question(number: int) -> str:
  return f"What is {number:08} modulo 97?"


def _answer(number: int) -> str:
  return f"{number % 97:02} of 97"


def _resident() -> int:
  """Returns the resident memory of this process, in bytes."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * 4096


def _be_a_host(options: argparse.Namespace) -> None:
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  from cot_latent.em import estep, weighing
  from cot_latent.em.method import Weighing
  from cot_latent.inference import estimators, rng
  from cot_latent.models import partitioning
  from cot_latent.reporting import environment
  from cot_latent.runtime import processes

  index, port, folder = options.process
  processes.join(f"localhost:{port}", options.processes, int(index))
  layout = partitioning.make_layout(partitioning.MeshConfig())
  size, length = options.num_examples, options.max_length
  processes.wait_for_all("start")
  before, began = _resident(), time.perf_counter()

  def note(phase: str) -> None:
    nonlocal before, began
    row = {
      "phase": phase,
      "seconds": time.perf_counter() - began,
      "bytes": _resident() - before,
    }
    print(json.dumps(row), flush=True)
    processes.wait_for_all(phase)
    before, began = _resident(), time.perf_counter()

  kept = size if processes.is_first() else 0
  texts = [
    [write(number) for number in range(kept)]
    for write in (_id, _question, _answer)
  ]
  tasks = ["made"] * kept
  tokens = [np.ones((kept, options.prompt_length), np.int32) for _ in range(2)]
  words = rng.id_words(texts[0])
  note("texts")
  state = estep.empty_memory(layout, size, length)
  jax.block_until_ready(state)
  note("memory")
  saver = ocp.StandardCheckpointer()
  path = pathlib.Path(folder) / "checkpoint"
  saver.save(path, state)
  saver.wait_until_finished()
  note("save")
  like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  del state
  state = saver.restore(path, like)
  jax.block_until_ready(state)
  note("restore")
  chosen = rng.minibatch(0, "order", 0, size, options.batch_size)
  note("epoch")

  def step(state, number):
    rows = len(chosen)
    state, *_ = weighing.move_and_weigh(
      state,
      chosen,
      np.ones((rows, 1, length), np.int32),
      np.arange(rows)[:, None] % 2 == 0,
      number,
      weighing.Noise(0.5),
      weighing=Weighing(estimator),
      layout=layout,
    )
    return jax.block_until_ready(state)

  estimator = estimators.control_variate()
  state = step(state, 1)
  note("compilation")
  for number in range(2, 12):
    state = step(state, number)
  note("10 steps")
  peak = {"phase": "peak", "seconds": 0.0, "bytes": environment.peak_memory()}
  print(json.dumps(peak), flush=True)
  del texts, tasks, tokens, words


if __name__ == "__main__":
  main()
