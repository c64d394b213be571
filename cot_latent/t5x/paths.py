"""Paths on a disk or in a bucket."""

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
  """The path from the root on.

  Args:
    path: as a user gives it. One in a bucket has its root already, and
      `resolve` would take it for a relative one.
  """
  place = epath.Path(path)
  return place if place.is_absolute() else place.resolve()
