"""The plan of a run inside T5X, compiled for TPUs that are not there.

`planning/` does this for the embedded trainer. Here the functions are T5X's
step, and the E-step's draws in T5X's decoding loop. T5X's evaluation is not
compiled: it decodes BATCH_SIZE rows in the same loop.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.core
import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from t5x import partitioning, trainer, utils

from cot_latent.errors import UserError
from cot_latent.models import products
from cot_latent.planning import chips, compiling, plan, shapes
from cot_latent.t5x import fitted, latent_trainer, launch, one_line, sampler
from cot_latent.t5x.latent import Latent

_DRAW, _STEP = "E-step, memory start: draw", "M-step: T5X's step"


def make_plan(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  topology: str,
  report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
  """Compiles what the run would compile, and adds up what that needs.

  Args:
    gin_files: Gin files, as T5X takes them.
    bindings: Lines such as "SEED = 3".
    search_paths: Folders in which gin files are looked up.
    topology: Chips to compile for, such as "v5e:4x4".
    report: Called with a line before each function is compiled.

  Returns:
    A plan as `planning.plan.make_plan` returns it, without the seconds of the
    whole run.

  Raises:
    UserError: For a mistake in the configuration, or if T5X does not know the
      chips.
  """
  from t5x import train as train_script

  devices = chips.describe_devices(topology)
  with launch.as_main(train_script):
    train = launch.parse(train_script, gin_files, bindings, search_paths)
    bound = gin.get_bindings(train, resolve_references=False)
    latent = launch.resolved(bound.get("get_dataset_fn"))
    if not isinstance(latent, Latent):
      raise UserError(
        "--topology: T5X's own training draws no rationales, and is not planned"
      )
    model = launch.resolved(bound["model"])
    with (
      _jax_sees(devices),
      products.compiling_for("tpu"),
      plan.without_cache(),
    ):
      try:
        partitioner = launch.resolved(bound["partitioner"])
        run = _Run(latent, model, partitioner)
        found = run.programs(report)
      except Exception as error:
        one_line.explain(error)
        raise
      return _described(run, found, topology, devices)


@dataclasses.dataclass(frozen=True)
class _Traceable:
  """T5X's partitioned function, with the method that a plan needs."""

  function: partitioning.PjittedFnWithContext

  def trace(self, *arguments: Any) -> Any:
    """Traces the function in the contexts in which T5X calls it."""
    function = self.function
    in_contexts = type(function)(
      function._pjitted_fn.trace, function._mesh, function._logical_axis_rules
    )
    return in_contexts(*arguments)


class _Run:
  """A run's functions and the shapes of their arguments.

  Attributes:
    latent: The questions and the method.
    mesh: T5X's mesh.
    state: Shapes of T5X's state, with shardings.
  """

  def __init__(self, latent: Latent, model: Any, partitioner: Any):
    """Compiles nothing yet.

    Args:
      latent: The questions and the method.
      model: Model of T5X.
      partitioner: Partitioner of T5X.
    """
    self.latent, self.mesh = latent, partitioner.mesh
    self._model, self._partitioner = model, partitioner
    # A plan makes no trainer, because that would draw.
    trained = gin.get_bindings(latent_trainer.LatentTrainer)
    self._microbatches = trained.get("num_microbatches")
    self._batch = self._rows(
      latent.method.max_scored(latent.batch_size), self._microbatches or 1
    )
    initial = utils.TrainStateInitializer(
      model.optimizer_def,
      model.get_initial_variables,
      {name: feature.shape for name, feature in self._batch.items()},
      partitioner,
      {name: feature.dtype for name, feature in self._batch.items()},
    )
    self._axes = initial.train_state_axes
    # Where axes are None, a whole part of the state is replicated.
    self.state = jax.tree.map(
      lambda spec, part: jax.tree.map(lambda x: self._shape(x, spec), part),
      self._axes,
      initial.global_train_state_shape,
      is_leaf=lambda x: x is None or isinstance(x, PartitionSpec),
    )

  def programs(
    self, report: Callable[[str], None]
  ) -> list[tuple[compiling.Program, float]]:
    """Compiles the functions.

    Args:
      report: Called with a name before each is compiled.

    Returns:
      For each, what XLA says of it, and the bytes that the run keeps on a
      device besides its arguments.
    """
    moments = shapes.device_bytes(self.state.param_states)
    parts = [(_DRAW, *self._draw(), moments), (_STEP, *self._step(), 0)]
    if self.latent.method.is_fitted():
      parts.append(("M-step: fit", *self._fit(), 0))
    found = []
    for name, function, arguments, beside in parts:
      report(name)
      traceable: Any = _Traceable(function)
      program, *_ = compiling.compiled(
        name, traceable, *arguments, num_devices=self.mesh.size
      )
      found.append((program, beside))
    return found

  def unread(self) -> float:
    """Bytes of parameters that a step of the decoding loop does not read."""
    flat = traverse_util.flatten_dict(flax.core.unfreeze(self.state.params))
    is_tied = not any("logits_dense" in path for path in flat)
    return sum(
      shapes.device_bytes(leaf)
      for path, leaf in flat.items()
      if path[0] == "encoder" or ("token_embedder" in path and not is_tied)
    )

  def _draw(self):
    latent = self.latent
    drawing = sampler.T5XSampler(
      self._model,
      self._partitioner,
      self._axes.params,
      latent.converter,
      latent.task.ending,
    )
    rows = self._rows(latent.batch_size * latent.method.num_draws)
    size = jax.tree.leaves(rows)[0].shape[0]
    keys = jax.ShapeDtypeStruct((size, 2), jnp.uint32)
    keys = self._shape(keys, self._partitioner.data_partition_spec)
    temperature = self._shape(np.float32(1), None)
    return drawing.draw, (self.state.params, rows, keys, temperature)

  def _step(self):
    spec = self._partitioner.data_partition_spec

    def step(state, batch):
      return trainer.train_with_lr(
        *(state, batch, jnp.float32(0), jax.random.PRNGKey(0), self._model),
        num_microbatches=self._microbatches,
        weight_metrics_computer=latent_trainer.GradientNorm(),
        data_partition_spec=spec,
      )

    partitioned = self._partitioner.partition(
      step,
      in_axis_resources=(self._axes, spec),
      out_axis_resources=(self._axes, None),
      donate_argnums=(0,),
    )
    return partitioned, (self.state, self._batch)

  def _fit(self):
    measure = fitted.build_measurement(
      self._model, self._partitioner, self._axes, self._microbatches
    )
    return measure, (self.state, self._batch, self._batch)

  def _rows(
    self, number: int, num_microbatches: int = 1
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the features of so many rows, padded as the run does."""
    unit = sampler.padded(self._partitioner, 1) * num_microbatches
    number = -(-number // unit) * unit
    spec = self._partitioner.data_partition_spec
    return {
      name: self._shape(feature, spec)
      for name, feature in self.latent.converter.zeros(number).items()
    }

  def _shape(self, array: Any, spec: PartitionSpec | None):
    sharding = NamedSharding(self.mesh, spec or PartitionSpec())
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _described(
  run: _Run,
  programs: list[tuple[compiling.Program, float]],
  topology: str,
  devices: Sequence[Any],
) -> dict[str, Any]:
  """The plan, as plain data."""
  chip, latent = chips.chip_of(topology), run.latent
  converter = latent.converter
  rows = [
    plan.program_row(program, beside, chip, run.mesh.size, run.unread())
    for program, beside in programs
  ]
  state = shapes.described(
    {
      "parameters": run.state.params,
      "optimizer's moments": run.state.param_states,
    }
  )
  return {
    "topology": topology,
    "num_chips": len(devices),
    "chip": chip._asdict(),
    "mesh": dict(run.mesh.shape),
    "depth": None,
    "compile_seconds": sum(row["compile_seconds"] for row in rows),
    "num_params": sum(x.size for x in jax.tree.leaves(run.state.params)),
    "lengths": {"prefix": 0, "prompt": converter.prompt_length},
    "max_length": converter.target_length,
    "batch_size": latent.batch_size,
    "state": state,
    "programs": rows,
    "run": _bounds(latent, rows),
    "verdict": _verdict(rows, state, chip),
    "versions": chips.versions(),
  }


def _bounds(
  latent: Latent, rows: list[dict[str, Any]]
) -> dict[str, float | None] | None:
  """Least seconds of a step; None if a function does not fit."""
  if any(row["out_of_memory"] for row in rows):
    return None
  draw, step = rows[:2]
  length = latent.converter.target_length
  is_drawing = latent.method.loops is None
  sampling = draw["seconds"] + length * draw["token_seconds"]
  drawn = latent.batch_size * latent.method.num_draws * length
  sampling = sampling if is_drawing else 0.0
  return {
    "step": sampling + step["seconds"],
    "step_sampling": sampling,
    "step_gradient": step["seconds"],
    "tokens_per_second": drawn / sampling if is_drawing else None,
  }


def _verdict(
  rows: list[dict[str, Any]], state: list[dict[str, Any]], chip: chips.Chip
) -> dict[str, Any]:
  """Whether the run fits, and what would help if not."""
  found = plan.fit(rows, state, chip)
  if found["fits"]:
    return found
  settings = [
    "MODEL_PARALLEL_SUBMESH of more chips: each has a smaller part",
    "BATCH_SIZE, or the method's NUM_DRAWS, smaller: fewer rows are decoded",
  ]
  if found["program"] != _DRAW:
    settings[1] = "NUM_MICROBATCHES: fewer rows are differentiated at once"
  return found | {"settings": [*settings, "a topology of more chips"]}


@contextlib.contextmanager
def _jax_sees(devices: Sequence[Any]) -> Iterator[None]:
  """Makes JAX name described devices as its own, for T5X's mesh."""
  local = [device for device in devices if device.process_index == 0]
  stand_ins: dict[str, Any] = {
    "devices": lambda *_: list(devices),
    "local_devices": lambda *_: local,
    "local_device_count": lambda *_: len(local),
  }
  before = {name: getattr(jax, name) for name in stand_ins}
  try:
    for name, function in stand_ins.items():
      setattr(jax, name, function)
    yield
  finally:
    for name, function in before.items():
      setattr(jax, name, function)
