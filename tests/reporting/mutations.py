"""Changes of a file that is correct: in what it says, or in its bytes."""

import copy
import json
import random
from typing import Any

import numpy as np

# What a value may turn into.
ODD: list[Any] = [
  *(None, True, False, 0, 1, -1, 2, 10**6, 2**53, 2**63, 10**30, 10**400),
  *(0.5, 1.0, -0.0, 1e30, 1e308, -1e308, 5e-324),
  *("", " ", "a", "0", "last", "\x00", "a\x00b", "../x", "/", ".", "\ud800"),
  *("\x1b]0;x\x07\r", "\u202e", "a\nb", "=1+1", "é" * 300, "{}", "%s{0}"),
  *([], [[]], [None], [1, 2], {}, {"": None}, {"a": {"b": []}}, [{}]),
]
ODD_BYTES = (
  *(b"\x00", b"\xff", b'"', b"\n", b"\x1b[", b"[" * 3000),
  *(b"1e999", b"NaN", b"9" * 30),
)
ODD_ARRAYS = (
  *(np.array(3), np.array([], "<i4"), np.array([-1, 2**31 - 1], "<i4")),
  *(
    np.ones((2, 2)),
    np.array([np.nan]),
    np.array(["a", "\x1b"]),
    np.array("a"),
  ),
  np.array([255] * 9, np.uint8),
)


def places(tree: Any) -> list[tuple[Any, Any]]:
  """Lists (container, key) of everything in a tree."""
  found = []
  keys = (
    tree.keys()
    if isinstance(tree, dict)
    else range(len(tree))
    if isinstance(tree, list)
    else ()
  )
  for key in keys:
    found += [(tree, key), *places(tree[key])]
  return found


def mutated_tree(rng: random.Random, tree: Any) -> Any:
  """Changes one place of a tree, or a few."""
  tree = copy.deepcopy(tree)
  for _ in range(rng.choice((1, 1, 1, 2, 4))):
    found = places(tree)
    if not found:
      break
    inside, key = rng.choice(found)
    action = rng.randrange(6)
    if action == 0:
      del inside[key]
    elif action == 1 and isinstance(inside, dict):
      inside[rng.choice(("", "new", "step", "\x1b[2J", "a.b"))] = inside[key]
    elif action == 2 and isinstance(inside, list):
      inside.insert(key, copy.deepcopy(inside[key]))
    elif action == 3:
      inside[key] = copy.deepcopy(rng.choice(found)[0])
    else:
      inside[key] = copy.deepcopy(rng.choice(ODD))
  return rng.choice(ODD) if rng.random() < 0.01 else tree


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
  """Changes, removes, doubles or adds a few bytes."""
  data = bytearray(content)
  for _ in range(rng.choice((1, 1, 2, 8))):
    at = rng.randrange(len(data) + 1)
    action = rng.randrange(5)
    if action == 0:
      data[at : at + 1] = bytes([rng.randrange(256)])
    elif action == 1:
      del data[at : at + rng.choice((1, 2, 50))]
    elif action == 2:
      data[at:at] = data[at : at + rng.choice((1, 20, 500))]
    elif action == 3:
      data[at:at] = rng.choice(ODD_BYTES)
    else:
      del data[at:]
  return bytes(data)


def to_json(tree: Any) -> str:
  """JSON of anything; of NaN and infinity as Python writes them."""
  return json.dumps(tree)
