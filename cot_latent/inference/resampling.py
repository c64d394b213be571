"""Subsampling a weighted sum: L signed draws instead of all its terms."""

import jax
import jax.numpy as jnp


def systematic_counts(
  probabilities: jax.Array, num_draws: int, offset: jax.Array
) -> jax.Array:
  """Draws items by systematic resampling.

  The points (l + offset) / L for l = 0..L-1 fall into the items' shares of
  [0, 1). Item j is drawn floor(L p_j) or ceil(L p_j) times, and L p_j times on
  average over a uniform offset. An item of probability 0 is never drawn.

  Args:
    probabilities: [J] non-negative; normalised here. Not all zero.
    num_draws: Number of draws L >= 1.
    offset: Scalar in [0, 1).

  Returns:
    [J] int32 counts that sum to L.

  Reference: Phan et al. 2023, Algorithm 1, line 34; Hol et al. 2006.

  Example:

    >>> systematic_counts(jnp.array([0.5, 0.0, 0.5]), 4, 0.3).tolist()
    [2, 0, 2]
  """
  # Parallel prefix sums can differ by rounding across a zero item, or even
  # decrease: the running maximum over the positive items fixes both.
  upper = jnp.cumsum(probabilities)
  upper = jax.lax.cummax(jnp.where(probabilities > 0, upper, 0))
  # All L points are below the last end. That end may differ from 1 after the
  # division, which XLA can turn into a product with the reciprocal, and
  # L - offset rounds to L - 1 if the offset is within rounding of 1.
  points_below = jnp.ceil(num_draws * (upper / upper[-1]) - offset)
  points_below = jnp.minimum(points_below.astype(jnp.int32), num_draws)
  points_below = jnp.where(upper >= upper[-1], num_draws, points_below)
  return jnp.diff(points_below, prepend=0)


def subsample(
  weights: jax.Array,
  num_scored: int,
  offset: jax.Array,
  always: bool = False,
) -> jax.Array:
  """Replaces weights by L signed draws with the same expectation.

  Sequence j is drawn with probability |w_j| / W, W = sum |w_j|, and counts
  sign(w_j) W / L each time; repeated draws add up, so at most L weights are
  not zero. If no more than L are non-zero to begin with, scoring them all
  costs no more and is exact, so they are returned unchanged.

  Args:
    weights: [M, 1 + K]; merge accepted draws first (`merge_accepted`).
    num_scored: Number L >= 1 of sequences that may be differentiated.
    offset: Scalar, uniform in [0, 1).
    always: Resample even if all fit, as the paper's Algorithm 1 does.

  Returns:
    [M, 1 + K]; all zeros stay all zeros.

  Reference: Phan et al. 2023, section 3.3 and Algorithm 1, lines 29-38. The
  authors' notebook draws in proportion to exp(w) instead, which is biased.

  Example:

    >>> subsample(jnp.array([[0.5, -0.25], [0.25, 0.0]]), 2, 0.1).tolist()
    [[0.5, -0.5], [0.0, 0.0]]
  """
  flat = weights.ravel()
  counts, total = _draws(jnp.abs(flat), num_scored, offset)
  drawn = jnp.sign(flat) * counts * (total / num_scored)
  keep_all = _fits(flat, num_scored, always)
  return jnp.where(keep_all, flat, drawn).reshape(weights.shape)


def multipliers(
  sizes: jax.Array, num_scored: int, offset: jax.Array, always: bool = False
) -> jax.Array:
  """Draws L sequences, and returns a factor for the weights of each.

  Use it for several sums over the same sequences: each keeps its mean. With
  sizes |w|, the products with w are those of `subsample`.

  Args:
    sizes: [M, 1 + K] non-negative; sequences are drawn in proportion to them.
      They must be positive wherever a sum has weight.
    num_scored: Number L >= 1 of sequences that may be differentiated.
    offset: Scalar, uniform in [0, 1).
    always: Resample even if all fit.

  Returns:
    [M, 1 + K], on average 1 where the size is positive; at most L are not 0.

  Example:

    >>> multipliers(jnp.array([[0.5, 0.25], [0.25, 0.0]]), 2, 0.1).tolist()
    [[1.0, 2.0], [0.0, 0.0]]
  """
  flat = sizes.ravel()
  counts, total = _draws(flat, num_scored, offset)
  drawn = counts * (total / num_scored) / jnp.where(flat > 0, flat, 1)
  keep_all = _fits(flat, num_scored, always)
  return jnp.where(keep_all, flat > 0, drawn).reshape(sizes.shape)


def _draws(
  sizes: jax.Array, num_scored: int, offset: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns how often each of [J] is drawn, and the sum of the sizes."""
  total = sizes.sum()
  probabilities = jnp.where(total == 0, 1, sizes)
  return systematic_counts(probabilities, num_scored, offset), total


def _fits(flat: jax.Array, num_scored: int, always: bool) -> jax.Array:
  """Whether no draw is needed: all sizes are 0, or all sequences fit."""
  if always:
    return flat.any() == 0
  return (flat != 0).sum() <= num_scored
