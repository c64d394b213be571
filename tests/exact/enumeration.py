"""Runs the real transition and estimators on everything that can happen.

S outcomes of a step on M questions: every old memory and every draw.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from cot_latent.inference import transition
from tests import toys


class Outcomes(NamedTuple):
  """All outcomes of positive probability.

  Attributes:
    probability: [S].
    old: [S, M] indices of sequences, the memory before the step.
    draws: [S, M, K] indices of sequences.
  """

  probability: np.ndarray
  old: np.ndarray
  draws: np.ndarray


def outcomes(old_probability, draw_probability, num_draws=1) -> Outcomes:
  """Lists the outcomes for independent questions.

  Args:
    old_probability: [M, Z] of the memory before the step.
    draw_probability: [M, Z] of one draw.
    num_draws: K.
  """
  rows = []
  for old, draw in zip(old_probability, draw_probability, strict=True):
    joint = functools.reduce(np.multiply.outer, [old] + [draw] * num_draws)
    found = np.argwhere(joint > 0)
    rows.append((joint[joint > 0], found))
  picks = np.indices([len(joint) for joint, _ in rows])
  picks = picks.reshape(len(rows), -1)
  chosen = [found[p] for (_, found), p in zip(rows, picks, strict=True)]
  shares = [joint[p] for (joint, _), p in zip(rows, picks, strict=True)]
  chosen = np.stack(chosen, axis=1)
  return Outcomes(np.prod(shares, axis=0), chosen[..., 0], chosen[..., 1:])


def at_stationarity(toy, questions, num_draws=1) -> Outcomes:
  """Outcomes where every old memory is drawn from its posterior."""
  questions = np.asarray(questions)
  old, draw = toys.posterior(toy)[questions], toys.prior(toy)[questions]
  return outcomes(old, draw, num_draws)


def from_memory(toy, questions, old) -> Outcomes:
  """Outcomes where the old memories are the given M sequences."""
  certain = np.eye(len(toy.sequences))[np.asarray(old)]
  return outcomes(certain, toys.prior(toy)[np.asarray(questions)])


def transitions(toy, questions, cases, step=transition.independence):
  """Takes the step from every outcome: a Transition with a leading S."""
  questions = np.asarray(questions)[:, None]
  return _batched(step)(
    toy.sequences[cases.old],
    toy.is_correct[questions[:, 0], cases.old],
    toy.sequences[cases.draws],
    toy.is_correct[questions, cases.draws],
  )


def weights(taken, estimator) -> np.ndarray:
  """[S, M, 1 + K] the estimator's weights for every outcome."""
  return np.asarray(_batched(estimator)(taken))


@functools.cache
def _batched(function):
  """Compiles once for each function and shape."""
  return jax.jit(jax.vmap(function))


def weighted_scores(toy, questions, taken, by_outcome) -> np.ndarray:
  """[S, D] the gradient estimates that weights [S, M, 1 + K] stand for."""
  remembered = toys.index_of(toy, taken.tokens)[..., None]
  drawn = toys.index_of(toy, taken.draw_tokens)
  sequences = np.concatenate([remembered, drawn], axis=-1)
  rows = np.asarray(questions)[:, None]
  by_sequence = toys.scores(toy)[rows, sequences]
  return np.einsum("smj,smjd->sd", by_outcome, by_sequence)


def estimates(toy, questions, cases, estimator) -> np.ndarray:
  """[S, D] the gradient estimate for every outcome."""
  taken = transitions(toy, questions, cases)
  return weighted_scores(toy, questions, taken, weights(taken, estimator))
