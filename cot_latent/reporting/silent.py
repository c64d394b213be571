"""The record as processes other than the first know it: nothing is written."""

import pathlib
from typing import Any

from cot_latent.reporting import record
from cot_latent.runtime import files


class Journal(files.Journal):
  """The journal as the other processes know it: it writes nothing."""

  def __init__(self, path: pathlib.Path, resume_at: int | None):
    """Reads the rows up to a step; None reads none."""
    self.rows = [] if resume_at is None else files.read_rows(path, resume_at)

  def add(self, step: int, kind: str, **fields: Any) -> None:
    """Keeps a row."""
    self.rows.append({"step": step, "kind": kind, **fields})

  def sync(self) -> None:
    """Has nothing to do."""

  def close(self) -> None:
    """Has nothing to do."""


class Record:
  """The record of the run as the other processes know it: writes nothing."""

  def __init__(self, directory: pathlib.Path, resume_at: int | None):
    """Opens it as `record.Record` is opened."""
    self.journal = Journal(directory / record.JOURNAL, resume_at)

  def write(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Gives no report."""
    del status, error
    return {}

  def close(self) -> None:
    """Has nothing to do."""
