"""Checkpoints: parameters, optimizer, memory and step as one unit."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cot_latent.training.state import TrainState


class Checkpoints:
  """The checkpoints of one run; the last two are kept."""

  def __init__(self, directory: pathlib.Path):
    """Opens the folder, which is made if it is not there."""
    self._manager = ocp.CheckpointManager(
      directory.absolute(),
      options=ocp.CheckpointManagerOptions(max_to_keep=2, create=True),
    )

  def save(self, state: TrainState) -> None:
    """Saves a state; on return the checkpoint is whole and on disk."""
    self._manager.save(state.step, args=ocp.args.StandardSave(_tree(state)))
    self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """The step of the last whole checkpoint, if there is one."""
    return self._manager.latest_step()

  def restore(self, like: TrainState) -> TrainState:
    """Restores the last checkpoint.

    Args:
      like: a state of the same structure, shapes and types, which lies where
        this one shall. Only the rows that fill memory and pool up to an even
        number may be more or fewer, as on another number of devices.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    tree = self._manager.restore(
      self._manager.latest_step(), args=ocp.args.StandardRestore(abstract, strict=False),
    )
    return TrainState(**tree | {"step": int(tree["step"])})

  def close(self) -> None:
    """Waits for what is under way."""
    self._manager.close()


def _tree(state: TrainState) -> dict[str, Any]:
  """A state as Orbax takes it: every leaf an array, and no None."""
  parts = state._asdict() | {"step": np.asarray(state.step)}
  return {name: part for name, part in parts.items() if part is not None}
