"""Gradient estimators as signed weights on sequence log-probabilities.

An estimator maps a `Transition` of M questions with K draws each to weights
[M, 1 + K]: column 0 is for the memory's rationale after the step, the other
columns are for the draws. The gradient estimate is

  sum_{m,j} weights[m, j] * grad log p(sequence[m, j] | x_m),

which the M-step forms by differentiating the weighted sum of log-probabilities
once. Weights carry no gradient. If no row is valid they are all zero.

Any hashable callable of that kind is an estimator. Those here are made by a
function that takes their settings; a functools.partial keeps the settings
where a report reads them. An estimator with a control variate has an attribute
`has_scale` that is True: its weights add up to 1 minus the mean scale, which is
then reported. An estimator that needs random numbers has an attribute `purpose`
("my_methods/noise"), and is called with a key of that purpose and of the step
as its second argument.

Symbols: c'_m is the correctness of the memory after the step, c~_m that of the
fresh draw, C = sum_m c'_m; beta_m is the scale of the control variate, n_m the
number of correct draws, and pi_m = p(y_m|x_m).

Several draws. For K > 1 the memory is the last correct draw. Given the set of
correct draws, each is equally likely to be the last, so the scores of all n_m
are averaged (Rao-Blackwell: the same mean, no more variance). The zero-mean
term is the average over all K draws:

  n_m > 0:  sum_k (c~_mk / n_m - beta_m / K) grad log p(z~_mk|x_m) / C
  n_m = 0:  [grad log p(z_m|x_m) - (beta_m / K) sum_k grad log p(z~_mk|x_m)]
            c'_m / C

With K = 1 that is Algorithm 1. If all draws are correct, and beta_m = 1, the
terms cancel.

When it pays. A control variate lowers the variance only if correct rationales
differ enough. With beta_m = pi_m the condition is v+ > v / 2, where v+ is the
variance of the score among correct draws and v its mean squared norm among all
draws. If nearly all correct draws are one sequence, v+ is nearly 0, and the
subtracted term has more variance than the basic estimator.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from cot_latent.inference import rng
from cot_latent.inference.transition import Transition

Estimator = Callable[..., jax.Array]


def basic() -> Estimator:
  """TRICE without control variate: the mean score of the valid memories.

  Its mean is the mean of grad log p(y_m|x_m) when each chain is at
  stationarity; it is biased while the chains come from older parameters.

  Returns:
    An estimator with weights c'_m / C on the memory and 0 on the draws.

  Reference: Phan et al. 2023, eq. 3 and Algorithm 1.

  Example:

    >>> import numpy as np
    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   np.zeros((2, 1), int), np.array([True, True]),
    ...   np.zeros((2, 1, 1), int), np.array([[True], [False]]))
    >>> basic()(moved).tolist()
    [[0.5, 0.0], [0.5, 0.0]]
  """

  def weigh(transition: Transition) -> jax.Array:
    on_memory = _mean_over_valid(transition)
    on_draws = jnp.zeros(transition.draw_is_correct.shape, on_memory.dtype)
    return _weights(on_memory, on_draws)

  return weigh


def control_variate(
  correct_first_acceptance: bool = False,
  scale: Literal["paper", "fitted"] = "paper",
  fit_period: int = 1,
) -> Estimator:
  """TRICE: the basic estimator minus a scaled zero-mean score of the draws.

  The scale of question m is the acceptance rate among the other valid
  questions, beta_m = sum_{m' != m} c'_m' a_m' / sum_{m' != m} c'_m', where a_m
  is the share of correct draws, and 0 if no other question is valid. It does
  not depend on m's own draws, and E[grad log p(z~_mk|x_m)] = 0. So the mean
  equals that of `basic` exactly if the memory was correct before the step. If
  it was incorrect, its draws have weight only if one is accepted, and the
  formula has a bias,

    -E[1(n_m > 0) (beta_m / C) (1/K) sum_k grad log p(z~_mk|x_m)]
      = -(1 - pi_m)^(K-1) grad pi_m E[beta_m / C | m valid],

  For K = 1, the paper's formula, that is -E[c~_m beta_m grad log p(z~_m|x_m) /
  C]. The module's docstring has the form for K > 1, and says when a control
  variate lowers the variance. `scale="fitted"` multiplies the subtracted term
  by a factor that is fitted to earlier steps (`FittedControlVariate`).

  Args:
    correct_first_acceptance: Use beta_m = 0 if the old memory was incorrect,
      which removes that bias. False is the paper's formula.
    scale: "paper" subtracts beta_m times the score; "fitted" subtracts eta
      beta_m times the score, with an eta that is fitted during the run.
    fit_period: Steps from one fit of eta to the next.

  Returns:
    An estimator with these weights. The weight of the last correct draw is on
    the memory, which is the same sequence.

  Raises:
    TypeError: If `correct_first_acceptance` is not a bool.
    ValueError: If `scale` is unknown, or if `fit_period` is less than 1 or is
      given without a fitted scale.

  Reference: Phan et al. 2023, section 3.2 and Algorithm 1, for K = 1.

  Example; the first question's draw was accepted, the second's was not:

    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   jnp.zeros((2, 1), int), jnp.array([True, True]),
    ...   jnp.zeros((2, 1, 1), int), jnp.array([[True], [False]]))
    >>> control_variate()(moved).tolist()
    [[0.5, 0.0], [0.5, -0.5]]
  """
  if not isinstance(correct_first_acceptance, bool):
    given = f"not {correct_first_acceptance!r}"
    raise TypeError(f"correct_first_acceptance must be True or False, {given}")
  if scale == "fitted":
    return FittedControlVariate(correct_first_acceptance, fit_period)
  if scale != "paper":
    raise ValueError(f"scale must be 'paper' or 'fitted', not {scale!r}")
  if fit_period != 1:
    raise ValueError(
      f"fit_period = {fit_period!r} has no effect with scale = 'paper': leave "
      "it out, or set scale = 'fitted'"
    )

  def weigh(
    transition: Transition, *, correct_first_acceptance: bool
  ) -> jax.Array:
    kept, subtracted = _terms(transition, correct_first_acceptance)
    return jax.lax.stop_gradient(kept - subtracted)

  made = functools.partial(
    weigh, correct_first_acceptance=correct_first_acceptance
  )
  made.has_scale = True  # type: ignore[attr-defined]
  return made


def own_key(estimator: Estimator, seed: int, step: int) -> jax.Array | None:
  """Derives the key of an estimator that needs random numbers.

  Args:
    estimator: Any; only one with an attribute `purpose` gets a key.
    seed: The run's seed.
    step: Number of the step, from 1.

  Returns:
    A scalar key of the estimator's purpose and the step, or None.

  Raises:
    ValueError: If the purpose has no slash in its name.
  """
  purpose = getattr(estimator, "purpose", None)
  if purpose is None:
    return None
  if purpose in rng.PURPOSES:
    raise ValueError(
      f"purpose {purpose!r} is one of this package's: an estimator's own has a "
      f"slash in its name, as in 'my_method/{purpose}'"
    )
  return rng.purpose_key(seed, purpose, step)


def weigh(
  estimator: Estimator, taken: Any, key: jax.Array | None = None
) -> jax.Array:
  """Calls an estimator, with its key if it has a purpose of its own.

  Args:
    estimator: Any.
    taken: What it weighs: a Transition, or a Scored.
    key: What `own_key` returns.
  """
  return estimator(taken) if key is None else estimator(taken, key)


def has_scale(estimator: Estimator) -> bool:
  """Tells whether an estimator has a control variate, and so a scale.

  Example:

    >>> has_scale(control_variate()), has_scale(basic())
    (True, False)
  """
  return getattr(estimator, "has_scale", False)


@dataclasses.dataclass(frozen=True)
class FittedControlVariate:
  """TRICE with a control variate whose size is fitted to earlier steps.

  The estimate is A - eta B. A is the estimate without control variate (for
  K > 1, averaged over the correct draws), and B is the term that
  `control_variate` subtracts. E[B] = 0 if the old memories are correct. Every
  eta that does not depend on the step's draws then has the mean of A. The trace
  of the variance is least at eta = E[<A, B>] / E[|B|^2]. There it is at most
  that of eta = 0 and that of eta = 1, the paper's.

  Fitting eta needs gradients, which an estimator does not see: the trainer fits
  eta and passes it (`cot_latent.inference.fitting`).

  Attributes:
    correct_first_acceptance: As for `control_variate`.
    fit_period: Steps from one fit of eta to the next.
  """

  has_scale: ClassVar[bool] = True
  correct_first_acceptance: bool = False
  fit_period: int = 1

  def __post_init__(self):
    if self.fit_period < 1:
      raise ValueError(f"fit_period must be 1 or more, not {self.fit_period}")

  def terms(self, transition: Transition) -> jax.Array:
    """Returns the weights of A and of B, [2, M, 1 + K]."""
    terms = jnp.stack(_terms(transition, self.correct_first_acceptance))
    return jax.lax.stop_gradient(terms)

  def __call__(
    self, transition: Transition, eta: float | jax.Array = 1.0
  ) -> jax.Array:
    """Returns the weights of A - eta B, [M, 1 + K]; eta = 1 is the paper's."""
    kept, subtracted = self.terms(transition)
    return kept - eta * subtracted

  def is_due(self, step: int) -> bool:
    """Whether eta is fitted in a step, counted from 1."""
    return (step - 1) % self.fit_period == 0


def _terms(
  transition: Transition, correct_first_acceptance: bool
) -> tuple[jax.Array, jax.Array]:
  """[2, M, 1 + K] weights that `control_variate` keeps and subtracts."""
  valid = transition.is_correct.astype(jnp.result_type(float))
  correct = transition.draw_is_correct.astype(valid.dtype)
  count = jnp.maximum(valid.sum(), 1)
  number = correct.sum(axis=1, keepdims=True)
  # Each weight is one quotient of whole numbers, and a scale of 1 changes no
  # weight: terms that cancel do so exactly, compiled or not.
  averaged = correct / (count * jnp.maximum(number, 1))
  on_memory = jnp.where(
    transition.accepted.any(axis=1),
    (averaged * transition.accepted).sum(axis=1),
    valid / count,
  )
  scale = leave_one_out_scale(transition).astype(valid.dtype)
  if correct_first_acceptance:
    scale = jnp.where(transition.old_is_correct, scale, 0)
  subtracted = scale * (valid / (count * correct.shape[1]))
  on_draws = jnp.where(transition.accepted, 0, averaged)
  return (
    _weights(on_memory, on_draws),
    jnp.pad(
      jnp.broadcast_to(subtracted[:, None], correct.shape), ((0, 0), (1, 0))
    ),
  )


def leave_one_out_scale(transition: Transition) -> jax.Array:
  """Estimates each question's acceptance probability from all other questions.

  Args:
    transition: Transition of M questions with K draws each.

  Returns:
    [M] beta_m in [0, 1]; 0 if no other question is valid.

  Example:

    >>> import numpy as np
    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   np.zeros((2, 1), int), np.array([True, True]),
    ...   np.zeros((2, 1, 1), int), np.array([[True], [False]]))
    >>> leave_one_out_scale(moved).tolist()
    [0.0, 1.0]
  """
  valid = transition.is_correct.astype(jnp.result_type(float))
  number = transition.draw_is_correct.sum(axis=1, dtype=valid.dtype)
  correct = valid * number
  draws = valid * transition.draw_is_correct.shape[1]
  # A quotient of whole numbers: exactly 1 if all their draws are correct.
  return (correct.sum() - correct) / jnp.maximum(draws.sum() - draws, 1)


def merge_accepted(transition: Transition, weights: jax.Array) -> jax.Array:
  """Moves the weight of an accepted draw to the memory, which is that draw.

  The estimate stays the same and the draw needs no second differentiation.

  Args:
    transition: Transition of M questions with K draws each.
    weights: Weights [M, 1 + K].

  Returns:
    [M, 1 + K] with zeros where a draw was accepted.

  Example; the first of two draws was accepted:

    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   jnp.zeros((1, 1), int), jnp.array([True]),
    ...   jnp.zeros((1, 2, 1), int), jnp.array([[True, False]]))
    >>> merge_accepted(moved, jnp.array([[0.25, 0.5, -0.75]])).tolist()
    [[0.75, 0.0, -0.75]]
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
