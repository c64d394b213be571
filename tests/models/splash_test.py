"""Splash attention, step by step on a CPU, against attention in plain JAX."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.models import attention, partitioning, splash
from cot_latent.models.attention import LayerCache

ROWS, HEADS, KV_HEADS, LENGTH, WIDTH = 2, 4, 2, 140, 8
PADDING = np.array([0, 9])


def arrays(num_shared):
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  own = [draw(ROWS, KV_HEADS, LENGTH, WIDTH) for _ in range(2)]
  shared = [draw(KV_HEADS, num_shared, WIDTH) for _ in range(2)]
  return draw(ROWS, HEADS, LENGTH, WIDTH), own, shared


def by_kernel(query, own, shared, is_real, softcap, layout=None):
  prefix = LayerCache(*shared) if shared[0].shape[1] else None
  return splash.attend(
    layout, query, LayerCache(*own), prefix, is_real, softcap, interpret=True
  )


def plainly(query, own, shared, is_real, softcap):
  causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
  parts = [(LayerCache(*own), causal & is_real[:, None])]
  if shared[0].shape[1]:
    mask = jnp.ones((ROWS, LENGTH, shared[0].shape[1]), bool)
    parts.insert(0, (LayerCache(*shared), mask))
  return attention.attend(query, parts, softcap)


def value_and_gradient(attend, num_shared, softcap):
  is_real = np.arange(LENGTH) >= PADDING[:, None]
  counted = is_real[:, None, :, None]

  def summed(*inputs):
    attended = attend(*inputs, is_real, softcap) * counted
    return (attended * jnp.cos(jnp.arange(WIDTH))).sum(), attended

  differentiated = jax.value_and_grad(summed, (0, 1, 2), has_aux=True)
  return jax.jit(differentiated)(*arrays(num_shared))


def check(num_shared, softcap, *layouts):
  """Compares values and gradients, on one device or on these meshes."""
  expected = value_and_gradient(plainly, num_shared, softcap)
  for layout in layouts or (None,):
    attend = functools.partial(by_kernel, layout=layout)
    jax.tree.map(
      lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=2e-5),
      expected,
      value_and_gradient(attend, num_shared, softcap),
    )


@pytest.mark.parametrize(
  ("num_shared", "softcap"), [(0, None), (24, None), (24, 5.0)]
)
def test_results_and_gradients_are_those_of_plain_attention(
  num_shared, softcap
):
  check(num_shared, softcap)


def check_on_meshes():
  """With 4 shards, with 2, and with 2 where rules keep keys whole."""
  whole_keys = (("kv_heads", None), *partitioning.RULES)
  meshes = (
    partitioning.MeshConfig(1, 4),
    partitioning.MeshConfig(2, 2),
    partitioning.MeshConfig(2, 2, rules=whole_keys),
  )
  check(24, None, *map(partitioning.make_layout, meshes))


def test_each_device_pairs_its_queries_with_their_own_keys():
  """In a process of its own with four simulated devices."""
  flags = os.environ.get("XLA_FLAGS", "")
  done = subprocess.run(
    [
      *(sys.executable, "-c"),
      "from tests.models import splash_test; splash_test.check_on_meshes()",
    ],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ
    | {
      "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=4",
      "JAX_PLATFORMS": "cpu",
    },
    capture_output=True,
    text=True,
    timeout=500,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
