"""On any mesh of devices a run makes the same choices.

The devices are simulated, in a process of their own: JAX counts them once.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import processes
from tests.asserts import assert_trees_equal

ROOT = pathlib.Path(__file__).parents[2]
# All of this is for `make nightly`; `make test` has models/sharded_test.py.
pytestmark = pytest.mark.slow
# data x model; the first is one device. Five and six divide neither the 24
# questions nor, six, a minibatch of 8.
MESHES = [
  *((1, 1), (2, 4), (8, 1), (2, 1), (4, 2), (1, 4), (5, 1), (3, 2)),
]
LOOPED = [(1, 1), (4, 2), (5, 1)]
FLAGS = " ".join(
  [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)
# Sums over rows and heads are taken in another order, which changes the last
# bits of float32. Adam divides by the gradient's size and makes the most of
# that where it is almost 0, so that a parameter may be off by a small part of
# what 7 steps of 1e-2 move it.
RELATIVE, ABSOLUTE = 1e-3, 1e-4

SCRIPT = """
import dataclasses, json, pathlib, sys
import jax, numpy as np
from cot_latent.models import decoder, partitioning
from cot_latent.em import estep
from cot_latent.em.method import Method, OuterLoops
from cot_latent.inference import baselines
from tests.training import toy
from tests.training.kills import last_state, run_until

STAR = Method(
  "star",
  baselines.rejection_sampling(pooled=True),
  memory_start="empty",
  loops=OuterLoops("greedy", hint_on_failure=True, restart=True, first_steps=3),
)
root = pathlib.Path(sys.argv[1])
assert len(jax.devices()) == 8
found = {}

def experiment(name, mesh, **changes):
  return toy.make_experiment(
    root / name,
    model=decoder.DecoderConfig(1, 16, 4, 8, 32),
    mesh=partitioning.MeshConfig(*mesh),
    **changes,
  )

def keep(name, config, report):
  leaves = jax.tree_util.tree_leaves_with_path(last_state(config).params)
  flat = {jax.tree_util.keystr(key): np.asarray(leaf) for key, leaf in leaves}
  np.savez(root / f"{name}.npz", **flat)
  found[name] = {
    "choices": [row["choices"] for row in report["metrics"]],
    "results": report["results"],
    "mesh": report["environment"]["mesh"],
    "resumes": [r["step"] for r in report["continuity"]["resumes"]],
  }

for mesh in json.loads(sys.argv[2]):
  name = "x".join(map(str, mesh))
  config = experiment(name, mesh)
  keep(name, config, toy.run(config))
for mesh in json.loads(sys.argv[3]):
  name = "star_" + "x".join(map(str, mesh))
  config = experiment(name, mesh, method=STAR)
  keep(name, config, toy.run(config))
# Stopped on one mesh and resumed on another, the last checkpoint damaged.
config = experiment("moved", (8, 1))
run_until(config, ("after_save", 3))
saved = root / "moved/checkpoints/4"
largest = max(saved.rglob("*"), key=lambda path: path.stat().st_size)
largest.write_bytes(largest.read_bytes()[:-1])
keep("moved", config, toy.run(experiment("moved", (2, 4))))
# How parameters and the memory are sharded.
config = experiment("unused", (2, 4))
layout = partitioning.make_layout(config.mesh)
model = toy.language_model.from_config(config.model, 259, 1, 8, layout)
params = model.init(jax.random.key(0))
shapes = {
  jax.tree_util.keystr(key): (leaf.shape, leaf.sharding.shard_shape(leaf.shape))
  for key, leaf in jax.tree_util.tree_leaves_with_path(params)
}
rows = estep.empty_memory(layout, 24, 8).tokens
shapes["memory"] = (rows.shape, rows.sharding.shard_shape(rows.shape))
found["shapes"] = shapes
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The folder of the runs, and what the script says of them."""
  root = tmp_path_factory.mktemp("meshes")
  meshes = map(json.dumps, (MESHES, LOOPED))
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT, str(root), *meshes],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": FLAGS},
    capture_output=True,
    text=True,
    timeout=processes.LIMIT,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return root, json.loads(done.stdout.splitlines()[-1])


def memory_of(root, name):
  with np.load(root / name / "outputs/000007-memory.npz") as stored:
    return dict(stored)


def spread_runs(found):
  """Names of the runs on several devices, and of those on one."""
  return {
    name: "star_1x1" if name.startswith("star") else "1x1"
    for name in found
    if not name.endswith("1x1") and name != "shapes"
  }


def test_the_choices_are_the_same_on_every_mesh(made):
  root, found = made
  assert (root / "moved/checkpoints/unusable-4").is_dir()
  assert len({*found["1x1"]["choices"]}) == 7
  assert len(np.unique(memory_of(root, "1x1")["accepted_at"])) > 2
  assert "moved" in spread_runs(found)
  for name, reference in spread_runs(found).items():
    alone, one = found[reference], memory_of(root, reference)
    assert found[name]["choices"] == alone["choices"], name
    assert found[name]["results"] == alone["results"], name
    assert_trees_equal(one, memory_of(root, name))


def test_the_meshes_are_what_was_asked_for(made):
  _, found = made
  for name in spread_runs(found).keys() - {"moved"}:
    data, model = map(int, name.removeprefix("star_").split("x"))
    assert found[name]["mesh"] == {"data": data, "model": model}
  assert found["moved"]["resumes"] == [2]


def test_parameters_and_memory_are_sharded(made):
  shapes = made[1]["shapes"]
  memory = shapes.pop("memory")
  sharded = {
    name.rsplit("'", 4)[1]: (whole, part)
    for name, (whole, part) in shapes.items()
    if whole != part
  }
  assert sharded["query"] == ([16, 4, 8], [8, 1, 8])
  assert sharded["output"] == ([32, 16], [8, 8])
  assert sharded["up"] == ([16, 32], [8, 8])
  assert sharded["down"] == ([32, 16], [8, 8])
  assert memory == [[24, 8], [3, 8]]


def norms_of(root, name):
  lines = (root / name / "journal.jsonl").read_text().splitlines()
  rows = map(json.loads, lines)
  return [row["grad/norm"] for row in rows if row["kind"] == "metrics"]


def test_parameters_agree_up_to_rounding(made):
  root, found = made
  for name, reference in spread_runs(found).items():
    with np.load(root / f"{reference}.npz") as stored:
      params = dict(stored)
    with np.load(root / f"{name}.npz") as stored:
      for leaf, values in params.items():
        np.testing.assert_allclose(stored[leaf], values, RELATIVE, ABSOLUTE)


def test_metrics_agree_up_to_rounding(made):
  root, found = made
  for name, reference in spread_runs(found).items():
    norms = norms_of(root, reference)
    assert len(norms) == 7
    np.testing.assert_allclose(norms_of(root, name), norms, RELATIVE)
