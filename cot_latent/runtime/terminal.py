"""Safe printing on a terminal: text alone, whoever wrote it.

Questions, completions and reports are written by others. A terminal obeys some
of their characters: escape sequences that move the cursor, set the window's
title or ask for a reply, the bell, a carriage return that overwrites a line,
and Unicode's overrides of the direction of writing. All output goes through
`say`, which shows these characters instead.
"""

import re
import sys
from collections.abc import Iterable

# Control characters except tab and line end, overrides and isolates of the
# direction of writing, and halves of surrogate pairs, which no file can hold.
_UNSAFE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
UNSAFE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}\t\n\u2028\u2029]")


def printable(text: str, *, is_line: bool = False) -> str:
  r"""Escapes the characters that a terminal would obey, in Python's notation.

  Args:
    text: Any text.
    is_line: Whether the text must stay on one line; tabs and line ends are then
      escaped as well.

  Returns:
    The text, which can be printed anywhere.

  >>> printable("a\x1b]0;title\x07b")
  'a\\x1b]0;title\\x07b'
  >>> printable("one\ntwo", is_line=True)
  'one\\ntwo'
  """
  unsafe = _UNSAFE_IN_LINE if is_line else UNSAFE
  return unsafe.sub(lambda found: ascii(found.group())[1:-1], text)


def join(lines: Iterable[str]) -> str:
  """Joins lines into a text; no line can pass for several.

  Args:
    lines: Text of each line, possibly written by others.
  """
  return "\n".join(printable(line, is_line=True) for line in lines)


def say(text: str, *, is_error: bool = False, end: str = "\n") -> None:
  """Prints a text at once; characters that the stream lacks are escaped.

  Args:
    text: Any text, of one line or several.
    is_error: Whether it goes to standard error.
    end: Text after it, printed as it is.
  """
  stream = sys.stderr if is_error else sys.stdout
  encoding = stream.encoding or "utf-8"
  shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
  stream.write(shown + end)
  stream.flush()


def fail(message: str) -> None:
  """Prints one line on standard error: the reason why the command ended."""
  say(f"t5x: error: {printable(message, is_line=True)}", is_error=True)
