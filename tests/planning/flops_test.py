"""FLOPs of products, with loops as often as they run."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from cot_latent.planning import flops


def count(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return flops.count(jax.make_jaxpr(function)(*arguments))


def in_a_loop(x):
  return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)


def in_a_kernel(x):
  def kernel(x_ref, y_ref):
    y_ref[...] = x_ref[...] @ x_ref[...]

  whole = pl.BlockSpec((2, 2), lambda i, j: (0, 0))
  return pl.pallas_call(
    kernel, jax.typeof(x), grid=(3, 2), in_specs=[whole], out_specs=whole
  )(x)


def on_devices(x):
  mesh = jax.sharding.AbstractMesh((4,), ("data",))
  spec = jax.sharding.PartitionSpec()
  return jax.shard_map(
    lambda x: x @ x, mesh=mesh, in_specs=spec, out_specs=spec
  )(x)


@pytest.mark.parametrize(
  ("function", "expected"),
  [
    (lambda x: jax.jit(lambda x: x @ x)(x), (16, 0)),
    (lambda x: jax.lax.map(lambda _: x @ x, jnp.arange(5)), (80, 0)),
    (in_a_loop, (0, 16)),
    (in_a_kernel, (96, 0)),
    (on_devices, (64, 0)),
    (lambda x: jax.lax.cond(True, lambda x: x @ x, jnp.sin, x), (16, 0)),
    (lambda x: jnp.einsum("bij,bjk->bik", x[None], x[None]), (16, 0)),
    # The product is computed again, and there are two for the gradient.
    (
      jax.grad(lambda x: (jax.checkpoint(jnp.matmul)(x, x) ** 2).sum()),
      (48, 0),
    ),
  ],
)
def test_products_are_counted(function, expected):
  assert count(function, (2, 2)) == expected
