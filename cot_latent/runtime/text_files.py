"""Data files, read and checked; an error names the file and the row."""

import codecs
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from cot_latent.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_bytes(path: pathlib.Path) -> bytes:
  """Reads a file.

  Raises:
    UserError: If it cannot be read.
  """
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f"cannot read {path} ({error.strerror})") from None


def read_text(path: pathlib.Path) -> str:
  """Reads a data file.

  Raises:
    UserError: If it cannot be read, is not UTF-8 or is empty.
  """
  # Some editors begin a file with a byte order mark.
  content = read_bytes(path).removeprefix(codecs.BOM_UTF8)
  try:
    text = content.decode()
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise UserError(
      f"{path}, line {line}: not UTF-8 ({error.reason})"
    ) from None
  if not text.strip():
    raise UserError(f"{path} is empty")
  return text


def parse_json(path: pathlib.Path, text: str, line: int | None = None):
  """Parses JSON of a data file.

  Args:
    path: Path of the file, for messages.
    text: The JSON.
    line: Its line in the file; None if it is the whole file.

  Raises:
    UserError: Names the file and the line of the fault.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    at = line if line is not None else error.lineno
    raise UserError(
      f"{path}, line {at}: not valid JSON ({error.msg}, column {error.colno})"
    ) from None
  except (ValueError, RecursionError) as error:  # an endless number, nesting
    raise UserError(f"{path}, line {line or 1}: bad JSON ({error})") from None


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that is one JSON object.

  Raises:
    UserError: If it cannot be read; names the file and the line of the fault.
  """
  content = parse_json(path, read_text(path))
  if not isinstance(content, dict):
    raise UserError(f"{path}: expected an object, got {content!r:.60}")
  return content


def require_strings(path: pathlib.Path, place: str, row, names) -> None:
  """Checks that a row of a data file holds the named, non-empty strings.

  JSON can escape half a surrogate pair, which no encoding can write.

  Raises:
    UserError: Names the file, the row and the field.
  """
  if not isinstance(row, dict):
    raise UserError(f"{path}, {place}: expected an object, got {row!r:.60}")
  for name in names:
    value = row.get(name)
    if (
      not isinstance(value, str)
      or not value.strip()
      or _SURROGATE.search(value)
    ):
      raise UserError(
        f"{path}, {place}: field {name!r} must be a string of Unicode text "
        f"that is not empty, got {value!r:.60}"
      )


def read_jsonl(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
  """Reads a file of JSON lines.

  Empty lines at the end are skipped.

  Yields:
    The place of each row, for messages, and the row; no row is checked.

  Raises:
    UserError: If it cannot be read, or if a line is not JSON; names the line.
  """
  # Not splitlines(), which also cuts at U+2028 inside a JSON string.
  lines = read_text(path).rstrip(" \t\r\n").split("\n")
  for number, line in enumerate(lines, start=1):
    yield f"line {number}", parse_json(path, line, number)
