"""One function compiled for described devices, and what XLA says of it."""

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cot_latent.models import partitioning
from cot_latent.planning import flops, hlo

_FULL = re.compile(r"(?:Used |\()([\d.]+)([KMGT])(?: of |\) exceeds)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Counts that are differences of layers, when fewer layers were compiled.
_COUNTS = (
  *("arguments", "outputs", "aliased", "temporaries", "code"),
  *("flops", "flops_per_token", "xla_flops"),
)


class Program(NamedTuple):
  """A compiled function; bytes are those on one device.

  Attributes:
    name: Part of the run, and function.
    arguments: Bytes of its arguments.
    outputs: Bytes of its results.
    aliased: Bytes of results that reuse the memory of arguments.
    temporaries: Bytes of its temporary arrays.
    code: Bytes of its own code.
    flops: FLOPs of products on all devices, outside the decoding loop.
    flops_per_token: FLOPs of products on all devices, in one iteration of the
      decoding loop.
    xla_flops: XLA's count on one device, which takes each loop's body once.
    collectives: By place ("outside", "per_token") and kind: number, bytes and
      bytes sent.
    calls_host: Whether it calls back to the host.
    out_of_memory: Bytes that XLA needed where it found no room (1 if it does
      not say); else 0. Nothing but FLOPs is known then.
    largest: The largest array that it makes, in words.
    seconds: Time to compile.
  """

  name: str
  arguments: float = 0
  outputs: float = 0
  aliased: float = 0
  temporaries: float = 0
  code: float = 0
  flops: float = 0
  flops_per_token: float = 0
  xla_flops: float = 0
  collectives: dict[str, dict[str, dict[str, float]]] = {}  # noqa: RUF012
  calls_host: bool = False
  out_of_memory: float = 0
  largest: str = ""
  seconds: float = 0

  def total(self) -> float:
    """Returns the bytes on a device while it runs."""
    if self.out_of_memory:
      return self.out_of_memory
    arrays = self.arguments + self.outputs - self.aliased + self.temporaries
    return arrays + self.code

  def sent(self, place: str) -> float:
    """Returns the bytes that a device sends, "outside" or "per_token"."""
    return sum(
      kind["sent"] for kind in self.collectives.get(place, {}).values()
    )


def compiled(
  name: str, function: Callable, *arguments: Any, num_devices: int
) -> tuple[Program, Any, str]:
  """Compiles a function for TPUs.

  Args:
    name: Name for the plan.
    function: A jitted function.
    *arguments: Shapes of its arguments, with shardings, or small numbers.
    num_devices: Number of devices of the mesh.

  Returns:
    What XLA says of it; the shapes of its results with their shardings, None if
    it does not fit into memory; and its text, "" then.
  """
  began = time.perf_counter()
  traced = function.trace(*arguments)  # type: ignore[attr-defined]
  counted = flops.count(traced.jaxpr)
  program = Program(name, flops=counted.outside, flops_per_token=counted.inside)
  lowered = traced.lower()
  try:
    made = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    found = _FULL.search(str(error))
    needed = float(found[1]) * _UNITS[found[2]] if found else 1.0
    program = program._replace(
      out_of_memory=needed,
      largest=hlo.largest_allocation(str(error)),
      seconds=time.perf_counter() - began,
    )
    return program, None, ""
  text, memory = made.as_text(), made.memory_analysis()
  results = partitioning.placed_shapes(lowered.out_info, made.output_shardings)
  program = program._replace(
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    xla_flops=float((made.cost_analysis() or {}).get("flops", 0)),
    collectives=_by_place(hlo.collectives(text, num_devices)),
    calls_host=hlo.calls_host(text),
    largest=hlo.largest_array(text),
    seconds=time.perf_counter() - began,
  )
  return program, results, text


def extrapolated(
  fewer: Program, more: Program, layers: tuple[int, int], depth: int
) -> Program:
  """Returns what a deeper model needs, layers being alike.

  Args:
    fewer: The program of a model with `layers[0]` layers.
    more: The program of one with `layers[1]`.
    layers: The two depths.
    depth: Depth of the model.
  """
  share = (depth - layers[0]) / (layers[1] - layers[0])

  def along(low: float, high: float) -> float:
    return float(max(0.0, low + share * (high - low)))

  counts: dict[str, Any] = {
    field: along(getattr(fewer, field), getattr(more, field))
    for field in _COUNTS
  }
  none = {"count": 0.0, "bytes": 0.0, "sent": 0.0}
  collectives: dict[str, dict[str, dict[str, float]]] = {}
  for place, of_more in more.collectives.items():
    of_fewer = fewer.collectives.get(place, {})
    collectives[place] = {
      kind: {
        key: along(of_fewer.get(kind, none)[key], of_more.get(kind, none)[key])
        for key in none
      }
      for kind in sorted(of_more.keys() | of_fewer.keys())
    }
  needed = more.out_of_memory and along(fewer.total(), more.total())
  return more._replace(
    **counts,
    collectives=collectives,
    out_of_memory=needed,
    seconds=fewer.seconds + more.seconds,
  )


def _by_place(found: list[hlo.Collective]) -> dict:
  places: dict[str, dict[str, dict[str, float]]] = {
    "outside": {},
    "per_token": {},
  }
  for one in found:
    kinds = places["per_token" if one.is_inside else "outside"]
    total = kinds.setdefault(one.kind, {"count": 0, "bytes": 0, "sent": 0.0})
    total["count"] += one.times
    total["bytes"] += one.times * one.num_bytes
    total["sent"] += one.sent()
  return places
