"""Files that are either whole or absent, and a journal that survives a kill."""

import errno
import hashlib
import json
import math
import os
import pathlib
import sys
from typing import Any, TextIO

from cot_latent.errors import UserError


def partial_path(path: pathlib.Path) -> pathlib.Path:
  """Returns the path for a file's new content, before it replaces the file."""
  return path.with_name(f".{path.name}.partial")


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces a file's content; after any failure the old content stays."""
  partial = partial_path(path)
  data = content.encode() if isinstance(content, str) else content
  try:
    with partial.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def check_output(flag: str, output: str) -> None:
  """Refuses a file that cannot be written, before there is anything to write.

  Args:
    flag: The flag that names the file, for messages.
    output: Path of the file; it may be a FIFO, a device or a link.

  Raises:
    UserError: If the folder does not exist, or the file cannot be written.
  """
  path = pathlib.Path(output)
  try:
    place = path.resolve()
    if path.is_dir():
      raise UserError(f"{flag}={output} is a folder: name a file")
    if path.exists():
      is_open = os.access(path, os.W_OK)
    else:
      folder = place.parent if path.is_symlink() else path.parent
      if not folder.is_dir():
        raise UserError(f"{flag}={output}: there is no folder {folder}")
      is_open = os.access(folder, os.W_OK)
  except (OSError, ValueError, RuntimeError) as error:  # a loop, a null
    raise UserError(f"{flag}={output!r:.80} cannot be used: {error}") from None
  if not is_open:
    raise UserError(f"{flag}={output}: no permission to write there")


def check_output_folder(flag: str, output: str) -> None:
  """Refuses a folder for outputs if a file is in its place.

  Args:
    flag: The flag that names the folder, for messages.
    output: Path of the folder, which need not exist.

  Raises:
    UserError: If the path, or a parent of it, is not a folder.
  """
  for place in (pathlib.Path(output), *pathlib.Path(output).parents):
    if place.exists() and not place.is_dir():
      raise UserError(f"{flag}={output}: {place} is a file, not a folder")


def write_output(path: pathlib.Path, content: str | bytes) -> None:
  """Writes to the path of a flag, whatever it is.

  A regular file is replaced at once, or stays as it was. If the file may be
  written but not its folder, it is written in place. A link stays, and its
  target is written. A FIFO, a device, a terminal and the command's own output
  (`/dev/stdout`) are written to.

  Args:
    path: Path of the file.
    content: Text, as UTF-8, or bytes.
  """
  data = content.encode() if isinstance(content, str) else content
  for stream in (sys.stdout, sys.stderr):
    if _is_stream(path, stream):
      # If opened again, the file would be overwritten from its beginning.
      stream.flush()
      with open(os.dup(stream.fileno()), "wb") as file:
        file.write(data)
      return
  if path.exists() and not path.is_file():
    path.write_bytes(data)
    return
  place = path.resolve()
  try:
    write_atomically(place, data)
  except OSError as error:
    if error.errno not in (errno.EACCES, errno.EPERM) or not place.is_file():
      raise
    place.write_bytes(data)


def _is_stream(path: pathlib.Path, stream: TextIO) -> bool:
  """Whether a path leads to the file that this process's stream writes to."""
  try:
    return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
  except (OSError, ValueError):  # no such file, or a stream without a file
    return False


def to_json(value: Any) -> str:
  """Writes JSON with sorted keys; NaN and infinity, which JSON lacks, fail."""
  return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def to_json_line(value: Any) -> str:
  """Writes JSON on one line, with its line end."""
  return json.dumps(value, sort_keys=True, allow_nan=False) + "\n"


def parse_json(text: str | bytes) -> Any:
  """Reads only JSON that `to_json` or `to_json_line` can write.

  Raises:
    ValueError: If it is not JSON, or has a number that these do not write: NaN,
      infinity, or an integer of more than 64 bits.
  """
  return json.loads(
    text,
    parse_constant=_refuse,
    parse_float=_finite,
    parse_int=_of_64_bits,
  )


def _refuse(text: str) -> float:
  raise ValueError(f"{text:.40} is not a JSON number")


def _finite(text: str) -> float:
  return number if math.isfinite(number := float(text)) else _refuse(text)


def _of_64_bits(text: str) -> int:
  if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
    raise ValueError(f"{text:.40} has more than 64 bits")
  return int(text)


def sha256(content: bytes) -> str:
  """Returns the sha256 of bytes, in hexadecimal."""
  return hashlib.sha256(content).hexdigest()


def short_hash(value: Any) -> str:
  """Returns the first 8 hexadecimal digits of the sha256 of a value's JSON."""
  return sha256(to_json_line(value).encode())[:8]


class Journal:
  """The measurements of a run: one JSON object with a `step` per line.

  The first row creates the file. Each line is flushed at once, so that a killed
  process loses no row that a later checkpoint relies on.
  """

  def __init__(self, path: pathlib.Path, resume_at: int | None):
    """Opens the journal.

    Args:
      path: Path of the file.
      resume_at: Keep rows up to this step; None starts an empty journal.
    """
    self.rows: list[dict[str, Any]] = []
    if resume_at is not None:
      self.rows = read_rows(path, resume_at)
    if path.exists():
      write_atomically(path, "".join(map(to_json_line, self.rows)))
    self._path = path
    self._file: TextIO | None = None

  def add(self, step: int, kind: str, **fields: Any) -> None:
    """Appends a row."""
    row = {"step": step, "kind": kind, **fields}
    self._file = self._file or self._path.open("a", encoding="utf-8")
    self._file.write(to_json_line(row))
    self._file.flush()
    self.rows.append(row)

  def sync(self) -> None:
    """Waits until all rows are on the disk, not only with the system."""
    if self._file:
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file."""
    if self._file:
      self._file.close()


def read_rows(
  path: pathlib.Path, last_step: int | None
) -> list[dict[str, Any]]:
  """Reads a journal's rows up to a step; no rows if there is no journal.

  Args:
    path: Path of the file.
    last_step: The last step to read; None reads all.

  Raises:
    UserError: If it cannot be read, or a line is not a row; names the line.
  """
  if not path.exists():
    return []
  try:
    lines = path.read_bytes().splitlines(keepends=True)
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = parse_json(line)
    except (ValueError, RecursionError):
      break  # an incomplete line: a process was killed while it wrote
    if not line.endswith(b"\n"):
      break
    if not _is_row(row):
      raise UserError(
        f"{path}, line {number} is not a row of a journal: it lacks a step or "
        "a kind"
      )
    rows.append(row)
  return [row for row in rows if last_step is None or row["step"] <= last_step]


def _is_row(row: Any) -> bool:
  return (
    isinstance(row, dict)
    and type(row.get("step")) is int
    and isinstance(row.get("kind"), str)
  )
