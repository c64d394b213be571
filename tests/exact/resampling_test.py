"""Subsampling integrated exactly over its one random number, the offset."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators, resampling, transition
from tests.asserts import assert_close
from tests.exact.offsets import check_mean, compiled

NUM_SCORED = [1, 2, 3, 5, 6]


def signed(*values):
  """[5, 2] like all weights here, so that each sampler compiles once."""
  return np.array([*values, *[0] * (10 - len(values))], float).reshape(5, 2)


def random_weights(seed):
  """Signed weights of which a third is zero."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(5, 2)) * (rng.uniform(size=(5, 2)) > 1 / 3)


WEIGHTS = [
  *map(random_weights, range(4)),
  signed(0.5, 0, 1, -1, 0.5, 0) / 3,  # the paper's form
  signed(0, 0, 0, 1, 0, 0),  # one item
  signed(0, 0.1, -0.1, 0.1, 0.1, 0),  # shares whose sums round
  signed(-1, 1e-9, 1, 0, 1e-9, 0),  # shares next to nothing
  np.full((5, 2), 0.25),  # points that all meet ends at once
]


def subsample_always(weights, num_scored, offset):
  return resampling.subsample(weights, num_scored, offset, always=True)


# Both ways to subsample.
SUBSAMPLERS = [resampling.subsample, subsample_always]


def subsample_by_softmax(weights, num_scored, offset):
  """Draws in proportion to exp(|w|), as the authors' notebook does."""
  flat = weights.ravel()
  p = jax.nn.softmax(jnp.abs(flat))
  counts = resampling.systematic_counts(p, num_scored, offset)
  drawn = jnp.sign(flat) * counts * jnp.abs(flat).sum() / num_scored
  return drawn.reshape(weights.shape)


def subsample_unsigned(weights, num_scored, offset):
  return jnp.abs(subsample_always(weights, num_scored, offset))


def subsample_unscaled(weights, num_scored, offset):
  """Leaves W out."""
  drawn = subsample_always(weights, num_scored, offset)
  return drawn / jnp.abs(weights).sum()


@pytest.mark.parametrize("num_draws", NUM_SCORED)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_counts_have_the_right_mean(weights, num_draws):
  p = np.abs(weights).ravel() / np.abs(weights).sum()
  counts = resampling.systematic_counts
  check_mean(counts, p, num_draws, num_draws * p, p)
  # The same without normalising first.
  check_mean(counts, 7 * p, num_draws, num_draws * p, p)


@pytest.mark.parametrize("subsample", SUBSAMPLERS)
@pytest.mark.parametrize("num_scored", NUM_SCORED)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_subsample_is_unbiased(weights, num_scored, subsample):
  size = np.abs(weights).ravel()
  check_mean(subsample, weights, num_scored, weights, size)


@pytest.mark.parametrize("num_scored", NUM_SCORED)
@pytest.mark.parametrize(
  ("broken", "probabilities"),
  [
    (subsample_by_softmax, lambda w: np.exp(np.abs(w))),
    (subsample_unsigned, np.abs),
    (subsample_unscaled, np.abs),
  ],
)
def test_biased_twins_are_rejected(broken, probabilities, num_scored):
  weights = random_weights(0)
  p = probabilities(weights.ravel())
  # Drawing by p is integrated exactly too: it is the mean that is wrong.
  counts = resampling.systematic_counts
  check_mean(counts, p, num_scored, num_scored * p / p.sum(), p)
  with pytest.raises(AssertionError):
    check_mean(broken, weights, num_scored, weights, p)


@jax.jit
def control_variate_weights(old_is_correct, draw_is_correct):
  tokens = jnp.zeros((len(old_is_correct), 1), jnp.int32)
  taken = transition.independence(
    tokens, old_is_correct, tokens[:, None], draw_is_correct[:, None]
  )
  weights = estimators.control_variate()(taken)
  return estimators.merge_accepted(taken, weights)


@pytest.mark.parametrize("subsample", SUBSAMPLERS)
@pytest.mark.parametrize("num_scored", NUM_SCORED)
def test_unbiased_on_the_control_variate(num_scored, subsample):
  """The weights that TRICE really subsamples, for every pattern."""
  for pattern in itertools.product([False, True], repeat=6):
    weights = control_variate_weights(*np.array(pattern).reshape(2, 3))
    size = np.abs(weights).ravel()
    p = size if size.any() else np.ones_like(size)
    check_mean(subsample, weights, num_scored, weights, p)


# What holds for every single offset.


def all_counts(sampler, probabilities, num_draws, at):
  """[U, J] for U offsets."""
  return np.asarray(compiled(sampler, num_draws)(probabilities, at))


def offsets(dtype):
  """A grid with both ends, and the numbers next to 0 and 1."""
  grid = np.linspace(0, 1, 64, endpoint=False, dtype=dtype)
  ends = [np.nextafter(dtype(1), dtype(0)), np.nextafter(dtype(0), dtype(1))]
  # The largest number that jax.random.uniform draws in float32.
  return np.append(grid, [*ends, dtype(1 - 2**-23)]).astype(dtype)


# Long enough for XLA to add prefixes up in parallel, where they round unalike.
NUM_ITEMS = 512


def awkward(dtype):
  """Shares with zeros at the ends, tiny items and sums that round."""
  rng = np.random.default_rng(1)
  for _ in range(20):
    p = rng.uniform(size=NUM_ITEMS) ** 8
    p *= rng.uniform(size=NUM_ITEMS) > 1 / 2
    p[[0, 1, -2, -1]] = 0
    p[20] = 1e-12
    yield p.astype(dtype)
  for few in [[0, 0.1, 0.1, 0, 0.1] * 8, [0, 0, 1], [1e-30, 1, 0, 1e-30]]:
    yield np.array(few + [0] * (NUM_ITEMS - len(few)), dtype)


def check_every_offset(sampler, num_draws, dtype):
  """Checks that L draws are made, and none of an item without a share."""
  for p in awkward(dtype):
    # Points that meet the ends of shares, as rounded as the ends are.
    ends = np.asarray(jnp.cumsum(p))
    at = np.append(offsets(dtype), num_draws * (ends / ends[-1]) % 1)
    counts = all_counts(sampler, p, num_draws, at.astype(dtype))
    assert (counts >= 0).all()
    assert (counts.sum(axis=1) == num_draws).all()
    assert (counts[:, p == 0] == 0).all()


def check_nearest(sampler, num_draws):
  """Checks that each count is floor(L p) or ceil(L p)."""
  inside = np.linspace(0, 1, 65)[1:-1]
  for p in awkward(np.float64):
    counts = all_counts(sampler, p, num_draws, inside)
    exact = num_draws * p / p.sum()
    # Rounding may put a whole L p on either side of itself, but not zero.
    slack = np.where(exact > 1 / 2, 1e-9, 0)
    assert (counts >= np.floor(exact - slack)).all()
    assert (counts <= np.ceil(exact + slack)).all()


def unguarded_counts(probabilities, num_draws, offset):
  """The textbook formula, which trusts its rounding."""
  upper = jnp.cumsum(probabilities) / probabilities.sum()
  below = jnp.ceil(num_draws * upper - offset).astype(jnp.int32)
  return jnp.diff(below, prepend=0)


def rest_to_the_first(probabilities, num_draws, offset):
  """Rounds down, and gives what is left to the first item."""
  del offset
  counts = jnp.floor(num_draws * probabilities / probabilities.sum())
  return counts.at[0].add(num_draws - counts.sum()).astype(jnp.int32)


@pytest.mark.parametrize("num_draws", [*NUM_SCORED, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_at_every_offset(dtype, num_draws):
  check_every_offset(resampling.systematic_counts, num_draws, dtype)
  with pytest.raises(AssertionError):
    check_every_offset(unguarded_counts, num_draws, dtype)


@pytest.mark.parametrize("num_draws", [*NUM_SCORED, 64])
def test_counts_are_the_two_nearest_whole_numbers(num_draws):
  check_nearest(resampling.systematic_counts, num_draws)
  with pytest.raises(AssertionError):
    check_nearest(rest_to_the_first, num_draws)


def slow_counts(probabilities, num_draws, offset):
  """Looks for each point's item in turn."""
  counts = [0] * len(probabilities)
  for draw in range(num_draws):
    point = (draw + offset) / num_draws
    above = 0.0
    for item, p in enumerate(probabilities):
      above += p
      if p > 0 and point < above:
        counts[item] += 1
        break
  return counts


@pytest.mark.parametrize("num_draws", NUM_SCORED)
def test_counts_equal_plain_loops(num_draws):
  # Sixteenths add up without rounding, and no offset meets an end.
  rng = np.random.default_rng(2)
  inside = np.array([0.01, 0.37, 0.99])
  for _ in range(20):
    p = rng.multinomial(16, np.full(7, 1 / 7)) / 16
    counts = all_counts(resampling.systematic_counts, p, num_draws, inside)
    assert counts.dtype == np.int32
    expected = [slow_counts(p, num_draws, u) for u in inside]
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("subsample", SUBSAMPLERS)
@pytest.mark.parametrize("num_scored", NUM_SCORED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_more_than_allowed_are_scored(dtype, num_scored, subsample):
  for weights in WEIGHTS:
    weights = weights.astype(dtype)
    drawn = compiled(subsample, num_scored)(weights, offsets(dtype))
    assert drawn.dtype == dtype
    assert drawn.shape[1:] == weights.shape
    kept = np.asarray(drawn) != 0
    assert (kept.sum(axis=(1, 2)) >= 1).all()
    assert (kept.sum(axis=(1, 2)) <= num_scored).all()
    assert not kept[:, weights == 0].any()


@pytest.mark.parametrize("subsample", SUBSAMPLERS)
@pytest.mark.parametrize("num_scored", NUM_SCORED)
def test_nothing_to_draw_from_stays_zero(num_scored, subsample):
  drawn = subsample(np.zeros((3, 2)), num_scored, 0.5)
  np.testing.assert_array_equal(drawn, np.zeros((3, 2)))


def test_scores_all_where_all_fit():
  weights = signed(0.5, 0, 1, -1, 0.25, 0)
  kept = resampling.subsample(weights, 4, 0.3)
  np.testing.assert_array_equal(kept, weights)
  # The paper still resamples, and so does a smaller budget.
  assert (resampling.subsample(weights, 4, 0.3, always=True) != weights).any()
  assert (resampling.subsample(weights, 3, 0.3) != weights).any()


@pytest.mark.parametrize("num_scored", NUM_SCORED)
def test_total_size_is_kept(num_scored):
  # At every offset, not on average: the counts add up to L.
  for weights in WEIGHTS:
    at = offsets(np.float64)
    drawn = compiled(subsample_always, num_scored)(weights, at)
    total = np.full(len(at), np.abs(weights).sum())
    assert_close(np.abs(drawn).sum(axis=(1, 2)), total)
