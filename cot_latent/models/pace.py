"""When a decoding loop returns to the host, and what is drawn by then."""

import math
import time

import numpy as np

from cot_latent.models.api import PAD_ID, Draws
from cot_latent.runtime import processes

# About how many seconds of decoding pass until the host can act.
SECONDS = 1.0
_MOST = 2**16  # tokens


class Pace:
  """Decides how many tokens to decode until the host reports or interrupts.

  The draws do not depend on it.

  Attributes:
    tokens: Maximum tokens of one row that are decoded without a pause.
  """

  def __init__(self):
    """Begins with few tokens, so that a report comes soon."""
    self.tokens = 4
    self._is_alone = processes.count() == 1  # other processes' clocks differ
    self._reported = -math.inf

  def is_over(self, began: float) -> bool:
    """Notes how long decoding took, and returns whether to report.

    Args:
      began: Time at which it began, by `time.monotonic`.
    """
    now = time.monotonic()
    if self._is_alone and now - began < SECONDS:
      self.tokens = min(2 * self.tokens, _MOST)
    elif self._is_alone and now - began > 4 * SECONDS:
      self.tokens = max(1, self.tokens // 2)
    is_over = now - self._reported >= SECONDS / 4
    self._reported = now if is_over else self._reported
    return is_over


def count(draws: Draws, chosen: np.ndarray | slice) -> tuple[int, int]:
  """Counts tokens, and rows that ended by themselves.

  Args:
    draws: Draws of B rows.
    chosen: Rows that count, [B] bool or a slice.
  """
  tokens, ended = np.asarray(draws.tokens), np.asarray(draws.ended)
  return int((tokens[chosen] != PAD_ID).sum()), int(ended[chosen].sum())
