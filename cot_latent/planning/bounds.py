"""Lower bounds of time: what a chip's peak, memory and links allow at best.

No bound is a forecast: kernels do not reach the peak, and rows that end early
take less. `compute` counts blocks that attention's kernels skip
(planning/flops.py): at most a twelfth of a layer's FLOPs for sequences that are
no longer than the model is wide.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cot_latent.planning import programs
from cot_latent.planning.chips import Chip
from cot_latent.planning.compiling import Program
from cot_latent.planning.lengths import Lengths
from cot_latent.training import experiment
from cot_latent.training.experiment import BaseConfig, Experiment


class Bound(NamedTuple):
  """Seconds that one call of a program takes at least.

  Attributes:
    compute: By the chip's peak.
    memory: By its memory's bandwidth: arguments are read and results written
      once.
    links: Time that its links need for what it sends.
  """

  compute: float
  memory: float
  links: float

  def seconds(self) -> float:
    """Returns the largest of the three, which may overlap."""
    return max(self)

  def limit(self) -> str:
    """Names the largest of the three."""
    return max(zip(self, self._fields, strict=True))[1]


def outside(program: Program, chip: Chip, num_chips: int) -> Bound:
  """Returns the bound of a call, without the decoding loop.

  Args:
    program: The program.
    chip: The chip.
    num_chips: Number of chips of the mesh.
  """
  traffic = program.arguments + program.outputs
  return Bound(
    program.flops / num_chips / (chip.tflops * 1e12),
    traffic / (chip.memory_gbps * 1e9),
    program.sent("outside") / (chip.link_gbps * 1e9),
  )


def per_token(
  program: Program, chip: Chip, num_chips: int, unread: float
) -> Bound | None:
  """Returns the bound of one iteration of the decoding loop; None without one.

  Args:
    program: The program.
    chip: The chip.
    num_chips: Number of chips of the mesh.
    unread: Bytes of arguments that an iteration does not read.
  """
  if not program.flops_per_token:
    return None
  return Bound(
    program.flops_per_token / num_chips / (chip.tflops * 1e12),
    max(0.0, program.arguments - unread) / (chip.memory_gbps * 1e9),
    program.sent("per_token") / (chip.link_gbps * 1e9),
  )


def _fit_step(
  seconds: Mapping[str, float], name: str, rows: int, at_once: int
) -> float:
  """Adds up the bounds of one step of a fit."""
  parts = -(-rows // at_once)
  ends = ("prefix", "sums", "update")
  total = sum(seconds.get(f"{name}: {part}", 0) for part in ends)
  return total + parts * seconds[f"{name}: gradient"]


def of_run(
  config: Experiment,
  lengths: Lengths,
  seconds: Mapping[str, float],
  token_seconds: Mapping[str, float],
  slots: Mapping[str, tuple[int, int]],
  at_once: int,
) -> dict[str, Any]:
  """Adds up the bounds of a run's programs.

  This assumes that every row has T tokens, and that every sequence that may
  have weight has it. Hinted draws of outer loops are left out.

  Args:
    config: The run.
    lengths: Lengths of its prompts, and numbers of its questions.
    seconds: Seconds of one call of each program, without the decoding loop.
    token_seconds: Seconds of one iteration of the decoding loop, by program.
    slots: Slots, and rows of a refill, of each call of the sampler.
    at_once: Rows that are differentiated at once, padding included.

  Returns:
    Seconds of a step and its parts, of evaluation and of the whole run, and
    tokens per second.
  """
  length, method = config.task.max_length, config.method
  calls = {one.name: one for one in programs.samplings(config, lengths)}

  def sampling(name: str, rows: int) -> float:
    size, few = slots[name]
    waves = -(-rows // size)
    num_calls = max(1, rows // calls[name].total)
    total = num_calls * seconds.get("sampling: parameters", 0)
    if f"{name}: sample" in seconds:
      one = token_seconds[f"{name}: sample"]
      return total + waves * (seconds[f"{name}: sample"] + length * one)
    total += seconds.get(f"{name}: prefix", 0) + seconds[f"{name}: prefill"]
    total += waves * length * token_seconds[f"{name}: decode"]
    return total + max(0, rows - size) / few * seconds.get(f"{name}: refill", 0)

  plan = experiment.plan(config, lengths.train, lengths.test)
  by_phase = plan["sampled_by_phase"]
  found: dict[str, Any] = {"base": 0.0, "memory_start": 0.0}
  if isinstance(config.base, BaseConfig):
    size = config.base.batch_size
    found["base"] = config.base.steps * _fit_step(
      seconds, "base model", size, size
    )
  if by_phase["memory_start"]:
    found["memory_start"] = sampling("memory start", by_phase["memory_start"])
  found["evaluation"] = sampling("evaluation", by_phase["evaluation"])
  found["step_sampling"] = found["step_gradient"] = 0.0
  rows = config.batch_size * method.num_draws
  if config.steps:
    scored = method.max_scored(config.batch_size)
    found["step_gradient"] = _fit_step(seconds, "M-step", scored, at_once)
    if method.loops is None:
      found["step_sampling"] = sampling("E-step", rows)
      found["step_gradient"] += seconds["E-step: memory and weights"]
    elif by_phase["steps"]:
      # Hinted draws replace those that failed, and none may fail.
      drawn = by_phase["steps"] // (1 + method.loops.hint_on_failure)
      found["step_sampling"] = sampling("loop", drawn) / config.steps
  found["step"] = found["step_sampling"] + found["step_gradient"]
  found["steps"] = config.steps * found["step"]
  phases = ("base", "memory_start", "steps", "evaluation")
  found["run"] = sum(found[phase] for phase in phases)
  drawn = rows * length
  is_drawing = method.loops is None and found["step_sampling"] > 0
  found["tokens_per_second"] = (
    drawn / found["step_sampling"] if is_drawing else None
  )
  return {
    name: value if value is None or math.isfinite(value) else None
    for name, value in found.items()
  }
