"""Products with kernels, in the forms that XLA computes fastest.

Symbols: R rows, I inputs, O outputs, r rank of a low-rank update.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "platform", default=None
)


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Traces functions as for devices of another platform than this process'."""
  token = _platform.set(platform)
  try:
    yield
  finally:
    _platform.reset(token)


def platform() -> str:
  """Returns the kind of devices that functions are traced for."""
  return _platform.get() or jax.default_backend()


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Multiplies x [R, I] by a kernel [I, O]: [R, O], of x's type.

  Sums are float32.
  """
  if x.dtype == jnp.float32:
    return x @ kernel.astype(x.dtype)
  return wide_product(x, kernel.astype(x.dtype)).astype(x.dtype)


@jax.custom_vjp
def wide_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Multiplies x [R, I] by a kernel [I, O], both narrow: [R, O] float32.

  Its gradient rounds the cotangent to x's type.
  """
  # XLA's CPU compiler has matrix instructions for bfloat16 where the result is
  # float32 and no operand is transposed; else it takes ten times as long.
  return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _wide_forward(x, kernel):
  return wide_product(x, kernel), (x, kernel)


def _wide_backward(saved, cotangent):
  x, kernel = saved
  cotangent = cotangent.astype(x.dtype)
  return (
    product(cotangent, transposed(kernel)),
    product(transposed(x), cotangent),
  )


wide_product.defvjp(_wide_forward, _wide_backward)


def transposed(matrix: jax.Array) -> jax.Array:
  """The transpose, copied on a CPU and not only read the other way."""
  if platform() != "cpu":
    return matrix.T
  return with_layout_constraint(matrix.T, Layout(major_to_minor=(0, 1)))


@jax.custom_vjp
def updated_product(
  x: jax.Array, kernel: jax.Array, down: jax.Array, up: jax.Array
) -> jax.Array:
  """Multiplies x by kernel + down @ up, all float32, in one product.

  The update's own products are not as large as the rows, in either direction,
  and the gradient never has the kernel's shape where the kernel is frozen.

  Args:
    x: Inputs [R, I].
    kernel: Kernel [I, O].
    down: First factor of the update, [I, r].
    up: Second factor, [r, O].

  Returns:
    [R, O].
  """
  return x @ (kernel + down @ up)


def _updated_forward(x, kernel, down, up):
  return updated_product(x, kernel, down, up), (x, kernel, down, up)


def _updated_backward(saved, cotangent):
  x, kernel, down, up = saved
  inner = cotangent @ up.T
  # The sum is computed again, so that not those of all layers are stored.
  kernel, down, up, cotangent = jax.lax.optimization_barrier(
    (kernel, down, up, cotangent)
  )
  return (
    cotangent @ (kernel + down @ up).T,
    x.T @ cotangent,
    x.T @ inner,
    (x @ down).T @ cotangent,
  )


updated_product.defvjp(_updated_forward, _updated_backward)
