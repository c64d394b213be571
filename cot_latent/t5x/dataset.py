"""The training iterator that T5X sees, which owns the rationale memory.

T5X saves and restores its training iterator with each checkpoint, and that is
how the memory comes to lie in it. What a step learns from is made in the step
itself, of the current parameters; the iterator only gives features of the
right shapes.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from clu.data import dataset_iterator
from etils import epath

from cot_latent.em.outer_loops import Pool
from cot_latent.errors import UserError
from cot_latent.inference.memory import MemoryState
from cot_latent.t5x import paths
from cot_latent.t5x.features import Features

_SUFFIX = ".memory.npz"
_POOL = "pool_"  # before the names of a pool's arrays


@dataclasses.dataclass
class Chains:
  """The memory, and when that was.

  Attributes:
    memory: one chain a training question; None before it is made.
    began_at: T5X's step when it was made; T5X goes on counting where the
      pretrained checkpoint stopped.
    step: T5X's step that it belongs to.
    pool: the rationales of the present outer loop; None without such loops.
  """

  memory: MemoryState | None = None
  began_at: int = 0
  step: int = 0
  pool: Pool | None = None


class RationaleIterator(dataset_iterator.DatasetIterator):
  """Gives empty batches, and carries the chains through checkpoints.

  Attributes:
    chains: the memory.
    before_saving: called with T5X's step and the sha256 of the chains as they
      are stored.
  """

  def __init__(self, empty: Features, fingerprint: str, model_dir: str):
    """Makes an iterator whose chains are still to be made.

    Args:
      empty: features of this process's part of a minibatch.
      fingerprint: of the training questions and the length of rationales.
      model_dir: the run's folder. Its own checkpoints must have the memory;
        one elsewhere is a model to begin with, and its memory is not read.
    """
    self.chains = Chains()
    self.before_saving: Callable[[int, str], None] | None = None
    self._empty = empty
    self._fingerprint = fingerprint
    self._model_dir = paths.absolute(model_dir)

  def __next__(self) -> Features:
    return dict(self._empty)

  def reset(self) -> None:
    """Does nothing: all batches are the same."""

  @property
  def element_spec(self) -> Any:
    """The shapes and types of a batch."""
    return {
      name: dataset_iterator.ArraySpec(array.dtype, array.shape)
      for name, array in self._empty.items()
    }

  def save(self, filename) -> None:
    """Writes the chains into a checkpoint, if there are any."""
    if self.chains.memory is None:
      return
    pool = {} if self.chains.pool is None else self.chains.pool._asdict()
    stream = io.BytesIO()
    np.savez_compressed(
      stream,
      allow_pickle=False,
      fingerprint=np.array(self._fingerprint),
      began_at=np.array(self.chains.began_at),
      step=np.array(self.chains.step),
      **jax.tree.map(np.asarray, self.chains.memory._asdict()),
      **{_POOL + name: np.asarray(array) for name, array in pool.items()},
    )
    content = stream.getvalue()
    if self.before_saving:
      sha256 = hashlib.sha256(content).hexdigest()
      self.before_saving(self.chains.step, sha256)
    epath.Path(f"{filename}{_SUFFIX}").write_bytes(content)

  def restore(self, filename) -> None:
    """Reads the chains of the run's own checkpoint.

    Those of another run belong to it: a run that begins with its model makes
    new ones.

    Raises:
      UserError: if the checkpoint has none, or those of other questions.
    """
    file = paths.absolute(f"{filename}{_SUFFIX}")
    if self._model_dir not in file.parents:
      return
    path = _find(file)
    if path is None:
      raise UserError(
        f"no rationale memory in {file.parent}: this is no checkpoint of "
        "such a run, or part of it is lost; choose another MODEL_DIR"
      )
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
      arrays = dict(stored)
    if str(arrays.pop("fingerprint")) != self._fingerprint:
      raise UserError(
        f"the memory in {path} is of other questions, or of rationales of "
        "another length: choose another MODEL_DIR"
      )
    pool = {
      name.removeprefix(_POOL): arrays.pop(name)
      for name in list(arrays)
      if name.startswith(_POOL)
    }
    self.chains = Chains(
      began_at=int(arrays.pop("began_at")),
      step=int(arrays.pop("step")),
      pool=Pool(**pool) if pool else None,
      memory=MemoryState(**arrays),
    )


def _find(path: epath.Path) -> epath.Path | None:
  """Finds the file, or that of another process: all hold the same.

  Its name has the number of processes, which may be another one now.
  """
  if path.exists():
    return path
  for folder in (path.parent, path.parent.parent):
    for pattern in (f"*{_SUFFIX}", f"process_*/*{_SUFFIX}"):
      if found := sorted(folder.glob(pattern)):
        return found[0]
  return None
