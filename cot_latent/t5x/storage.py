"""Files beside T5X's own checkpoints, on a disk or in a bucket.

Writing the journal and the report needs a disk: lines are appended, and files
are replaced at once. If T5X's checkpoints are in a bucket, whole files are
copied there.
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
  """Returns the absolute path.

  Args:
    path: Path as a user gives it. A path in a bucket is absolute already, and
      `resolve` would treat it as relative.
  """
  place = epath.Path(path)
  return place if place.is_absolute() else place.resolve()


def check_absolute(name: str, path: str) -> None:
  """Checks a path that T5X passes to Orbax, which takes no relative paths.

  Args:
    name: Name of the macro.
    path: Value of the macro.

  Raises:
    UserError: If the path is relative; names the macro.
  """
  if not epath.Path(path).is_absolute():
    raise UserError(
      f"{name} = {path!r} must be an absolute path, as T5X's checkpoints "
      f"need it: set {name} = {str(absolute(path))!r}"
    )


class Store:
  """The folder of a report.

  Attributes:
    home: Path MODEL_DIR.
    is_remote: Whether it is in a bucket.
    folder: Path on this machine's disk; the same if MODEL_DIR is on it.
  """

  def __init__(self, model_dir: str, is_remote: bool | None = None):
    """Sets the paths; nothing is written yet.

    Args:
      model_dir: Path MODEL_DIR.
      is_remote: Whether it is in a bucket; None tells it from the name.
    """
    self.home = epath.Path(model_dir)
    self.is_remote = "://" in model_dir if is_remote is None else is_remote
    self.folder = pathlib.Path(model_dir)
    self._put: dict[str, tuple[int, int]] = {}

  def fetch(self) -> None:
    """Copies here what earlier processes wrote."""
    if not self.is_remote:
      return
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cot_latent-"))
    for name in _OF_BEFORE:
      if (self.home / name).exists():
        content = (self.home / name).read_bytes()
        (self.folder / name).write_bytes(content)

  def push(self) -> None:
    """Copies what was written since then to the bucket."""
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
    """Returns T5X's config.gin, if it has been written."""
    path = self.home / record.CONFIG
    return path.read_bytes() if path.exists() else None


def keep_state(path: str, state: Any) -> None:
  """Stores arrays beside T5X's checkpoints; each process writes its part.

  Args:
    path: Path of a folder, replaced if it exists. It appears once it is whole.
    state: Tree of arrays.
  """
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(epath.Path(path), state, force=True)


def kept_state(path: str, like: Any) -> Any:
  """Reads stored arrays; each process reads only its part.

  Args:
    path: Path of the folder that `keep_state` wrote.
    like: Arrays with the wanted shapes and shardings, or `described` of them;
      `NOT_READ` stands for arrays to skip.

  Raises:
    RunError: If the folder is lost, or holds something else.
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
  """Returns shapes, types and shardings of arrays, without their content."""

  def describe(leaf):
    if leaf is NOT_READ:
      return leaf
    place = leaf.sharding
    if not leaf.shape and isinstance(place, jax.sharding.NamedSharding):
      # Several processes restore a number to a place that JAX then refuses.
      place = jax.sharding.NamedSharding(place.mesh, jax.P())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

  return jax.tree.map(describe, tree)
