"""Random choices built on `Random.random` alone.

Only that method, seeded with a string, gives the same numbers in every version
of Python.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def below(rng: random.Random, n: int) -> int:
  """Draws an integer in [0, n)."""
  return int(rng.random() * n)


def choice(rng: random.Random, items: Sequence[T]) -> T:
  """Draws one of the items."""
  return items[int(rng.random() * len(items))]


def sample(rng: random.Random, items: Sequence[T], n: int) -> list[T]:
  """Draws n of the items in random order.

  No item is repeated before all have been drawn.
  """
  drawn: list[T] = []
  left: list[T] = []
  while len(drawn) < n:
    if not left:
      left = list(items)
    # The last item takes the place of the drawn item.
    place = int(rng.random() * len(left))
    left[place], left[-1] = left[-1], left[place]
    drawn.append(left.pop())
  return drawn


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
  """Draws all items in random order."""
  return sample(rng, items, len(items))
