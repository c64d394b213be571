"""The run's folder, of which there is a copy here where it is in a bucket.

Journal and report are written with what only a disk has: appending, replacing
at once. In a bucket, where T5X may keep its checkpoints, they are put whole.
"""

import pathlib
import tempfile
from typing import Any

from etils import epath

from cot_latent.reporting import record
from cot_latent.reporting.runlog import RunLog
from cot_latent.runtime import processes
from cot_latent.t5x import header

_OF_BEFORE = ("report.json", record.JOURNAL, record.DIFF)


class Store:
  """Where a report is written.

  Attributes:
    home: MODEL_DIR.
    is_remote: whether it is in a bucket.
    folder: on this machine's disk; the same if MODEL_DIR is there.
  """

  def __init__(self, model_dir: str, is_remote: bool | None = None):
    """Makes nothing yet.

    Args:
      model_dir: MODEL_DIR.
      is_remote: None tells it from the name.
    """
    self.home = epath.Path(model_dir)
    self.is_remote = "://" in model_dir if is_remote is None else is_remote
    self.folder = pathlib.Path(model_dir)
    self._put: dict[str, tuple[int, int]] = {}

  def fetch(self) -> None:
    """Brings what earlier processes wrote here."""
    if not self.is_remote:
      return
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cot_latent-"))
    for name in _OF_BEFORE:
      if (self.home / name).exists():
        content = (self.home / name).read_bytes()
        (self.folder / name).write_bytes(content)

  def push(self) -> None:
    """Puts what was written since into the bucket."""
    if not self.is_remote:
      return
    for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
      name = path.relative_to(self.folder).as_posix()
      state = path.stat()
      mark = (state.st_mtime_ns, state.st_size)
      if self._put.get(name) != mark:
        there = self.home / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
        self._put[name] = mark

  def config(self) -> bytes | None:
    """What T5X wrote as config.gin, if it has."""
    path = self.home / record.CONFIG
    return path.read_bytes() if path.exists() else None


class StoredLog(RunLog):
  """A log that may be in a bucket, and whose report names T5X's config.gin."""

  def __init__(
    self,
    store: Store,
    sections: dict[str, Any],
    resume_at: int | None,
    **settings: Any,
  ):
    """Opens the log as `RunLog` does, of which the last arguments are.

    Args:
      store: The run's folder.
      sections: The sections of the report that the journal does not give.
      resume_at: The step that the run resumes from; None at the start.
      **settings: As for `RunLog`.
    """
    super().__init__(store.folder, sections, resume_at, **settings)
    self._store, self._sections = store, sections

  def write(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Writes report.json and report.html, and puts all where it belongs."""
    content = self._store.config()
    if content is not None:
      header.name_config(self._sections, content)
    report = super().write(status, error)
    if processes.is_first():
      self._store.push()
    return report
