"""The part of an E-step that needs neither model nor text: moves and weights.

M questions in a minibatch, K draws each, L sequences to score, T target tokens.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.em.method import Weighing
from cot_latent.inference import estimators, memory, resampling, transition
from cot_latent.models import partitioning


class Noise(NamedTuple):
  """The random numbers of a step's weights.

  Attributes:
    offset: Scalar, uniform in [0, 1), by which rows are subsampled.
    key: Key of an estimator that has a purpose of its own; None for others.
  """

  offset: jax.Array
  key: jax.Array | None = None


class Weighed(NamedTuple):
  """The weights of an estimator, before sequences are gathered.

  Attributes:
    weights: [M, 1 + K], of which those of accepted draws have moved to the
      memory.
    scale: Scalar, the mean scale of the control variate over the valid rows: 1
      minus the sum of the weights. (For an estimator whose baseline is the mean
      reward that is always 1.)
    terms: [2, M, 1 + K] the weights of A and B if eta is fitted in this step;
      None otherwise.
  """

  weights: jax.Array
  scale: jax.Array
  terms: jax.Array | None = None


@functools.partial(
  jax.jit,
  static_argnames=("weighing", "is_fitting", "layout"),
  donate_argnames="state",
)
def move_and_weigh(
  state: memory.MemoryState,
  index: jax.Array,
  draw_tokens: jax.Array,
  draw_is_correct: jax.Array,
  step: int,
  noise: Noise,
  eta: jax.Array | None = None,
  *,
  weighing: Weighing,
  is_fitting: bool = False,
  layout: partitioning.Layout | None = None,
) -> tuple[memory.MemoryState, transition.Transition, Weighed]:
  """Does the part of the E-step that needs neither model nor text.

  Args:
    state: The memory before the step; the new one takes its place.
    index: [M] int32, distinct questions.
    draw_tokens: [M, K, T] int32, fresh draws.
    draw_is_correct: [M, K] bool, whether each draw is correct.
    step: Number of the step, from 1.
    noise: The step's random numbers.
    eta: Factor of a fitted control variate; None for other estimators.
    weighing: Estimator, and the number of sequences to score.
    is_fitting: Whether eta is fitted in this step.
    layout: How the memory's rows are sharded; those of the minibatch are
      gathered, so that every process has the same weights.

  Returns:
    The memory after the step, the transition, and the weights.
  """
  tokens, is_correct = partitioning.constrain(
    layout, (state.tokens[index], state.is_correct[index])
  )
  moved = transition.independence(
    tokens, is_correct, draw_tokens, draw_is_correct
  )
  state = memory.write(
    state, index, moved.tokens, moved.is_correct, moved.accepted, step
  )
  if isinstance(weighing.estimator, estimators.FittedControlVariate):
    assert eta is not None
    weights = weighing.estimator(moved, eta)
  else:
    weights = estimators.weigh(weighing.estimator, moved, noise.key)
  # Weights add up to the mean of 1 - beta_m over the valid rows.
  scale = jnp.where(moved.is_correct.any(), 1 - weights.sum(), 0.0)
  if is_fitting:
    weights, terms = _weigh_terms(moved, weighing, eta, noise.offset)
  else:
    terms, weights = None, subsampled(moved, weights, weighing, noise)
  state = partitioning.constrain(layout, state, "examples")
  weighed = Weighed(weights, scale, terms)
  return state, *partitioning.constrain(layout, (moved, weighed))


def subsampled(
  moved: transition.Transition,
  weights: jax.Array,
  weighing: Weighing,
  noise: Noise,
) -> jax.Array:
  """Moves the weights of accepted draws to the memory, and keeps at most L.

  Args:
    moved: The transition.
    weights: [M, 1 + K] of the estimator.
    weighing: The number L of sequences to score.
    noise: The step's random numbers.

  Returns:
    [M, 1 + K] weights with the same mean.
  """
  weights = estimators.merge_accepted(moved, weights)
  if weighing.num_scored is None:
    return weights
  return resampling.subsample(
    weights, weighing.num_scored, noise.offset, weighing.always_subsample
  )


def _weigh_terms(moved, weighing, eta, offset):
  """Weights of A - eta B, and of A and B, with accepted draws moved."""
  basic, subtracted = (
    estimators.merge_accepted(moved, term)
    for term in weighing.estimator.terms(moved)
  )
  if weighing.num_scored is not None:
    # The largest weight that a sequence has for any eta: if drawn by
    # |A - eta B|, a sequence of B alone would never be seen while eta is 0.
    sizes = jnp.maximum(jnp.abs(basic), jnp.abs(basic - subtracted))
    times = resampling.multipliers(
      sizes, weighing.num_scored, offset, weighing.always_subsample
    )
    basic, subtracted = times * basic, times * subtracted
  return basic - eta * subtracted, jnp.stack([basic, subtracted])
