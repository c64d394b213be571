"""T5X's checkpoints, read without a model or an optimizer."""

from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from t5x import checkpoints

from cot_latent.errors import UserError


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
  folder = epath.Path(path)
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


def _read_orbax(folder: epath.Path) -> dict[str, Any]:
  with ocp.PyTreeCheckpointer() as reader:
    # Whatever devices it was written by.
    wanted = jax.tree.map(
      lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    return reader.restore(folder, restore_args=wanted)
