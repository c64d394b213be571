"""T5X's own log goes into a file in MODEL_DIR; the terminal shows progress.

T5X, Orbax, SeqIO and gin log some hundred lines per run. They are kept in
memory until T5X's train runs, so that a mistake in the configuration is one
line on the terminal and leaves no file.
"""

import contextlib
import logging
import pathlib
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import TextIO

import jax
from absl import logging as absl_logging

from cot_latent.errors import RunError, UserError
from cot_latent.runtime import processes, terminal
from cot_latent.runtime.progress import Progress
from cot_latent.t5x import checks

NAME = "t5x.log"
# Messages of T5X that tell how far its own training is.
_BEGINS, _STEP, _ENDS = (
  "Starting main loop over steps %d-%d",
  "Training: step %d",
  "Finished.",
)
_kept: list[dict] = []
# Errors that are one line on the terminal.
_EXPLAINED = (UserError, RunError)


@contextlib.contextmanager
def kept_off_terminal(is_quiet: bool = True) -> Iterator[None]:
  """Writes what is logged into a file in MODEL_DIR.

  The terminal still gets fatal messages. If an error ends the run before there
  is a file, and it is not one line, the log is shown after all.

  Args:
    is_quiet: False changes nothing.
  """
  if not is_quiet:
    yield
    return
  theirs, own = absl_logging.get_absl_handler(), _Handler()
  level = theirs.level
  theirs.setLevel(logging.CRITICAL)
  logging.root.addHandler(own)
  try:
    yield
  except Exception as error:
    if not isinstance(error, _EXPLAINED):
      own.show()
    raise
  finally:
    logging.root.removeHandler(own)
    theirs.setLevel(level)
    own.close()


class _Handler(logging.Handler):
  """Writes records into the file, and shows how far T5X's training is."""

  def __init__(self):
    """Keeps records in memory at first."""
    super().__init__()
    self.setFormatter(absl_logging.PythonFormatter())
    self._held: list[str] = []
    self._file: TextIO | None = None
    self._progress: Progress | None = None
    self._total = 0

  def _keep_what_train_has(self) -> None:
    """Keeps T5X's arrays and data sets until the process ends.

    Freeing them when its train returns has taken more than 20 s.
    """
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "train":
      frame = frame.f_back
    if frame is not None:
      _kept.append(dict(frame.f_locals))

  def emit(self, record: logging.LogRecord) -> None:
    """Writes a record; opens the file once T5X has made MODEL_DIR."""
    try:
      line = f"{self.format(record)}\n"
      if self._file is None and record.funcName == "train":
        self._open()
      if self._file is None:
        self._held.append(line)
      else:
        self._file.write(line)
      if record.msg == _ENDS:
        self._keep_what_train_has()
      self._watch(record)
    except Exception:
      self.handleError(record)

  def show(self) -> None:
    """Shows on the terminal what no file has."""
    terminal.say("".join(self._held), is_error=True, end="")

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None
    super().close()

  def _open(self) -> None:
    home = checks.model_dir()
    if home is None:
      return
    is_remote = "://" in home
    if not is_remote and not pathlib.Path(home).is_dir():
      return  # T5X makes it soon
    place = tempfile.mkdtemp(prefix="cot_latent-") if is_remote else home
    index = jax.process_index()
    name = f"process_{index}.{NAME}" if index else NAME
    path = pathlib.Path(place, name)
    # Each line is written at once: it may be the last one.
    self._file = path.open("a", buffering=1, encoding="utf-8")
    self._file.writelines(self._held)
    self._held.clear()
    if processes.is_first():
      terminal.say(f"T5X's log: {path}", is_error=True)

  def _watch(self, record: logging.LogRecord) -> None:
    """Shows the progress of T5X's own training; ours shows more itself."""
    if checks.draws_rationales():
      return
    if record.msg == _BEGINS and isinstance(record.args, tuple):
      first, self._total = (int(str(number)) for number in record.args)
      self._progress = Progress("T5X", self._total, first)
    if self._progress is None:
      return
    if record.msg == _STEP and isinstance(record.args, tuple):
      self._progress(int(str(record.args[0])))
    elif record.msg == _ENDS:
      self._progress(self._total)
