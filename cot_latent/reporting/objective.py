"""The objective, log p(y|x), estimated from draws that are checked anyway.

A draw for a question is correct with probability pi = p(y|x). From s correct
draws of n follow, for k up to n,

  pass@k = 1 - C(n-s, k) / C(n, k),          of mean 1 - (1-pi)^k,
  L_n = -sum_{k<=n} C(n-s, k) / (k C(n, k)), of mean -sum_{k<=n} (1-pi)^k / k,

which is log pi with its series cut at order n. Both are means over questions
here, with intervals by bootstrap over questions.

Reference: Chen et al. 2021 for pass@k.
"""

import collections
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cot_latent.reporting import bootstrap, stats


def all_incorrect(num_draws: int) -> np.ndarray:
  """Estimates the probabilities that k draws are all incorrect, without bias.

  Args:
    num_draws: n, at least 1.

  Returns:
    [n + 1, n], C(n-s, k) / C(n, k) for s = 0..n correct draws and k = 1..n.

  Example, of two draws:

    >>> all_incorrect(2).tolist()
    [[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]]
  """
  incorrect = num_draws - np.arange(num_draws + 1)[:, None]
  before = np.arange(num_draws)
  return np.cumprod(
    np.maximum(incorrect - before, 0) / (num_draws - before), axis=1
  )


def pass_at(num_draws: int, k: int) -> np.ndarray:
  """Gives pass@k by the number of correct draws.

  Args:
    num_draws: n.
    k: From 1 to n.

  Returns:
    [n + 1], for s = 0..n correct draws.

  Example:

    >>> pass_at(2, 1).tolist()
    [0.0, 0.5, 1.0]
  """
  return 1 - all_incorrect(num_draws)[:, k - 1]


def log_likelihood(num_draws: int) -> np.ndarray:
  """Gives the log-likelihood, cut at order n, by the number of correct draws.

  Args:
    num_draws: n.

  Returns:
    [n + 1] nats, for s = 0..n correct draws.

  Example:

    >>> log_likelihood(2).tolist()
    [-1.5, -0.5, 0.0]
  """
  orders = np.arange(1, num_draws + 1)
  return 0 - (all_incorrect(num_draws) / orders).sum(axis=1)


def summarise(num_correct: Sequence[int], num_draws: int) -> dict[str, Any]:
  """Estimates both of a set of questions, as a report has them.

  Args:
    num_correct: Correct draws of each question.
    num_draws: n, the same for each.

  Returns:
    `log_likelihood`, in nats, and `pass_at`, by k for the powers of two and n;
    each with its value and its 95% interval.
  """
  number = collections.Counter(num_correct)
  counts = tuple(number[s] for s in range(num_draws + 1))
  first, *others = (
    {"value": value, "interval": [low, high]}
    for value, low, high in _estimates(counts)
  )
  return {
    "log_likelihood": first,
    "pass_at": dict(zip(map(str, _orders(num_draws)), others, strict=True)),
  }


@functools.lru_cache(maxsize=1024)  # a report is made again at each checkpoint
def _estimates(counts: tuple[int, ...]) -> list[tuple[float, float, float]]:
  """Values and ends of the log-likelihood and of pass@k.

  Args:
    counts: How many questions have s = 0..n correct draws.
  """
  num_draws = len(counts) - 1
  table = np.stack(
    [
      log_likelihood(num_draws),
      *(pass_at(num_draws, k) for k in _orders(num_draws)),
    ],
    axis=1,
  )
  means = np.asarray(counts) @ table / sum(counts)
  ends = bootstrap.over_questions(counts, table)
  return [
    (stats.rounded(float(mean)), low, high)
    for mean, (low, high) in zip(means, ends, strict=True)
  ]


def _orders(num_draws: int) -> list[int]:
  """The k of pass@k: powers of two below n, and n."""
  powers = [2**i for i in range(num_draws.bit_length())]
  return [k for k in powers if k < num_draws] + [num_draws]
