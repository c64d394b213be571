"""What takes the memory if a run does not fit, and what would help."""

from collections.abc import Mapping
from typing import Any

from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.t5 import T5Config
from cot_latent.training.experiment import Experiment


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
  num_chips: int,
) -> list[str]:
  """Names settings that would make the largest program smaller.

  Args:
    config: The run.
    row: The program that needs the most, as the plan has it.
    state: Arrays that the run keeps, as the plan has them.
    memory: Bytes of a chip.
    num_chips: Number of chips.

  Returns:
    A line for each, the most useful first.
  """
  model, found = config.model, []
  assert isinstance(model, DecoderConfig | T5Config)
  kept = sum(part["bytes"] for part in state)
  more = _larger_shards(config, num_chips)[:2]
  is_gradient = row["name"].endswith((": gradient", ": update"))
  if is_gradient and not model.remat:
    found.append("REMAT = True: only each layer's input is stored")
  if kept > memory / 2:
    if config.tuning is None and config.steps:
      found.append(
        "gin/tuning/lora.gin: gradients and moments of the updates alone"
      )
    if config.tuning is not None and model.param_dtype == "float32":
      found.append("PARAM_DTYPE = 'bfloat16': frozen parameters half as large")
  if more:
    found.append(
      "NUM_MODEL_SHARDS = " + " or ".join(map(str, more)) + ": each chip has "
      "a smaller part of every layer"
    )
  if is_gradient:
    at_once = config.rows_of_part()
    data = num_chips // config.mesh.model
    if at_once > data:
      found.append(
        f"ROWS_AT_ONCE = {max(data, at_once // 2)}, now {at_once}: fewer rows "
        "are differentiated at once"
      )
  elif row["name"].startswith(("evaluation", "memory", "loop")):
    found.append(
      f"EVAL_BATCH_SIZE below {config.evaluation.batch_size}: fewer rows are "
      "decoded at once"
    )
  elif row["name"].startswith("E-step"):
    found.append(
      f"BATCH_SIZE below {config.batch_size}, or NUM_DRAWS below "
      f"{config.method.num_draws}: fewer rows are decoded at once"
    )
  if model.dtype == "float32":
    found.append("DTYPE = 'bfloat16': activations and caches half as large")
  return [*found, "a topology of more chips"]


def idle_chips(config: Experiment, mesh: Mapping[str, int]) -> list[str]:
  """Says where chips compute padding, since a step has too few rows for them.

  Args:
    config: The run.
    mesh: Sizes of the mesh's axes.

  Returns:
    A line for each part of a step; none if all chips have rows of their own.
  """
  method, data = config.method, mesh["data"]
  if not config.steps:
    return []
  rows = {"gradient": method.max_scored(config.batch_size)}
  if method.loops is None:
    rows["sampling"] = config.batch_size * method.num_draws
  num_chips = data * mesh["model"]
  lines = []
  for name, number in rows.items():
    if number >= data:
      continue
    line = (
      f"{name}: a step's {number} rows go to {data} parts of the mesh, so that "
      f"{1 - number / data:.0%} of the chips compute padding: use more rows"
    )
    enough = (
      f", or NUM_MODEL_SHARDS = {shards}"
      for shards in _larger_shards(config, num_chips)
      if num_chips // shards <= number
    )
    lines.append(line + next(enough, ""))
  return lines


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
