"""Estimators for likelihoods that the model computes itself.

An estimator maps `Scored` candidates of M questions, the memory before the step
and K draws each, to weights [M, 1 + K, 2]. The estimate is

  sum_{m,j} weights[m, j, 0] grad log p(z_mj|x_m)
            + weights[m, j, 1] grad log l(z_mj),

with l(z) = p(y|x, z), whose gradient counts because the model computes it. An
estimator for verdicts (`estimators`) is the case in which both weights are the
same: there z contains its answer. Weights carry no gradient.

What they ascend, l_k being the likelihoods of K draws from p(z|x):

  metropolis_hastings, isir   log p(y|x) = log E[l]
  jepo                        E[log (1/K) sum_k l_k], a lower bound of it
  latro                       E[log l] - kl KL(p(z|x) || base), a lower one
  verifree                    p(y|x) = E[l], the likelihood itself

Each has the kernel by which the next memory is taken.
"""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from cot_latent.inference import scored
from cot_latent.inference.scored import Scored


class ScoredEstimator(Protocol):
  """Weights for rationales and answers, and the memory's kernel."""

  @property
  def has_scale(self) -> bool:
    """Whether its weights on rationales add up to 1 minus a scale."""

  @property
  def has_reference(self) -> bool:
    """Whether it needs the base model's log-probabilities."""

  def kernel(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, 1 + K] probabilities of the next memory."""

  def __call__(self, candidates: Scored) -> jax.Array:
    """The weights, [M, 1 + K, 2]."""


def metropolis_hastings(
  correct_first_acceptance: bool = False,
) -> ScoredEstimator:
  """TRICE for any likelihood, by Metropolis-Hastings.

  With q the kernel's probabilities (`scored.metropolis_hastings`) and C the
  number of questions with a candidate of l > 0,

    sum_m [sum_j q_mj (grad log p(z_mj) + grad log l_mj)
           - (beta_m / K) sum_k grad log p(z_mk)] / C,

  where beta_m is the mean over the other questions of (1/K) sum_k
  min(1, l_k / l_0). The coin that decides which candidate is remembered is
  averaged over (Rao-Blackwell). At stationarity the mean is that of
  grad log p(y_m|x_m), for every K. With likelihoods of 0 and 1 the weights are
  those of `estimators.control_variate`.

  Args:
    correct_first_acceptance: Whether beta_m is 0 where the old memory has
      l = 0, without which such a question adds a bias
      (`estimators.control_variate`).

  Returns:
    The estimator.

  Reference: Phan et al. 2023, appendix A, for K = 1 and an l that does not
  depend on the parameters.

  Example, of a question whose draw is half as likely as its memory:

    >>> likelihoods = jnp.array([[1.0, 0.5], [1.0, 1.0]])
    >>> weights = metropolis_hastings()(Scored(jnp.log(likelihoods)))
    >>> weights[0].tolist()
    [[0.25, 0.25], [-0.25, 0.25]]
  """
  return MetropolisHastings(correct_first_acceptance)


def isir(correct_first_acceptance: bool = False) -> ScoredEstimator:
  """TRICE for any likelihood, by sampling importance resampling.

  With w_j = l_j / sum l over the memory and K draws, and C as for
  `metropolis_hastings`,

    sum_m [sum_j w_mj (grad log p(z_mj) + grad log l_mj)
           - beta_m sum_k grad log p(z_mk)] / C,

  where beta_m is the mean over the other questions of (1/K) sum_k w_k. At
  stationarity the mean is that of grad log p(y_m|x_m), for every K. Without the
  memory it would be biased.

  Args:
    correct_first_acceptance: As for `metropolis_hastings`.

  Returns:
    The estimator.

  Reference: Andrieu, Lee and Vihola 2018, for the chain.

  Example, of two draws, of which the first is twice as likely as the memory:

    >>> likelihoods = jnp.array([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5]])
    >>> isir()(Scored(jnp.log(likelihoods)))[0].tolist()
    [[0.125, 0.125], [0.0625, 0.25], [-0.0625, 0.125]]
  """
  return ISir(correct_first_acceptance)


@dataclasses.dataclass(frozen=True)
class _Chain:
  """What both chains share.

  Attributes:
    correct_first_acceptance: See `metropolis_hastings`.
  """

  has_scale: ClassVar[bool] = True
  has_reference: ClassVar[bool] = False
  correct_first_acceptance: bool = False

  def __post_init__(self):
    if not isinstance(self.correct_first_acceptance, bool):
      raise TypeError(
        "correct_first_acceptance must be True or False, not "
        f"{self.correct_first_acceptance!r}"
      )

  def kernel(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, 1 + K] probabilities of the next memory."""
    raise NotImplementedError

  def shares(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, K] whose mean is a question's part in the others' scales."""
    raise NotImplementedError

  def size(self, num_draws: int) -> float:
    """By what the scale of one draw's score is divided."""
    raise NotImplementedError

  def __call__(self, candidates: Scored) -> jax.Array:
    """The weights, [M, 1 + K, 2]."""
    log_l = candidates.log_likelihood
    is_valid = (log_l > -jnp.inf).any(axis=1)
    valid = is_valid.astype(log_l.dtype)
    count = jnp.maximum(valid.sum(), 1)
    on_answers = self.kernel(log_l) / count
    number = self.shares(log_l).sum(axis=1) * valid
    num_draws = log_l.shape[1] - 1
    drawn = valid * num_draws
    others = jnp.maximum(drawn.sum() - drawn, 1)
    scale = valid * (number.sum() - number) / others
    if self.correct_first_acceptance:
      scale = jnp.where(log_l[:, 0] > -jnp.inf, scale, 0)
    # In the kernel's order, so that terms that cancel do so exactly.
    subtracted = scale / self.size(num_draws) / count
    on_rationales = on_answers.at[:, 1:].add(-subtracted[:, None])
    return _both(on_rationales, on_answers)


@dataclasses.dataclass(frozen=True)
class MetropolisHastings(_Chain):
  """See `metropolis_hastings`."""

  def kernel(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, 1 + K] probabilities of the next memory."""
    return scored.metropolis_hastings(log_likelihood)

  def shares(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, K] acceptance of each draw by itself."""
    return scored.acceptance(log_likelihood)

  def size(self, num_draws: int) -> float:
    """K: the mean score of the draws is subtracted."""
    return num_draws


@dataclasses.dataclass(frozen=True)
class ISir(_Chain):
  """See `isir`."""

  def kernel(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, 1 + K] probabilities of the next memory."""
    return scored.importance(log_likelihood)

  def shares(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, K] weight of each draw."""
    return scored.importance(log_likelihood)[:, 1:]

  def size(self, num_draws: int) -> float:
    """1: the sum of the draws' scores is subtracted."""
    del num_draws
    return 1


@dataclasses.dataclass(frozen=True)
class _Bound:
  """What the estimators share that use the draws of the step alone.

  Their memory moves by Metropolis-Hastings, for the report.

  Attributes:
    no_answer: Value of log l, in nats, for a rationale without an answer.
  """

  has_scale: ClassVar[bool] = False
  has_reference: ClassVar[bool] = False
  no_answer: float = -30.0

  def kernel(self, log_likelihood: jax.Array) -> jax.Array:
    """[M, 1 + K] probabilities of the next memory."""
    return scored.metropolis_hastings(log_likelihood)

  def log_l(self, candidates: Scored) -> tuple[jax.Array, jax.Array]:
    """[M, K] nats of the draws, none of them -inf; and whose they are."""
    found = candidates.log_likelihood[:, 1:]
    if found.shape[1] < 2:
      raise ValueError(
        f"{type(self).__name__.lower()} needs several draws per question "
        "(NUM_DRAWS > 1)"
      )
    has_answer = found > -jnp.inf
    return jnp.where(has_answer, found, self.no_answer), has_answer


@dataclasses.dataclass(frozen=True)
class Jepo(_Bound):
  """See `jepo`."""

  def __call__(self, candidates: Scored) -> jax.Array:
    """The weights, [M, 1 + K, 2]."""
    log_l, has_answer = self.log_l(candidates)
    num_rows, num_draws = log_l.shape
    itself = jnp.eye(num_draws, dtype=bool)
    others = jnp.where(itself, -jnp.inf, log_l[:, None, :])
    bound = jax.nn.logsumexp(log_l, axis=1, keepdims=True)
    baseline = jax.nn.logsumexp(others, axis=2)
    gain = bound - baseline + jnp.log1p(-1 / num_draws)
    # Where no draw has an answer the gain is 0, and rounding leaves none.
    gain = jnp.where(has_answer.any(axis=1, keepdims=True), gain, 0)
    share = jnp.where(has_answer, jax.nn.softmax(log_l, axis=1), 0)
    return _on_draws(gain / num_rows, share / num_rows)


def jepo(no_answer: float = -30.0) -> ScoredEstimator:
  """The lower bound E[log (1/K) sum_k l_k] of log p(y|x), and its gradient.

  Weights (L - L_-k) / M on rationales, L being log (1/K) sum l and L_-k the
  same of the other draws, and l_k / (M sum l) on answers.

  Args:
    no_answer: Value of log l, in nats, for a rationale without an answer.

  Returns:
    The estimator. It raises ValueError at trace time unless K > 1.

  Reference: Tang et al. 2025, arXiv 2503.19618 (JEPO), without its penalty on
  the distance from a reference model.

  Example of two draws, the first three times as likely:

    >>> import numpy as np
    >>> likelihoods = jnp.array([[1.0, 0.75, 0.25]])
    >>> weights = np.array(jepo()(Scored(jnp.log(likelihoods))), float)
    >>> weights[0].round(3).tolist()
    [[0.0, 0.0], [0.693, 0.75], [-0.405, 0.25]]
  """
  return Jepo(no_answer)


@dataclasses.dataclass(frozen=True)
class VeriFree(_Bound):
  """See `verifree`."""

  def __call__(self, candidates: Scored) -> jax.Array:
    """The weights, [M, 1 + K, 2]."""
    log_l, has_answer = self.log_l(candidates)
    reward = jnp.where(has_answer, jnp.exp(log_l), 0)
    return _on_draws(_centred(reward), reward / reward.size)


def verifree() -> ScoredEstimator:
  """REINFORCE on the likelihood E[l] itself, with the other draws' mean.

  Weights (l_k - mean of the others) / (K M) on rationales and l_k / (K M) on
  answers. Hard questions count little, as with `baselines.rloo`.

  Returns:
    The estimator. It raises ValueError at trace time unless K > 1.

  Reference: Zhou et al. 2025, arXiv 2505.21493 (VeriFree).

  Example of two draws; the memory in column 0 has no weight:

    >>> likelihoods = jnp.array([[1.0, 0.5, 0.25]])
    >>> verifree()(Scored(jnp.log(likelihoods)))[0].tolist()
    [[0.0, 0.0], [0.125, 0.25], [-0.125, 0.125]]
  """
  return VeriFree()


@dataclasses.dataclass(frozen=True)
class Latro(_Bound):
  """See `latro`.

  Attributes:
    kl: Factor of the distance from the base model.
  """

  kl: float = 0.0

  @property
  def has_reference(self) -> bool:  # type: ignore[override]
    """Whether the base model's log-probabilities are needed."""
    return self.kl > 0

  def __call__(self, candidates: Scored) -> jax.Array:
    """The weights, [M, 1 + K, 2]."""
    log_l, has_answer = self.log_l(candidates)
    reward = log_l
    if self.has_reference:
      if candidates.log_ratio is None:
        raise ValueError("latro with kl > 0 needs log_ratio")
      reward = log_l - self.kl * candidates.log_ratio
    return _on_draws(_centred(reward), has_answer / log_l.size)


def latro(kl: float = 0.0, no_answer: float = -30.0) -> ScoredEstimator:
  """REINFORCE on E[log l] - kl KL(p(z|x) || base), a lower bound of log p(y|x).

  With r_k = log l_k - kl log(p(z_k|x) / base(z_k|x)), weights
  (r_k - mean of the others) / (K M) on rationales and 1 / (K M) on answers.

  Args:
    kl: Factor of the distance from the base model; 0 needs no base model.
    no_answer: Value of log l, in nats, for a rationale without an answer.

  Returns:
    The estimator. It raises ValueError at trace time unless K > 1.

  Raises:
    ValueError: If `kl` is negative.

  Reference: Chen et al. 2024, arXiv 2411.04282 (LaTRO).

  Example of two draws, the second less likely by one nat:

    >>> latro()(Scored(jnp.array([[0.0, -1.0, -2.0]])))[0].tolist()
    [[0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]]
  """
  if not kl >= 0:
    raise ValueError(f"kl must be 0 or more, not {kl!r}")
  return Latro(no_answer, kl)


def _centred(reward: jax.Array) -> jax.Array:
  """[M, K] rewards minus the mean of the others, over K M."""
  num_draws = reward.shape[1]
  centred = num_draws * reward - reward.sum(axis=1, keepdims=True)
  return centred / ((num_draws - 1) * reward.size)


def _on_draws(on_rationales: jax.Array, on_answers: jax.Array) -> jax.Array:
  """[M, 1 + K, 2] of weights [M, K], with zeros for the memory."""
  columns = ((0, 0), (1, 0))
  return _both(jnp.pad(on_rationales, columns), jnp.pad(on_answers, columns))


def _both(on_rationales: jax.Array, on_answers: jax.Array) -> jax.Array:
  """Joins weights [M, 1 + K] of both kinds to [M, 1 + K, 2]."""
  both = jnp.stack([on_rationales, on_answers], axis=-1)
  return jax.lax.stop_gradient(both)
