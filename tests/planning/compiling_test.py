"""What a deeper model needs, from two that are not as deep."""

from cot_latent.planning import compiling
from cot_latent.planning.compiling import Program


def program(layers, **changes):
  gathered = {"count": layers, "bytes": 100.0 * layers, "sent": 50.0 * layers}
  fields = {
    "arguments": 10 + 3 * layers,
    "temporaries": 7,
    "code": 1 + layers,
    "flops_per_token": 2 * layers,
    "collectives": {"outside": {"all-gather": gathered}, "per_token": {}},
  }
  return Program("decode", **fields | changes)


def test_layers_are_alike():
  deep = compiling.extrapolated(program(1), program(2), (1, 2), 32)
  assert deep == program(32)


def test_a_program_without_room_is_taken_further():
  fewer, more = program(1), program(2, out_of_memory=120)
  assert fewer.total() == 22
  assert compiling.extrapolated(fewer, more, (1, 2), 4).total() == 316
