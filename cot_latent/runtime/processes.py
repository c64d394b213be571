"""Several processes that make one run, each with devices of its own.

All of them load the data, take every step and write their parts of a
checkpoint. The first one alone writes journal, report, outputs and events, and
speaks on the terminal.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cot_latent.errors import RunError, UserError
from cot_latent.runtime import files

# What a collective says when it fails, whatever exception JAX makes of it; out
# of memory is another one.
_LOST = re.compile(
  "(UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL): "
)


def join(
  address: str | None, num_processes: int | None, index: int | None
) -> None:
  """Joins the other processes of the run, before JAX computes anything.

  Args:
    address: HOST:PORT of the first process; None finds all three out from
      SLURM, Open MPI or a TPU's environment.
    num_processes: How many there are.
    index: Which one this is, from 0.

  Raises:
    UserError: If they are not given and cannot be found out.
  """
  try:
    jax.distributed.initialize(address, num_processes, index)
  except (ValueError, TypeError, RuntimeError) as error:
    raise UserError(
      f"--multiprocess: {str(error).splitlines()[0]:.120}; where no cluster "
      "tells JAX, give --coordinator_address=HOST:PORT, --process_count and "
      "--process_index"
    ) from None


def is_first() -> bool:
  """Whether this is the process that writes and speaks."""
  return jax.process_index() == 0


def count() -> int:
  """How many processes make the run."""
  return jax.process_count()


def check_agreement(value: Any) -> None:
  """Checks that all processes were asked for the same thing; waits for them.

  Args:
    value: Anything that JSON can hold.

  Raises:
    UserError: On each process that differs from the first.
  """
  if jax.process_count() == 1:
    return
  digest = files.sha256(files.to_json_line(value).encode())
  own = np.frombuffer(bytes.fromhex(digest), np.uint32)
  if not (multihost_utils.broadcast_one_to_all(own) == own).all():
    raise UserError(
      f"process {jax.process_index()} has another configuration, other data or "
      "another MODEL_DIR than process 0: give all the same command, and a "
      "folder that all of them see"
    )


def wait_for_all(name: str) -> None:
  """Returns when all processes have come to the place of this name."""
  multihost_utils.sync_global_devices(name)


def first_says(value: bool) -> bool:
  """What the first process says, for what may look different elsewhere."""
  return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def any_says(value: bool) -> bool:
  """Whether it is so in any process, for what comes at different times."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.asarray(value)).any())


@contextlib.contextmanager
def one_line() -> Iterator[None]:
  """Says in one line what it means that others cannot be reached any more."""
  try:
    yield
  except (RuntimeError, ValueError) as error:
    if not _LOST.match(str(error)):
      raise
    raise RunError(
      f"process {jax.process_index()} stops, most likely because another one "
      f"has ended ({str(error).splitlines()[0]:.100}); start all again, and "
      "they go on from the last checkpoint, or from the start"
    ) from error


def leave(status: int) -> None:
  """Ends this process at once, so that the others notice and end too.

  An orderly end would wait for them, and they for this one's part of a step.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
