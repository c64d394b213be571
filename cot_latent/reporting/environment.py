"""Where a run took place: code, packages, machine."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import cot_latent

_PACKAGES = (
  "flax",
  "gin-config",
  "jax",
  "jaxlib",
  "numpy",
  "optax",
  "orbax-checkpoint",
  "sentencepiece",
  "seqio",
  "tensorflow",
  "tensorflow-datasets",
)


def describe(devices: list[str], settings: dict[str, Any]) -> dict[str, Any]:
  """Describes the machine and the installed packages.

  Args:
    devices: names of the accelerators in use.
    settings: numerical settings of the array library that results depend on.
  """
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    "num_cpus": os.cpu_count(),
    "packages": {name: _version(name) for name in _PACKAGES},
    "devices": devices,
    "settings": settings,
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
  }


def code() -> dict[str, Any]:
  """Names the code that runs: version, and revision if it is a checkout."""
  root = pathlib.Path(cot_latent.__file__).parent.parent
  revision = _git(root, "rev-parse", "HEAD")
  changes = _git(root, "status", "--porcelain") if revision else None
  return {
    "tool_version": cot_latent.__version__,
    "code_revision": revision,
    "code_is_modified": None if changes is None else bool(changes),
    "argv": ["t5x", *sys.argv[1:]],
  }


def _git(root: pathlib.Path, *arguments: str) -> str | None:
  """Runs git on the package's own checkout; None where that is not one."""
  if not (root / ".git").exists():
    return None
  try:
    done = subprocess.run(
      ["git", "-C", str(root), *arguments],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
