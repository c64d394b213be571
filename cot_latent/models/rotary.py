"""Rotary position embeddings (RoPE).

Queries and keys are rotated by angles that grow with their positions, so that
their product depends on how far apart they are.

Symbols: B rows, S positions, H heads, D width of a head.

Reference: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position
Embedding"; halves of a head are paired, as in Llama.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.errors import UserError
from cot_latent.runtime.validation import check_positive, check_types


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary positions are scaled beyond the length of pretraining.

  Attributes:
    kind: "linear" divides all frequencies by `factor`; "llama3" divides only
      those with long wavelengths, with a smooth transition.
    factor: Factor of the scaling.
    low_freq_factor: Wavelengths over original_length / this are long.
    high_freq_factor: Wavelengths under original_length / this stay.
    original_length: Number of positions in pretraining.

  Reference: Llama 3.1's configuration.
  """

  kind: Literal["linear", "llama3"]
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_length: int = 8192

  def __post_init__(self):
    check_types(self)
    check_positive(self, "factor", "low_freq_factor", "original_length")
    if self.high_freq_factor <= self.low_freq_factor:
      raise UserError(
        f"RopeScaling.high_freq_factor = {self.high_freq_factor} must be more "
        f"than low_freq_factor = {self.low_freq_factor}"
      )


class SinCos(NamedTuple):
  """Sines and cosines of the rotation angles.

  Attributes:
    sin: Sines [B, S, D / 2] float32.
    cos: Cosines [B, S, D / 2] float32.
  """

  sin: jax.Array
  cos: jax.Array


def frequencies(
  head_dim: int, base: float, scaling: RopeScaling | None = None
) -> jax.Array:
  """Computes the angles per position.

  Args:
    head_dim: Width of a head, D, even.
    base: Base of the geometric series of wavelengths.
    scaling: Scaling of the positions; None is no scaling.

  Returns:
    [D / 2] float32, radians per position.
  """
  half = head_dim // 2
  frequency = base ** (-jnp.arange(half) / half)
  if scaling is None:
    return frequency
  if scaling.kind == "linear":
    return frequency / scaling.factor
  # The share of the unscaled frequency, 1 for short wavelengths.
  turns = scaling.original_length * frequency / (2 * jnp.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  share = jnp.clip((turns - low) / (high - low), 0, 1)
  return frequency * (share + (1 - share) / scaling.factor)


def sin_cos(
  frequency: jax.Array, positions: jax.Array, num_positions: int
) -> SinCos:
  """Looks up the sines and cosines of positions.

  Args:
    frequency: Radians per position, [D / 2].
    positions: Positions [B, S] int32, below `num_positions`.
    num_positions: Length of the table of angles.
  """
  angle = jnp.arange(num_positions)[:, None] * frequency
  # From a table, because XLA's CPU compiler would fuse the sines with their
  # uses and compute them again for each row, layer and head.
  return SinCos(jnp.sin(angle)[positions], jnp.cos(angle)[positions])


def rotate(x: jax.Array, angles: SinCos) -> jax.Array:
  """Applies the rotary position embedding.

  Args:
    x: Queries or keys [B, H, S, D].
    angles: Sines and cosines at the S positions.

  Returns:
    [B, H, S, D].
  """
  half = x.shape[-1] // 2
  first, second = x[..., :half], x[..., half:]
  sin, cos = angles.sin[:, None], angles.cos[:, None]
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x.dtype)
