"""Where a run took place: code, packages, machine."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cot_latent
from cot_latent.runtime import files

# Variables that change what is computed, or where. The folder of compiled
# functions does not, and its path would be somebody's own.
_VARIABLES = re.compile(
  r"(?!JAX_COMPILATION_CACHE_DIR$)"
  r"(XLA_|JAX_|LIBTPU_|CUDA_|NVIDIA_|NCCL_|OMP_|PYTHONHASHSEED$)"
)
_LOCK = "requirements.lock"
_PACKAGE = ("--", "cot_latent")


def describe(
  devices: Sequence[str], topology: dict[str, Any]
) -> dict[str, Any]:
  """Describes the machine.

  Args:
    devices: Names of the accelerators in use.
    topology: Number of processes, and arrangement of the devices.
  """
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    "machine": platform.machine(),
    "num_cpus": os.cpu_count(),
    "devices": list(devices),
    "variables": {
      name: value
      for name, value in sorted(os.environ.items())
      if _VARIABLES.match(name)
    },
    **topology,
  }


def code(extra_module: str | None = None) -> tuple[dict[str, Any], str]:
  """Identifies the code that runs: revision, changes, files and packages.

  Args:
    extra_module: A module outside the package that counts as well.

  Returns:
    The section, and the changes to the package since the revision, as git
    shows them. Other changes, such as in gin files, are hashed elsewhere.
  """
  root = pathlib.Path(cot_latent.__file__).parent.parent
  revision = git(root, "rev-parse", "HEAD")
  status = git(root, "status", "--porcelain", *_PACKAGE) if revision else None
  # A pager, a color or a tool in the user's settings must not change it.
  plain = ("--no-ext-diff", "--no-color")
  diff = git(root, "diff", *plain, "HEAD", *_PACKAGE) or ""
  lock = root / _LOCK
  return {
    "tool_version": cot_latent.__version__,
    "repository": _public_address(git(root, "remote", "get-url", "origin")),
    "revision": revision,
    "is_modified": None if status is None else bool(status),
    "files": _module_files(extra_module),
    "lock_sha256": files.sha256(lock.read_bytes()) if lock.is_file() else None,
    "packages": dict(_packages()),
  }, diff


def drawing_code(code: Mapping[str, Any]) -> dict[str, Any]:
  """Identifies the code that draws, whichever modules a run has imported.

  Args:
    code: The section code of a report, of this process.

  Returns:
    A hash over all modules of the package, imported or not, the hashes of other
    modules, and the versions of packages.
  """
  root = pathlib.Path(cot_latent.__file__).parent
  whole = {
    str(path.relative_to(root)): files.sha256(path.read_bytes())
    for path in sorted(root.rglob("*.py"))
  }
  return {
    "package_sha256": files.sha256(files.to_json_line(whole).encode()),
    "files": {
      name: sha256
      for name, sha256 in code["files"].items()
      if name.partition(".")[0] != cot_latent.__name__
    },
    "packages": code["packages"],
  }


def code_name(code: Mapping[str, Any]) -> str:
  """Names the code of a report.

  Args:
    code: Its section code, or {}.

  Returns:
    The git revision; without a checkout, as for an installed wheel, a hash over
    the hashes of the modules that the run imported.
  """
  if code.get("revision"):
    return str(code["revision"])
  if not code.get("files"):
    return "no revision"
  whole = files.sha256(files.to_json_line(code["files"]).encode())
  return f"files sha256 {whole[:12]}"


@functools.cache
def _packages() -> dict[str, str]:
  """Returns the version of each installed package; read once per process."""
  return {
    name.lower(): package.version
    for package in importlib.metadata.distributions()
    if (name := package.metadata["Name"])
  }


def argv() -> list[str]:
  """Returns the command as it was typed."""
  return ["t5x", *sys.argv[1:]]


def peak_memory() -> int:
  """Returns the peak memory of this process, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == "darwin" else 1024)


def code_differences(
  old: dict[str, Any], new: dict[str, Any]
) -> dict[str, Any]:
  """Lists how the code of two processes differs, file and package by name.

  Returns:
    Dotted name -> [old value, new value]. The lock file is left out, because
    the packages tell what it led to.
  """
  found = {
    f"{name}.{key}": [old[name].get(key), new[name].get(key)]
    for name in ("files", "packages")
    # A file that only one of them imported did not affect the other's numbers.
    for key in sorted(old[name].keys() & new[name].keys())
    if old[name][key] != new[name][key]
  }
  for name in ("tool_version", "revision", "is_modified"):
    if old[name] != new[name]:
      found[name] = [old[name], new[name]]
  return found


def _module_files(extra_module: str | None) -> dict[str, str]:
  """Returns the hash of each imported module of this project, by name."""
  names = [n for n in sys.modules if n.partition(".")[0] == "cot_latent"]
  found = {}
  for name in sorted([*names, *([extra_module] if extra_module else [])]):
    path = getattr(sys.modules.get(name), "__file__", None)
    if path and pathlib.Path(path).is_file():
      found[name] = files.sha256(pathlib.Path(path).read_bytes())
  return found


def _public_address(remote: str | None) -> str | None:
  """Returns a repository's address without credentials; None for a path."""
  address = re.match(r"(\w+://)(?:[^/@]*@)?([^/].*)$", remote or "")
  if address and address[1] != "file://":
    return address[1] + address[2]
  return remote if re.match(r"[\w.-]+@[\w.-]+:", remote or "") else None


def git(root: pathlib.Path, *arguments: str) -> str | None:
  """Runs git on a package's own checkout; None if there is no checkout."""
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
