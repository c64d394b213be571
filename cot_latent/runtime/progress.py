"""Progress of long work, on the terminal."""

import sys
import time

from cot_latent.runtime import processes, terminal


class _Line:
  """A line on the terminal, printed now and then.

  On a terminal the line is rewritten. In a log a new line is printed, less
  often. Only the first of several processes prints it.
  """

  def __init__(self, name: str, total: int):
    self.total = total
    self._name = name
    self._is_silent = not processes.is_first()
    self._is_terminal = sys.stderr.isatty()
    self._period = 0.2 if self._is_terminal else 5.0
    self._last = time.monotonic()

  def is_due(self, time_now: float, is_last: bool) -> bool:
    """Whether it is time to print."""
    is_early = time_now - self._last < self._period and not is_last
    return not is_early and not self._is_silent

  def say(self, time_now: float, done: int, note: str) -> None:
    """Prints `name  30/200  note`."""
    self._last = time_now
    text = f"{self._name:<14} {done:>5}/{self.total}  {note}".rstrip()
    start, end = ("\r\x1b[K", "") if self._is_terminal else ("", "\n")
    sys.stderr.write(start)
    text = terminal.printable(text, is_line=True)
    terminal.say(text, is_error=True, end="\n" if done >= self.total else end)


class Progress:
  """Prints `name  30/200  about 12 s left  note`, now and then."""

  def __init__(self, name: str, total: int, start: int | None = 0):
    """Starts the clock.

    Args:
      name: Name of the work.
      total: Total number of steps.
      start: Steps done before; None is one less than the first that is
        reported.
    """
    self._line, self._start = _Line(name, total), start
    self._began = time.monotonic()

  def __call__(self, done: int, note: str = "") -> None:
    """Reports that `done` steps are over; prints if it is time."""
    if self._start is None:
      self._start = done - 1
    time_now, total = time.monotonic(), self._line.total
    is_last = done >= total
    if not self._line.is_due(time_now, is_last):
      return
    taken, done_here = time_now - self._began, done - self._start
    if is_last:
      clock = f"{taken:.1f} s"
    elif done_here:
      clock = f"about {taken * (total - done) / done_here:.0f} s left"
    else:
      clock = ""
    self._line.say(time_now, done, f"{clock}  {note}")


class DrawingProgress:
  """Prints the progress of drawing, also while a batch is being decoded.

  For example `name  30/200  5,120 tokens, 140/s  80% ended  about 95 s left`.
  The first line is printed with the first tokens, after compilation. The rate
  is that of the time since then.
  """

  def __init__(
    self, name: str, total: int, longest: int, tells_end: bool = True
  ):
    """Starts the clock.

    Args:
      name: Name of what is drawn.
      total: Number of rows.
      longest: Maximum number of tokens in a row.
      tells_end: Whether the end is told even if it comes so soon that nothing
        was told before.
    """
    self._line, self._longest = _Line(name, total), longest
    self._began = time.monotonic()
    self._first: tuple[float, int] | None = None
    self._is_over, self._tells_end = False, tells_end

  def __call__(
    self, rows: int, tokens: int | None = None, ended: int | None = None
  ) -> None:
    """Reports what is drawn so far; prints if it is time.

    Args:
      rows: Number of finished rows.
      tokens: Tokens of all rows, unfinished rows included; None if the sampler
        does not report them.
      ended: Number of finished rows that reached an end by themselves.
    """
    time_now, total = time.monotonic(), self._line.total
    if tokens is not None and self._first is None:
      self._first = time_now, tokens
    is_last = rows >= total
    is_told = is_last and self._tells_end
    if self._is_over or not self._line.is_due(time_now, is_told):
      return
    self._is_over, self._tells_end = is_last, True
    taken = time_now - self._began
    notes = []
    if tokens is not None and self._first is not None:
      then, before = self._first
      rate = (tokens - before) / max(time_now - then, 1e-9)
      per_second = f", {rate:,.0f}/s" if rate else ""
      notes.append(f"{tokens:,} tokens{per_second}")
      left = self._tokens_left(rows, tokens) / rate if rate else None
    else:
      left = (total - rows) * taken / rows if rows else None
    if rows and ended is not None:
      notes.append(f"{ended / rows:.0%} ended")
    if is_last:
      notes.append(f"{taken:.1f} s")
    elif left is not None:
      notes.append(f"{'about' if rows else 'at most'} {left:.0f} s left")
    self._line.say(time_now, rows, "  ".join(notes))

  def _tokens_left(self, rows: int, tokens: int) -> float:
    """Estimates the tokens still to draw, if rows end as they did so far."""
    mean = min(self._longest, tokens / rows) if rows else self._longest
    return max(0.0, self._line.total * mean - tokens)
