"""Stored parts of parameters, gathered where they are needed (FSDP)."""

import functools
from typing import Any

import jax

from cot_latent.models import partitioning
from cot_latent.models.partitioning import Layout


def gathered(
  layout: Layout | None, array: jax.Array, dtype: Any, *names: str | None
) -> Any:
  """Gathers a stored parameter where a compiled function needs it.

  Its gradient is summed in the parameter's own type, to where it is stored.

  Args:
    layout: Mesh and rules; None is one device, where the parameter is returned
      as it is.
    array: A traced parameter.
    dtype: Type in which it is gathered and returned.
    *names: Names of its axes; none for one whose axes have no names.
  """
  if layout is None:
    return array
  if not layout.fully_sharded:
    return array.astype(dtype)
  return _gathered(layout, names, array.dtype, dtype, array)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _gathered(layout, names, stored_dtype, dtype, array):
  # Without this constraint XLA could gather all of a loop's stacked layers at
  # once, and not the slice of one.
  array = _as_stored(layout, names, array.astype(dtype))
  return partitioning.constrain(layout, array, *names)


def _as_stored(layout, names, array):
  stored = layout.stored_sharding(array.shape, *names)
  return jax.lax.with_sharding_constraint(array, stored)


def _gathered_forward(*arguments):
  return _gathered(*arguments), None


def _gathered_backward(layout, names, stored_dtype, dtype, _, cotangent):
  return (_as_stored(layout, names, cotangent.astype(stored_dtype)),)


_gathered.defvjp(_gathered_forward, _gathered_backward)
