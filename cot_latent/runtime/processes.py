"""Several processes that make one run, each with its own devices.

All of them load the data, take every step and write their parts of a
checkpoint. Only the first writes the journal, the report, outputs and events,
and prints on the terminal.
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

# Parts of the messages of a failed collective, whatever exception JAX raises.
# Running out of memory is a different error.
_LOST = re.compile(
  "(UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL): "
)


def join(
  address: str | None, num_processes: int | None, index: int | None
) -> None:
  """Joins the other processes of the run, before JAX computes anything.

  Args:
    address: HOST:PORT of the first process; None reads all three from SLURM,
      Open MPI or a TPU's environment.
    num_processes: Number of processes.
    index: Index of this process, from 0.

  Raises:
    UserError: If they are not given and no environment has them.
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
  """Whether this process writes files and prints."""
  return jax.process_index() == 0


def count() -> int:
  """Returns the number of processes of the run."""
  return jax.process_count()


def check_agreement(value: Any) -> None:
  """Checks that all processes have the same value; waits for all of them.

  Args:
    value: Anything that JSON can hold.

  Raises:
    UserError: In each process that differs from the first.
  """
  if jax.process_count() == 1:
    return
  digest = files.sha256(files.to_json_line(value).encode())
  own = np.frombuffer(bytes.fromhex(digest), np.uint32)
  if not (multihost_utils.broadcast_one_to_all(own) == own).all():
    raise UserError(
      f"process {jax.process_index()} differs from process 0 in its "
      "configuration, data or MODEL_DIR: give all processes the same command, "
      "and a folder that all of them see"
    )


def wait_for_all(name: str) -> None:
  """Returns when all processes have reached the place of this name."""
  multihost_utils.sync_global_devices(name)


def value_on_first(value: bool) -> bool:
  """Returns the first process's value, because the others may see another."""
  return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def is_true_on_any(value: bool) -> bool:
  """Whether the value is true in any process; it may change at any time."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.asarray(value)).any())


@contextlib.contextmanager
def one_line() -> Iterator[None]:
  """Turns the error of unreachable processes into one line."""
  try:
    yield
  except (RuntimeError, ValueError) as error:
    if not _LOST.match(str(error)):
      raise
    raise RunError(
      f"process {jax.process_index()} stops, most likely because another one "
      f"has ended ({str(error).splitlines()[0]:.100}); start all again, and "
      "they resume from the last checkpoint, or from the start"
    ) from error


def leave(status: int) -> None:
  """Ends this process at once, so that the others notice and end too.

  An orderly end would wait for the others, which wait for this process's part
  of a step.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
