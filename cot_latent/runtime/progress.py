"""How far a long piece of work is, on the terminal."""

import sys
import time

from cot_latent.runtime import processes, terminal


class Progress:
  """Says `name  30/200  about 12 s left  note`, now and then.

  A terminal's line is rewritten; elsewhere, in a log, a new line comes less
  often. Of several processes only the first one says it.
  """

  def __init__(self, name: str, total: int, start: int = 0):
    """Starts the clock.

    Args:
      name: of the work.
      total: steps there are.
      start: steps done before.
    """
    self._name, self._total, self._start = name, total, start
    self._is_silent = not processes.is_first()
    self._is_terminal = sys.stderr.isatty()
    self._period = 0.2 if self._is_terminal else 5.0
    self._began = self._last = time.monotonic()

  def __call__(self, done: int, note: str = "") -> None:
    """Reports that `done` steps are over; prints if it is time to."""
    time_now = time.monotonic()
    is_last = done >= self._total
    is_early = time_now - self._last < self._period and not is_last
    if is_early or self._is_silent:
      return
    self._last = time_now
    rate = (done - self._start) / max(time_now - self._began, 1e-9)
    if is_last:
      clock = f"{time_now - self._began:.1f} s"
    else:
      clock = f"about {(self._total - done) / rate:.0f} s left"
    text = f"{self._name:<14} {done:>5}/{self._total}  {clock}  {note}".rstrip()
    start, end = ("\r\x1b[K", "") if self._is_terminal else ("", "\n")
    sys.stderr.write(start)
    text = terminal.printable(text, is_line=True)
    terminal.say(text, is_error=True, end="\n" if is_last else end)
