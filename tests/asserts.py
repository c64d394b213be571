"""Assertions shared by tests, and by the broken twins they must reject."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from cot_latent.errors import UserError

EXACT = 1e-12


def assert_close(actual, expected, tolerance=EXACT):
  """Compares float64 arrays, or fails by AssertionError.

  Shapes and precision are the test's own business, so they raise ValueError:
  a broken twin must be rejected for its numbers, not for a typing slip.
  """
  actual, expected = np.asarray(actual), np.asarray(expected)
  if actual.shape != expected.shape:
    raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
  if actual.dtype != np.float64:
    raise ValueError(f"not computed in float64 but in {actual.dtype}")
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def assert_mean(probability, values, expected, tolerance=EXACT):
  """Checks an exact mean over [S] outcomes with values [S, ...]."""
  assert_close(probability.sum(), np.float64(1))
  mean = np.tensordot(probability, np.asarray(values), axes=1)
  assert_close(mean, expected, tolerance)


def assert_stochastic(matrix):
  """Checks that the rows of a transition matrix are distributions."""
  assert (np.asarray(matrix) >= 0).all()
  assert_close(matrix.sum(axis=-1), np.ones(matrix.shape[:-1]))


def assert_invariant(matrix, distribution):
  """Checks pi P = pi."""
  assert_close(distribution @ matrix, distribution)


def assert_reversible(matrix, distribution):
  """Checks detailed balance, pi_i P_ij = pi_j P_ji."""
  flow = distribution[:, None] * matrix
  assert_close(flow, flow.T)


def assert_trees_equal(actual, expected):
  """Checks structure, shapes, dtypes and every bit of two pytrees."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def message_of(function, *args, **settings):
  """Checks that a call is refused by a UserError of one line, and gives it."""
  with pytest.raises(UserError) as error:
    function(*args, **settings)
  text = str(error.value)
  assert type(error.value) is UserError
  assert len(text.splitlines()) == 1
  assert len(text) < 600
  return text


@contextlib.contextmanager
def faults() -> Iterator[Callable[..., None]]:
  """Gives a function that calls checks, whose faults are raised together."""
  found: list[Exception] = []

  def check(function, *arguments):
    try:
      function(*arguments)
    except Exception as error:
      found.append(error)

  yield check
  if found:
    raise ExceptionGroup("checks that failed", found)
