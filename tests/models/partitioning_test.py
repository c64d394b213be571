"""Axes, rules and parts, on meshes that are not there."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.models import decoder, language_model, partitioning
from cot_latent.models.partitioning import Layout, MeshConfig


def make_layout(data=4, model=2, rules=partitioning.RULES):
  mesh = jax.sharding.AbstractMesh((data, model), ("data", "model"))
  return Layout(mesh, rules)


def test_one_device_has_no_layout():
  assert partitioning.make_layout(MeshConfig()) is None
  assert partitioning.describe(None) == {
    "num_processes": 1,
    "num_devices": 1,
    "mesh": {"data": 1, "model": 1},
  }
  rows = np.arange(3)
  assert partitioning.padded(None, "examples", 3) == 3
  assert partitioning.constrain(None, rows, "batch") is rows
  assert partitioning.place_rows(None, rows).shape == (3,)


@pytest.mark.parametrize("config", [MeshConfig(model=2), MeshConfig(data=3)])
def test_a_mesh_that_does_not_fit_is_refused(config):
  with pytest.raises(UserError, match="does not fit the 1 devices"):
    partitioning.make_layout(config)


@dataclasses.dataclass(frozen=True)
class Chip:
  """A TPU chip as JAX describes it."""

  id: int
  coords: tuple[int, int, int]
  process_index: int = 0
  platform: str = "tpu"
  device_kind: str = "TPU v6 lite"
  core_on_chip: int = 0
  slice_index: int = 0


KINDS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


def make_chips(topology):
  """Chips with the ids and coordinates that libtpu gives them."""
  kind, _, axes = topology.partition(":")
  sizes = [int(size) for size in axes.split("x")]
  sizes += [1] * (3 - len(sizes))
  places = itertools.product(*map(range, reversed(sizes)))
  return [
    Chip(number, place[::-1], device_kind=KINDS[kind])
    for number, place in enumerate(places)
  ]


@pytest.mark.parametrize(
  "topology",
  [
    *("v5e:4x4", "v5e:4x8", "v5e:16x16", "v6e:4x4", "v6e:8x8"),
    *("v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x4"),
  ],
)
def test_chips_form_every_mesh_that_divides_them(topology):
  chips = make_chips(topology)
  for model in range(1, len(chips) + 1):
    if len(chips) % model:
      continue
    layout = partitioning.make_layout(MeshConfig(model=model), chips)
    shape = {"data": len(chips) // model, "model": model}
    assert dict(layout.mesh.shape) == shape
    assert {*layout.mesh.devices.flat} == {*chips}


def test_only_one_process_may_leave_chips_idle():
  chips = [Chip(0, (0, 0, 0)), Chip(1, (1, 0, 0)), Chip(2, (0, 1, 0))]
  assert partitioning.make_layout(MeshConfig(data=1), chips) is None
  chips[2] = dataclasses.replace(chips[2], process_index=1)
  with pytest.raises(UserError, match="does not fit the 3 devices"):
    partitioning.make_layout(MeshConfig(data=1), chips)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"model": 0}, "model = 0 must be above 0"),
    ({"data": 0}, "data = 0 must be above 0"),
    ({"model": "2"}, "model: expected int"),
    ({"rules": (("heads", "hosts"),)}, "'heads' is sharded along 'hosts'"),
  ],
)
def test_a_mistaken_mesh_is_refused(fields, match):
  with pytest.raises(UserError, match=match):
    MeshConfig(**fields)


@pytest.mark.parametrize(
  ("size", "expected"), [(0, 0), (1, 8), (8, 8), (9, 16)]
)
def test_padding_is_to_the_next_even_cut(size, expected):
  assert partitioning.padded(make_layout(), "examples", size) == expected


def test_rules_decide():
  spec = jax.sharding.PartitionSpec
  layout = make_layout()
  assert layout.sharding("embed", "heads", "kv").spec == spec(
    None, "model", None
  )
  assert layout.sharding("examples").spec == spec(("data", "model"))
  assert layout.sharding().spec == spec()
  # Parameters sharded along "data" too, as in FSDP.
  fully = make_layout(rules=(("embed", "data"), *partitioning.RULES))
  assert fully.sharding("embed", "mlp").spec == spec("data", "model")


def test_what_cannot_be_sharded_evenly_stays_whole():
  layout = make_layout()
  spec = jax.sharding.PartitionSpec
  assert layout.sharding_of((8, 3), "batch").spec == spec("data")
  assert layout.sharding_of((6, 3), "batch").spec == spec(None)
  logits = layout.sharding_of((8, 1, 259), "batch", None, "vocab")
  assert logits.spec == spec("data", None, None)


@pytest.mark.parametrize(
  ("heads", "expected"),
  [(4, ("batch", "kv_heads")), (3, ("batch", None, "positions"))],
)
def test_caches_are_sharded_by_heads_or_by_positions(heads, expected):
  assert partitioning.cache_axes(make_layout(), heads) == expected


def shardings(layout, **sizes):
  config = decoder.DecoderConfig(
    **{
      "num_layers": 1,
      "embed_dim": 8,
      "num_heads": 4,
      "head_dim": 2,
      "mlp_dim": 12,
    }
    | sizes
  )
  network = decoder.Decoder(config, 259)
  tokens = jnp.ones((1, 1), jnp.int32)
  masks = decoder.LayerMasks(jnp.ones((1, 1, 1), bool), None)
  boxed = jax.eval_shape(
    lambda key: network.init(key, tokens, tokens, masks)["params"],
    jax.random.key(0),
  )
  return partitioning.param_shardings(layout, boxed)


def test_every_parameter_has_a_place():
  spec = jax.sharding.PartitionSpec
  placed = shardings(make_layout(data=2, model=4))
  layer = placed["layer_0"]
  for name in ("query", "key", "value"):
    assert layer[name]["kernel"].spec == spec("data", "model", None)
  assert layer["output"]["kernel"].spec == spec("model", "data")
  for name in ("gate", "up"):
    assert layer[name]["kernel"].spec == spec("data", "model")
  assert layer["down"]["kernel"].spec == spec("model", "data")
  # 259 bytes cannot be sharded; norms need not be.
  assert placed["embed"]["embedding"].spec == spec(None, "data")
  assert placed["final_norm"]["scale"].spec == spec()


@pytest.mark.parametrize(
  ("shape", "names", "expected"),
  [
    # The largest axis of those that are whole.
    ((8, 4, 16), ("embed", "heads", "kv"), (None, "model", "data")),
    # Where none of them divides, one that is sharded already.
    ((7, 32), ("embed", "mlp"), (None, ("model", "data"))),
    ((7, 6), ("embed", "mlp"), (None, "model")),
    ((8,), ("embed",), (None,)),
    ((5, 12), (), (None, "data")),
  ],
)
def test_parameters_are_stored_along_data_too(shape, names, expected):
  spec = jax.sharding.PartitionSpec(*expected)
  assert make_layout().stored_sharding(shape, *names).spec == spec
  plain = dataclasses.replace(make_layout(), fully_sharded=False)
  assert plain.stored_sharding(shape, *names) == plain.sharding_of(
    shape, *names
  )


@pytest.mark.parametrize("name", ["num_heads", "mlp_dim"])
def test_a_model_that_cannot_be_sharded_is_refused(name):
  axis = {"num_heads": "heads", "mlp_dim": "mlp"}[name]
  message = (
    f"axis '{axis}' of 6 cannot be sharded into 4 equal parts: set "
    "NUM_MODEL_SHARDS to 1 or 2$"
  )
  with pytest.raises(UserError, match=message):
    shardings(make_layout(data=2, model=4), **{name: 6})


def test_names_do_not_change_first_values():
  """Golden: the sum of a model's first parameters, as before there were any."""
  model = language_model.from_config(
    decoder.DecoderConfig(1, 16, 2, 8, 32), 11, 1, 5
  )
  leaves = jax.tree.leaves(model.init(jax.random.key(0)))
  total = sum(float(jnp.abs(leaf).sum()) for leaf in leaves)
  np.testing.assert_allclose(total, GOLDEN, rtol=1e-6)


GOLDEN = 573.7066993713379
