"""The interfaces of models for the rest of the package.

This file imports no network. Anything with a `sample` method is a `Sampler`
and can draw rationales; anything with a `log_prob` method is a `Scorer` and
can score them.

Symbols: B rows, P prompt tokens, T target tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

# Padding, as in SeqIO: before a prompt, and after the end of a target.
PAD_ID = 0

Params = Any  # a pytree of arrays
Array = np.ndarray | jax.Array


class Draws(NamedTuple):
  """Sampled continuations.

  Attributes:
    tokens: [B, T] int32, `PAD_ID` after the end.
    ended: [B] bool, False if the length limit cut the sequence.
    log_prob: [B, T] float32, nats at temperature 1, 0 after the end; None if
      the sampler does not know them.
  """

  tokens: Any
  ended: Any
  log_prob: Any = None


@runtime_checkable
class Sampler(Protocol):
  """Draws continuations of prompts.

  Example:

    class Echo:
      def sample(self, params, prompts, rng_keys, temperature=1.0, *,
                 num_slots=None, report_done=None):
        ended = np.ones(len(prompts), bool)
        return Draws(prompts, ended, np.zeros(prompts.shape, np.float32))
  """

  def sample(
    self,
    params: Params,
    prompts: Array,
    rng_keys: jax.Array,
    temperature: float = 1.0,
    *,
    num_slots: int | None = None,
    report_done: Callable[..., None] | None = None,
  ) -> Draws:
    """Draws one continuation of each prompt.

    The draws of a row depend on its prompt and key alone, not on the other
    rows.

    Args:
      params: Parameters of the model.
      prompts: Tokens [B, P] int32, padded on the left with `PAD_ID`.
      rng_keys: One random key for each row, [B].
      temperature: Divisor of the logits; 0 is greedy decoding.
      num_slots: Largest number of rows to decode at once; None is all B. A
        sampler that schedules its rows itself may ignore it.
      report_done: Called now and then with the number of finished rows. A
        sampler may add the number of tokens drawn, also for unfinished rows,
        and the number of rows that ended by themselves.

    Returns:
      Draws on the host, the same on every process.
    """


@runtime_checkable
class Scorer(Protocol):
  """Scores continuations of prompts."""

  def log_prob(
    self, params: Params, prompts: Array, targets: Array
  ) -> jax.Array:
    """Computes log-probabilities, at temperature 1.

    Args:
      params: Parameters of the model.
      prompts: Tokens [B, P] int32, padded on the left with `PAD_ID`.
      targets: Tokens [B, T] int32, up to and including the end; tokens after it
        do not count.

    Returns:
      [B, T] float32 nats, 0 after the end; differentiable in `params`.
    """
