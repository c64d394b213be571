"""Paths on a disk or in a bucket."""

from etils import epath

from cot_latent.errors import UserError


def absolute(path: epath.PathLike) -> epath.Path:
  """The path from the root on.

  Args:
    path: as a user gives it. One in a bucket has its root already, and
      `resolve` would take it for a relative one.
  """
  place = epath.Path(path)
  return place if place.is_absolute() else place.resolve()


def check_absolute(name: str, path: str) -> None:
  """Checks a path that T5X hands to Orbax, which takes no relative one.

  Args:
    name: of the macro.
    path: its value.

  Raises:
    UserError: naming the macro.
  """
  if not epath.Path(path).is_absolute():
    raise UserError(
      f"{name} = {path!r} must begin at the root, as T5X's checkpoints want "
      f"it: set {name} = {str(absolute(path))!r}"
    )
