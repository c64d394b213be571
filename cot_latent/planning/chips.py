"""TPU chips by their public figures, and topologies that libtpu describes."""

import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from cot_latent.errors import UserError

_FORMS = "v5e:4x4, v6e:8x8 or v5p:2x2x4"
# Else libtpu looks for a TPU, asks a cloud's metadata server where it is, and
# writes of both to stderr.
_QUIET = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


class Chip(NamedTuple):
  """Figures of one chip.

  Attributes:
    name: Name in a topology.
    memory_gib: GiB of HBM that XLA gives to a program.
    memory_gbps: GB/s between HBM and the chip.
    tflops: Peak TFLOP/s of bfloat16 products.
    link_gbps: GB/s that a chip can send over all its links together.
  """

  name: str
  memory_gib: float
  memory_gbps: float
  tflops: float
  link_gbps: float


# cloud.google.com/tpu/docs/v5e, v5p and v6e, read in 2026. The links' figure is
# half of what they call bidirectional bandwidth. The memory is what libtpu's
# compiler says is available.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v5e", 15.75, 819.0, 197.0, 200.0),
    Chip("v5p", 95.74, 2765.0, 459.0, 600.0),
    Chip("v6e", 31.25, 1640.0, 918.0, 400.0),
  )
}


def chip_of(topology: str) -> Chip:
  """Returns the chip of a topology such as "v5e:4x4".

  Raises:
    UserError: If the chip is not known.
  """
  name, colon, _ = topology.partition(":")
  if not colon or name not in CHIPS:
    raise UserError(
      f"--topology={topology}: give a chip of {', '.join(CHIPS)} and how many "
      f"there are along each axis, such as {_FORMS}"
    )
  return CHIPS[name]


def describe_devices(topology: str) -> Sequence[Any]:
  """Returns the devices of a topology that XLA can compile for.

  Args:
    topology: Chip and axes, such as "v5e:4x4".

  Raises:
    UserError: If libtpu is not installed, or has no such topology, or if that
      is one chip.
  """
  chip_of(topology)
  if {*topology.partition(":")[2].split("x")} == {"1"}:
    raise UserError(
      f"--topology={topology} is one chip, and only runs on two or more are "
      f"planned: give a larger one, such as {_FORMS}"
    )
  versions()
  for name, value in _QUIET.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    )
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0].partition(": ")[2]
    raise UserError(
      f"--topology={topology}: libtpu has no such topology ({reason:.160}); "
      f"its forms are those of {_FORMS}"
    ) from None
  return described.devices


def versions() -> dict[str, str]:
  """Returns the versions of what compiles a plan.

  Raises:
    UserError: If libtpu is not installed.
  """
  try:
    return {
      name: importlib.metadata.version(name) for name in ("jax", "libtpu")
    }
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
      "--topology needs libtpu, the compiler for TPUs, which is not installed: "
      "pip install 'libtpu==0.0.42.*'"
    ) from None
