"""Where arrays lie on a mesh of devices, by the names of their axes.

The axes of parameters and of large arrays have names ("heads", "examples"),
and rules map names to the axes of a mesh, "data" and "model", as in Flax and
T5X. XLA does the rest (SPMD). Where there is one device there is no layout,
and nothing here changes anything.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cot_latent.errors import UserError
from cot_latent.runtime.validation import check_positive, check_types

_AXES = ("data", "model")
_BLOCK_BYTES = 2**28

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

RULES: Rules = (
  ("batch", "data"),
  ("examples", ("data", "model")),  # of the memory: no device has two's rows
  ("vocab", "model"),
  ("heads", "model"),
  ("kv_heads", "model"),
  ("mlp", "model"),
  ("embed", None),
  ("kv", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How a run is spread over devices.

  It changes where things are computed, not what: random numbers are the same
  on every mesh, and others agree up to rounding.

  Attributes:
    data: parts that minibatches are cut into; None is as many as there are
      devices for.
    model: parts that parameters are cut into, a divisor of the number of heads
      and of the width of the MLP.
    rules: pairs of an array's axis and the axes of the mesh, "data" and
      "model", that it is cut along; earlier ones win.
  """

  data: int | None = None
  model: int = 1
  rules: Rules = RULES

  def __post_init__(self):
    check_types(self)
    check_positive(self, "model")
    if self.data is not None:
      check_positive(self, "data")
    for name, axes in self.rules:
      if not {*_as_tuple(axes)} <= {*_AXES}:
        raise UserError(
          f"MeshConfig.rules: {name!r} is cut along {axes!r}, but the axes of "
          "the mesh are 'data' and 'model'"
        )


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh, and what lies where on it.

  Attributes:
    mesh: of the axes "data" and "model".
    rules: as in `MeshConfig`.
  """

  mesh: jax.sharding.Mesh
  rules: Rules

  def sharding(self, *names: str | None) -> jax.sharding.NamedSharding:
    """The place of an array whose first axes have these names.

    Without names every device has the whole array.
    """
    spec = nn.logical_to_mesh_axes(names, self.rules)
    assert spec is not None  # of None alone
    return jax.sharding.NamedSharding(self.mesh, spec)

  def num_parts(self, *names: str | None) -> list[int]:
    """How many parts each of these axes is cut into."""
    spec = self.sharding(*names).spec
    return [
      math.prod(self.mesh.shape[axis] for axis in _as_tuple(axes))
      for axes in spec
    ]

  def sharding_of(
    self, shape: Sequence[int], *names: str | None
  ) -> jax.sharding.NamedSharding:
    """As `sharding`, but axes that cannot be cut evenly stay whole."""
    parts = self.num_parts(*names)
    fitting = [
      None if size % n else name
      for name, n, size in zip(names, parts, shape, strict=False)
    ]
    return self.sharding(*fitting)


def build(config: MeshConfig) -> Layout | None:
  """Lays a mesh over the devices of all processes; None where there is one.

  Raises:
    UserError: if the mesh does not fit the devices.
  """
  num_devices = jax.device_count()
  data = config.data or max(1, num_devices // config.model)
  size = data * config.model
  # In one process some devices may be left idle; several must all take part.
  fits = size == num_devices or (
    jax.process_count() == 1 and config.data and size < num_devices
  )
  if not fits:
    raise UserError(
      f"a mesh of {data} x {config.model} (data x model) does not fit the "
      f"{num_devices} devices there are: set NUM_MODEL_SHARDS to a divisor of "
      "their number"
    )
  if size == 1:
    return None
  mesh = jax.make_mesh(
    (data, config.model),
    _AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:size],
  )
  return Layout(mesh, config.rules)


def describe(layout: Layout | None) -> dict[str, Any]:
  """What a report's section on the environment says of this."""
  return {
    "num_processes": jax.process_count(),
    "num_devices": jax.device_count(),
    "mesh": {axis: 1 for axis in _AXES}
    if layout is None
    else dict(layout.mesh.shape),
  }


def constrain(layout: Layout | None, tree: Any, *names: str | None) -> Any:
  """Says, in a compiled function, where arrays lie.

  Args:
    layout: the layout.
    tree: traced arrays.
    *names: of their first axes; those that cannot be cut evenly stay whole.
      Without names every device gets the whole.
  """
  if layout is None:
    return tree
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(
      x, layout.sharding_of(x.shape, *names)
    ),
    tree,
  )


def param_shardings(layout: Layout, boxed: Any) -> Any:
  """The places of parameters.

  Args:
    layout: the layout.
    boxed: shapes of parameters, with the names of their axes as Flax's
      `with_logical_partitioning` gives them; those without are not cut.

  Raises:
    UserError: if an axis cannot be cut into equal parts. A vocabulary stays
      whole then (one of bytes has 259 tokens, which nothing divides), and so do
      heads of keys and values, of which there may be fewer than devices.
  """

  def place(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return layout.sharding()
    shape = leaf.value.shape
    parts = layout.num_parts(*leaf.names)
    for name, size, number in zip(leaf.names, shape, parts, strict=True):
      if size % number and name not in ("vocab", "kv_heads"):
        raise UserError(
          f"the model's axis {name!r} of {size} cannot be cut into {number} "
          "equal parts: set NUM_MODEL_SHARDS to a divisor of it"
        )
    return layout.sharding_of(shape, *leaf.names)

  return jax.tree.map(
    place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def padded(layout: Layout | None, name: str, size: int) -> int:
  """The next size, from this one, that an axis can be cut evenly at."""
  if layout is None:
    return size
  (number,) = layout.num_parts(name)
  return -(-size // number) * number


def place(layout: Layout | None, tree: Any, *names: str | None) -> Any:
  """Puts arrays where they belong.

  Args:
    layout: the layout.
    tree: arrays, the same on every process.
    *names: of their first axes, which must be such as can be cut evenly.
  """
  if layout is None:
    return jax.tree.map(jnp.asarray, tree)
  sharding = layout.sharding(*names)

  def one(array):
    array = np.asarray(array)
    return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index]
    )

  return jax.tree.map(one, tree)


def place_rows(
  layout: Layout | None, array: Any, name: str = "batch", repeat: bool = True
) -> Any:
  """Puts rows, as many as there are, where they belong.

  Args:
    layout: the layout.
    array: [B, ...], the same on every process.
    name: of the axis of the rows.
    repeat: rows are filled up to a number that can be cut evenly, with the last
      one, or else with zeros.
  """
  array = np.asarray(array)
  missing = padded(layout, name, len(array)) - len(array)
  widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
  if missing:
    array = np.pad(array, widths, mode="edge" if repeat else "constant")
  return place(layout, array, name)


def on_mesh(layout: Layout | None, tree: Any) -> Any:
  """Gives every device of the mesh those arrays that it has no part of yet."""
  if layout is None:
    return tree
  return jax.tree.map(
    lambda x: x if _is_on(layout, x) else place(layout, x), tree
  )


def to_host(tree: Any) -> Any:
  """Brings whole arrays to every process, from wherever their parts lie."""

  def one(array):
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
      return np.asarray(array)
    if not array.ndim:
      return multihost_utils.process_allgather(array, tiled=True)
    # Bit by bit: a memory may be larger than a device.
    size = max(1, _BLOCK_BYTES // max(1, array.nbytes // len(array)))
    size = min(size, len(array))
    whole = np.empty(array.shape, array.dtype)
    for start in range(0, len(array), size):
      start = min(start, len(array) - size)
      block = jax.lax.dynamic_slice_in_dim(array, start, size)
      whole[start : start + size] = multihost_utils.process_allgather(
        block, tiled=True
      )
    return whole

  return jax.tree.map(one, tree)


def _is_on(layout: Layout, array: Any) -> bool:
  sharding = getattr(array, "sharding", None)
  return getattr(sharding, "mesh", None) == layout.mesh


def _as_tuple(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
  if axes is None:
    return ()
  return (axes,) if isinstance(axes, str) else axes
