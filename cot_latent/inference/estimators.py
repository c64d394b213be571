"""Gradient estimators as signed weights on sequence log-probabilities.

An estimator maps a `Transition` of M questions with K draws each to weights
[M, 1 + K]: column 0 belongs to the memory's rationale after the step, the
others to the draws. The gradient estimate is

  sum_{m,j} weights[m, j] * grad log p(sequence[m, j] | x_m),

which the M-step forms by differentiating the weighted sum of log-probabilities
once. Weights carry no gradient. Without any valid row they are all zero.

Symbols: c'_m is the correctness of the memory after the step, c~_m that of the
fresh draw, C = sum_m c'_m.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cot_latent.inference.transition import Transition

Estimator = Callable[[Transition], jax.Array]


def basic() -> Estimator:
  """TRICE without control variate: the mean score of the valid memories.

  Its mean is the mean of grad log p(y_m|x_m) when each chain is at
  stationarity; it is biased while chains lag behind the parameters.

  Returns:
    An estimator with weights c'_m / C on the memory and 0 on the draws.

  Reference: Phan et al. 2023, eq. 3 and Algorithm 1.
  """

  def weigh(transition: Transition) -> jax.Array:
    on_memory = _mean_over_valid(transition)
    on_draws = jnp.zeros(transition.draw_is_correct.shape, on_memory.dtype)
    return _weights(on_memory, on_draws)

  return weigh


def control_variate(correct_first_acceptance: bool = False) -> Estimator:
  """TRICE: the basic estimator minus a scaled zero-mean score of the draw.

  The scale of question m is the acceptance rate among the other valid ones,
  beta_m = sum_{m' != m} c~_m' / sum_{m' != m} c'_m', and 0 where no other is
  valid. It does not depend on draw m, and E[grad log p(z~_m|x_m)] = 0, so the
  mean is that of `basic` exactly where the memory was correct before the step.
  Where it was wrong, the draw is weighted only if it is accepted, and the
  paper's formula has the extra bias -E[c~_m beta_m grad log p(z~_m|x_m) / C].

  Args:
    correct_first_acceptance: use beta_m = 0 where the old memory was wrong,
      which removes that bias. False is the paper's formula.

  Returns:
    An estimator with weights c'_m / C and -c'_m beta_m / C. It raises
    ValueError at trace time unless K = 1.

  Raises:
    TypeError: if the option is not a bool.

  Reference: Phan et al. 2023, section 3.2 and Algorithm 1.
  """
  if not isinstance(correct_first_acceptance, bool):
    raise TypeError(
      "correct_first_acceptance must be True or False, not "
      f"{correct_first_acceptance!r}"
    )

  def weigh(transition: Transition) -> jax.Array:
    if transition.draw_is_correct.shape[1] != 1:
      raise ValueError(
        "control_variate is defined for one draw a question (NUM_DRAWS = 1), "
        f"not for {transition.draw_is_correct.shape[1]}"
      )
    on_memory = _mean_over_valid(transition)
    scale = leave_one_out_scale(transition).astype(on_memory.dtype)
    if correct_first_acceptance:
      scale = jnp.where(transition.old_is_correct, scale, 0)
    return _weights(on_memory, -(on_memory * scale)[:, None])

  return weigh


def leave_one_out_scale(transition: Transition) -> jax.Array:
  """Estimates each question's acceptance probability from all the others.

  Args:
    transition: of M questions with K = 1.

  Returns:
    [M] beta_m in [0, 1]; 0 where no other question is valid.
  """
  valid = transition.is_correct.astype(jnp.result_type(float))
  accepted = valid * transition.draw_is_correct[:, 0]
  others_valid = valid.sum() - valid
  others_accepted = accepted.sum() - accepted
  return others_accepted / jnp.maximum(others_valid, 1)


def merge_accepted(transition: Transition, weights: jax.Array) -> jax.Array:
  """Moves the weight of an accepted draw to the memory, which is that draw.

  The estimate stays the same and the draw needs no second differentiation.

  Args:
    transition: of M questions with K draws each.
    weights: [M, 1 + K].

  Returns:
    [M, 1 + K] with zeros where a draw was accepted.
  """
  on_draws = weights[:, 1:]
  moved = jnp.where(transition.accepted, on_draws, 0).sum(axis=1)
  kept = jnp.where(transition.accepted, 0, on_draws)
  return _weights(weights[:, 0] + moved, kept)


def _mean_over_valid(transition: Transition) -> jax.Array:
  """[M] weights c'_m / C; zeros where C = 0."""
  valid = transition.is_correct.astype(jnp.result_type(float))
  return valid / jnp.maximum(valid.sum(), 1)


def _weights(on_memory: jax.Array, on_draws: jax.Array) -> jax.Array:
  """Joins [M] and [M, K] into [M, 1 + K]."""
  weights = jnp.concatenate([on_memory[:, None], on_draws], axis=1)
  return jax.lax.stop_gradient(weights)
