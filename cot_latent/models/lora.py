"""Projections, with low-rank updates beside their kernels (LoRA).

Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cot_latent.errors import UserError
from cot_latent.models import gathering, partitioning, products
from cot_latent.runtime.validation import check_positive, check_types

TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
DOWN, UP = "lora_down", "lora_up"


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which kernels get an update, kernel + alpha / rank * down @ up.

  Attributes:
    rank: Rank of the update, r.
    alpha: Numerator of the update's scale.
    targets: Names of the projections that get one.
  """

  rank: int
  alpha: float = 16.0
  targets: tuple[str, ...] = ("query", "value")

  def __post_init__(self):
    check_types(self)
    check_positive(self, "rank", "alpha")
    unknown = {*self.targets} - {*TARGETS}
    if unknown or not self.targets:
      raise UserError(
        f"Lora.targets = {self.targets!r}: give some of {', '.join(TARGETS)}"
      )

  @property
  def scale(self) -> float:
    """Returns the factor of the product."""
    return self.alpha / self.rank


class Projection(nn.Module):
  """A product with a kernel [I, *out_shape], and what may be added to it.

  Attributes:
    out_shape: Shape of a row of the result.
    names: Names of the kernel's axes, for partitioning.
    param_dtype: Type of kernel and bias.
    lora: Update [I, r], [r, *out_shape] in float32; None has none.
    use_bias: Whether a bias is added.
    gain: Factor of the kernel's first values.
    layout: Mesh and rules; None is one device.
  """

  out_shape: tuple[int, ...]
  names: tuple[str | None, ...]
  param_dtype: Any
  lora: Lora | None = None
  use_bias: bool = False
  gain: float = 1.0
  layout: partitioning.Layout | None = None

  @nn.compact
  def __call__(self, x):
    """Projects x [R, I] to [R, *out_shape], of x's type."""
    width = x.shape[-1]
    kernel: Any = self.param(
      "kernel",
      nn.with_logical_partitioning(
        lambda *arguments: self.gain * _flat_init(*arguments), self.names
      ),
      (width, *self.out_shape),
      self.param_dtype,
    )
    flat = self._whole(kernel, x, *self.names).reshape(width, -1)
    if self.lora is None:
      y = products.product(x, flat)
    else:
      before, after = (self.names[0], None), (None, *self.names[1:])
      down: Any = self.param(
        DOWN,
        nn.with_logical_partitioning(nn.initializers.he_uniform(), before),
        (width, self.lora.rank),
      )
      up: Any = self.param(
        UP,
        nn.with_logical_partitioning(nn.initializers.zeros, after),
        (self.lora.rank, *self.out_shape),
      )
      down = self._whole(down, x, *before)
      up = self._whole(up, x, *after)
      y = _updated(x, flat, down, up.reshape(len(up), -1), self.lora.scale)
    if self.use_bias:
      bias: Any = self.param(
        "bias",
        nn.with_logical_partitioning(nn.initializers.zeros, self.names[1:]),
        self.out_shape,
        self.param_dtype,
      )
      bias = self._whole(bias, x, *self.names[1:])
      y += bias.reshape(-1).astype(x.dtype)
    return y.reshape(-1, *self.out_shape)

  def _whole(self, param, x, *names):
    """Gathers a parameter that is stored in parts, as x's type."""
    return gathering.gathered(self.layout, param, x.dtype, *names)


def _updated(x, kernel, down, up, scale):
  """Projects x [R, I] by a kernel [I, O] and its update."""
  if x.dtype == kernel.dtype == jnp.float32:
    return products.updated_product(x, kernel, down, scale * up)
  # Added to a narrow kernel, an update would be rounded away.
  inner = products.product(x, down)
  return products.product(x, kernel) + scale * products.product(inner, up)


def _flat_init(key, shape, dtype):
  """Flax's usual first values, the axes of the result taken together."""
  flat = (shape[0], math.prod(shape[1:]))
  return nn.linear.default_kernel_init(key, flat, dtype).reshape(shape)


def is_added(name: str) -> bool:
  """Whether a parameter, by its own name, belongs to an update."""
  return name in (DOWN, UP)


def merged(params: Mapping[str, Any], lora: Lora) -> dict[str, Any]:
  """Adds the updates to their kernels, as for export.

  Args:
    params: Parameters of a model with updates.
    lora: Settings of these updates.

  Returns:
    Parameters of the model without updates; the sum is taken in float32 and
    rounded to the kernel's type.
  """
  merged_params = {}
  for name, value in params.items():
    if not isinstance(value, Mapping):
      merged_params[name] = value
    elif DOWN not in value:
      merged_params[name] = merged(value, lora)
    else:
      kernel = value["kernel"]
      update = jnp.tensordot(value[DOWN], value[UP], axes=1) * lora.scale
      total = kernel.astype(jnp.float32) + update
      rest = {k: v for k, v in value.items() if not is_added(k)}
      merged_params[name] = rest | {"kernel": total.astype(kernel.dtype)}
  return merged_params
