"""Collectives in a compiled program, read from XLA's text of it.

A loop whose number of iterations XLA does not know is the decoding loop: what
is inside is counted once for each of its iterations. Other loops count as often
as they run.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {
  "pred": 1,
  **dict.fromkeys(("s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
  **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
  **dict.fromkeys(("s32", "u32", "f32"), 4),
  **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_HOST = re.compile(r"custom_call_target=\"[^\"]*(?:callback|Host)[^\"]*\"")
_HOST_OPCODES = {"infeed", "outfeed", "send", "recv"}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(
  r"\b(?:calls|body|condition|to_apply|branch_computations|"
  r"called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_FUSED = re.compile(r"\bcalls=%?([\w.\-]+)")
_OPERATION = re.compile(r'op_name="([^"]*)"')
_ALLOCATION = re.compile(
  r"Size: ([\d.]+[KMGT])\n((?:.*\n){0,3}?) *Shape: (\S+?)\{"
)
# Results that are arrays of other instructions, seen otherwise.
_MADE_ELSEWHERE = {"parameter", "get-tuple-element", "bitcast", "constant"}
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_COUNTING = {"parameter", "get-tuple-element", "constant", "compare"}
_FUSED_SCATTER = "all-reduce-scatter"
# XLA's TPU compiler writes a transfer that overlaps with products as a start,
# parts fused with these products, and a done, each of which repeats it.
_FUSED_PART, _DONE = "async_collective_fusion", "async-collective-done"


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: Name of its result.
    opcode: What it does.
    shape: Type of its result, as text.
    rest: Operands and attributes, as text.
  """

  name: str
  opcode: str
  shape: str
  rest: str


class Collective(NamedTuple):
  """Collectives of one kind and size.

  Attributes:
    kind: One of `KINDS`.
    is_inside: Whether it is inside the decoding loop.
    times: How often it happens; inside, in each iteration.
    num_bytes: Bytes of one: of the whole array on a device, gathered, summed or
      before it is scattered.
    group: Number of devices that take part in one.
  """

  kind: str
  is_inside: bool
  times: int
  num_bytes: int
  group: int

  def sent(self) -> float:
    """Returns the bytes that a device must send at least, in all of them."""
    share = (self.group - 1) / self.group
    if self.kind == "collective-permute":
      share = 1.0
    if self.kind == "all-reduce":
      share *= 2
    return self.times * self.num_bytes * share


def collectives(text: str, num_devices: int) -> list[Collective]:
  """Finds a program's collectives.

  Args:
    text: Optimized HLO, as `compiled.as_text()` gives it.
    num_devices: Number of devices of the program.
  """
  computations, entry = parse(text)
  found: dict[tuple, int] = {}
  for name, instruction, times, is_inside in _walk(computations, entry):
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
      continue
    if kind == "all-reduce" and name.startswith(_FUSED_SCATTER):
      kind = "reduce-scatter"
    group = _group(instruction.rest, num_devices)
    size = _num_bytes(instruction, kind, group)
    key = (kind, is_inside, size, group)
    found[key] = found.get(key, 0) + times
  return [
    Collective(kind, is_inside, times, size, group)
    for (kind, is_inside, size, group), times in sorted(found.items())
    if group > 1 or kind == "collective-permute"
  ]


def largest_array(text: str) -> str:
  """Describes the largest array that a program makes.

  Args:
    text: Optimized HLO, as `compiled.as_text()` gives it.

  Returns:
    Its type, its size and the operation of the traced function; "" if there is
    none.
  """
  computations, _ = parse(text)
  instructions = [one for part in computations.values() for one in part]
  fused = {name for one in instructions for name in _FUSED.findall(one.rest)}
  made = [
    (_num_bytes(instruction, instruction.opcode, 1), instruction)
    for name, part in computations.items()
    if name not in fused
    for instruction in part
    if not instruction.shape.startswith("(")
    and instruction.opcode not in _MADE_ELSEWHERE
  ]
  if not made:
    return ""
  size, largest = max(made, key=lambda pair: pair[0])
  operation = _OPERATION.search(largest.rest)
  kind = largest.shape.partition("{")[0]
  return _described(kind, f"{size / 2**20:.3g} MiB", operation)


def largest_allocation(message: str) -> str:
  """Describes the largest array in XLA's message that there is no room."""
  found = _ALLOCATION.search(message)
  if not found:
    return ""
  return _described(found[3], f"{found[1]}iB", _OPERATION.search(found[2]))


def _described(kind: str, size: str, operation: re.Match | None) -> str:
  return f"{kind}, {size}" + (f", of {operation[1]}" if operation else "")


def calls_host(text: str) -> bool:
  """Whether a compiled program calls back to the host."""
  computations, _ = parse(text)
  return bool(_HOST.search(text)) or any(
    instruction.opcode.removesuffix("-done") in _HOST_OPCODES
    for instructions in computations.values()
    for instruction in instructions
  )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Reads the computations of a module.

  Returns:
    Their instructions by name, and the name of the entry.
  """
  computations: dict[str, list[Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if header := _HEADER.match(line):
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif current is not None and " = " in line:
      name, _, text = line.partition(" = ")
      current.append(_instruction(name.split("%")[-1].strip(), text))
  return computations, entry


def _instruction(name: str, text: str) -> Instruction:
  """Splits a line after its name: shape, opcode and the rest."""
  end = text.find(" ")
  if text.startswith("("):
    depth = 0
    for place, letter in enumerate(text):
      depth += (letter == "(") - (letter == ")")
      if not depth:
        end = place + 1
        break
  opcode, _, rest = text[end:].strip().partition("(")
  return Instruction(name, opcode, text[:end], rest)


def _walk(
  computations: Mapping[str, list[Instruction]],
  name: str,
  times: int = 1,
  is_inside: bool = False,
) -> Iterator[tuple[str, Instruction, int, bool]]:
  """Yields instructions with their computation, how often they run, and where.

  Yields:
    Name of the computation, instruction, times that it runs, and whether it is
    inside the decoding loop.
  """
  if name.startswith(_FUSED_PART):
    return
  for instruction in computations.get(name, ()):
    if instruction.name.startswith(_DONE):
      continue
    yield name, instruction, times, is_inside
    inner, inner_times = is_inside, times
    if instruction.opcode == "while":
      trips = _num_iterations(computations, instruction)
      inner = is_inside or trips is None
      inner_times = times * (trips or 1)
    for called in _CALLED.finditer(instruction.rest):
      for one in (called[1] or called[2]).split(","):
        yield from _walk(
          computations, one.strip().lstrip("%"), inner_times, inner
        )


def _num_iterations(
  computations: Mapping[str, list[Instruction]], loop: Instruction
) -> int | None:
  """Iterations of a loop; None if they depend on data."""
  if found := _TRIPS.search(loop.rest):
    return int(found[1])
  # JAX counts from 0 up to a constant, and nothing else decides.
  condition = _CONDITION.search(loop.rest)
  decides = computations.get(condition[1], []) if condition else []
  ends = [one for one in decides if one.opcode == "constant"]
  if len(ends) != 1 or not {one.opcode for one in decides} <= _COUNTING:
    return None
  return int(ends[0].rest.partition(")")[0])


def _num_bytes(instruction: Instruction, kind: str, group: int) -> int:
  """Bytes of the whole array, on one device."""
  sizes = [
    math.prod(map(int, filter(None, dims.split(",")))) * _BYTES.get(kind_, 0)
    for kind_, dims in _ARRAY.findall(instruction.shape)
  ]
  if instruction.opcode.endswith("-start") and kind != "all-reduce":
    # A tuple of operands, results and what the transfer needs itself.
    return max(sizes, default=0)
  total = sum(sizes)
  return total * group if instruction.opcode == "reduce-scatter" else total


def _group(rest: str, num_devices: int) -> int:
  """Number of devices that exchange with each other."""
  if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
    return len(found[1].split(","))
  if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
    return int(found[1])
  if found := re.search(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}",
    rest,
  ):
    sizes = dict(re.findall(r"('[^']+')=(\d+)", found[1]))
    return math.prod(
      int(sizes[axis]) for axis in re.findall(r"'[^']+'", found[2])
    )
  return num_devices
