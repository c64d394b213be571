"""Arrays in files that others may have made: .npz archives and .npy files.

A small file can claim terabytes: zip stores a million equal bytes in a
thousand, and NumPy makes an array of the shape that a header claims before it
reads the first number of it. So what a file claims is compared with its size
before anything is read. Nothing is ever unpickled.
"""

import contextlib
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

# What a compressed archive may hold: so much, or so many times its own size.
# No task is known to be stored in less than a fiftieth.
_MOST_BYTES, _MOST_TIMES = 2**30, 100
_HEADERS = {
  (1, 0): npy.read_array_header_1_0,
  (2, 0): npy.read_array_header_2_0,
}
_DAMAGE = (
  *(AttributeError, ArithmeticError, EOFError, LookupError, OSError),
  *(MemoryError, RecursionError, TypeError, ValueError),
  # Of headers, which are Python's literals.
  *(SyntaxError, tokenize.TokenError),
  # Of damaged archives: "encrypted", an unknown kind of compression.
  *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


class ArraysError(ValueError):
  """A file's arrays cannot be read; says why."""


@contextlib.contextmanager
def open_archive(
  file: BinaryIO, *, is_compressed: bool = False
) -> Iterator[NpzFile]:
  """Opens an .npz archive, whose arrays are read when they are asked for.

  Args:
    file: The archive, open at its beginning.
    is_compressed: Whether `numpy.savez_compressed` wrote it. Otherwise its
      arrays take no more room than the file.

  Yields:
    The arrays by name.

  Raises:
    ArraysError: If it is no such archive, is damaged, or claims more than it
      may hold; also for whatever else is raised while it is open, such as a
      KeyError for a name that it lacks.
    FileNotFoundError: As it was raised.
  """
  try:
    _check_archive(file, is_compressed)
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
      yield stored
  except FileNotFoundError:
    raise
  except _DAMAGE as error:
    raise ArraysError(_reason(error)) from None


def read_array(file: BinaryIO) -> np.ndarray:
  """Reads the array of an .npy file.

  Args:
    file: The file, open at its beginning.

  Raises:
    ArraysError: If it is no such file, or not as long as its header claims.
  """
  try:
    _check_array(file, os.fstat(file.fileno()).st_size)
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)
  except _DAMAGE as error:
    raise ArraysError(_reason(error)) from None


def _check_archive(file: BinaryIO, is_compressed: bool) -> None:
  """Compares what an archive claims with its size.

  Raises:
    ValueError: If it claims more than it may.
  """
  size = file.seek(0, os.SEEK_END)
  file.seek(0)
  most = max(_MOST_BYTES, _MOST_TIMES * size) if is_compressed else size
  with zipfile.ZipFile(file) as archive:
    members = archive.infolist()
    claimed = sum(member.file_size for member in members)
    if claimed > most:
      raise ValueError(
        f"it claims to hold {claimed:,} bytes, but a file of {size:,} may hold "
        f"{most:,}"
      )
    for member in members:
      with archive.open(member.filename) as content:
        _check_array(content, member.file_size, member.filename)


def _check_array(content, num_bytes: int, name: str = "the array") -> None:
  """Checks that an array's header claims as many bytes as are there.

  Args:
    content: The array's file, at its beginning.
    num_bytes: Length of the file.
    name: Name of the array, for messages.

  Raises:
    ValueError: If there are more or fewer, or if the header cannot be read.
  """
  version = npy.read_magic(content)
  if version not in _HEADERS:
    raise ValueError(f"{name} has a version of .npy that cannot be read")
  shape, _, dtype = _HEADERS[version](content)
  claimed = math.prod(shape) * dtype.itemsize
  found = num_bytes - content.tell()
  if dtype.hasobject or min(shape, default=0) < 0 or claimed != found:
    raise ValueError(
      f"{name} claims to be {dtype} {list(shape)}, which are {claimed:,} "
      f"bytes, but has {found:,}"
    )


def _reason(error: BaseException) -> str:
  return str(error) or type(error).__name__
