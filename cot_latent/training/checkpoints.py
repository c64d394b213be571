"""Checkpoints: parameters, optimizer, memory and step as one unit."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cot_latent.errors import UserError
from cot_latent.runtime import files, processes, terminal
from cot_latent.training.state import TrainState

_MANIFEST = "sha256.json"


class Checkpoints:
  """The checkpoints of one run; the last two are kept.

  Beside Orbax's files, each checkpoint has a manifest: the hash of every file.
  A checkpoint without a manifest is unfinished. A checkpoint with other hashes
  is damaged, and the one before it is used.
  """

  def __init__(
    self, directory: pathlib.Path, remedy: str = "choose another MODEL_DIR"
  ):
    """Opens the folder, or creates it.

    Args:
      directory: The folder.
      remedy: What to do if no checkpoint in it can be used.

    Raises:
      UserError: If there are checkpoints and all of them are damaged.
    """
    self._directory = directory.absolute()
    if processes.is_first():
      _set_aside_damaged(self._directory, remedy)
    processes.wait_for_all("checkpoints")
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, create=True, cleanup_tmp_directories=True
      ),
    )

  def save(self, state: TrainState) -> str:
    """Saves a state; afterwards the checkpoint is whole and on disk.

    Returns:
      The sha256 over it; "" in all processes except the first.
    """
    self._manager.save(state.step, args=ocp.args.StandardSave(_tree(state)))
    self._manager.wait_until_finished()
    if not processes.is_first():
      return ""
    _write_manifest(self._directory / str(state.step))
    return self.sha256(state.step)

  def latest_step(self) -> int | None:
    """Returns the step of the last whole checkpoint, if there is one."""
    return self._manager.latest_step()

  def sha256(self, step: int) -> str:
    """Returns the sha256 over a whole checkpoint."""
    manifest = self._directory / str(step) / _MANIFEST
    return files.sha256(manifest.read_bytes())

  def restore(self, like: TrainState) -> TrainState:
    """Restores the last checkpoint.

    Args:
      like: A state of the same structure, shapes, types and shardings. Only the
        number of rows that pad memory and pool to an even size may differ, as
        on another number of devices.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    tree = self._manager.restore(
      self._manager.latest_step(),
      args=ocp.args.StandardRestore(abstract, strict=False),
    )
    # Values that were not saved stay as they are: frozen, or empty.
    return like._replace(**tree | {"step": int(tree["step"])})

  def restore_params(self, like: Any) -> Any:
    """Restores only the trained parameters of the last checkpoint.

    Args:
      like: Arrays, or their descriptions, with the same shapes and types and
        the wanted shardings.
    """
    abstract = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, like)}
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    folder = self._directory / str(self._manager.latest_step()) / "default"
    with ocp.PyTreeCheckpointer() as reader:
      restored = reader.restore(
        folder,
        args=ocp.args.PyTreeRestore(
          abstract, restore_args=restore_args, partial_restore=True
        ),
      )
    return restored["params"]

  def close(self) -> None:
    """Waits for writes in progress."""
    self._manager.close()


def _tree(state: TrainState) -> dict[str, Any]:
  """Returns a state as Orbax needs it: every leaf an array, nothing empty."""
  parts = state._asdict() | {"step": np.asarray(state.step)}
  return {
    name: part
    for name, part in parts.items()
    if name != "frozen" and jax.tree.leaves(part)
  }


def _write_manifest(folder: pathlib.Path) -> None:
  files.write_atomically(folder / _MANIFEST, files.to_json(_hashes(folder)))


def _hashes(folder: pathlib.Path) -> dict[str, str]:
  """Returns the sha256 of each file, by its path in the folder."""
  return {
    path.relative_to(folder).as_posix(): files.sha256(path.read_bytes())
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path != folder / _MANIFEST
  }


def _fault(folder: pathlib.Path) -> str | None:
  """Returns a checkpoint's fault; "" if it was never finished."""
  try:
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
  except FileNotFoundError:
    return ""
  except (OSError, RecursionError, ValueError):
    return f"{_MANIFEST} cannot be read"
  if not isinstance(manifest, dict):
    return f"{_MANIFEST} is another file"
  found = _hashes(folder)
  for name in sorted(manifest.keys() | found.keys()):
    if name not in found:
      return f"{name} is missing"
    if found[name] != manifest.get(name):
      return f"{name} was changed"
  return None


def _set_aside_damaged(directory: pathlib.Path, remedy: str) -> None:
  """Renames unusable checkpoints, down to the last usable one."""
  if not directory.is_dir():
    return
  folders = [p for p in directory.iterdir() if p.name.isdecimal()]
  folders.sort(key=lambda path: int(path.name), reverse=True)
  bad: list[tuple[pathlib.Path, str]] = []
  for folder in folders:
    fault = _fault(folder)
    if fault is None:
      break
    if bad and not fault:
      # Only the last can be unfinished: the one before it had its manifest.
      fault = f"{_MANIFEST} is missing"
    bad.append((folder, fault))
  damaged = [f"{folder}: {fault}" for folder, fault in bad if fault]
  if damaged and len(bad) == len(folders):
    raise UserError(
      f"no checkpoint in {directory} can be used ({damaged[0]}): put one back, "
      f"or {remedy}"
    )
  is_used = "the one before is used"
  if len(bad) == len(folders):
    is_used = "there is none before, and the run begins again"
  for folder, fault in bad:
    what = f"damaged ({fault})" if fault else "not finished"
    kept = _free_name(folder.with_name(f"unusable-{folder.name}"))
    terminal.say(
      f"the checkpoint of step {folder.name} is {what}: {is_used}; it is "
      f"kept as {kept.name}",
      is_error=True,
    )
    folder.rename(kept)


def _free_name(path: pathlib.Path) -> pathlib.Path:
  number, free = 1, path
  while free.exists():
    number += 1
    free = path.with_name(f"{path.name}-{number}")
  return free
