"""Broken twins of parts of the model, each given the part it replaces."""

import contextlib
import functools

import jax.numpy as jnp
import pytest

from cot_latent.models import attention, causal, decoder, rotary, stops
from cot_latent.models.api import PAD_ID

SIN_COS, ATTEND = (rotary, "sin_cos"), (attention, "attend")
LAYER_MASKS = decoder, "layer_masks"
PROMPT_MASK = causal, "prompt_mask"
TARGET_MASK = stops.Ending, "mask"


@contextlib.contextmanager
def replaced(module, name, twin):
  """Swaps a part; only models that are built inside are compiled with it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, name, functools.partial(twin, getattr(module, name)))
    yield


def late_positions(sin_cos, frequency, positions, num_positions):
  """Counts a token more where tokens are fed in one by one."""
  late = positions + (positions.shape[1] == 1)
  return sin_cos(frequency, late, num_positions + 1)


def changed(parts, number, change):
  """Attention's parts, the mask of one of them changed."""
  parts = list(parts)
  cache, mask = parts[number]
  parts[number] = cache, change(mask)
  return parts


def misses_the_newest(attend, query, parts, softcap):
  """Hides a token from itself where tokens are fed in one by one."""

  def hide(mask):
    return mask & (jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] != 1)

  if query.shape[2] == 1:
    parts = changed(parts, -1, hide)
  return attend(query, parts, softcap)


def sees_padding(attend, query, parts, softcap):
  """Shows all that came before where tokens are fed in one by one."""
  if query.shape[2] == 1:
    parts = changed(parts, 0, jnp.ones_like)
  return attend(query, parts, softcap)


def sees_later_tokens(attend, query, parts, softcap):
  def show(mask):
    return jnp.broadcast_to(mask.any(axis=1, keepdims=True), mask.shape)

  return attend(query, changed(parts, -1, show), softcap)


def forgets_the_end_of_the_ring(
  layer_masks, config, mask, positions, key_positions
):
  """Hides what was written before the ring began again."""
  # Of equal positions, as before a prompt, the last.
  size = key_positions.shape[1]
  newest = size - 1 - key_positions[:, ::-1].argmax(axis=1)[:, None]
  is_before = jnp.arange(size) <= newest
  if positions.shape[1] == 1:
    mask = mask & is_before[:, None]
  return layer_masks(config, mask, positions, key_positions)


def misses_the_prefix(attend, query, parts, softcap):
  own = [part for part in parts if part[0].keys.ndim == 4]
  return attend(query, own, softcap)


def all_real(prompt_mask, prompts):
  return jnp.ones_like(prompt_mask(prompts))


def nothing_to_start_from(prompt_mask, prompts):
  return prompt_mask(prompts) & (prompts != PAD_ID).any(axis=1, keepdims=True)


def never_ends(mask, targets):
  del mask
  return jnp.ones(targets.shape, bool)


def ends_before_padding(mask, targets):
  del mask
  return targets != PAD_ID
