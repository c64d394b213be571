"""FLOPs of the products in a traced function, on all devices together.

XLA's own count takes a loop's body once, however often it runs.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple


class Flops(NamedTuple):
  """FLOPs, a multiplication and an addition being two.

  Attributes:
    outside: FLOPs outside the decoding loop.
    inside: FLOPs of one iteration of the decoding loop.
  """

  outside: float = 0.0
  inside: float = 0.0


def count(jaxpr: Any) -> Flops:
  """Counts the FLOPs of a function's products.

  Loops with a fixed number of iterations count as often as they run; a loop
  with a condition (`while`) is the decoding loop. A kernel counts as if it
  skipped no block, and those of causal attention skip up to half of theirs.

  Args:
    jaxpr: The traced function.
  """
  outside = inside = 0.0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    name = equation.primitive.name
    if name == "dot_general":
      outside += _of_product(equation)
      continue
    parts = [count(part) for part in _jaxprs(equation.params.values())]
    if name == "cond":
      parts = [max(parts, key=sum)]
    times = _times(equation)
    for part in parts:
      if name == "while":
        inside += part.outside
      else:
        outside += times * part.outside
      inside += times * part.inside
  return Flops(outside, inside)


def _times(equation: Any) -> int:
  """How often the parts of an equation run, on all devices together."""
  params = equation.params
  match equation.primitive.name:
    case "scan":
      return params["length"]
    case "shard_map":  # its part is what one device does
      return params["mesh"].size
    case "pallas_call":
      return math.prod(params["grid_mapping"].grid)
  return 1


def _of_product(equation: Any) -> float:
  (contracted, _), _ = equation.params["dimension_numbers"]
  one, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  return 2.0 * math.prod(result) * math.prod(one[axis] for axis in contracted)


def _jaxprs(values: Any) -> Iterator[Any]:
  for value in values:
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
      yield value
    elif isinstance(value, list | tuple):
      yield from _jaxprs(value)
