"""The experiment of a report, built from its resolved configuration."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cot_latent.configuration import parsing
from cot_latent.errors import UserError


def parse(
  path: pathlib.Path,
  report: Mapping[str, Any],
  checkpoint: str | None,
  allowed: Sequence[str],
):
  """Builds a report's experiment; its initial checkpoint may have moved.

  Args:
    path: Path of the report, for messages.
    report: The report.
    checkpoint: Current path of the run's initial checkpoint; None if it has not
      moved.
    allowed: Modules that it may import besides those that any report may.

  Returns:
    The experiment and its gin record, as `parsing.parse_resolved` returns them.
  """
  text = report["configuration"]["resolved"]
  if not text:
    raise UserError(
      f"{path} is a run that a program started (cot_latent.train): run that "
      "program again"
    )
  if checkpoint is not None:
    if "%CHECKPOINT" not in text:
      raise UserError(
        "--checkpoint: the run had no initial checkpoint (CHECKPOINT)"
      )
    text += f"\nCHECKPOINT = {checkpoint!r}\n"
  return parsing.parse_resolved(text, allowed, str(path))
