"""What is compiled is kept on disk and counted."""

import ctypes
import json
import mmap
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from cot_latent.runtime import compilation

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp
from cot_latent.runtime import compilation
compilation.keep_on_disk()
compilation.watch()
compilation.watch()  # nothing is counted twice
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

@jax.jit
def function(x):
  return jnp.tanh(x) @ x

for size in (2, 2, 3):
  x = jax.device_put(jnp.ones((size, size)))
  before = compilation.so_far()
  function(x).block_until_ready()
  print(json.dumps(list(compilation.since(before).values())))
print(json.dumps(jax.config.jax_compilation_cache_dir))
"""


def run(said="", **variables):
  kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    capture_output=True,
    text=True,
    check=True,
    env=kept | variables,
  )
  assert re.fullmatch(said, done.stderr), done.stderr
  *counts, folder = map(json.loads, done.stdout.splitlines())
  return counts, folder


def not_kept(why):
  """The only line that is said where nothing can be kept."""
  return (
    f"compiled functions are not kept for the next run: [^\n]*{why}[^\n]*\n"
  )


def test_what_one_process_compiles_the_next_finds(tmp_path):
  caches = str(tmp_path / "caches")
  counts, folder = run(XDG_CACHE_HOME=caches)
  assert folder == f"{caches}/cot_latent/compiled"
  assert [count[:2] for count in counts] == [[1, 0], [0, 0], [1, 0]]
  assert counts[0][2] > 0 == counts[1][2]
  counts, _ = run(XDG_CACHE_HOME=caches)
  assert [count[:2] for count in counts] == [[0, 1], [0, 0], [0, 1]]


@pytest.mark.slow
def test_the_user_s_folder_comes_first(tmp_path):
  other = str(tmp_path / "other")
  _, folder = run(
    XDG_CACHE_HOME=str(tmp_path / "caches"), JAX_COMPILATION_CACHE_DIR=other
  )
  assert folder == other
  assert not (tmp_path / "caches").exists()


@pytest.mark.slow
def test_without_a_folder_nothing_is_kept(tmp_path):
  (tmp_path / "file").touch()
  said = not_kept("Not a directory")
  counts, folder = run(said, XDG_CACHE_HOME=str(tmp_path / "file"))
  assert folder is None
  assert counts[0][:2] == [1, 0]


@pytest.mark.slow
def test_a_file_in_the_way_is_no_mistake(tmp_path):
  (tmp_path / "cot_latent").mkdir()
  (tmp_path / "cot_latent/compiled").touch()
  _, folder = run(not_kept("File exists"), XDG_CACHE_HOME=str(tmp_path))
  assert folder is None


def test_a_folder_that_nothing_can_be_written_to_is_one_line(tmp_path):
  """Though two functions are compiled."""
  (tmp_path / "file").touch()
  counts, _ = run(
    not_kept("Not a directory"),
    JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file/inner"),
  )
  assert [count[:2] for count in counts] == [[1, 0], [0, 0], [1, 0]]


def num_mappings():
  return len(compilation._MAPS.read_text().splitlines())


@pytest.mark.skipif(not compilation._MAPS.exists(), reason="needs /proc")
def test_many_compiled_functions_are_forgotten():
  assert not compilation.release_if_many()
  functions = [jax.jit(lambda x, i=i: jnp.sin(x) @ x.T + i) for i in range(20)]
  before = num_mappings()
  found = [function(jnp.ones((9, 3)))[0, 0] for function in functions]
  many = num_mappings()
  assert many > before + 2 * len(functions)
  limit = int(compilation._MAP_LIMIT.read_text())
  assert not compilation.release_if_many((many + 100) / limit)
  assert compilation.release_if_many((many - 1) / limit)
  assert num_mappings() < many - 2 * len(functions)
  # They still work.
  assert found == [function(jnp.ones((9, 3)))[0, 0] for function in functions]


@pytest.mark.skipif(not compilation._MAPS.exists(), reason="needs /proc")
def test_what_is_made_with_equal_arguments_is_shared():
  class Thing:
    def __init__(self, *arguments):
      self.arguments = arguments

  make = compilation.shares(Thing)
  assert make(1) is not make(1)
  with compilation.shared():
    first = make(1)
    assert make(1) is first
    assert make(2).arguments == (2,)
    other = compilation.shares(lambda x: x)
    assert other(1) == 1  # of another function
    assert compilation.release_if_many(share=0)
    assert make(1) is not first
  kept = {}
  for _ in range(2):
    with compilation.shared(kept):
      make(3)
  assert len(kept) == 1
  assert make(3) is not make(3)


def resident():
  """Bytes of memory that this process holds now."""
  pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * mmap.PAGESIZE


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_memory_that_is_free_is_returned():
  library = ctypes.CDLL(None)
  library.malloc.restype = ctypes.c_void_p
  library.free.argtypes = [ctypes.c_void_p]
  size, number = 4000, 20_000
  pointers = [library.malloc(size) for _ in range(number)]
  for pointer in pointers:
    ctypes.memset(pointer, 1, size)
  # While the last one is in use, the others' pages stay in the process.
  for pointer in pointers[:-1]:
    library.free(pointer)
  before = resident()
  assert compilation.return_memory()
  assert before - resident() > size * number / 2
  library.free(pointers[-1])


def test_memory_is_returned_after_a_long_compilation(monkeypatch):
  calls = []
  monkeypatch.setattr(compilation, "return_memory", lambda: calls.append(1))
  compilation.watch()
  event = "/jax/core/compile/backend_compile_duration"
  jax.monitoring.record_event_duration_secs(event, 0.9)
  assert not calls
  jax.monitoring.record_event_duration_secs(event, 1.1)
  assert calls == [1]


def test_other_systems_have_no_such_limit(monkeypatch, tmp_path):
  monkeypatch.setattr(compilation, "_MAP_LIMIT", tmp_path / "none")
  assert not compilation.release_if_many(0)
