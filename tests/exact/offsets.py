"""A sampler's exact mean over its one random number, the offset.

Counts change only where a point (l + u) / L meets the end of an item's share,
so the mean over u is a finite sum: one evaluation inside each piece of [0, 1),
weighted by its length.
"""

import functools

import jax
import numpy as np

from tests.asserts import EXACT, assert_mean


def pieces(probabilities, num_draws):
  """Cuts [0, 1) where the counts change: starts and lengths of the pieces."""
  ends = np.cumsum(probabilities, dtype=float) / np.sum(probabilities)
  cuts = np.sort([0.0, *(num_draws * ends % 1)])
  return cuts, np.diff(cuts, append=1.0)


@functools.cache
def compiled(sampler, num_draws):
  """Compiles sampler(weights, L, offset) for many offsets at once."""

  def sample(weights, offset):
    return sampler(weights, num_draws, offset)

  return jax.jit(jax.vmap(sample, in_axes=(None, 0)))


def check_mean(sampler, weights, num_draws, expected, probabilities):
  """Checks the sampler's exact mean over a uniform offset.

  Args:
    sampler: Maps weights, L and an offset to an array.
    weights: What it is given.
    num_draws: L.
    expected: The mean.
    probabilities: What the sampler draws by, for the ends of the pieces.
  """
  start, share = pieces(probabilities, num_draws)
  # Two places in each piece: it must be one, or the sum is no integral.
  early, late = (
    np.asarray(compiled(sampler, num_draws)(weights, start + place * share))
    for place in [1 / 4, 3 / 4]
  )
  wide = share > EXACT
  np.testing.assert_array_equal(early[wide], late[wide])
  assert_mean(share, early, expected)
