"""Many rows through a few slots: who has which slot, on the host.

Symbols: N rows, B slots, P prompt tokens, T target tokens.
"""

from typing import Any, NamedTuple

import numpy as np

from cot_latent.models import pace, partitioning
from cot_latent.models.api import PAD_ID, Draws

# The number of slots shrinks by this factor when no more rows than that are
# left, if enough tokens remain to make up for one more compilation.
_SHRINK, _WORTH_SHRINKING = 4, 2**12


class Slots(NamedTuple):
  """How many rows are decoded at once.

  Attributes:
    size: Number of slots, B.
    few: How many rows are filled in at once, and to how many slots it shrinks;
      None where all rows are drawn as one batch.
    may_shrink: Whether slots may become fewer.
  """

  size: int
  few: int | None
  may_shrink: bool


def plan(
  layout: partitioning.Layout | None,
  total: int,
  num_slots: int | None,
  max_length: int,
) -> Slots:
  """Decides how many rows are decoded at once.

  Args:
    layout: Mesh and rules; None is one device.
    total: Number of rows N.
    num_slots: Largest number of rows to decode at once; None is all N.
    max_length: Length at which sampling stops, T.
  """
  size = partitioning.padded(layout, "batch", min(total, num_slots or total))
  is_worth = size * max_length >= _WORTH_SHRINKING
  if total <= size and not is_worth:
    return Slots(size, None, False)
  few = partitioning.padded(layout, "batch", max(1, size // _SHRINK))
  return Slots(size, few, is_worth)


class Queue:
  """The rows that wait or are in slots, and their draws; on the host.

  Attributes:
    owner: Number of the row in each slot, [B]; -1 is none.
    done: Draws [N, T] of the rows that are done.
  """

  def __init__(
    self,
    prompts: np.ndarray,
    key_data: np.ndarray,
    slots: Slots,
    layout: partitioning.Layout | None,
    max_length: int,
  ):
    """Puts the first rows into slots.

    Args:
      prompts: Tokens [N, P] int32.
      key_data: Data of the rows' random keys, [N, ...] uint32.
      slots: How many there are; not as one batch.
      layout: Mesh and rules; None is one device.
      max_length: Length at which sampling stops, T.
    """
    total, size = len(prompts), slots.size
    assert slots.few is not None
    self._prompts, self._key_data = prompts, key_data
    self._few, self._may_shrink = slots.few, slots.may_shrink
    self._layout = layout
    self._next = min(size, total)  # the first row that waits
    self.owner = np.where(np.arange(size) < total, np.arange(size), -1)
    shape = (total, max_length)
    self.done = Draws(
      np.full(shape, PAD_ID, np.int32),
      np.zeros(total, bool),
      np.zeros(shape, np.float32),
    )

  @property
  def num_waiting(self) -> int:
    """Rows that have had no slot yet."""
    return len(self._prompts) - self._next

  @property
  def num_decoding(self) -> int:
    """Rows that are in slots."""
    return int((self.owner >= 0).sum())

  @property
  def num_done(self) -> int:
    """Rows that are done."""
    return self._next - self.num_decoding

  def so_far(
    self, draws: Draws | None = None, is_done: np.ndarray | None = None
  ) -> tuple[int, int, int]:
    """Counts rows that are done, tokens, and rows that ended by themselves.

    Args:
      draws: Draws of the slots; None where no slot has a row.
      is_done: Whether the slots are done, [B] bool.
    """
    rows, (tokens, ended) = self.num_done, pace.count(self.done, slice(None))
    if draws is None or is_done is None:
      return rows, tokens, ended
    owned = self.owner >= 0
    more, more_ended = pace.count(draws, owned)
    rows += int((is_done & owned).sum())
    return rows, tokens + more, ended + more_ended

  @property
  def can_shrink(self) -> bool:
    """Whether there are more slots than few."""
    return self._may_shrink and len(self.owner) > self._few

  def enough(self) -> int:
    """How many slots must be done before anything else is worth while."""
    if self.num_waiting:
      return min(self._few, self.num_waiting)
    return len(self.owner) - (self._few if self.can_shrink else 0)

  def rows(self, start: int, number: int) -> tuple[Any, Any]:
    """Prompts and key data from a place on; after the end the last row's."""
    last = len(self._prompts) - 1
    rows = np.minimum(np.arange(start, start + number), last)
    return (
      partitioning.place_rows(self._layout, self._prompts[rows]),
      partitioning.place_rows(self._layout, self._key_data[rows]),
    )

  def put_away(self, draws: Draws, is_done: np.ndarray) -> None:
    """Takes the draws of slots [B] that are done, and frees them."""
    freed = is_done & (self.owner >= 0)
    for array, part in zip(self.done, draws, strict=True):
      array[self.owner[freed]] = np.asarray(part)[freed]
    self.owner[freed] = -1

  def refills(self, is_free: np.ndarray):
    """Gives free slots to waiting rows, so long as a whole filling has room.

    Args:
      is_free: [B] bool.

    Yields:
      The rows to fill in, and the slots [few] for them; those outside take
      nothing.
    """
    free = np.flatnonzero(is_free)
    while self.num_waiting and len(free) >= min(self._few, self.num_waiting):
      taken = min(self._few, self.num_waiting)
      where = np.full(self._few, len(self.owner), np.int32)
      where[:taken], free = free[:taken], free[taken:]
      rows = self.rows(self._next, self._few)
      self.owner[where[:taken]] = np.arange(self._next, self._next + taken)
      self._next += taken
      yield rows, where

  def shrink(self) -> np.ndarray:
    """Keeps few slots, those with rows first; returns their numbers [few]."""
    order = np.argsort(self.owner < 0, kind="stable")[: self._few]
    self.owner = self.owner[order]
    return order.astype(np.int32)
