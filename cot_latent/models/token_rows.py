"""Token rows on the host: shared prefixes split off, padding trimmed.

Lengths are rounded up to a few sizes, each of which is compiled once.

Symbols: N or S rows, P prompt tokens, P' prefix tokens, T target tokens.
"""

import numpy as np

from cot_latent.models.api import PAD_ID, Array
from cot_latent.models.stops import Ending

# The prefix's length is a multiple of the first number. A prefix shorter than
# the second number is not worth splitting off.
_PREFIX_STEP, _SHORTEST_PREFIX = 8, 32
NO_PREFIX = np.zeros(0, np.int32)


def split_prefix(prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Splits off the prefix that all prompts share, to be computed once.

  Args:
    prompts: Tokens [N, P] int32, padded on the left.

  Returns:
    The prefix [P'] int32, whose length is 0 or a multiple of 8, so that there
    are few sizes to compile; and the rest [N, P - P'], in which no row is
    empty.
  """
  lengths = (np.cumsum(prompts != PAD_ID, axis=1) > 0).sum(axis=1)
  longest = prompts.shape[1]
  limit = int(lengths.min(initial=longest)) - 1
  size = 0
  if len(prompts) > 1 and limit >= _SHORTEST_PREFIX:
    columns = longest - lengths[:, None] + np.arange(limit)
    begins = np.take_along_axis(prompts, columns, axis=1)
    is_same = (begins == begins[0]).all(axis=0)
    common = limit if is_same.all() else int(is_same.argmin())
    size = common // _PREFIX_STEP * _PREFIX_STEP
    # The rest of a row must not begin like padding.
    rows, first = np.arange(len(prompts)), longest - lengths
    while size and (prompts[rows, first + size] == PAD_ID).any():
      size -= _PREFIX_STEP
  if size < _SHORTEST_PREFIX:
    return NO_PREFIX, prompts
  prefix = begins[0, :size]
  # The rows' ends stay in place, and padding replaces the prefix.
  place = np.arange(longest) < (longest - lengths + size)[:, None]
  return prefix, np.where(place, PAD_ID, prompts)[:, size:]


def compact_prompts(prompts: Array) -> tuple[np.ndarray, np.ndarray]:
  """Splits off the prefix, and trims the padding that all rows have.

  Args:
    prompts: Tokens [N, P] int32, padded on the left.

  Returns:
    The prefix [P'] int32, and the rest [N, W], where W is one of few widths.
  """
  prefix, prompts = split_prefix(np.asarray(prompts))
  is_used = (prompts != PAD_ID).any(axis=0)
  longest = int(is_used[::-1].nonzero()[0].max(initial=0))
  width = min(prompts.shape[1], width_of(longest + 1))
  return prefix, prompts[:, prompts.shape[1] - width :]


def trim_targets(targets: np.ndarray, ending: Ending) -> np.ndarray:
  """Trims what follows the last end of a row, to one of few widths.

  A row without an end was cut by the length limit. All of it was drawn, zeros
  at its end included, so none of it is trimmed.

  Args:
    targets: Tokens [S, T] int32.
    ending: What ends a row.

  Returns:
    The tokens [S, W], W being at most T.
  """
  lengths, _ = ending.lengths(targets)
  return targets[:, : width_of(int(lengths.max(initial=1)))]


def width_of(length: int) -> int:
  """Rounds up to one of 16, 24, 32, 48, 64, 96, ...: few to compile for."""
  size = 16
  while size < length:
    size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size
