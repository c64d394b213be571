"""How T5X's train.py ends if it is run by itself: as `t5x train` does.

`python -m t5x.train` has no place where an error or SIGTERM could be caught.
"""

import contextlib
import re
import signal
import sys

from cot_latent.configuration import errors as gin_errors
from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.runtime import preemption, terminal

_STATUS = {UserError: 2, RunError: 1}
_EXIT_PREEMPTED = 143
# The message of JAX's IndivisibleError.
_INDIVISIBLE = r"is partitioned (\d+) times, but the dimension size is (\d+)"
# The messages of T5X's default_mesh and get_mesh.
_NO_MESH = r"No default mesh.*Device kind: ([^\n]*)"
_NOT_A_PART = (
  r"model parallel submesh (\(.*?\)) must be a factor.*mesh (\(.*?\))"
)
_held = contextlib.ExitStack()  # until the process ends


def install() -> None:
  """Makes Python print a mistake without a traceback, and handles SIGTERM.

  An existing handler, such as that of `t5x train`, stays.
  """
  before = sys.excepthook
  if getattr(before, "__module__", "") == __name__:
    return

  def say(kind, error, trace) -> None:
    try:
      explain(error)
    except UserError as found:
      kind, error = UserError, found
    for ours, status in _STATUS.items():
      if issubclass(kind, ours):
        terminal.fail(str(error).splitlines()[0])
        sys.exit(status)
    if issubclass(kind, Preempted):
      terminal.fail("ended by SIGTERM")
      sys.exit(_EXIT_PREEMPTED)
    before(kind, error, trace)

  sys.excepthook = say
  if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    _held.enter_context(preemption.handled())


def install_in_script() -> None:
  """Calls `install` if this process runs T5X's train.py by itself."""
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  if spec is not None and spec.name == "t5x.train":
    install()


def explain(error: BaseException) -> None:
  """Turns an error of T5X's that a user can fix into one line.

  Args:
    error: Anything that ended T5X's train.py.

  Raises:
    UserError: If gin could not read the configuration, if T5X does not know the
      devices, or if they do not divide the model.
  """
  if isinstance(error, UserError | RunError):
    return
  if found := re.search(_INDIVISIBLE, str(error)):
    parts, size = found.groups()
    raise UserError(
      f"an array's axis of {size} cannot be sharded into {parts} parts, as for "
      "heads that the devices do not divide: set NUM_PARTITIONS to a divisor. "
      "T5X's mesh of CPUs ignores NUM_PARTITIONS and shards over all devices, "
      "so run with fewer of them there"
    ) from None
  if found := re.search(_NO_MESH, str(error), re.DOTALL):
    raise UserError(
      f"T5X cannot place NUM_PARTITIONS on {found[1]}: set NUM_PARTITIONS = "
      "None and MODEL_PARALLEL_SUBMESH to the chips that share the parameters, "
      "such as (2, 2, 1, 1) for four"
    ) from None
  if found := re.search(_NOT_A_PART, str(error)):
    raise UserError(
      f"MODEL_PARALLEL_SUBMESH = {found[1]} does not divide the {found[2]} "
      "chips along x, y and z, and their cores"
    ) from None
  if isinstance(error, Exception) and _is_of_parsing(error):
    with gin_errors.explained("in the configuration"):
      raise error


def _is_of_parsing(error: Exception) -> bool:
  """Whether an error was raised while T5X read the configuration."""
  trace = error.__traceback__
  while trace:
    code = trace.tb_frame.f_code
    if code.co_name == "parse_gin_flags" and code.co_filename.endswith(
      "gin_utils.py"
    ):
      return True
    trace = trace.tb_next
  return False
