"""What others wrote is shown on a terminal, and never obeyed by it."""

import io
import sys

import pytest

from cot_latent.runtime import progress, terminal

# The title is set, the screen cleared, a line overwritten, a reply asked for,
# the bell rung; then C1's form of the escape, an override, half a pair.
HOSTILE = (
  "\x1b]0;title\x07\x1b[2J\rdone\x05\x08\x9b31m\u202egnirts\u2066\ud800\x7f"
)
SHOWN = (
  r"\x1b]0;title\x07\x1b[2J\rdone\x05\x08\x9b31m\u202egnirts\u2066\ud800\x7f"
)


def check_printable(printable):
  assert printable(HOSTILE) == SHOWN
  assert printable("één\t“α”\n漢字 🙂") == "één\t“α”\n漢字 🙂"
  assert printable("one\n\ttwo\u2028", is_line=True) == r"one\n\ttwo\u2028"
  # What is shown stays as it is if it is shown again.
  assert printable(SHOWN) == SHOWN


def test_what_a_terminal_would_obey_is_escaped():
  check_printable(terminal.printable)


def escapes_alone(text, is_line=False):
  return text.replace("\x1b", r"\x1b")


def without_c1(text, is_line=False):
  return "".join(
    c if c >= "\x80" else terminal.printable(c, is_line=is_line) for c in text
  )


@pytest.mark.parametrize("broken", [str, escapes_alone, without_c1])
def test_less_than_that_is_rejected(broken):
  with pytest.raises((AssertionError, TypeError)):
    check_printable(broken)


def test_what_is_said_is_escaped(capsys):
  terminal.say(HOSTILE)
  terminal.say(HOSTILE, is_error=True, end="")
  assert capsys.readouterr() == (f"{SHOWN}\n", SHOWN)


def test_an_error_is_one_line(capsys):
  terminal.fail(f"no file a\nb{HOSTILE}")
  assert capsys.readouterr().err == rf"t5x: error: no file a\nb{SHOWN}" + "\n"


def test_a_stream_of_few_characters_gets_the_others_escaped(monkeypatch):
  raw = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
  terminal.say("é “漢” 🙂")
  assert raw.getvalue() == rb"\xe9 \u201c\u6f22\u201d \U0001f642" + b"\n"


def test_a_progress_line_is_escaped(capsys):
  progress.Progress("steps", 1)(1, f"a\n{HOSTILE}")
  assert capsys.readouterr().err.endswith(rf"  a\n{SHOWN}" + "\n")
