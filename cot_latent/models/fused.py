"""Kernels that read the same inputs, concatenated for sampling.

A decoding step is many small products, each of which costs more than its
arithmetic. With query, key and value as one, and gate and up as another, they
are fewer and larger.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cot_latent.models.lora import DOWN, UP, Lora

GROUPS = {
  "query_key_value": ("query", "key", "value"),
  "gate_up": ("gate", "up"),
}


def fuse(params: Mapping[str, Any]) -> dict[str, Any]:
  """Puts the kernels of each group together, with biases and updates.

  Args:
    params: Parameters of a decoder, or a part of them.
  """
  fused = {
    name: fuse(value) if isinstance(value, Mapping) else value
    for name, value in params.items()
  }
  for name, members in GROUPS.items():
    if all(member in fused for member in members):
      fused[name] = _together([fused.pop(member) for member in members])
  return fused


def lora_of(name: str, lora: Lora | None) -> Lora | None:
  """The update of a group of kernels; None where no member has one."""
  members = GROUPS[name]
  if lora is None:
    return None
  number = sum(member in lora.targets for member in members)
  if not number:
    return None
  # The scale, alpha / rank, stays.
  return dataclasses.replace(
    lora, rank=number * lora.rank, alpha=number * lora.alpha
  )


def _together(parts: list[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
  """One projection of several, whose outputs are side by side."""
  flat = [part["kernel"].reshape(len(part["kernel"]), -1) for part in parts]
  fused = {"kernel": jnp.concatenate(flat, axis=1)}
  if "bias" in parts[0]:
    fused["bias"] = jnp.concatenate([part["bias"].ravel() for part in parts])
  if any(DOWN in part for part in parts):
    widths = [kernel.shape[1] for kernel in flat]
    downs, ups, before = [], [], 0
    for part, width in zip(parts, widths, strict=True):
      if DOWN in part:
        downs.append(part[DOWN])
        own = part[UP].reshape(len(part[UP]), -1)
        after = sum(widths) - before - width
        ups.append(jnp.pad(own, ((0, 0), (before, after))))
      before += width
    fused[DOWN] = jnp.concatenate(downs, axis=1)
    fused[UP] = jnp.concatenate(ups, axis=0)
  return fused
