"""What a SeqIO task has beyond its splits: `validation`, and slices of splits.

T5X's own runs evaluate on a split `validation`, which these tasks do not have.
It is a part of `train`, so that `test` stays unseen until the end. Whoever
wants to train on the other part alone gives the slice `REST` as the split.

Slices are in keyed order, as in `cot_latent.data.subsets`.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from cot_latent.data import subsets

VALIDATION, TRAIN = "validation", "train"
PART, REST = "train[-10%:]", "train[:-10%]"


class SlicedSource(seqio.DataSource):
  """A source with `validation`, and with slices of its splits.

  A slice is not among its splits, so that nobody caches it: SeqIO takes it
  where a task's split is named, but not in a mixture.
  """

  def __init__(self, source: seqio.DataSource):
    """Reads nothing yet.

    Args:
      source: Rows with `id`. If it has a `validation` of its own, or no
        `train`, none is added.
    """
    has_part = TRAIN in source.splits and VALIDATION not in source.splits
    super().__init__([*source.splits, *([VALIDATION] if has_part else [])])
    self._source, self._has_part = source, has_part

  def __str__(self) -> str:
    """Names the source, in SeqIO's messages."""
    return f"{type(self).__name__}({self._source})"

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Whether SeqIO may read any part of it; not of a slice."""
    return False

  def list_shards(self, split: str) -> list[str]:
    """Names the parts in which a split is stored; a slice is one."""
    subset = self._subset(split)
    if not subset.is_whole:
      return [split]
    return list(self._source.list_shards(split))

  def num_input_examples(self, split: str) -> int | None:
    """Counts the rows of a split; None if the source does not know."""
    subset = self._subset(split)
    size = self._source.num_input_examples(subset.split)
    if subset.is_whole or size is None:
      return size
    start, stop = subset.places(size)
    return stop - start

  def get_dataset(
    self,
    split: str = TRAIN,
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **settings: Any,
  ) -> tf.data.Dataset:
    """Reads a split, or a slice of one; see `seqio.DataSource`.

    Raises:
      UserError: If there is no such slice.
    """
    subset = self._subset(split)
    if subset.is_whole:
      return self._source.get_dataset(
        split, shuffle=shuffle, seed=seed, shard_info=shard_info, **settings
      )
    whole = self._source.get_dataset(subset.split, shuffle=False)
    rows = list(whole.as_numpy_iterator())
    ids = [row["id"].decode() for row in rows]
    chosen = subsets.select(ids, *subset.places(len(rows)))
    return tf.data.Dataset.from_tensor_slices(
      _columns([rows[place] for place in chosen])
    )

  def _subset(self, split: str) -> subsets.Subset:
    is_part = self._has_part and split == VALIDATION
    return subsets.parse(PART if is_part else split)


def _columns(rows: list[Mapping[str, bytes]]) -> dict[str, tf.Tensor]:
  return {
    name: tf.constant([row[name] for row in rows], tf.string)
    for name in rows[0]
  }
