"""Parts of splits, in the notation of TensorFlow Datasets.

`train[:500]`, `test[10%:20%]` and `train[-50:]` are slices of a split in keyed
order: a pseudo-random order of its ids that depends on the ids alone. So a
slice is a fair sample, whatever the order of the files; slices that do not
overlap have no question in common; and `train[:500]` begins with the questions
of `train[:100]`.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from cot_latent.errors import UserError

_BOUND = r"-?\d+(?:\.\d+)?%|-?\d{1,18}|"
_SUBSET = re.compile(rf"([\w-]+)\[({_BOUND}):({_BOUND})\]", re.ASCII)
_NAME = re.compile(r"[^\[\]:%]+")
_EXAMPLES = "'train', 'train[:500]', 'train[10%:20%]' or 'train[-50:]'"


class Subset(NamedTuple):
  """A split, or a slice of one.

  Attributes:
    split: The split's name.
    start: First place in keyed order, or percent; None is the beginning.
    stop: Place after the last, or percent; None is the end.
    is_percent: Whether start and stop are percent of the split's size.
  """

  split: str
  start: float | None = None
  stop: float | None = None
  is_percent: bool = False

  @property
  def is_whole(self) -> bool:
    """Whether this is the whole split."""
    return self.start is None and self.stop is None

  def places(self, size: int) -> tuple[int, int]:
    """Returns the slice in places, as TensorFlow Datasets counts them.

    Args:
      size: Questions in the split.

    Returns:
      The first place and the place after the last.

    Raises:
      UserError: If the split has no such places, or if the slice is empty.

    >>> parse("train[10%:20%]").places(151)
    (15, 30)
    >>> parse("train[-50:]").places(151)
    (101, 151)
    """
    found = []
    for bound, default in ((self.start, 0), (self.stop, size)):
      if bound is None:
        place = default
      elif self.is_percent:
        place = round(bound * size / 100)
      else:
        place = int(bound)
      if abs(place) > size:
        raise UserError(f"it has only {size:,} examples")
      found.append(place + size if place < 0 else place)
    start, stop = found
    if start >= stop:
      raise UserError(f"it contains none of the {size:,} examples")
    return start, stop


def parse(text: str) -> Subset:
  """Reads the name of a split, or of a slice of one.

  Args:
    text: Name such as `test` or `test[:100]`.

  Raises:
    UserError: If it is neither.
  """
  if _NAME.fullmatch(text):
    return Subset(text)
  found = _SUBSET.fullmatch(text)
  bounds = [bound for bound in found.groups()[1:] if bound] if found else []
  kinds = {bound.endswith("%") for bound in bounds}
  if found is None or len(kinds) != 1:
    raise UserError(
      f"split {text!r} cannot be read: write {_EXAMPLES}, with both ends in "
      "questions or both in percent"
    )
  (is_percent,) = kinds
  if is_percent and any(abs(float(b[:-1])) > 100 for b in bounds):
    raise UserError(f"split {text!r}: percents are between -100% and 100%")
  start, stop = (_number(bound) for bound in found.groups()[1:])
  return Subset(found[1], start, stop, is_percent)


def _number(bound: str) -> float | None:
  """Reads a bound: percent, questions, or none."""
  if not bound:
    return None
  return float(bound[:-1]) if bound.endswith("%") else int(bound)


def select(ids: Sequence[str], start: int, stop: int) -> list[int]:
  """Finds a slice of ids in keyed order, the order of their sha256.

  Args:
    ids: N different strings.
    start: First place in keyed order.
    stop: Place after the last.

  Returns:
    Indices into `ids`, increasing.
  """
  keyed = sorted(
    range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest()
  )
  return sorted(keyed[start:stop])


def file_name(split: str) -> str:
  """Writes a split as part of a file name that any file system accepts.

  >>> file_name("test"), file_name("test[:100]"), file_name("test[10%:-5%]")
  ('test', 'test-0_to_100', 'test-10pct_to_-5pct')
  """
  subset = parse(split)
  if subset.is_whole:
    return split
  bounds = split.removeprefix(subset.split)[1:-1].replace("%", "pct")
  start, _, stop = bounds.partition(":")
  return f"{subset.split}-{start or 0}_to_{stop or 'end'}"
