"""The plan of a run on a topology, as plain data."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from cot_latent.errors import UserError
from cot_latent.models import partitioning, products, slots
from cot_latent.models.partitioning import Layout
from cot_latent.planning import (
  advice,
  bounds,
  chips,
  compiling,
  programs,
  shapes,
)
from cot_latent.planning.chips import Chip
from cot_latent.planning.lengths import NAMES, Lengths
from cot_latent.planning.programs import Compiler
from cot_latent.training import experiment
from cot_latent.training.experiment import Experiment


def make_plan(
  config: Experiment,
  lengths: Lengths,
  topology: str,
  layers: int | None = None,
  report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
  """Compiles what a run would run, and adds up what that needs.

  Args:
    config: The run.
    lengths: How many questions it has, and how long they are.
    topology: Chips to compile for, such as "v5e:4x4".
    layers: Number N; models of N + 1 and 2 N + 1 layers are compiled, and the
      others taken to be alike. XLA unrolls a loop over one layer, which is not
      like those of deeper models. None compiles the whole model.
    report: Called with a line before each function is compiled.

  Returns:
    The plan, which JSON can hold. Bytes are those on one device.

  Raises:
    UserError: If the topology, its mesh or the depth is not possible.
  """
  chip, devices = chips.chip_of(topology), chips.describe_devices(topology)
  layout, depths = prepare(config, topology, layers)
  depth = shapes.depth_of(config)
  with products.compiling_for("tpu"), without_cache():
    compilers = [
      _compiler(shapes.with_depth(config, n), lengths, layout, report)
      for n in sorted({*depths})
    ]
  whole = shapes.shapes_of(config, lengths, layout)
  state = shapes.described(whole.state())
  rows = _rows(compilers, depths, depth, chip, layout.mesh.size)
  return {
    "topology": topology,
    "num_chips": len(devices),
    "chip": chip._asdict(),
    "mesh": dict(layout.mesh.shape),
    "rules": [list(rule) for rule in layout.rules],
    "depth": depth,
    "compiled_depths": sorted({*depths}),
    "compile_seconds": sum(row["compile_seconds"] for row in rows),
    "num_params": sum(x.size for x in jax.tree.leaves(whole.model_params())),
    "lengths": {name: getattr(lengths, name) for name in NAMES},
    "max_length": config.task.max_length,
    "batch_size": config.batch_size,
    "steps": config.steps,
    "state": state,
    "programs": rows,
    "run": _run(
      config, lengths, rows, compilers[-1].same, layout, len(devices)
    ),
    "verdict": _verdict(
      config, lengths, rows, state, chip, dict(layout.mesh.shape)
    ),
    "versions": chips.versions(),
    "sequences": experiment.plan(config, lengths.train, lengths.test),
  }


def prepare(
  config: Experiment, topology: str, layers: int | None
) -> tuple[Layout, tuple[int, int]]:
  """Checks what can be checked before data are read and models compiled.

  Args:
    config: The run.
    topology: Chips to compile for.
    layers: As `make_plan` takes it.

  Returns:
    Mesh and rules, and the depths of the models to compile.

  Raises:
    UserError: If the topology, its mesh or the depth is not possible, or if the
      method scores answers.
  """
  if config.method.scores_answers():
    raise UserError(
      "--topology: a run with LIKELIHOOD = @likelihood.answer_given_rationale()"
      " is not planned, only one with a checker, such as gin/methods/trice.gin"
    )
  layout = partitioning.make_layout(
    config.mesh, chips.describe_devices(topology)
  )
  if layout is None:
    raise UserError(
      f"--topology={topology}: the run's mesh is one chip of these, and only "
      "runs on two or more are planned: leave MeshConfig.data out"
    )
  return layout, _depths_to_compile(shapes.depth_of(config), layers)


def _depths_to_compile(depth: int, layers: int | None) -> tuple[int, int]:
  """Returns the numbers of layers of the two models that are compiled."""
  if layers is None:
    return depth, depth
  first, last = layers + 1, 2 * layers + 1
  if last > depth:
    raise UserError(
      f"--layers={layers}: models of {first} and {last} layers would be "
      f"compiled, and this one has {depth}: leave it out"
    )
  return first, last


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
  """Stores no compiled functions: those for TPUs can be read on one alone."""
  before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
  try:
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


def _compiler(config, lengths, layout, report) -> Compiler:
  depth = shapes.depth_of(config)
  made = Compiler(
    shapes.shapes_of(config, lengths, layout),
    lambda name: report(f"{name}, {depth} layers"),
  )
  made.all(config, lengths)
  return made


def _rows(compilers, depths, depth, chip, num_devices) -> list[dict[str, Any]]:
  """Describes the whole model's programs."""
  along = functools.partial(_along, compilers, depths, depth)
  return [
    program_row(
      program, along("beside", name), chip, num_devices, along("unread", name)
    )
    for name, program in _at_full_depth(compilers, depths, depth).items()
  ]


def _at_full_depth(compilers, depths, depth) -> dict[str, compiling.Program]:
  """The whole model's programs, along the depths that were compiled."""
  first, last = compilers[0].programs, compilers[-1].programs
  if len(compilers) == 1:
    return dict(last)
  return {
    name: compiling.extrapolated(first[name], program, depths, depth)
    for name, program in last.items()
    if name in first
  }


def _along(compilers, depths, depth, field, name) -> float:
  """Bytes of a program, along the depths that were compiled."""
  ends = compilers[0], compilers[-1]
  first, last = (getattr(one, field)[name] for one in ends)
  if len(compilers) == 1:
    return last
  share = (depth - depths[0]) / (depths[1] - depths[0])
  return first + share * (last - first)


def program_row(
  program: compiling.Program,
  beside: float,
  chip: Chip,
  num_devices: int,
  unread: float,
) -> dict[str, Any]:
  """Describes a program as a plan has it.

  Args:
    program: What XLA says of it.
    beside: Bytes that the run keeps on a device besides its arguments.
    chip: The chip.
    num_devices: Number of devices of the mesh.
    unread: Bytes of arguments that a step of its decoding loop does not read.
  """
  outside = bounds.outside(program, chip, num_devices)
  token = bounds.per_token(program, chip, num_devices, unread)
  is_compiled = not program.out_of_memory
  return program._asdict() | {
    "beside": beside,
    "needed": program.total() + beside,
    "seconds": outside.seconds() if is_compiled else None,
    "limit": outside.limit(),
    "token_seconds": token.seconds() if token and is_compiled else None,
    "token_limit": token.limit() if token else None,
    "compile_seconds": program.seconds,
  }


def _run(
  config, lengths, rows, same, layout, num_chips
) -> dict[str, Any] | None:
  """The bounds of the whole run; None if a program could not be compiled."""
  if any(row["out_of_memory"] for row in rows):
    return None
  places = {
    one.name: slots.plan(
      layout, one.total, one.num_slots, config.task.max_length
    )
    for one in programs.samplings(config, lengths)
  }
  by_name = {row["name"]: row for row in rows}
  found = bounds.of_run(
    config,
    lengths,
    {name: by_name[one]["seconds"] for name, one in same.items()},
    {name: by_name[one]["token_seconds"] for name, one in same.items()},
    {name: (one.size, one.few or one.size) for name, one in places.items()},
    partitioning.padded(layout, "batch", config.rows_of_part()),
  )
  hours = found["run"] * num_chips / 3600
  return found | {"chip_hours": hours}


def _verdict(config, lengths, rows, state, chip: Chip, mesh) -> dict[str, Any]:
  """Whether the run fits, what would help if not, and where chips are idle."""
  found = fit(rows, state, chip)
  if not found["fits"]:
    [worst] = [row for row in rows if row["name"] == found["program"]]
    prefix = lengths.prefix + lengths.soft
    if worst["name"].startswith("base model"):
      prefix, _ = lengths.of_base()
    found["settings"] = advice.settings(
      config, worst, state, found["available"], mesh, prefix
    )
  return found | {
    "idle": advice.idle_chips(config, mesh),
    "padding": advice.padding(config, mesh),
  }


def fit(
  rows: Sequence[dict[str, Any]], state: list[dict[str, Any]], chip: Chip
) -> dict[str, Any]:
  """Compares what the largest program needs with the chip's memory.

  Args:
    rows: The programs, as the plan has them.
    state: Arrays that the run keeps, as the plan has them.
    chip: The chip.
  """
  memory = chip.memory_gib * 2**30
  worst = max(rows, key=lambda row: (bool(row["out_of_memory"]), row["needed"]))
  fits = worst["needed"] <= memory and not any(
    row["out_of_memory"] for row in rows
  )
  return {
    "fits": fits,
    "program": worst["name"],
    "needed": worst["needed"],
    "available": memory,
    "parts": advice.parts_of(worst, state),
    "largest": worst["largest"],
    "kept": max(state, key=lambda part: part["bytes"])["name"],
    "settings": [],
    "calls_host": any(row["calls_host"] for row in rows),
    "idle": [],
    "padding": {},
  }
