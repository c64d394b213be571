"""The sequences that the M-step differentiates: those that have weight.

M questions in a minibatch, K draws each, P prompt tokens, T target tokens.
"""

from typing import NamedTuple

import numpy as np

from cot_latent.inference import transition


class WeightedRows(NamedTuple):
  """The sequences that the M-step differentiates: those with weight, if any.

  Attributes:
    prompts: [S, P] int32, the question alone for every row.
    targets: [S, T] int32.
    weights: [S] float32; trailing zeros pad to one of few sizes, each of
      which is compiled once.
    is_fresh: [S] bool, whether the sequence has weight and was drawn in this
      step.
    sampler_log_prob: [S] float32 nats by the sampler where `is_fresh`, 0
      elsewhere; None if the sampler does not return them.
    terms: [2, S] float32, the weights of A and B in a step in which the factor
      eta of the control variate is fitted; `weights` are those of A - eta B. A
      sequence has weight if one of the two is not 0. None in other steps.
    memory_of: [S] integers, the place in the minibatch of the question whose
      memory a sequence is; -1 for a draw, or without weight.
    token_weights: [S, T] float32, the factor of each token's log-probability
      if rationale and answer have separate weights; `weights` then only says
      which sequences have weight. None otherwise.
  """

  prompts: np.ndarray
  targets: np.ndarray
  weights: np.ndarray
  is_fresh: np.ndarray
  sampler_log_prob: np.ndarray | None = None
  terms: np.ndarray | None = None
  memory_of: np.ndarray | None = None
  token_weights: np.ndarray | None = None

  def is_weighted(self) -> np.ndarray:
    """Which sequences have weight, [S] bool."""
    return has_weight(self.weights, self.terms)

  def num_weighted(self) -> int:
    """How many sequences have weight."""
    return int(np.count_nonzero(self.is_weighted()))

  def log_prob_gap(self, log_prob: np.ndarray) -> float | None:
    """Returns the largest gap between sampler and scorer on a fresh draw.

    Args:
      log_prob: [S] nats, by the scorer; only fresh rows count.

    Returns:
      Nats; None if there is nothing to compare.
    """
    if self.sampler_log_prob is None or not self.is_fresh.any():
      return None
    return float(np.abs(log_prob - self.sampler_log_prob)[self.is_fresh].max())


def has_weight(weights: np.ndarray, terms: np.ndarray | None) -> np.ndarray:
  """Marks the sequences that must be differentiated.

  Args:
    weights: [...] of sequences.
    terms: [2, ...] their parts; None where there are none.

  Returns:
    [...] bool.
  """
  return weights != 0 if terms is None else (terms != 0).any(axis=0)


def gather_rows(
  prompts: np.ndarray,
  moved: transition.Transition,
  weights: np.ndarray,
  log_prob: np.ndarray | None = None,
  terms: np.ndarray | None = None,
) -> WeightedRows:
  """Collects the sequences whose weight is not zero.

  Args:
    prompts: [M, P] int32.
    moved: Transition of the minibatch.
    weights: [M, 1 + K].
    log_prob: [M, K] nats of the draws, by the sampler, if that is known.
    terms: [2, M, 1 + K] parts of the weights, where both are needed.

  Returns:
    S rows, S the next multiple of M / 2: few sizes, so few compilations.
  """
  sequences = np.concatenate(
    [np.asarray(moved.tokens)[:, None], np.asarray(moved.draw_tokens)], axis=1
  )
  accepted = np.asarray(moved.accepted)
  # A remembered one that was accepted just now is a fresh draw too.
  is_fresh = np.insert(np.ones_like(accepted), 0, accepted.any(axis=1), axis=1)
  sampled = None
  if log_prob is not None:
    of_memory = np.where(accepted, log_prob, 0).sum(axis=1)  # one at most
    sampled = np.insert(log_prob, 0, of_memory, axis=1)
  return gather(prompts, sequences, weights, is_fresh, sampled, terms)


def gather(
  prompts: np.ndarray,
  sequences: np.ndarray,
  weights: np.ndarray,
  is_fresh: np.ndarray,
  log_prob: np.ndarray | None = None,
  terms: np.ndarray | None = None,
  token_weights: np.ndarray | None = None,
) -> WeightedRows:
  """Collects those of J sequences per question that have weight.

  Args:
    prompts: [M, P] int32.
    sequences: [M, J, T] int32, the memory first.
    weights: [M, J].
    is_fresh: [M, J] bool, whether a sequence was drawn in this step.
    log_prob: [M, J] nats by the sampler, where that is known.
    terms: [2, M, J] parts of the weights, where both are needed.
    token_weights: [M, J, T] weights of the tokens, where they differ.

  Returns:
    S rows, S the next multiple of M / 2.
  """
  batch_size, columns = weights.shape
  flat = weights.ravel().astype(np.float32)
  chosen = np.flatnonzero(has_weight(weights, terms))
  bucket = max(1, batch_size // 2)
  size = max(bucket, -(-len(chosen) // bucket) * bucket)
  place = np.zeros(size, np.int32)
  place[: len(chosen)] = chosen
  filled = np.zeros(size, np.float32)
  filled[: len(chosen)] = flat[chosen]
  is_used = np.arange(size) < len(chosen)
  is_fresh = is_fresh.ravel()[place] & is_used
  sampled = None
  if log_prob is not None:
    sampled = np.where(is_fresh, log_prob.ravel()[place], 0)
  if terms is not None:
    more = ((0, 0), (0, size - len(chosen)))
    terms = terms.reshape(2, -1)[:, chosen].astype(np.float32)
    terms = np.pad(terms, more)
  if token_weights is not None:
    token_weights = token_weights.reshape(batch_size * columns, -1)[place]
    token_weights = np.where(is_used[:, None], token_weights, np.float32(0))
  is_memory = (place % columns == 0) & has_weight(filled, terms)
  return WeightedRows(
    prompts[place // columns],
    sequences.reshape(batch_size * columns, -1)[place],
    filled,
    is_fresh,
    sampled,
    terms,
    np.where(is_memory, place // columns, -1),
    token_weights,
  )
