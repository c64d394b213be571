"""The draws of a run so far, stored on disk until a checkpoint holds them.

A phase, such as the memory start, draws its rows in parts of a fixed number of
rows. The draws of a part are written at once, under a hash of all that the
sampler was given. A run that was killed finds its parts again and draws the
rest. Because a part depends on its place alone and never on time, the result is
the same to the bit.

Runs that share a base model also share its draws: before the first step they
may draw the same, such as the evaluation of the base model with one seed.
"""

import contextlib
import io
import json
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cot_latent.errors import RunError
from cot_latent.models.api import Draws
from cot_latent.runtime import arrays, files, preemption, processes, terminal

FOLDER = "drawn"  # in the run's folder
# Step, phase and number; a file that is being written begins with a dot.
_NAME = re.compile(r"\.?(\d{6,})-.+-\d{4,}\.part")


class Part(NamedTuple):
  """The draws of one part.

  Attributes:
    draws: The draws, on the host.
    seconds: Time to draw them.
    was_read: Whether an earlier process drew them.
  """

  draws: Draws
  seconds: float
  was_read: bool = False


class Shared(NamedTuple):
  """The draws that runs with the same base model share.

  Attributes:
    folder: Their folder; files are named by a hash of all that makes them.
    made_by: Hash of the model and of all else that no sampler is given.
  """

  folder: pathlib.Path
  made_by: str

  def path(self, made_of: str) -> pathlib.Path:
    """Returns a part's path, from the hash of what the sampler is given."""
    both = files.sha256(f"{self.made_by} {made_of}".encode())
    return self.folder / f"{both}.part"


class DrawnParts:
  """The parts of a run that no checkpoint holds yet.

  The first of several processes writes the parts, and all of them read them.
  """

  def __init__(self, directory: pathlib.Path, shared: Shared | None = None):
    """Sets the folder, which the first part creates.

    Args:
      directory: Folder of the run.
      shared: Where the draws before the first step are also stored, for other
        runs; None shares nothing.
    """
    self._folder, self._shared = directory / FOLDER, shared

  def phase(self, name: str, step: int, params_sha256: str) -> "Phase":
    """Begins a phase, or restarts it.

    Args:
      name: Name of what is drawn, such as memory.
      step: Step after which it is drawn.
      params_sha256: Hash of the parameters that are drawn from.
    """
    shared = None if step else self._shared
    return Phase(self._folder / f"{step:06}-{name}", params_sha256, shared)

  def forget(self, step: int) -> None:
    """Deletes the parts of all steps up to one that a checkpoint holds."""
    if not processes.is_first() or not self._folder.is_dir():
      return
    for path in sorted(self._folder.iterdir()):
      named = _NAME.match(path.name)
      if named and int(named[1]) <= step:
        path.unlink()
    if not any(self._folder.iterdir()):
      self._folder.rmdir()


class Phase:
  """The parts of one phase, in their order."""

  def __init__(
    self,
    prefix: pathlib.Path,
    params_sha256: str,
    shared: Shared | None = None,
  ):
    """Starts with the first part.

    Args:
      prefix: Beginning of the files' paths.
      params_sha256: Hash of the parameters that are drawn from.
      shared: Where the parts of other runs are; None has none.
    """
    self._prefix, self._params_sha256 = prefix, params_sha256
    self._shared = shared
    self._number = 0
    self._seconds_read = 0.0

  @property
  def seconds_read(self) -> float:
    """Returns the time that earlier processes took for the parts read."""
    return self._seconds_read

  def next_path(self) -> pathlib.Path:
    """Returns the path of the next part."""
    name = f"{self._prefix.name}-{self._number:04}.part"
    return self._prefix.with_name(name)

  def draw(
    self,
    sample: Callable[[], Draws],
    prompts: np.ndarray,
    rng_keys: jax.Array,
    **settings: Any,
  ) -> Part:
    """Draws the next part, or reads it if it was drawn before.

    Args:
      sample: Function that draws it.
      prompts: Tokens [R, P] int32 that the sampler is given.
      rng_keys: Random keys of the rows, [R].
      **settings: The sampler's other arguments that change the draws.

    Returns:
      The part.

    Raises:
      RunError: If this process cannot read a part that the first process can.
    """
    path = self.next_path()
    self._number += 1
    keys = np.asarray(jax.random.key_data(rng_keys))
    given = files.short_hash(settings), _label(prompts), _label(keys)
    made_of = files.sha256(" ".join((self._params_sha256, *given)).encode())
    shared = self._shared and self._shared.path(made_of)
    for place in filter(None, (path, shared)):
      if found := _found(place, made_of, len(prompts)):
        self._seconds_read += found.seconds
        return found
    began = time.perf_counter()
    draws = sample()
    on_host = Draws(*(x if x is None else np.asarray(x) for x in draws))
    part = Part(on_host, time.perf_counter() - began)
    if processes.is_first():
      content = _content(part, made_of)
      with preemption.held_back():
        _write(path, content)
        if shared:
          with contextlib.suppress(OSError):  # others may only read that folder
            _write(shared, content)
    return part


def _write(path: pathlib.Path, content: bytes) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_atomically(path, content)


def _found(path: pathlib.Path, made_of: str, num_rows: int) -> Part | None:
  """Reads a part if it is there and whole."""
  if not processes.value_on_first(path.exists()):
    return None
  found = _read(path, made_of, num_rows)
  if processes.value_on_first(isinstance(found, Part)):
    if isinstance(found, str):
      raise RunError(
        f"process {jax.process_index()}: {path} {found}, but process 0 reads "
        "it: give folders that all of them see"
      )
    return found
  if processes.is_first():
    terminal.say(f"{path} {found}: it is drawn again", is_error=True)
  return None


def _label(array: np.ndarray) -> str:
  content = np.ascontiguousarray(array)
  return f"{content.dtype}{content.shape}{files.sha256(content.tobytes())}"


def _content(part: Part, made_of: str) -> bytes:
  """Writes a part as bytes: a line that describes it, and its arrays."""
  stream = io.BytesIO()
  arrays = {k: v for k, v in part.draws._asdict().items() if v is not None}
  np.savez(stream, allow_pickle=False, **arrays)
  arrays_sha256 = files.sha256(stream.getvalue())
  line = {"made_of": made_of, "sha256": arrays_sha256, "seconds": part.seconds}
  return files.to_json_line(line).encode() + stream.getvalue()


def _read(path: pathlib.Path, made_of: str, num_rows: int) -> Part | str:
  """Reads a part, or returns what is wrong with it."""
  try:
    line, content = path.read_bytes().split(b"\n", maxsplit=1)
    said = json.loads(line)
    if said["sha256"] != files.sha256(content):
      return "is damaged"
    if said["made_of"] != made_of:
      return "was drawn by another model or for other questions"
    with arrays.open_archive(io.BytesIO(content)) as stored:
      draws = Draws(**stored)
    if not _is_whole(draws, num_rows):
      return "is damaged"
    return Part(draws, float(said["seconds"]), was_read=True)
  except (KeyError, OSError, RecursionError, TypeError, ValueError):
    return "is damaged"


def _is_whole(draws: Draws, num_rows: int) -> bool:
  """Whether draws have the forms that `Draws` describes."""
  tokens, ended, log_prob = draws
  return (
    (tokens.ndim, tokens.shape[:1]) == (2, (num_rows,))
    and ended.shape == (num_rows,)
    and {tokens.dtype.kind, ended.dtype.kind} <= {*"biu"}
    and (log_prob is None or log_prob.shape == tokens.shape)
  )
