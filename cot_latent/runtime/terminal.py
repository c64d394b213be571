"""What this program says on a terminal: text alone, whoever wrote it.

Questions, completions and reports are written by others. A terminal obeys some
of their characters: escape sequences that move the cursor, set the window's
title or ask for a reply, the bell, a carriage return over what stands there,
and Unicode's overrides of the direction of writing. Everything that is printed
goes through `say`, which shows these instead.
"""

import re
import sys
from collections.abc import Iterable

# Control characters but tab and line end, overrides and isolates of the
# direction of writing, and halves of surrogate pairs, which no file could hold.
_UNSAFE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
UNSAFE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}\t\n\u2028\u2029]")


def printable(text: str, *, is_line: bool = False) -> str:
  r"""Writes characters that a terminal would obey as Python escapes them.

  Args:
    text: Any text.
    is_line: Whether it must stay on one line: then tabs and line ends are
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
  """Makes a text of lines, none of which can pass for several.

  Args:
    lines: What each line says, perhaps in words of others.
  """
  return "\n".join(printable(line, is_line=True) for line in lines)


def say(text: str, *, is_error: bool = False, end: str = "\n") -> None:
  """Prints a text, at once; what the stream cannot encode is escaped.

  Args:
    text: Any text, of one line or several.
    is_error: Whether it goes to standard error.
    end: What follows it, as it is.
  """
  stream = sys.stderr if is_error else sys.stdout
  encoding = stream.encoding or "utf-8"
  shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
  stream.write(shown + end)
  stream.flush()


def fail(message: str) -> None:
  """Says in one line on standard error what ended the command."""
  say(f"t5x: error: {printable(message, is_line=True)}", is_error=True)
