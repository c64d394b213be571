"""What is stored beside T5X's own checkpoints, on a disk or in a bucket.

Journal and report are written with what only a disk has: appending, replacing
at once. In a bucket, where T5X may keep its checkpoints, they are put whole.
"""

import pathlib
import tempfile
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from cot_latent.errors import RunError, UserError
from cot_latent.reporting import record

_OF_BEFORE = ("report.json", record.JOURNAL, record.DIFF)
NOT_READ = ocp.PLACEHOLDER


def absolute(path: epath.PathLike) -> epath.Path:
  """The path from the root on.

  Args:
    path: As a user gives it. One in a bucket has its root already, and
      `resolve` would take it for a relative one.
  """
  place = epath.Path(path)
  return place if place.is_absolute() else place.resolve()


def check_absolute(name: str, path: str) -> None:
  """Checks a path that T5X hands to Orbax, which takes no relative one.

  Args:
    name: Of the macro.
    path: Its value.

  Raises:
    UserError: Naming the macro.
  """
  if not epath.Path(path).is_absolute():
    raise UserError(
      f"{name} = {path!r} must begin at the root, as T5X's checkpoints want "
      f"it: set {name} = {str(absolute(path))!r}"
    )


class Store:
  """Where a report is written.

  Attributes:
    home: MODEL_DIR.
    is_remote: Whether it is in a bucket.
    folder: On this machine's disk; the same if MODEL_DIR is there.
  """

  def __init__(self, model_dir: str, is_remote: bool | None = None):
    """Makes nothing yet.

    Args:
      model_dir: MODEL_DIR.
      is_remote: None tells it from the name.
    """
    self.home = epath.Path(model_dir)
    self.is_remote = "://" in model_dir if is_remote is None else is_remote
    self.folder = pathlib.Path(model_dir)
    self._put: dict[str, tuple[int, int]] = {}

  def fetch(self) -> None:
    """Brings what earlier processes wrote here."""
    if not self.is_remote:
      return
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cot_latent-"))
    for name in _OF_BEFORE:
      if (self.home / name).exists():
        content = (self.home / name).read_bytes()
        (self.folder / name).write_bytes(content)

  def push(self) -> None:
    """Puts what was written since into the bucket."""
    if not self.is_remote:
      return
    for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
      name = path.relative_to(self.folder).as_posix()
      state = path.stat()
      mark = (state.st_mtime_ns, state.st_size)
      if self._put.get(name) != mark:
        there = self.home / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
        self._put[name] = mark

  def config(self) -> bytes | None:
    """What T5X wrote as config.gin, if it has."""
    path = self.home / record.CONFIG
    return path.read_bytes() if path.exists() else None


def keep_state(path: str, state: Any) -> None:
  """Keeps arrays beside T5X's checkpoints; each process writes its part.

  Args:
    path: Of a folder, replaced if it is there. It appears when it is whole.
    state: The arrays.
  """
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(epath.Path(path), state, force=True)


def kept_state(path: str, like: Any) -> Any:
  """Reads what was kept, each process no more than its part.

  Args:
    path: As for `keep_state`.
    like: Arrays of the same shapes that lie where these shall, or what
      `described` makes of them; `NOT_READ` stands for what is to be left.

  Raises:
    RunError: If it is lost, or of something else.
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
