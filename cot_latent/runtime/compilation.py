"""Compiled functions: stored on disk between runs, and counted."""

import contextlib
import contextvars
import ctypes
import functools
import gc
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax

from cot_latent.runtime import processes, terminal

T = TypeVar("T")

_MAPS = pathlib.Path("/proc/self/maps")
_MAP_LIMIT = pathlib.Path("/proc/sys/vm/max_map_count")
_WORTH_KEEPING = 0.1  # seconds to compile
_NEEDS_MUCH_MEMORY = 1.0  # seconds to compile
_TROUBLE = re.compile(
  r"Error (?:reading|writing) persistent compilation cache entry for .*?: "
  r"(.*)",
  re.DOTALL,
)


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
_shared: contextvars.ContextVar[dict[Any, Any] | None] = contextvars.ContextVar(
  "shared", default=None
)
_is_watching = False
_is_told = False  # that nothing can be kept


def keep_on_disk() -> None:
  """Stores compiled functions for later processes.

  JAX's own settings win: JAX_COMPILATION_CACHE_DIR names the folder, and
  JAX_ENABLE_COMPILATION_CACHE=false stores nothing. Otherwise the folder is
  cot_latent/compiled in the user's cache folder. If a folder cannot be written
  or is full, one line says so, and everything is compiled.
  """
  if not isinstance(warnings.showwarning, _ToldOnce):
    warnings.showwarning = _ToldOnce(warnings.showwarning)
  if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
    return
  caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  folder = pathlib.Path(caches) / "cot_latent/compiled"
  try:
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(f"no permission to write to {folder}")
  except (OSError, RuntimeError) as error:  # RuntimeError: no home is known
    _tell(str(error))
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING
  )


@contextlib.contextmanager
def shared(results: dict[Any, Any] | None = None) -> Iterator[None]:
  """Within this, runs that are alike share what they compile.

  Args:
    results: Where it is kept; None keeps it until the end.
  """
  token = _shared.set({} if results is None else results)
  try:
    yield
  finally:
    _shared.reset(token)


def shares(function: Callable[..., T]) -> Callable[..., T]:
  """Makes a function return its earlier results within `shared`.

  Args:
    function: Function of hashable arguments, whose result keeps what is
      compiled.
  """

  @functools.wraps(function)
  def share(*arguments, **named):
    results = _shared.get()
    if results is None:
      return function(*arguments, **named)
    key = (function, arguments, tuple(named.items()))
    if key not in results:
      results[key] = function(*arguments, **named)
    return results[key]

  return share


def release_if_many(share: float = 0.4) -> bool:
  """Forgets compiled functions before this process has too many of them.

  Linux gives a process 65,530 memory mappings at most (vm.max_map_count). A
  function that was compiled for CPUs takes about eight. A process of the tests
  with thousands of them ended by a segmentation fault in XLA. Functions that
  are needed again are compiled again, or read from disk.

  Args:
    share: Share of the limit from which on they are forgotten.

  Returns:
    Whether they were.
  """
  try:
    limit = int(_MAP_LIMIT.read_text())
    number = _MAPS.read_bytes().count(b"\n")
  except (OSError, ValueError):  # not Linux
    return False
  if number <= share * limit:
    return False
  if results := _shared.get():
    results.clear()
  jax.clear_caches()
  gc.collect()
  return True


class _ToldOnce:
  """Shows warnings as before, and all of JAX's about its folder as one line."""

  def __init__(self, show: Callable):
    self._show = show

  def __call__(self, message, *place, **more):
    if found := _TROUBLE.match(str(message)):
      _tell(found[1])
    else:
      self._show(message, *place, **more)


def _tell(why: str) -> None:
  """Says once that nothing can be kept."""
  global _is_told
  if not _is_told and processes.is_first():
    terminal.say(
      terminal.printable(
        f"compiled functions are not kept for the next run: {why}",
        is_line=True,
      ),
      is_error=True,
    )
  _is_told = True


def watch() -> None:
  """Begins to count, and to return what compiling used; once per process."""
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
    if duration_secs >= _NEEDS_MUCH_MEMORY:
      return_memory()


def return_memory() -> bool:
  """Returns memory that is free to the system, where the C library can.

  XLA's compiler uses many small objects. When they are freed, glibc keeps their
  pages for later, in one pool for each of many threads.

  Returns:
    Whether there was any; False with a C library other than glibc.
  """
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
  return trim is not None and bool(trim(0))
