"""Limits of this machine, measured, and the amount of work of each workload.

Symbols: B rows, P' prefix tokens, P prompt tokens, T target tokens.
"""

import concurrent.futures
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_FLOAT = 4  # bytes


class Rates(NamedTuple):
  """Measured rates.

  Attributes:
    bandwidth: Bytes per second, for reading an array that no cache holds.
    large: Floating-point operations per second of a large matrix product.
    thin: The same for B rows times matrices of the model's size.
  """

  bandwidth: float
  large: float
  thin: float


class Work(NamedTuple):
  """The minimum of work.

  Attributes:
    read: Bytes of weights and cache.
    thin: Floating-point operations on B rows at a time.
    large: Floating-point operations on many rows at a time.
  """

  read: float = 0.0
  thin: float = 0.0
  large: float = 0.0


def seconds(work: Work, rates: Rates) -> dict[str, float]:
  """Returns the least time of the work, limited by memory and by arithmetic."""
  return {
    "memory": work.read / rates.bandwidth,
    "arithmetic": work.thin / rates.thin + work.large / rates.large,
  }


def of_one(work: Work, number: float) -> Work:
  """Divides work for a number of items into that of one item."""
  return Work(*(part / number for part in work))


class Machine:
  """Measures rates; its arrays are made once."""

  def __init__(self, num_rows: int = 32, scale: int = 1):
    """Makes the arrays.

    Args:
      num_rows: Number of rows B.
      scale: Divisor of the sizes.
    """
    self._array = np.ones(2**28 // scale, np.float32)  # 1 GiB
    self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    side = 3072 // scale
    self._square = jnp.ones((side, side))
    width, inner = 512 // scale, 1536 // scale
    self._rows = jnp.ones((num_rows, width))
    # Separate arrays, as many as a model has weights.
    self._weights = [
      jnp.full(shape, 1 / shape[0])
      for shape in [(width, inner), (inner, width)] * 16
    ]
    self._product = jax.jit(jnp.matmul)
    self._thin = jax.jit(_chain)

  def measure(self) -> Rates:
    """Measures once; the first call compiles."""
    parts = np.array_split(self._array, os.cpu_count() or 1)
    reading = _time(lambda: list(self._pool.map(np.max, parts)))
    product = _time(lambda: self._product(self._square, self._square))
    thin = _time(lambda: self._thin(self._rows, self._weights))
    return Rates(
      self._array.nbytes / reading,
      2 * self._square.shape[0] ** 3 / product,
      2 * len(self._rows) * sum(w.size for w in self._weights) / thin,
    )


def _chain(x, weights):
  for weight in weights:
    x = x @ weight
  return x


def _time(run: Callable[[], Any], repeats: int = 3) -> float:
  taken = []
  for _ in range(repeats + 1):  # the first run compiles
    began = time.perf_counter()
    jax.block_until_ready(run())
    taken.append(time.perf_counter() - began)
  return min(taken[1:])


def decoder_weights(config: Any, vocab_size: int) -> int:
  """Counts the weights by which a decoder multiplies each row."""
  attention = config.embed_dim * config.head_dim
  attention *= 2 * config.num_heads + 2 * config.kv_heads
  mlp = 3 * config.embed_dim * config.mlp_dim
  return config.num_layers * (attention + mlp) + config.embed_dim * vocab_size


def few_shot_sampling(
  config: Any,
  vocab_size: int,
  prefix: int,
  prompt: int,
  lengths: np.ndarray,
  num_slots: int,
) -> Work:
  """Returns the work of sampling with one prefix, with every slot in use.

  Args:
    config: A DecoderConfig.
    vocab_size: Vocabulary size V.
    prefix: Prefix length P'.
    prompt: Prompt length P.
    lengths: [N], lengths of the drawn rationales.
    num_slots: Rows decoded at once.
  """
  weights = decoder_weights(config, vocab_size)
  column = 2 * config.num_layers * config.kv_heads * config.head_dim
  num_tokens = lengths.sum()
  steps = num_tokens / num_slots
  # Per row: the prompt at each of its steps, and the tokens drawn so far.
  own = (lengths * prompt + lengths * (lengths + 1) / 2).sum()
  read = _FLOAT * (steps * (weights + prefix * column) + own * column)
  group = config.num_heads // config.kv_heads
  attention = 2 * group * column * (prefix * num_tokens + own)
  start = len(lengths) * prompt + prefix
  return Work(
    read=read,
    thin=2 * weights * num_tokens + attention,
    large=2 * weights * start,
  )


def gradient(
  config: Any, vocab_size: int, prefix: int, prompt: int, target: int, rows: int
) -> Work:
  """Returns the work of a gradient: three products per weight."""
  own = prompt + target - 1
  body = decoder_weights(config, 0) * (prefix + rows * own)
  head = config.embed_dim * vocab_size * rows * target
  width = config.num_layers * config.num_heads * config.head_dim
  pairs = prefix**2 / 2 + rows * (own * prefix + own**2 / 2)
  return Work(large=3 * (2 * body + 2 * head + 4 * width * pairs))


def plain_sampling(
  config: Any, vocab_size: int, rows: int, prompt: int, target: int
) -> Work:
  """Returns the work of an encoder-decoder's decoding steps.

  The first token comes with the encoder; the other T - 1 are counted.
  """
  square = config.embed_dim * config.num_heads * config.head_dim
  layer = 6 * square + 3 * config.embed_dim * config.mlp_dim
  weights = config.num_decoder_layers * layer + config.embed_dim * vocab_size
  column = 2 * config.num_decoder_layers * config.num_heads * config.head_dim
  steps = target - 1
  columns = rows * (steps * prompt + steps * (target + 2) / 2)
  return Work(
    read=_FLOAT * (steps * weights + columns * column),
    thin=2 * rows * steps * weights + 2 * columns * column,
  )
