"""What takes the memory if a run does not fit, and what would help."""

import math
from collections.abc import Mapping
from typing import Any

from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.t5 import T5Config
from cot_latent.training.experiment import BaseConfig, Experiment

_OF_ROWS = (": sample", ": prefill", ": decode", ": refill", ": shrink")


def parts_of(
  row: dict[str, Any], state: list[dict[str, Any]]
) -> dict[str, float]:
  """Splits the bytes of a device, while a program runs, by what they are.

  Args:
    row: The program, as the plan has it.
    state: Arrays that the run keeps, as the plan has them.
  """
  if row["out_of_memory"]:
    parts = {part["name"]: part["bytes"] for part in state}
    rest = row["needed"] - sum(parts.values())
    return parts | {"temporaries and the rest": max(0.0, rest)}
  return {
    "arguments": row["arguments"],
    "results": row["outputs"] - row["aliased"],
    "temporaries": row["temporaries"],
    "code": row["code"],
    "the run's other arrays": row["beside"],
  }


def settings(
  config: Experiment,
  row: dict[str, Any],
  state: list[dict[str, Any]],
  memory: float,
  mesh: Mapping[str, int],
  prefix: int,
) -> list[str]:
  """Names settings that would make the largest program smaller.

  Args:
    config: The run.
    row: The program that needs the most, as the plan has it.
    state: Arrays that the run keeps, as the plan has them.
    memory: Bytes of a chip.
    mesh: Sizes of the mesh's axes.
    prefix: Tokens, soft ones included, that come before all prompts.

  Returns:
    A line for each, the most useful first.
  """
  model = config.model
  assert isinstance(model, DecoderConfig | T5Config)
  # The base model is fitted before there is a state of the run.
  is_base = row["name"].startswith("base model")
  kept = 0 if is_base else sum(part["bytes"] for part in state)
  found = _for_state(config, model) if kept > memory / 2 else []
  if kept <= memory:
    found = [
      *_for_activations(model, row["name"], prefix),
      *found,
      *_for_layers(config, row["name"], mesh),
      *_for_rows(config, row["name"], mesh["data"]),
    ]
    if model.dtype == "float32":
      found.append("DTYPE = 'bfloat16': activations and caches half as large")
  return [*found, "a topology of more chips"]


def _for_state(
  config: Experiment, model: DecoderConfig | T5Config
) -> list[str]:
  """Settings that make what the run keeps smaller."""
  found = []
  if config.tuning is None and config.steps:
    found.append(
      "gin/tuning/lora.gin: gradients and moments of the updates alone"
    )
  if config.tuning is not None and model.param_dtype == "float32":
    found.append("PARAM_DTYPE = 'bfloat16': frozen parameters half as large")
  if not config.mesh.fully_sharded:
    found.append(
      "partitioning.MeshConfig.fully_sharded = True: each chip stores its own "
      "part of parameters and moments"
    )
  return found


def _for_activations(
  model: DecoderConfig | T5Config, name: str, prefix: int
) -> list[str]:
  """Settings that store fewer activations, where a program differentiates."""
  differentiates = name.endswith(": gradient") or (
    name.endswith(": update") and prefix > 0
  )
  if model.remat or not differentiates:
    return []
  return ["REMAT = True: only each layer's input is stored"]


def _for_layers(
  config: Experiment, name: str, mesh: Mapping[str, int]
) -> list[str]:
  """Numbers of shards that make a program's part of each layer smaller."""
  is_of_state = name.endswith((": sums", ": update", ": memory and weights"))
  if config.mesh.fully_sharded and is_of_state:
    return []  # as large in any arrangement of the same chips
  more = _larger_shards(config, math.prod(mesh.values()))[:2]
  if not more:
    return []
  return [
    "NUM_MODEL_SHARDS = " + " or ".join(map(str, more)) + ": each chip has a "
    "smaller part of every layer"
  ]


def _for_rows(config: Experiment, name: str, data: int) -> list[str]:
  """Settings of fewer rows, where a chip has more than one.

  Args:
    config: The run.
    name: The program.
    data: Parts of a minibatch: no part has less than a row.
  """
  if name.endswith(": gradient"):
    return _for_differentiated_rows(config, name, data)
  if not name.endswith(_OF_ROWS):
    return []
  what = "fewer rows are decoded at once"
  if not name.startswith("E-step"):
    size = config.evaluation.batch_size
    return _fewer("EVAL_BATCH_SIZE", size, data, what)
  size, draws = config.batch_size, config.method.num_draws
  return [
    *_fewer("BATCH_SIZE", size, -(-data // draws), what),
    *_fewer("NUM_DRAWS", draws, -(-data // size), what),
  ]


def _for_differentiated_rows(
  config: Experiment, name: str, data: int
) -> list[str]:
  """Settings of fewer rows that are differentiated at once."""
  what = "fewer rows are differentiated at once"
  if isinstance(config.base, BaseConfig) and name.startswith("base model"):
    return _fewer("BASE_BATCH_SIZE", config.base.batch_size, data, what)
  return _fewer("ROWS_AT_ONCE", config.rows_of_part(), data, what)


def _fewer(name: str, now: int, least: int, what: str) -> list[str]:
  """Half of a number, or as few as make a difference; nothing if it is that."""
  if now <= least:
    return []
  return [f"{name} = {max(least, now // 2)}, now {now}: {what}"]


def padding(config: Experiment, mesh: Mapping[str, int]) -> dict[str, float]:
  """Returns the share of padding among the rows that chips compute.

  Args:
    config: The run.
    mesh: Sizes of the mesh's axes.

  Returns:
    For each part of a step that has padding, by name.
  """
  shares = {
    name: 1 - number / (-(-number // mesh["data"]) * mesh["data"])
    for name, number in _rows_of_step(config).items()
  }
  return {name: share for name, share in shares.items() if share > 0}


def idle_chips(config: Experiment, mesh: Mapping[str, int]) -> list[str]:
  """Says where chips compute padding instead of rows.

  Args:
    config: The run.
    mesh: Sizes of the mesh's axes.

  Returns:
    A line for each part of a step; none if all chips have rows of their own.
  """
  rows = _rows_of_step(config)
  return [
    f"{name}: a step's {rows[name]} rows go to {mesh['data']} parts of the "
    f"mesh, so that {share:.0%} of what the chips compute is padding: "
    + _without_padding(config, rows[name], mesh)
    for name, share in padding(config, mesh).items()
  ]


def _rows_of_step(config: Experiment) -> dict[str, int]:
  """Rows of each part of a step."""
  method = config.method
  if not config.steps:
    return {}
  rows = {"gradient": method.max_scored(config.batch_size)}
  if method.loops is None:
    rows["sampling"] = config.batch_size * method.num_draws
  return rows


def _without_padding(
  config: Experiment, number: int, mesh: Mapping[str, int]
) -> str:
  """What would leave no chip, or fewer, with padding."""
  num_chips, is_few = math.prod(mesh.values()), number < mesh["data"]
  enough = (
    f", or NUM_MODEL_SHARDS = {shards}"
    for shards in _larger_shards(config, num_chips)
    if _is_enough(number, num_chips // shards, is_few)
  )
  rows = "more" if is_few else f"a multiple of {mesh['data']}"
  return f"use {rows} rows" + next(enough, "")


def _is_enough(number: int, parts: int, is_few: bool) -> bool:
  """Whether each part has a row; where rows are not few, as many as others."""
  return parts <= number if is_few else number % parts == 0


def _larger_shards(config: Experiment, num_chips: int) -> list[int]:
  """Numbers of model shards above the present one that are possible."""
  model, now = config.model, config.mesh.model
  assert isinstance(model, DecoderConfig | T5Config)
  return [
    number
    for number in range(now + 1, num_chips + 1)
    if num_chips % number == 0
    and model.num_heads % number == 0
    and model.mlp_dim % number == 0
  ]
