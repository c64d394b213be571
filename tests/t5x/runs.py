"""Whole runs of T5X's train.py, in processes of their own."""

import io
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
SMALL = "tests/t5x/small.gin"


def command(directory, *flags, gin_file=SMALL, by_t5x=True):
  start = ["-m", "t5x.train"] if by_t5x else ["-m", "cot_latent.cli", "train"]
  return [
    *(sys.executable, *start, f"--gin_file={gin_file}"),
    *(f"--gin.MODEL_DIR='{directory}'", *flags),
  ]


def environment(num_devices=1):
  paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
  return os.environ | {
    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
    f"--xla_force_host_platform_device_count={num_devices}",
    "JAX_PLATFORMS": "cpu",
  }


def run(directory, *flags, num_devices=1, cwd=ROOT, **settings):
  """Runs it to its end; gives what it said."""
  return subprocess.run(
    command(directory, *flags, **settings),
    cwd=cwd,
    env=environment(num_devices),
    capture_output=True,
    text=True,
    timeout=processes.LIMIT,
  )


def run_well(directory, *flags, **settings):
  done = run(directory, *flags, **settings)
  assert done.returncode == 0, done.stderr[-3000:]
  return done


def run_until(
  directory,
  step,
  *flags,
  by=signal.SIGKILL,
  status=-signal.SIGKILL,
  **settings,
):
  """Runs it, and ends it as soon as there is a checkpoint of the step."""
  log = pathlib.Path(f"{directory}.log")
  with log.open("w") as stream:
    process = processes.start(
      command(directory, *flags, **settings),
      cwd=ROOT,
      env=environment(),
      stdout=stream,
      stderr=stream,
    )

    def is_there():
      assert process.poll() is None, log.read_text()[-3000:]
      return (directory / f"checkpoint_{step}").is_dir()

    processes.wait_until(is_there, f"step {step} in {directory}")
    process.send_signal(by)
    assert process.wait(processes.LIMIT) == status


def memory(directory, step):
  """The chains of a checkpoint, as arrays."""
  paths = (directory / f"checkpoint_{step}").rglob("*.memory.npz")
  first, *others = (path.read_bytes() for path in paths)
  assert all(other == first for other in others)  # each process saves it
  with np.load(io.BytesIO(first)) as stored:
    return dict(stored)


def parameters(directory, step):
  """All of the state of a checkpoint: target and optimizer."""
  folder = directory / f"checkpoint_{step}" / "state"
  with ocp.PyTreeCheckpointer() as reader:
    # Whatever devices it was written by.
    wanted = jax.tree.map(
      lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    restored = reader.restore(folder, restore_args=wanted)
  return leaves(restored)


def leaves(tree, *path):
  """All arrays by their names, such as target/decoder/..."""
  return {
    "/".join(map(str, place)): np.asarray(leaf)
    for place, leaf in _walk(tree, path)
  }


def _walk(tree, path):
  if isinstance(tree, dict):
    for name, part in sorted(tree.items()):
      yield from _walk(part, (*path, name))
  elif isinstance(tree, list | tuple):
    for place, part in enumerate(tree):
      yield from _walk(part, (*path, place))
  elif tree is not None:
    yield path, tree


def assert_same(one, other, tolerance=0.0):
  assert one.keys() == other.keys()
  for name, array in one.items():
    if tolerance and array.dtype.kind == "f":
      np.testing.assert_allclose(
        other[name], array, atol=tolerance, err_msg=name
      )
    else:
      np.testing.assert_array_equal(other[name], array, err_msg=name)
