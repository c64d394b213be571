"""Splash attention, step by step on a CPU, against attention in plain JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.models import attention, splash
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


def by_kernel(query, own, shared, is_real, softcap):
  prefix = LayerCache(*shared) if shared[0].shape[1] else None
  return splash.attend(
    None, query, LayerCache(*own), prefix, is_real, softcap, interpret=True
  )


def plainly(query, own, shared, is_real, softcap):
  causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
  parts = [(LayerCache(*own), causal & is_real[:, None])]
  if shared[0].shape[1]:
    mask = jnp.ones((ROWS, LENGTH, shared[0].shape[1]), bool)
    parts.insert(0, (LayerCache(*shared), mask))
  return attention.attend(query, parts, softcap)


@pytest.mark.parametrize(
  ("num_shared", "softcap"), [(0, None), (24, None), (24, 5.0)]
)
def test_results_and_gradients_are_those_of_plain_attention(
  num_shared, softcap
):
  is_real = np.arange(LENGTH) >= PADDING[:, None]
  counted = is_real[:, None, :, None]

  def value_and_gradient(attend):
    def summed(*inputs):
      attended = attend(*inputs, is_real, softcap) * counted
      return (attended * jnp.cos(jnp.arange(WIDTH))).sum(), attended

    differentiated = jax.value_and_grad(summed, (0, 1, 2), has_aux=True)
    return jax.jit(differentiated)(*arrays(num_shared))

  expected, found = map(value_and_gradient, (plainly, by_kernel))
  jax.tree.map(
    lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=2e-5),
    expected,
    found,
  )
