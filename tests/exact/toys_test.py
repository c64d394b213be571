"""The toy obeys the identities that the other exact tests rest on."""

import numpy as np
import pytest

from tests import toys
from tests.asserts import assert_close

TOYS = [
  dict(vocabulary=3, length=2),
  dict(vocabulary=2, length=3),
  dict(vocabulary=3, length=2, lean=4.0),
]


@pytest.mark.parametrize("kwargs", TOYS)
def test_lists_every_sequence_once(kwargs):
  toy = toys.make_toy(**kwargs)
  assert len(toy.sequences) == kwargs["vocabulary"] ** kwargs["length"]
  found = toys.index_of(toy, toy.sequences)
  np.testing.assert_array_equal(found, np.arange(len(toy.sequences)))


@pytest.mark.parametrize("kwargs", TOYS)
def test_is_a_distribution_with_zero_mean_score(kwargs):
  toy = toys.make_toy(**kwargs)
  p = toys.prior(toy)
  assert_close(p.sum(axis=1), np.ones(len(p)))
  mean = np.einsum("xz,xzd->xd", p, toys.scores(toy))
  assert_close(mean, np.zeros_like(mean))


@pytest.mark.parametrize("kwargs", TOYS)
def test_posterior_mean_of_the_score_is_the_gradient(kwargs):
  # Phan et al. 2023, eq. 2.
  toy = toys.make_toy(**kwargs)
  mean = np.einsum("xz,xzd->xd", toys.posterior(toy), toys.scores(toy))
  for question, expected in enumerate(mean):
    assert_close(toys.gradient(toy, [question]), expected)


def test_lean_takes_the_accuracy_to_one():
  incorrect = [1 - toys.accuracy(toys.make_toy(lean=lean)) for lean in range(8)]
  assert (np.diff(incorrect, axis=0) < 0).all()
  # A last token's odds of being incorrect shrink by e for each unit of lean.
  assert (incorrect[-1] < incorrect[0] / (1 - incorrect[0]) * np.exp(-6)).all()


def test_questions_differ():
  toy = toys.make_toy()
  assert len(np.unique(toys.accuracy(toy))) == len(toy.is_correct)
