"""The parts of both transformers, and checks of their sizes.

Symbols: B rows, S positions, E width of the model, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cot_latent.models import fused, gathering, partitioning, products
from cot_latent.models.lora import Projection
from cot_latent.runtime.validation import check_positive, check_types

DType = Literal["float32", "bfloat16"]


def check_sizes(config: Any, *names: str) -> None:
  """Checks the types of a model's config, and its sizes.

  Args:
    config: A dataclass instance; call this from its `__post_init__`.
    *names: Fields that must be above 0, besides those that every transformer
      has.

  Raises:
    UserError: If a field has another type, or is not above 0.
  """
  check_types(config)
  widths = ("embed_dim", "num_heads", "head_dim", "mlp_dim", "norm_eps")
  check_positive(config, *names, *widths)


class RMSNorm(nn.Module):
  """x / rms(x) * (offset + scale), in float32.

  Reference: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
  """

  eps: float
  offset: float
  param_dtype: Any

  @nn.compact
  def __call__(self, x):
    """Normalizes the last axis."""
    first = nn.initializers.constant(1 - self.offset)
    scale = self.param("scale", first, x.shape[-1:], self.param_dtype)
    wide = x.astype(jnp.float32)
    square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    scale = self.offset + scale.astype(jnp.float32)
    return (wide * (jax.lax.rsqrt(square + self.eps) * scale)).astype(x.dtype)


def embedding(
  config: Any, vocab_size: int, spread: float, name: str | None = None
) -> nn.Embed:
  """Makes the input embedding [V, E], its axes named.

  Args:
    config: Config of the model.
    vocab_size: V.
    spread: Standard deviation of its first values.
    name: Name of the parameter; None in a module's `setup`.
  """
  return nn.Embed(
    vocab_size,
    config.embed_dim,
    param_dtype=config.param_dtype,
    embedding_init=nn.with_logical_partitioning(
      nn.initializers.normal(spread), ("vocab", "embed")
    ),
    name=name,
  )


def add_unembedding(module: nn.Module, config: Any, vocab_size: int) -> None:
  """Gives a module the output layer's kernel [E, V], which `unembed` reads."""
  module.param(
    "unembedding",
    nn.with_logical_partitioning(
      nn.linear.default_kernel_init, ("embed", "vocab")
    ),
    (config.embed_dim, vocab_size),
    config.param_dtype,
  )


def project(
  module: Any,
  x: jax.Array,
  name: str,
  out_shape: tuple[int, ...],
  names: tuple[str | None, ...],
  **settings: Any,
) -> jax.Array:
  """Projects by a kernel of this name, with the module's low-rank update.

  Args:
    module: The module that the kernel belongs to; it has `config`, `lora` and
      `layout`.
    x: Inputs [R, I].
    name: Name of the projection.
    out_shape: Shape of a row of the result.
    names: Names of the kernel's axes.
    **settings: Further fields of `Projection`, but its layout.

  Returns:
    [R, *out_shape].
  """
  if name in fused.GROUPS:
    lora = fused.lora_of(name, module.lora)
  else:
    lora = module.lora if module.lora and name in module.lora.targets else None
  projection = Projection(
    out_shape,
    names,
    module.config.param_dtype,
    lora,
    name=name,
    layout=module.layout,
    **settings,
  )
  return projection(x)


def with_output(
  params: Mapping[str, Any], layout: partitioning.Layout | None
) -> Mapping[str, Any]:
  """Gathers the output layer, so that no loop over its uses gathers it.

  Args:
    params: Parameters of the model, as they are stored.
    layout: Mesh and rules; None is one device.
  """
  if layout is None:
    return params
  if "unembedding" in params:
    names = "embed", "vocab"
    kernel = params["unembedding"]
    kernel = gathering.gathered(layout, kernel, kernel.dtype, *names)
    return {**params, "unembedding": kernel}
  table = params["embed"]["embedding"]
  table = gathering.gathered(layout, table, table.dtype, "vocab", "embed")
  return {**params, "embed": {**params["embed"], "embedding": table}}


def unembed(
  params: Mapping[str, Any],
  x: jax.Array,
  layout: partitioning.Layout | None = None,
  softcap: float | None = None,
) -> jax.Array:
  """Computes logits, with the embedding if the output layer is tied to it.

  Args:
    params: Parameters of the model.
    x: Outputs of the last norm, [..., E].
    layout: Mesh and rules; None is one device.
    softcap: Number c; logits become c tanh(logit / c).

  Returns:
    [..., V] float32 logits.
  """
  kernel = params.get("unembedding")
  kernel = params["embed"]["embedding"].T if kernel is None else kernel
  kernel = kernel.astype(x.dtype)
  if x.dtype == jnp.float32:
    logits = x @ kernel
  else:
    flat = products.wide_product(x.reshape(-1, x.shape[-1]), kernel)
    logits = flat.reshape(*x.shape[:-1], -1)
  if softcap is not None:
    logits = softcap * jnp.tanh(logits / softcap)
  if layout is None or logits.ndim < 3:
    return logits
  return partitioning.constrain(layout, logits, "batch", None, "vocab")
