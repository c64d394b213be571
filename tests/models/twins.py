"""Broken twins of parts of the model, each given the part it replaces."""

import contextlib
import functools

import jax.numpy as jnp
import pytest

from cot_latent.models import decoder, language_model
from cot_latent.models.language_model import PAD_ID

ROTATE, ATTEND = (decoder, "rotate"), (decoder, "attend")
PROMPT_MASK = language_model, "_prompt_mask"
TARGET_MASK = language_model, "target_mask"


@contextlib.contextmanager
def replaced(module, name, twin):
  """Swaps a part; only models that are built inside are compiled with it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, name, functools.partial(twin, getattr(module, name)))
    yield


def late_positions(rotate, x, positions, base):
  """Counts a token more where tokens are fed in one by one."""
  return rotate(x, positions + (x.shape[2] == 1), base)


def misses_the_newest(attend, query, keys, values, mask):
  """Hides a token from itself where tokens are fed in one by one."""
  is_last = jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] == 1
  alone = mask.shape[1] == 1
  return attend(query, keys, values, mask & ~(is_last & alone))


def sees_padding(attend, query, keys, values, mask):
  """Shows all that came before where tokens are fed in one by one."""
  before = jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] > 0
  alone = mask.shape[1] == 1
  return attend(query, keys, values, before if alone else mask)


def sees_later_tokens(attend, query, keys, values, mask):
  return attend(query, keys, values, mask.any(axis=1, keepdims=True))


def all_real(prompt_mask, prompts):
  return jnp.ones_like(prompt_mask(prompts))


def nothing_to_start_from(prompt_mask, prompts):
  return prompt_mask(prompts) & (prompts != PAD_ID).any(axis=1, keepdims=True)


def never_ends(target_mask, targets, eos_id):
  return jnp.ones_like(target_mask(targets, eos_id))


def ends_before_padding(target_mask, targets, eos_id):
  del target_mask, eos_id
  return targets != PAD_ID
