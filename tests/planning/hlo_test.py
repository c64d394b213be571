"""Collectives are found in XLA's text, and counted as often as they happen."""

import pytest

from cot_latent.planning import hlo

TEXT = """\
HloModule jit_f, entry_computation_layout={()->f32[8]{0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%all-reduce-scatter (p: f32[8,4]) -> f32[4,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %all-reduce.5 = f32[8,4]{1,0:T(8,128)S(1)} all-reduce(%p), \
replica_groups=[2,2]<=[4], to_apply=%sum
  ROOT %slice = f32[4,4] dynamic-slice(%all-reduce.5)
}

%body (s: (s32[], bf16[4])) -> (s32[], bf16[4]) {
  %g = bf16[16,2]{1,0:T(8,128)(2,1)} all-gather(%s), \
replica_groups={{0,1},{2,3}}, dimensions={0}
  ROOT %t = (s32[], bf16[4]{0}) tuple(%g)
}

%chunk (s: (s32[], bf16[4])) -> (s32[], bf16[4]) {
  %m = (f32[2]{0}, f32[6]{0}) all-gather-start(%s), \
replica_groups=mesh['a'=2,'b'=1,'c'=3], device_ids=([2,3]T(1,0)) {'c'}
  ROOT %t = (s32[], bf16[4]{0}) tuple(%m)
}

%go (s: (s32[], bf16[4])) -> pred[] {
  %n = s32[] all-reduce(%s), replica_groups={}, to_apply=%sum
  ROOT %c = pred[] compare(%n)
}

%part (p: f32[8,4]) -> f32[4,4] {
  ROOT %g = f32[8,4]{1,0} all-gather(%p), replica_groups={{0,1}}
}

%async_collective_fusion.1 (p: f32[8,4]) -> f32[4,4] {
  ROOT %g = f32[8,4]{1,0} all-gather(%p), replica_groups={{0,1}}
}

ENTRY %main (p: f32[8,4]) -> f32[8] {
  %w = (s32[], bf16[4]{0:T(4)}, /*index=2*/f32[1]) while(%p), \
condition=%go, body=%body
  %v = (s32[], bf16[4]) while(%p), condition=%sum, body=%chunk, \
backend_config={"known_trip_count":{"n":"5"}}
  %f = f32[4,4]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter
  %async-collective-start.1 = f32[8,4] fusion(%p), calls=%part
  %fusion.1 = f32[8,4] fusion(%p), calls=%async_collective_fusion.1
  %async-collective-done.1 = f32[8,4] fusion(%p), calls=%part
  ROOT %r = f32[8]{0} all-reduce(%f), replica_groups={{0},{1}}, to_apply=%sum
}
"""


def test_each_is_counted_where_it_happens():
  found = hlo.collectives(TEXT, num_devices=4)
  assert found == [
    # As often as the loop over chunks runs.
    hlo.Collective("all-gather", False, 5, 24, 3),
    # Once, of its start, its part beside a product, and its done.
    hlo.Collective("all-gather", False, 1, 128, 2),
    hlo.Collective("all-gather", True, 1, 64, 2),
    # Of the decoding loop's condition.
    hlo.Collective("all-reduce", True, 1, 4, 4),
    # XLA's fusion of a sum and a slice; the group of one is none.
    hlo.Collective("reduce-scatter", False, 1, 128, 2),
  ]


def test_a_loop_counts_as_its_condition_says():
  counting = """%few (s: (s32[], bf16[4])) -> pred[] {
  %s = (s32[], bf16[4]{0}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

ENTRY"""
  text = TEXT.replace("ENTRY", counting).replace("known_trip_count", "other")
  text = text.replace("condition=%sum", "condition=%few")
  assert hlo.collectives(text, 4) == hlo.collectives(TEXT, 4)


@pytest.mark.parametrize(
  ("kind", "sent"),
  [
    ("all-gather", 75.0),
    ("reduce-scatter", 75.0),
    ("all-reduce", 150.0),
    ("collective-permute", 100.0),
  ],
)
def test_what_a_device_sends_at_least(kind, sent):
  assert hlo.Collective(kind, False, 1, 100, 4).sent() == sent


def test_calls_to_the_host_are_found():
  assert not hlo.calls_host(TEXT)
  call = '  %h = f32[] custom-call(), custom_call_target="xla_python_callback"'
  assert hlo.calls_host(TEXT.replace("  ROOT %c =", call + "\n  ROOT %c ="))


def test_the_largest_array_is_named():
  assert hlo.largest_array(TEXT) == "f32[8,4], 0.000122 MiB"
  made = '  %k = f32[9,9]{1,0} copy(%p), metadata={op_name="jit(f)/tanh"}'
  text = TEXT.replace("  ROOT %r =", made + "\n  ROOT %r =")
  assert hlo.largest_array(text) == "f32[9,9], 0.000309 MiB, of jit(f)/tanh"


def test_the_largest_array_is_read_from_an_error():
  message = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.
  Largest program allocations in hbm:

  1. Size: 3.62G
     Operator: op_name="jit(add)/mul" source_file="a.py"
     Shape: f32[1024,950272]{1,0:T(8,128)}
     Unpadded size: 3.62G
"""
  expected = "f32[1024,950272], 3.62GiB, of jit(add)/mul"
  assert hlo.largest_allocation(message) == expected
  assert hlo.largest_allocation("no room") == ""
