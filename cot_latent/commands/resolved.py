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
  """Builds a report's experiment, whose checkpoint may have moved.

  Args:
    path: The report's file, for messages.
    report: The report.
    checkpoint: Where the one is now that the run began with; None is where it
      was.
    allowed: Modules that it may import besides those that any report may.

  Returns:
    The experiment and what it came from, as `parsing.parse_resolved`.
  """
  text = report["configuration"]["resolved"]
  if not text:
    raise UserError(
      f"{path} is of a run that a program started (cot_latent.train): run that "
      "program again"
    )
  if checkpoint is not None:
    if "%CHECKPOINT" not in text:
      raise UserError("--checkpoint: the run began with none (CHECKPOINT)")
    text += f"\nCHECKPOINT = {checkpoint!r}\n"
  return parsing.parse_resolved(text, allowed, str(path))
