"""A run's arrays as shapes with shardings; nothing is made."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cot_latent.errors import UserError
from cot_latent.inference import memory
from cot_latent.models import language_model, lora, partitioning
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.language_model import LanguageModel
from cot_latent.models.network import SOFT_PROMPT
from cot_latent.models.partitioning import Layout
from cot_latent.models.t5 import T5Config
from cot_latent.planning.lengths import Lengths
from cot_latent.training import mstep, tuning
from cot_latent.training.experiment import BaseConfig, Experiment, Given


class Shapes(NamedTuple):
  """What a run keeps between its functions.

  Attributes:
    layout: Mesh and rules.
    model: The model that is trained, its functions not compiled.
    base_model: The model without anything that is added to it.
    optimizer: Optax optimizer.
    params: Trained parameters.
    frozen: The other parameters; None if there are none.
    opt_state: State of the optimizer.
    memory: The memory of rationales.
    pool: Rationales of an outer loop; None without loops.
    base_params: Parameters from which each outer loop begins; None if not
      needed.
    base: All parameters of the base model, where it is fitted; else None.
  """

  layout: Layout
  model: LanguageModel
  base_model: LanguageModel
  optimizer: optax.GradientTransformation
  params: Any
  frozen: Any
  opt_state: Any
  memory: Any
  pool: Any
  base_params: Any
  base: Any

  def model_params(self) -> Any:
    """Returns all parameters of the model."""
    return tuning.merge(self.params, self.frozen)

  def state(self) -> dict[str, Any]:
    """Returns the arrays that are kept, by what they are."""
    kept = {
      "trained parameters": self.params,
      "frozen parameters": self.frozen,
      "optimizer's moments": self.opt_state,
      "memory": self.memory,
      "pool of the outer loop": self.pool,
      "parameters of each loop's start": self.base_params,
    }
    return {name: tree for name, tree in kept.items() if jax.tree.leaves(tree)}


def depth_of(config: Experiment) -> int:
  """Returns a model's number of layers; a T5's, of each of its two stacks.

  Raises:
    UserError: If a T5's stacks differ, or the model is a program's own.
  """
  model = config.model
  if isinstance(model, Given):
    raise UserError(
      f"--topology: the model {model.name!r} is defined by a program, and only "
      "this package's models are planned"
    )
  if isinstance(model, DecoderConfig):
    return model.num_layers
  if model.num_encoder_layers != model.num_decoder_layers:
    raise UserError("--topology: encoder and decoder differ in depth")
  return model.num_encoder_layers


def with_depth(config: Experiment, layers: int) -> Experiment:
  """Returns the run with a model of fewer layers."""
  model = config.model
  assert isinstance(model, DecoderConfig | T5Config)
  if isinstance(model, T5Config):
    changed: Any = {
      "num_encoder_layers": layers,
      "num_decoder_layers": layers,
    }
  else:
    local = tuple(number for number in model.local_layers if number < layers)
    changed = {"num_layers": layers, "local_layers": local}
  return dataclasses.replace(
    config, model=dataclasses.replace(model, **changed)
  )


def shapes_of(config: Experiment, lengths: Lengths, layout: Layout) -> Shapes:
  """Returns the arrays of a run.

  Args:
    config: The run.
    lengths: How many questions there are, and how long.
    layout: Mesh of the devices that are planned for, and rules.
  """
  model = _model(config, lengths, layout, config.tuning)
  is_longer = isinstance(config.tuning, lora.Lora)
  base_model = _model(config, lengths, layout, None) if is_longer else model
  optimizer = mstep.build_optimizer(config.optimizer)
  whole = model.shapes
  params, frozen = whole, None
  if isinstance(config.tuning, tuning.SoftPrompt):
    width = config.model.embed_dim  # type: ignore[union-attr]
    soft = shape(layout, (lengths.soft, width), jnp.float32)
    params, frozen = {SOFT_PROMPT: soft}, whole
  elif isinstance(config.tuning, lora.Lora):
    params, frozen = tuning.split(whole, config.tuning)
  loops = config.method.loops
  return Shapes(
    layout=layout,
    model=model,
    base_model=base_model,
    optimizer=optimizer,
    params=params,
    frozen=frozen,
    opt_state=opt_state_of(optimizer, params, layout),
    memory=_memory(layout, lengths.train, config.task.max_length),
    pool=loops and _pool(config, lengths, layout),
    base_params=params if loops and loops.restart else None,
    base=base_model.shapes if isinstance(config.base, BaseConfig) else None,
  )


def shape(
  layout: Layout, size: tuple[int, ...], dtype: Any, *names: str | None
) -> jax.ShapeDtypeStruct:
  """Returns the shape of an array whose first axes have these names."""
  sharding = layout.sharding_of(size, *names)
  return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)


def opt_state_of(
  optimizer: optax.GradientTransformation, params: Any, layout: Layout
) -> Any:
  """Returns an optimizer's state; moments are sharded as parameters are."""
  return optax.tree.map_params(
    optimizer,
    lambda leaf, like: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=like.sharding
    ),
    jax.eval_shape(optimizer.init, params),
    params,
    transform_non_params=lambda leaf: shape(layout, leaf.shape, leaf.dtype),
  )


def device_bytes(tree: Any) -> int:
  """Returns the bytes of a tree's arrays on one device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def described(state: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Describes arrays that are kept: types, and bytes on a device."""
  rows = []
  for name, tree in state.items():
    leaves = jax.tree.leaves(tree)
    largest = max(leaves, key=lambda leaf: math.prod(leaf.shape))
    rows.append(
      {
        "name": name,
        "type": str(largest.dtype),
        "bytes": device_bytes(tree),
        "whole_bytes": sum(
          math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves
        ),
      }
    )
  return rows


def _model(config, lengths, layout, added) -> LanguageModel:
  return language_model.from_config(
    config.model,
    lengths.vocab,
    lengths.ending,
    config.task.max_length,
    layout,
    added if isinstance(added, lora.Lora) else None,
  )


def _memory(layout: Layout, num_examples: int, length: int) -> Any:
  rows = partitioning.padded(layout, "examples", num_examples)
  made = jax.eval_shape(lambda: memory.init(rows, length))
  return jax.tree.map(
    lambda leaf: shape(layout, leaf.shape, leaf.dtype, "examples"), made
  )


def _pool(config: Experiment, lengths: Lengths, layout: Layout) -> Any:
  rows = partitioning.padded(layout, "examples", lengths.train)
  size = rows, config.method.num_draws
  tokens = *size, config.task.max_length
  return {
    "tokens": shape(layout, tokens, jnp.int32, "examples"),
    "is_correct": shape(layout, size, bool, "examples"),
  }
