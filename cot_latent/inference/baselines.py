"""The estimators that TRICE is compared with, in the same form.

They use the draws of this step alone and put no weight on the memory. Each is
an average over the M questions. A question without a correct draw (or, with a
baseline, without an incorrect draw) adds nothing. Below, w(pi) is the expected
weight on a question's gradient of log p(y|x). There pi = p(y|x) is the
probability of a correct draw and K the number of draws:

  estimator              w(pi)                            optimises
  rejection_sampling     1 - (1 - pi)^K                   log pi, cut at order K
  maxrl                  1 - (1 - pi)^(K-1)               the same at K - 1
  rloo                   pi                               pi itself
  grpo                   E[sqrt(r (1 - r))] / (1 - pi)    neither

(r is the share of correct draws; for many draws GRPO's weight is
sqrt(pi / (1 - pi)).) TRICE's weight is 1. The weight of `rejection_sampling(
pooled=True)` depends on the other questions,

  w(pi_m) = M K pi_m int_0^1 prod_m' (1 - pi_m' s)^K / (1 - pi_m s) ds,

so it follows the gradient of int_0^1 [1 - prod_m (1 - pi_m s)^K] / s ds. For
one question this is the weight above; for several questions of equal pi it is
1 - (1 - pi)^(M K); for many questions w tends to pi over the mean of pi.
"""

import functools

import jax
import jax.numpy as jnp

from cot_latent.inference.estimators import Estimator
from cot_latent.inference.transition import Transition


def rejection_sampling(pooled: bool = False) -> Estimator:
  """Averages the scores of the correct draws.

  log pi is -sum_k (1 - pi)^k / k; the mean is the gradient of its first K
  terms.

  Args:
    pooled: Average over all correct draws of the minibatch, instead of first
      over those of each question. The paper does not say which it uses.

  Returns:
    An estimator with weights c~_mk / (n_m M), n_m = sum_k c~_mk, or pooled
    c~_mk / sum_m n_m.

  Raises:
    TypeError: If the option is not a bool.

  Reference: Phan et al. 2023, section 3.3 and appendix F (RS-4).

  Example of three draws; the first question has two correct draws:

    >>> import numpy as np
    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   np.zeros((2, 1), int), np.array([True, True]),
    ...   np.zeros((2, 3, 1), int),
    ...   np.array([[True, True, False], [False] * 3]))
    >>> np.round(rejection_sampling()(moved), 3).tolist()
    [[0.0, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0]]
  """
  if not isinstance(pooled, bool):
    raise TypeError(f"pooled must be True or False, not {pooled!r}")

  def weigh(transition: Transition, *, pooled: bool) -> jax.Array:
    correct = _correct(transition)
    if pooled:
      return _on_draws(correct / jnp.maximum(correct.sum(), 1))
    number = correct.sum(axis=1, keepdims=True)
    return _on_draws(correct / jnp.maximum(number, 1) / len(correct))

  return functools.partial(weigh, pooled=pooled)


def rloo() -> Estimator:
  """REINFORCE; the baseline is the mean of a question's other draws.

  Returns:
    An estimator with weights (c~_mk - mean of the other draws) / (K M). It
    raises ValueError at trace time unless K > 1.

  Reference: Ahmadian et al. 2024, arXiv 2402.14740; Kool et al. 2019.

  Example of three draws; the first question has two correct draws:

    >>> import numpy as np
    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   np.zeros((2, 1), int), np.array([True, True]),
    ...   np.zeros((2, 3, 1), int),
    ...   np.array([[True, True, False], [False] * 3]))
    >>> np.round(6 * rloo()(moved), 3).tolist()
    [[0.0, 0.5, 0.5, -1.0], [0.0, 0.0, 0.0, 0.0]]
  """

  def weigh(transition: Transition) -> jax.Array:
    correct = _several("rloo", transition)
    num_draws = correct.shape[1]
    return _on_draws(_centred(correct) / ((num_draws - 1) * correct.size))

  return weigh


def grpo() -> Estimator:
  """REINFORCE with rewards standardised within each question's draws.

  One step on fresh draws: the ratio that GRPO clips is then 1, and there is no
  penalty on the distance from the base model, nor a division by length.

  Returns:
    An estimator with weights (c~_mk - r_m) / (s_m K M), r_m the mean and s_m
    the standard deviation (over K) of the question's rewards; 0 where all are
    equal. It raises ValueError at trace time unless K > 1.

  Reference: Shao et al. 2024, arXiv 2402.03300, section 4.1.

  Example of four draws; two of the first question's are correct:

    >>> import numpy as np
    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   np.zeros((2, 1), int), np.array([True, True]),
    ...   np.zeros((2, 4, 1), int),
    ...   np.array([[True, False, True, False], [False] * 4]))
    >>> (8 * grpo()(moved)).tolist()
    [[0.0, 1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
  """

  def weigh(transition: Transition) -> jax.Array:
    correct = _several("grpo", transition)
    number = correct.sum(axis=1, keepdims=True)
    product = number * (correct.shape[1] - number)
    spread = jnp.sqrt(jnp.maximum(product, 1))
    return _on_draws(_centred(correct) / spread / correct.size)

  return weigh


def maxrl() -> Estimator:
  """Divides by the number of correct draws, minus a baseline.

  `rejection_sampling` minus the mean score of all K draws where at least one is
  correct. The baseline costs one order of the truncation: given a success, the
  draws' scores no longer have mean 0, and their mean adds -(1 - pi)^(K-1) pi.

  Returns:
    An estimator with weights (c~_mk / n_m - 1 / K) / M, and 0 where n_m = 0.
    It raises ValueError at trace time unless K > 1.

  Reference: Tajwar et al. 2026, arXiv 2602.02710.

  Example of three draws; the first question has two correct draws:

    >>> import numpy as np
    >>> from cot_latent.inference.transition import independence
    >>> moved = independence(
    ...   np.zeros((2, 1), int), np.array([True, True]),
    ...   np.zeros((2, 3, 1), int),
    ...   np.array([[True, True, False], [False] * 3]))
    >>> np.round(6 * maxrl()(moved), 3).tolist()
    [[0.0, 0.5, 0.5, -1.0], [0.0, 0.0, 0.0, 0.0]]
  """

  def weigh(transition: Transition) -> jax.Array:
    correct = _several("maxrl", transition)
    number = correct.sum(axis=1, keepdims=True)
    scaled = _centred(correct) / jnp.maximum(number, 1)
    return _on_draws(scaled / correct.size)

  return weigh


def _correct(transition: Transition) -> jax.Array:
  """[M, K] correctness of the draws, as numbers."""
  return transition.draw_is_correct.astype(jnp.result_type(float))


def _several(name: str, transition: Transition) -> jax.Array:
  correct = _correct(transition)
  if correct.shape[1] < 2:
    raise ValueError(f"{name} needs several draws per question (NUM_DRAWS > 1)")
  return correct


def _centred(correct: jax.Array) -> jax.Array:
  """[M, K] rewards minus their mean, times K.

  These are whole numbers. If all rewards are equal they are exactly 0, and the
  draws need no differentiation.
  """
  return correct.shape[1] * correct - correct.sum(axis=1, keepdims=True)


def _on_draws(weights: jax.Array) -> jax.Array:
  """Joins weights [M, K] of draws to zeros for the memory."""
  weights = jnp.pad(weights, ((0, 0), (1, 0)))
  return jax.lax.stop_gradient(weights)
