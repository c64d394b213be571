"""Models whose parameters are stored in parts draw and learn as whole ones.

The devices are simulated, in a process of their own: JAX counts them once.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = " ".join(
  [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4"]
)

SCRIPT = """
import dataclasses, json, re
import jax, numpy as np
from cot_latent.models import (
  decoder, language_model, lora, partitioning, scanned, t5)
from cot_latent.training import gradients, tuning

rng = np.random.default_rng(0)
prompts = rng.integers(2, 32, (8, 8)).astype(np.int32)
keys = jax.random.split(jax.random.key(1), 8)
plain = decoder.DecoderConfig(1, 16, 4, 8, 32, num_kv_heads=2, remat=True)
biased = decoder.DecoderConfig(
  1, 16, 4, 8, 32, qkv_bias=True, qk_norm=True, tie_embeddings=False)
local = dict(sliding_window=4, local_layers=(0, 2), local_rope_base=50.0)
deep = decoder.DecoderConfig(3, 16, 4, 8, 32, num_kv_heads=2, **local)
CASES = {
  "a loop over layers": (dataclasses.replace(deep, remat=True), None),
  "a loop with updates": (deep, lora.Lora(2)),
  "biases, updates": (biased, lora.Lora(2, targets=lora.TARGETS)),
  "soft prompt": (plain, tuning.SoftPrompt(length=8)),
  "encoder-decoder": (t5.T5Config(1, 1, 16, 4, 8, 32), None),
}

def build(config, added, layout):
  low_rank = added if isinstance(added, lora.Lora) else None
  return language_model.from_config(config, 32, 1, 8, layout, low_rank)

def place(model, params):
  places = jax.tree.map(lambda leaf: leaf.sharding, model.shapes)
  if "soft_prompt" in params:
    places["soft_prompt"] = model.layout.sharding()
  return jax.device_put(params, places)

def learnt(model, params, added):
  trained, frozen = tuning.split(params, added)
  rows = prompts, drawn.tokens, np.linspace(-1, 1, 8, dtype=np.float32)
  prefix = np.arange(8, dtype=np.int32)

  def gradient(trained, frozen):
    shared = gradients.begin(model, trained, frozen, prefix)
    sums, log_prob = gradients.of_part(model, trained, frozen, shared, *rows)
    return gradients.whole(model, trained, frozen, prefix, sums), log_prob

  traced = jax.jit(gradient).trace(trained, frozen)
  lengths = map(int, re.findall(r"\\blength=(\\d+)", str(traced.jaxpr)))
  return traced.lower().compile()(trained, frozen), set(lengths)

def gap(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() /
    (1e-6 + np.abs(np.asarray(a)).max())) for a, b in pairs)

# Draws 20 rows through 16 slots; and how caches were sharded meanwhile.
def through_slots(params, layout):
  model = language_model.from_config(plain, 32, 1, 256, layout)
  parts = {}

  def watch(name):
    run = getattr(model.sampler, name)

    def watched(*arguments):
      state = run(*arguments)
      parts[name] = [
        [whole // part for whole, part in
          zip(x.shape, x.sharding.shard_shape(x.shape), strict=True)]
        for x in jax.tree.leaves((state.cache.prompt, state.cache.target))]
      return state

    setattr(model.sampler, name, watched)

  watch("refill")
  watch("shrink")
  if layout is not None:
    params = place(model, params)
  draws = model.sample(params, rows, row_keys, num_slots=16)
  return draws, parts

found = {}
for name, (config, added) in CASES.items():
  alone = build(config, added, None)
  params = alone.init(jax.random.key(0))
  # First updates are 0, and would have no gradient to see.
  params = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.01), params)
  if isinstance(added, tuning.SoftPrompt):
    params["soft_prompt"] = params["embed"]["embedding"][:8]
  scanned.LEAST_PARAMS = 0 if "loop" in name else 2**30
  drawn = alone.sample(params, prompts, keys)
  expected, loops = learnt(alone, params, added)
  assert not loops, loops
  shapes = [(2, 2)]
  if "loop" in name:
    # Four shards do not divide two heads of keys: positions are sharded.
    shapes += [(1, 4)]
  elif isinstance(added, tuning.SoftPrompt):
    shapes += [(2, 1)]
  for shape in shapes:
    layout = partitioning.make_layout(partitioning.MeshConfig(*shape))
    model = build(config, added, layout)
    placed = place(model, params)
    draws = model.sample(placed, prompts, keys)
    of_host = model.sample(params, prompts, keys)  # not placed before
    parts = [len({str(s.index) for s in x.addressable_shards}) for x in
      jax.tree.leaves(placed) if x.ndim > 1]
    results, loops = learnt(model, placed, added)
    found[f"{name} {shape}"] = {
      "is_same": all((of.tokens == drawn.tokens).all()
        for of in (draws, of_host)),
      "gap": gap(expected, results), "loops": sorted(loops),
      "parts": max(parts), "of": shape[0] * shape[1],
    }

params = build(plain, None, None).init(jax.random.key(0))
rows = rng.integers(2, 32, (20, 8)).astype(np.int32)
row_keys = jax.random.split(jax.random.key(2), 20)
expected, _ = through_slots(params, None)
layout = partitioning.make_layout(partitioning.MeshConfig(1, 4))
draws, parts = through_slots(params, layout)
slots = {"is_same": bool((draws.tokens == expected.tokens).all()),
  "parts": parts}
print(json.dumps([found, slots]))
"""


@pytest.fixture(scope="module")
def found():
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=500,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_draws_and_learns_the_same(found):
  cases, _ = found
  assert len(cases) == 8
  for name, row in cases.items():
    assert row["is_same"], name
    assert row["gap"] < 1e-4, name
    assert row["parts"] == row["of"], name
    assert row["loops"] == [3] * ("loop" in name), name


def test_slots_are_filled_and_left_where_caches_are_sharded_by_positions(found):
  _, slots = found
  assert slots["is_same"]
  assert slots["parts"].keys() == {"refill", "shrink"}
  for parts in slots["parts"].values():
    assert parts == [[1, 1, 4, 1]] * 4
