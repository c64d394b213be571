"""Mistakes in one line where T5X's train.py is run by itself."""

import sys

from cot_latent.errors import RunError, UserError


def install() -> None:
  """Has Python say a mistake without a traceback.

  `python -m t5x.train` has no place where it could be caught.
  """
  before = sys.excepthook
  if getattr(before, "__module__", "") == __name__:
    return

  def say(kind, error, trace) -> None:
    if issubclass(kind, UserError | RunError):
      print(f"t5x: error: {str(error).splitlines()[0]}", file=sys.stderr)
    else:
      before(kind, error, trace)

  sys.excepthook = say
