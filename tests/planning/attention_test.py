"""Attention of long sequences, compiled for TPUs."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from cot_latent.models import partitioning, splash
from cot_latent.models.attention import LayerCache
from cot_latent.planning import chips, compiling

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
ROWS, HEADS, KV_HEADS, LENGTH, SHARED, WIDTH = 8, 8, 2, 500, 600, 64


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
@pytest.mark.parametrize("model", [2, 4])
def test_scores_stay_on_the_chip(model):
  """Four shards have two heads of queries each, and half a head of keys."""
  devices = chips.describe_devices("v5e:2x2")
  mesh = partitioning.MeshConfig(model=model)
  layout = partitioning.make_layout(mesh, devices)

  def shape(*size, names=(), dtype=jnp.bfloat16):
    sharding = layout.sharding_of(size, *names)
    return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

  own = shape(ROWS, KV_HEADS, LENGTH, WIDTH, names=("batch", "kv_heads"))
  prefix = shape(KV_HEADS, SHARED, WIDTH, names=("kv_heads",))
  query = shape(ROWS, HEADS, LENGTH, WIDTH, names=("batch", "heads"))
  is_real = shape(ROWS, LENGTH, names=("batch",), dtype=bool)

  @jax.jit
  def gradient(query, own, prefix, is_real):
    def summed(*inputs):
      attended = splash.attend(layout, *inputs, is_real, softcap=None)
      return attended.astype(jnp.float32).sum()

    return jax.grad(summed, (0, 1, 2))(query, own, prefix)

  program, _, text = compiling.compiled(
    "attention",
    gradient,
    *(query, LayerCache(own, own), LayerCache(prefix, prefix), is_real),
    num_devices=4,
  )
  scores = 4 * ROWS * HEADS * LENGTH * (SHARED + LENGTH) / 4
  assert program.temporaries < scores
  # Heads that every device has are gathered, and no scores are.
  assert program.sent("outside") < scores / 4
  assert "splash_mha_fwd" in text
