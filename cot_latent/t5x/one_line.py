"""How T5X's train.py ends where it is run by itself: as `t5x train` does.

`python -m t5x.train` has no place where a mistake or SIGTERM could be caught.
"""

import contextlib
import signal
import sys

from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.runtime import preemption, terminal

_EXIT_PREEMPTED = 143
_held = contextlib.ExitStack()  # until the process ends


def install() -> None:
  """Has Python say a mistake without a traceback, and mind SIGTERM.

  Where somebody minds it already, as `t5x train` does, that stays.
  """
  before = sys.excepthook
  if getattr(before, "__module__", "") == __name__:
    return

  def say(kind, error, trace) -> None:
    if issubclass(kind, UserError | RunError):
      terminal.fail(str(error).splitlines()[0])
    elif issubclass(kind, Preempted):
      terminal.fail("ended by SIGTERM")
      sys.exit(_EXIT_PREEMPTED)
    else:
      before(kind, error, trace)

  sys.excepthook = say
  if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    _held.enter_context(preemption.handled())
