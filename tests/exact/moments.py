"""The exact mean and covariance of any estimator, from conditional moments.

Given which draws and old memories are correct, the weights are fixed,
and the sequences that they weigh are independent, each with the mean and the
covariance of a correct or an incorrect score. Summing over the patterns of
correctness takes 2^(M K) terms; listing all sequences takes Z^(M (1 + K)).

M questions, K draws each, D coordinates, S patterns.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np

from cot_latent.inference import estimators, transition
from tests import toys


class Draws(NamedTuple):
  """One draw's score for each of M questions.

  Attributes:
    accuracy: [M] pi, the probability that it is correct.
    mean: [M, 2, D] the score's mean, given an incorrect (0) or correct (1) one.
    covariance: [M, 2, D, D], their covariances.
  """

  accuracy: np.ndarray
  mean: np.ndarray
  covariance: np.ndarray


class Memories(NamedTuple):
  """The old memory of each of M questions.

  Attributes:
    is_correct: [M] the probability that it is correct.
    mean: [M, D] of its score, given that it is correct.
    covariance: [M, D, D], their covariances.
  """

  is_correct: np.ndarray
  mean: np.ndarray
  covariance: np.ndarray


class Exact(NamedTuple):
  """What is known of an estimate.

  Attributes:
    mean: [D].
    covariance: [D, D].
    num_scored: The mean number of sequences that have weight.
  """

  mean: np.ndarray
  covariance: np.ndarray
  num_scored: float

  def variance(self) -> float:
    """The trace of the covariance."""
    return float(np.trace(self.covariance))


def of_scores(probability, is_correct, scores) -> Draws:
  """Takes the moments of listed sequences.

  Args:
    probability: [M, Z] of a draw.
    is_correct: [M, Z] bool.
    scores: [M, Z, D].
  """
  rows = []
  for p, correct, score in zip(probability, is_correct, scores, strict=True):
    given = [_given(p * ~correct, score), _given(p * correct, score)]
    rows.append([np.stack(part) for part in zip(*given, strict=True)])
  means, covariances = map(np.stack, zip(*rows, strict=True))
  return Draws((probability * is_correct).sum(axis=1), means, covariances)


def of_toy(toy: toys.Toy, questions) -> Draws:
  """Takes the moments of a toy's questions."""
  questions = np.asarray(questions)
  return of_scores(
    toys.prior(toy)[questions],
    toy.is_correct[questions],
    toys.scores(toy)[questions],
  )


def at_stationarity(draws: Draws, is_correct=1.0) -> Memories:
  """Memories that are correct with some probability, then posterior draws."""
  is_correct = np.broadcast_to(is_correct, draws.accuracy.shape)
  return Memories(is_correct, draws.mean[:, 1], draws.covariance[:, 1])


def remembered(is_correct, scores) -> Memories:
  """Given memories: [M] whether they are correct, and their scores [M, D]."""
  is_correct, scores = np.asarray(is_correct, float), np.asarray(scores)
  return Memories(
    is_correct, scores, np.zeros((*scores.shape, scores.shape[1]))
  )


def exact(
  estimator: estimators.Estimator,
  draws: Draws,
  memories: Memories,
  num_draws: int = 1,
) -> Exact:
  """Computes an estimator's mean and covariance for M questions.

  Args:
    estimator: Any that looks at correctness alone.
    draws: Moments of one draw; all K are alike.
    memories: Moments of the old memories.
    num_draws: K.

  Raises:
    ValueError: If an incorrect memory has weight: its moments are not known.
  """
  size = len(draws.accuracy)
  old, correct = patterns(memories.is_correct, num_draws)
  weights, accepted = _weigh(estimator, old, correct)
  held = accepted.any(axis=2)
  if weights[..., 0][~(old | held)].any():
    raise ValueError("weight on an incorrect memory")
  probability = np.prod(
    np.where(old, memories.is_correct, 1 - memories.is_correct), axis=1
  ) * np.prod(
    np.where(correct, draws.accuracy[:, None], 1 - draws.accuracy[:, None]),
    axis=(1, 2),
  )
  row = np.arange(size)

  def moments_of(of_memory, of_draw):
    """[S, M, 1 + K, ...] of every sequence that a weight may stand on."""
    expand = (...,) + (None,) * (of_memory.ndim - 1)
    first = np.where(held[expand], of_draw[:, 1], of_memory)
    others = of_draw[row[:, None], correct.astype(int)]
    return np.concatenate([first[:, :, None], others], axis=2)

  means = moments_of(memories.mean, draws.mean)
  covariances = moments_of(memories.covariance, draws.covariance)
  mean_of = np.einsum("smj,smjd->sd", weights, means)
  covariance_of = np.einsum("smj,smjde->sde", weights**2, covariances)
  mean = probability @ mean_of
  centred = mean_of - mean
  within = np.einsum("s,sde->de", probability, covariance_of)
  between = np.einsum("s,sd,se->de", probability, centred, centred)
  count = (weights != 0).sum(axis=(1, 2))
  return Exact(mean, within + between, float(probability @ count))


def patterns(is_correct, num_draws):
  """Lists what can be correct: old memories [S, M] and draws [S, M, K] bool.

  Args:
    is_correct: [M] probability that an old memory is correct; where it is 0 or
      1 there is one case only.
    num_draws: K.
  """
  size = len(is_correct)
  each = [[p > 0] if p in (0, 1) else [False, True] for p in is_correct]
  each += [[False, True]] * (size * num_draws)
  bits = np.array(list(itertools.product(*each)))
  return bits[:, :size], bits[:, size:].reshape(-1, size, num_draws)


def _given(share, score):
  """The mean and covariance of a score [Z, D] under weights [Z]."""
  share = share / share.sum()
  mean = share @ score
  centred = score - mean
  return mean, np.einsum("z,zd,ze->de", share, centred, centred)


def _weigh(estimator, old, correct):
  """Merged weights [S, M, 1 + K] and accepted draws [S, M, K]."""
  weights, accepted = _compiled(estimator)(old, correct)
  return np.asarray(weights), np.asarray(accepted)


@functools.cache
def _compiled(estimator):
  def weigh(old, correct):
    tokens = jax.numpy.zeros((*correct.shape, 1), int)
    taken = transition.independence(tokens[:, 0], old, tokens, correct)
    merged = estimators.merge_accepted(taken, estimator(taken))
    return merged, taken.accepted

  return jax.jit(jax.vmap(weigh))
