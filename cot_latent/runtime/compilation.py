"""Compiled functions: stored on disk between runs, and counted."""

import contextlib
import os
import pathlib
from typing import NamedTuple

import jax

_WORTH_KEEPING = 0.1  # seconds to compile


class Compilations(NamedTuple):
  """Counts of the compilations of a process.

  Attributes:
    num_compiled: Functions that were compiled, each shape counted apart.
    num_read: Functions that were read from disk instead.
    seconds: Time for both.
  """

  num_compiled: int = 0
  num_read: int = 0
  seconds: float = 0.0


_so_far = Compilations()
_is_watching = False


def keep_on_disk() -> None:
  """Stores compiled functions for later processes.

  JAX's own settings win: JAX_COMPILATION_CACHE_DIR names the folder, and
  JAX_ENABLE_COMPILATION_CACHE=false stores nothing. Otherwise the folder is
  cot_latent/compiled in the user's cache folder. If it cannot be written,
  nothing is stored.
  """
  if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
    return
  caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  folder = pathlib.Path(caches).expanduser() / "cot_latent/compiled"
  with contextlib.suppress(OSError):
    folder.mkdir(parents=True, exist_ok=True)
  if folder.is_dir() and os.access(folder, os.W_OK):
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update(
      "jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING
    )


def watch() -> None:
  """Begins to count, once per process."""
  global _is_watching
  if not _is_watching:
    _is_watching = True
    jax.monitoring.register_event_listener(_note)
    jax.monitoring.register_event_duration_secs_listener(_note_duration)


def so_far() -> Compilations:
  """Returns the counts since `watch`."""
  return _so_far


def since(before: Compilations) -> dict[str, float]:
  """Returns the counts since `so_far` returned `before`, for the journal."""
  return {
    name: now - then
    for name, now, then in zip(
      Compilations._fields, _so_far, before, strict=True
    )
  }


def _note(event: str, **_) -> None:
  global _so_far
  if event == "/jax/compilation_cache/cache_hits":
    _so_far = _so_far._replace(
      num_compiled=_so_far.num_compiled - 1, num_read=_so_far.num_read + 1
    )


def _note_duration(event: str, duration_secs: float, **_) -> None:
  # This includes functions read from disk, which are subtracted above.
  global _so_far
  if event == "/jax/core/compile/backend_compile_duration":
    _so_far = _so_far._replace(
      num_compiled=_so_far.num_compiled + 1,
      seconds=_so_far.seconds + duration_secs,
    )
