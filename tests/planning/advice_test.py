"""What a plan advises can be done, and changes something."""

import dataclasses

import pytest

from cot_latent.models import decoder, lora, partitioning
from cot_latent.planning import advice
from cot_latent.training import experiment
from tests.training import toy

LORA, SHARDS, REMAT = "gin/tuning/lora.gin", "NUM_MODEL_SHARDS", "REMAT"


def make_config(heads=8, **changes):
  model = decoder.DecoderConfig(1, 16, heads, 8, 32)
  return toy.make_experiment("unused", model=model, **changes)


@pytest.mark.parametrize(
  ("heads", "endings"),
  [
    # 16 / 4 parts are enough for 6 rows, and 16 / 8 for 3.
    (8, ["or NUM_MODEL_SHARDS = 4", "or NUM_MODEL_SHARDS = 8"]),
    (6, ["use more rows"] * 2),
  ],
)
def test_idle_chips_are_told_sizes_that_divide_the_model(heads, endings):
  config = make_config(heads, batch_size=3)
  mesh = {"data": 16, "model": 1}
  lines = advice.idle_chips(config, mesh)
  assert len(lines) == 2
  for line, rows, ending in zip(lines, (6, 3), endings, strict=True):
    assert f"a step's {rows} rows go to 16 parts" in line
    assert line.endswith(ending)
  assert advice.padding(config, mesh) == {
    "gradient": 1 - 6 / 16,
    "sampling": 1 - 3 / 16,
  }


@pytest.mark.parametrize(
  ("batch_size", "expected"),
  [
    (8, []),
    # 12 rows are 16 with padding, and 24 are 24; 8 / 2 parts divide 12.
    (
      12,
      [
        "sampling: a step's 12 rows go to 8 parts of the mesh, so that 25% of "
        "what the chips compute is padding: use a multiple of 8 rows, or "
        "NUM_MODEL_SHARDS = 2"
      ],
    ),
  ],
)
def test_rows_that_are_no_multiple_are_told(batch_size, expected):
  config = make_config(batch_size=batch_size)
  assert advice.idle_chips(config, {"data": 8, "model": 1}) == expected


def advised(config, name, kept=0, data=4, prefix=0):
  """The settings' names, for a program on 16 chips of 100 bytes."""
  row, state = {"name": name}, [{"name": "parameters", "bytes": kept}]
  mesh = {"data": data, "model": 16 // data}
  lines = advice.settings(config, row, state, 100, mesh, prefix)
  assert lines[-1] == "a topology of more chips"
  return [line.split(" = ")[0].split(": ")[0] for line in lines[:-1]]


@pytest.mark.parametrize(
  ("name", "fields", "expected"),
  [
    ("M-step: gradient", {}, [REMAT, SHARDS, "ROWS_AT_ONCE", "DTYPE"]),
    # Of 32 / 4 rows each chip has one.
    ("M-step: gradient", {"data": 8}, [REMAT, SHARDS, "DTYPE"]),
    # No rows are in this program, and its arrays have one part for each chip.
    ("M-step: update", {}, ["DTYPE"]),
    ("M-step: update", {"prefix": 600}, [REMAT, "DTYPE"]),
    ("M-step: update", {"kept": 60}, [LORA, "DTYPE"]),
    # A part of the same size for each chip, however they are arranged.
    ("M-step: gradient", {"kept": 110}, [LORA]),
    ("E-step: decode", {}, [SHARDS, "BATCH_SIZE", "DTYPE"]),
    ("evaluation: sample", {}, [SHARDS, "EVAL_BATCH_SIZE", "DTYPE"]),
    ("evaluation: sample", {"data": 16}, [SHARDS, "DTYPE"]),
    ("sampling: parameters", {}, [SHARDS, "DTYPE"]),
    (
      "base model: gradient",
      {"kept": 110},
      [REMAT, SHARDS, "BASE_BATCH_SIZE", "DTYPE"],
    ),
  ],
)
def test_settings_help_the_program(name, fields, expected):
  config = make_config(batch_size=32)
  evaluation = dataclasses.replace(config.evaluation, batch_size=16)
  assert isinstance(config.base, experiment.BaseConfig)
  config = dataclasses.replace(config, evaluation=evaluation)
  assert advised(config, name, **fields) == expected


def test_several_draws_are_rows_too():
  config = make_config(batch_size=8)
  method = dataclasses.replace(config.method, num_draws=4)
  config = dataclasses.replace(config, method=method)
  expected = [SHARDS, "BATCH_SIZE", "NUM_DRAWS", "DTYPE"]
  assert advised(config, "E-step: decode") == expected
  # Of 8 x 4 rows on 16 parts, half are enough.
  lines = advice.settings(
    config, {"name": "E-step: decode"}, [], 100, {"data": 16, "model": 1}, 0
  )
  assert "BATCH_SIZE = 4, now 8: fewer rows are decoded at once" in lines


def test_a_state_that_is_whole_along_data_can_be_sharded():
  whole = partitioning.MeshConfig(fully_sharded=False)
  config = make_config(mesh=whole, tuning=lora.Lora(4))
  expected = ["PARAM_DTYPE", "partitioning.MeshConfig.fully_sharded"]
  assert advised(config, "M-step: update", kept=110) == expected
