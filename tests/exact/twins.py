"""Broken twins of the control variate, which the exact tests must reject."""

import jax.numpy as jnp

from cot_latent.inference import estimators


def whole_batch_scale(taken):
  """Counts the question's own draw in its scale."""
  weights = estimators.basic()(taken)
  scale = taken.draw_is_correct.sum() / jnp.maximum(taken.is_correct.sum(), 1)
  return weights.at[:, 1].set(-weights[:, 0] * scale)


def invalid_rows_in_scale(taken):
  """Counts other invalid questions as rejections."""
  weights = estimators.basic()(taken)
  draws = taken.draw_is_correct[:, 0]
  scale = (draws.sum() - draws) / max(len(draws) - 1, 1)
  return weights.at[:, 1].set(-weights[:, 0] * scale)


def divided_by_batch(taken):
  """Divides by M where Algorithm 1 divides by C."""
  weights = estimators.control_variate()(taken)
  return weights * (taken.is_correct.sum() / len(taken.is_correct))


def swapped(taken):
  """Gives the memory the draw's weight, and the draw the memory's."""
  return estimators.control_variate()(taken)[:, ::-1]


def accepted_only(taken):
  """Leaves out rejected questions, as rejection sampling does."""
  weights = estimators.basic()(taken)
  return weights * taken.draw_is_correct.any(axis=1)[:, None]
