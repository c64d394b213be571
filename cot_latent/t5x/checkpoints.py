"""T5X's checkpoints, read without a model or an optimizer."""

from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from t5x import checkpoints

from cot_latent.errors import RunError, UserError
from cot_latent.t5x import paths

NOT_READ = ocp.PLACEHOLDER


class Stored(NamedTuple):
  """What is of use in another trainer.

  Attributes:
    params: T5X's parameters, arrays of numpy.
    step: at which they were saved.
  """

  params: dict[str, Any]
  step: int


def read(path: str) -> Stored:
  """Reads a checkpoint in T5X's native form or in Orbax's.

  Args:
    path: of the checkpoint, such as MODEL_DIR/checkpoint_1500.

  Raises:
    UserError: if there is none.
  """
  folder = paths.absolute(path)  # Orbax takes no other
  if (folder / "state").is_dir():
    state = _read_orbax(folder / "state")
  elif (folder / "checkpoint").is_file():
    state = checkpoints.load_t5x_checkpoint(str(folder))
  else:
    raise UserError(
      f"{path} is no checkpoint of T5X's: give one's own folder, such as "
      "MODEL_DIR/checkpoint_1500"
    )
  params = jax.tree.map(np.asarray, state["target"])
  return Stored(params, int(np.asarray(state["state"]["step"])))


def write(path: str, params: dict[str, Any]) -> None:
  """Writes parameters alone as a checkpoint of step 0, in Orbax's form.

  Args:
    path: of the checkpoint, such as DIR/checkpoint_0. It appears when it is
      whole.
    params: T5X's.
  """
  folder = paths.absolute(path)
  partial = folder.with_name(f"{folder.name}.partial")
  if partial.exists():  # somebody was ended here before
    partial.rmtree()
  state = {
    "target": jax.tree.map(np.asarray, params),
    "state": {"step": np.int32(0)},
  }
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(partial / "state", state)
  # T5X looks for this part too; without a memory in it one is begun.
  (partial / "dataset").mkdir()
  partial.rename(folder)


def keep_state(path: str, state: Any) -> None:
  """Keeps arrays beside T5X's checkpoints; each process writes its part.

  Args:
    path: of a folder, replaced if it is there. It appears when it is whole.
    state: the arrays.
  """
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(epath.Path(path), state, force=True)


def kept_state(path: str, like: Any) -> Any:
  """Reads what was kept, each process no more than its part.

  Args:
    path: as for `keep_state`.
    like: arrays of the same shapes that lie where these shall, or what
      `described` makes of them; `NOT_READ` stands for what is to be left.

  Raises:
    RunError: if it is lost, or of something else.
  """
  like = described(like)
  restore_args = ocp.checkpoint_utils.construct_restore_args(like)
  try:
    with ocp.PyTreeCheckpointer() as reader:
      return reader.restore(
        epath.Path(path), item=like, restore_args=restore_args
      )
  except (KeyError, OSError, TypeError, ValueError) as error:
    line = str(error).partition("\n")[0]
    raise RunError(f"{path} cannot be used: {line:.200}") from error


def described(tree: Any) -> Any:
  """Shapes, types and places of arrays, without what is in them."""

  def describe(leaf):
    if leaf is NOT_READ:
      return leaf
    place = leaf.sharding
    if not leaf.shape and isinstance(place, jax.sharding.NamedSharding):
      # Several processes restore a number to a place that JAX then refuses.
      place = jax.sharding.NamedSharding(place.mesh, jax.P())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

  return jax.tree.map(describe, tree)


def _read_orbax(folder: epath.Path) -> dict[str, Any]:
  with ocp.PyTreeCheckpointer() as reader:
    # Whatever devices it was written by.
    wanted = jax.tree.map(
      lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    return reader.restore(folder, restore_args=wanted)
