"""How arrays are sharded over a mesh of devices, by the names of their axes.

The axes of parameters and of large arrays have names ("heads", "examples"),
and rules map names to the axes of a mesh, "data" and "model", as in Flax and
T5X. XLA does the rest (SPMD). On one device there is no layout, and nothing
here changes anything.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils

from cot_latent.errors import UserError
from cot_latent.runtime.validation import check_positive, check_types

_AXES = ("data", "model")
_BLOCK_BYTES = 2**28
_MAY_BE_WHOLE = ("vocab", "kv_heads")

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

RULES: Rules = (
  ("batch", "data"),
  (
    "examples",
    ("data", "model"),
  ),  # of the memory: each device has its own rows
  ("vocab", "model"),
  ("heads", "model"),
  ("kv_heads", "model"),
  ("positions", "model"),  # of caches whose heads do not divide
  ("mlp", "model"),
  ("embed", None),
  ("kv", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How a run is spread over devices.

  It changes where things are computed, not what: random numbers are the same
  on every mesh, and other numbers agree up to rounding.

  Attributes:
    data: Shards of a minibatch; None uses all remaining devices.
    model: Parts into which the work within a layer is divided, a divisor of
      the number of heads and of the width of the MLP.
    rules: Pairs of an array's axis and the axes of the mesh, "data" and
      "model", along which it is sharded; earlier rules win.
    fully_sharded: Whether parameters, gradients and moments are stored sharded
      along "data" too (FSDP). They are gathered layer by layer for gradients,
      and once before rows are drawn.
  """

  data: int | None = None
  model: int = 1
  rules: Rules = RULES
  fully_sharded: bool = True

  def __post_init__(self):
    check_types(self)
    check_positive(self, "model")
    if self.data is not None:
      check_positive(self, "data")
    for name, axes in self.rules:
      if not {*_as_tuple(axes)} <= {*_AXES}:
        raise UserError(
          f"MeshConfig.rules: {name!r} is sharded along {axes!r}, but the axes "
          "of the mesh are 'data' and 'model'"
        )


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh, and the rules by which arrays are sharded over it.

  Attributes:
    mesh: Mesh with the axes "data" and "model".
    rules: Rules as in `MeshConfig`.
    fully_sharded: As in `MeshConfig`.
  """

  mesh: jax.sharding.Mesh
  rules: Rules
  fully_sharded: bool = True

  def sharding(self, *names: str | None) -> jax.sharding.NamedSharding:
    """Returns the sharding of an array whose first axes have these names.

    Without names every device has the whole array.
    """
    spec = nn.logical_to_mesh_axes(names, self.rules)
    assert spec is not None  # it would be None only for None
    return jax.sharding.NamedSharding(self.mesh, spec)

  def num_shards(self, *names: str | None) -> list[int]:
    """Returns the number of shards of each of these axes."""
    spec = self.sharding(*names).spec
    return [
      math.prod(self.mesh.shape[axis] for axis in _as_tuple(axes))
      for axes in spec
    ]

  def divides(self, size: int, name: str) -> bool:
    """Whether an axis of this name divides into its shards evenly."""
    (number,) = self.num_shards(name)
    return size % number == 0

  def sharding_of(
    self, shape: Sequence[int], *names: str | None
  ) -> jax.sharding.NamedSharding:
    """Returns a sharding in which axes that do not divide evenly stay whole."""
    num_shards = self.num_shards(*names)
    fitting = [
      None if size % number else name
      for name, number, size in zip(names, num_shards, shape, strict=False)
    ]
    return self.sharding(*fitting)

  def stored_sharding(
    self, shape: Sequence[int], *names: str | None
  ) -> jax.sharding.NamedSharding:
    """Returns the sharding in which a parameter is stored.

    With `fully_sharded` its largest axis that divides evenly is sharded along
    "data" too, one that is whole if there is one. Arrays of one axis, which are
    small, are not.
    """
    sharding = self.sharding_of(shape, *names)
    number = self.mesh.shape["data"]
    spec = [_as_tuple(axes) for axes in sharding.spec]
    spec += [()] * (len(shape) - len(spec))
    is_sharded = any("data" in axes for axes in spec)
    if not self.fully_sharded or number == 1 or is_sharded or len(shape) < 2:
      return sharding
    part = sharding.shard_shape(tuple(shape))
    fitting = [axis for axis, size in enumerate(part) if size % number == 0]
    if not fitting:
      return sharding
    axis = max(fitting, key=lambda axis: (not spec[axis], part[axis]))
    spec[axis] = (*spec[axis], "data")
    return jax.sharding.NamedSharding(
      self.mesh,
      jax.sharding.PartitionSpec(
        *(axes[0] if len(axes) == 1 else axes or None for axes in spec)
      ),
    )


def make_layout(
  config: MeshConfig, devices: Sequence[Any] | None = None
) -> Layout | None:
  """Makes a mesh of devices; None if there is one device.

  Args:
    config: Shards of rows and parameters, and rules.
    devices: Devices of the mesh, here or only described; None is those of all
      processes.

  Raises:
    UserError: If the mesh does not fit the devices.
  """
  devices = jax.devices() if devices is None else devices
  data = config.data or max(1, len(devices) // config.model)
  size = data * config.model
  # One process may leave some devices idle; several processes must use all.
  is_alone = len({device.process_index for device in devices}) == 1
  fits = size == len(devices) or (
    is_alone and config.data and size < len(devices)
  )
  if not fits:
    raise UserError(
      f"a mesh of {data} x {config.model} (data x model) does not fit the "
      f"{len(devices)} devices: set NUM_MODEL_SHARDS to a divisor of "
      "their number"
    )
  if size == 1:
    return None
  mesh = _make_mesh((data, config.model), devices[:size])
  return Layout(mesh, config.rules, config.fully_sharded)


def _make_mesh(
  shape: tuple[int, int], devices: Sequence[Any]
) -> jax.sharding.Mesh:
  """Arranges devices as a mesh, neighbours beside each other if they can be."""
  types = (jax.sharding.AxisType.Auto,) * len(_AXES)
  try:
    return jax.make_mesh(shape, _AXES, axis_types=types, devices=devices)
  except NotImplementedError:
    # No axis of the mesh is one of the chips' own axes, such as 8 x 2 on
    # 4 x 4 chips: two axes of the mesh then share the links of one.
    arranged = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
    return jax.sharding.Mesh(arranged, _AXES, axis_types=types)


def describe(layout: Layout | None) -> dict[str, Any]:
  """Describes the devices for a report's section on the environment."""
  return {
    "num_processes": jax.process_count(),
    "num_devices": jax.device_count(),
    "mesh": {axis: 1 for axis in _AXES}
    if layout is None
    else dict(layout.mesh.shape),
  }


def constrain(layout: Layout | None, tree: Any, *names: str | None) -> Any:
  """Constrains the sharding of arrays in a compiled function.

  Args:
    layout: Mesh and rules; None is one device.
    tree: Traced arrays.
    *names: Names of their first axes; axes that do not divide evenly stay
      whole. Without names every device gets whole arrays.
  """
  if layout is None:
    return tree
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(
      x, layout.sharding_of(x.shape, *names)
    ),
    tree,
  )


def constrain_rows(layout: Layout | None, tree: Any) -> Any:
  """Constrains the sharding of the first axes, rows, and of no other axis.

  Args:
    layout: Mesh and rules; None is one device.
    tree: Traced arrays, rows first.
  """
  if layout is None:
    return tree

  def one(x):
    rows = layout.sharding_of(x.shape, "batch").spec[:1]
    rest = [jax.sharding.PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    spec = jax.sharding.PartitionSpec(*rows, *rest)
    sharding = jax.sharding.NamedSharding(layout.mesh, spec)
    return jax.lax.with_sharding_constraint(x, sharding)

  return jax.tree.map(one, tree)


def cache_axes(layout: Layout | None, num_heads: int) -> tuple[str | None, ...]:
  """Names the first axes of the rows' caches [B, K, C, D].

  Heads that do not divide into the shards are whole on each device. A decoding
  loop's caches are then sharded along the positions C instead, if these divide.

  Args:
    layout: Mesh and rules; None is one device.
    num_heads: Heads of keys and values, K.
  """
  if layout is None or layout.divides(num_heads, "kv_heads"):
    return "batch", "kv_heads"
  return "batch", None, "positions"


def param_shardings(layout: Layout, boxed: Any) -> Any:
  """Returns the shardings in which parameters are stored.

  Args:
    layout: Mesh and rules.
    boxed: Shapes of parameters, with the names of their axes from Flax's
      `with_logical_partitioning`; arrays without names are whole along
      "model".

  Raises:
    UserError: If an axis does not divide into equal shards. Two kinds of axes
      stay whole instead: a vocabulary (259 byte tokens do not divide evenly),
      and heads of keys and values (there may be fewer than devices).
  """

  def is_boxed(leaf):
    return isinstance(leaf, nn.LogicallyPartitioned)

  leaves = jax.tree.leaves(boxed, is_leaf=is_boxed)

  def place(leaf):
    if not is_boxed(leaf):
      return layout.stored_sharding(leaf.shape)
    shape = leaf.value.shape
    num_shards = layout.num_shards(*leaf.names)
    for name, size, number in zip(leaf.names, shape, num_shards, strict=True):
      if size % number and name not in _MAY_BE_WHOLE:
        raise UserError(
          f"the model's axis {name!r} of {size} cannot be sharded into "
          f"{number} equal parts: set NUM_MODEL_SHARDS to "
          + " or ".join(map(str, _possible_shards(layout, leaves)))
        )
    return layout.stored_sharding(shape, *leaf.names)

  return jax.tree.map(place, boxed, is_leaf=is_boxed)


def _possible_shards(layout: Layout, leaves: list[Any]) -> list[int]:
  """Numbers of shards that divide the devices and every axis they shard."""
  sharded = {
    size
    for leaf in leaves
    if isinstance(leaf, nn.LogicallyPartitioned)
    for name, size, number in zip(
      leaf.names,
      leaf.value.shape,
      layout.num_shards(*leaf.names),
      strict=True,
    )
    if number > 1 and name not in _MAY_BE_WHOLE
  }
  common = math.gcd(layout.mesh.size, *sharded)
  return [number for number in range(1, common + 1) if common % number == 0]


def placed_shapes(shapes: Any, shardings: Any) -> Any:
  """Returns shapes of arrays with their shardings.

  Args:
    shapes: Tree of shapes, or of arrays.
    shardings: Tree of shardings, of the same structure.
  """
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def padded(layout: Layout | None, name: str, size: int) -> int:
  """Rounds the size of an axis up to a multiple of its number of shards."""
  if layout is None:
    return size
  (number,) = layout.num_shards(name)
  return -(-size // number) * number


def place(layout: Layout | None, tree: Any, *names: str | None) -> Any:
  """Puts arrays on the devices, sharded.

  Args:
    layout: Mesh and rules; None is one device.
    tree: Arrays, the same on every process.
    *names: Names of their first axes, which must divide evenly.
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
  """Puts any number of rows on the devices, sharded.

  Args:
    layout: Mesh and rules; None is one device.
    array: Rows [B, ...], the same on every process.
    name: Name of the axis of the rows.
    repeat: Whether padding rows, up to a multiple of the number of shards,
      repeat the last row; otherwise they are zeros.
  """
  array = np.asarray(array)
  missing = padded(layout, name, len(array)) - len(array)
  widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
  if missing:
    array = np.pad(array, widths, mode="edge" if repeat else "constant")
  return place(layout, array, name)


def on_mesh(layout: Layout | None, tree: Any) -> Any:
  """Puts arrays on every device of the mesh, unless they are on it already."""
  if layout is None:
    return tree
  return jax.tree.map(
    lambda x: x if _is_on(layout, x) else place(layout, x), tree
  )


def to_host(tree: Any) -> Any:
  """Returns whole arrays on every process, wherever their shards are."""

  def one(array):
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
      return np.asarray(array)
    if not array.ndim:
      return multihost_utils.process_allgather(array, tiled=True)
    # Block by block, because a memory may be larger than a device.
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
