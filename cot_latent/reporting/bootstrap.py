"""Intervals by bootstrap: over questions, and over seeds and questions.

B replicates, S seeds, Q questions. The same random numbers are used each time,
of a generator whose stream NumPy promises to keep, so that equal reports give
equal intervals. The ends are percentiles, which have no width where all
questions came out alike.

Reference: Efron 1979; Owen 2007 for two crossed factors (the pigeonhole
bootstrap).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cot_latent.reporting import stats

NUM_REPLICATES = 4000
_ENDS = (0.025, 0.975)
_SEEDS_STREAM = 2**31  # apart from the streams of the strata


class Stratum(NamedTuple):
  """Questions that are resampled among themselves.

  Attributes:
    weight: What the mean over these questions counts in the whole value.
    values: [S, Q], one number for each seed and question. Each seed has the
      same questions in the same order.
  """

  weight: float
  values: np.ndarray


def over_questions(
  counts: Sequence[int], values: np.ndarray
) -> list[tuple[float, float]]:
  """Gives 95% intervals of means over questions that have few distinct values.

  Args:
    counts: How many questions have each of C values.
    values: The values [C, K], of K quantities.

  Returns:
    Lower and upper end for each of the K quantities, to 12 digits.

  Example, half of 100 questions correct:

    >>> over_questions([50, 50], np.array([[0.0], [1.0]]))
    [(0.4, 0.6)]
  """
  total = sum(counts)
  shares = np.asarray(counts) / total
  drawn = np.random.RandomState(0).multinomial(total, shares, NUM_REPLICATES)
  return _ends(drawn @ values / total)


def over_seeds_and_questions(
  strata: Sequence[Stratum],
) -> tuple[float, float]:
  """Gives the 95% interval of a mean over seeds with the same questions.

  Seeds and questions are both resampled. The results of all seeds for one
  question stay together, because their common questions do not average out over
  seeds. The bootstrap over few seeds understates their spread. So deviations
  between seeds are enlarged until, without the questions' error, the interval
  is about Student's. With one seed only questions are resampled.

  Args:
    strata: Parts of the questions, each with the same number of seeds.

  Returns:
    Lower and upper end, to 12 digits.
  """
  num_seeds = len(strata[0].values)
  by_seed = sum(
    stratum.weight * _resampled(stratum.values, place)
    for place, stratum in enumerate(strata)
  )
  chosen = _weights(num_seeds, _SEEDS_STREAM)
  (found,) = _ends((chosen * by_seed).sum(axis=1, keepdims=True))
  return found


def _resampled(values: np.ndarray, stream: int) -> np.ndarray:
  """[B, S] means over resampled questions, the same for all seeds."""
  num_seeds, num_questions = values.shape
  common = values.mean(axis=0)
  widened = common + _widening(num_seeds) * (values - common)
  return _weights(num_questions, stream) @ widened.T


def _widening(num_seeds: int) -> float:
  """Factor with which resampled seeds vary as Student's interval assumes."""
  if num_seeds == 1:
    return 1.0
  ratio = stats.t_quantile(num_seeds - 1) / stats.t_quantile(math.inf)
  return ratio * math.sqrt(num_seeds / (num_seeds - 1))


@functools.lru_cache(maxsize=64)
def _weights(num: int, stream: int) -> np.ndarray:
  """[B, num] shares that each of `num` things has in a resample of them."""
  generator = np.random.RandomState(stream)
  drawn = generator.multinomial(num, np.full(num, 1 / num), NUM_REPLICATES)
  return drawn / num


def _ends(means: np.ndarray) -> list[tuple[float, float]]:
  """The ends of B replicates [B, K] of K quantities."""
  low, high = np.quantile(means, _ENDS, axis=0)
  return [
    (stats.rounded(float(one)), stats.rounded(float(other)))
    for one, other in zip(low, high, strict=True)
  ]
