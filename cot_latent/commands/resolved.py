"""The experiment of a report, built from its resolved configuration."""

from collections.abc import Mapping
from typing import Any

from cot_latent.configuration import parsing
from cot_latent.errors import UserError


def parse(report: Mapping[str, Any], checkpoint: str | None):
  """Builds a report's experiment, whose checkpoint may have moved.

  Args:
    report: The report.
    checkpoint: Where the one is now that the run began with; None is where it
      was.

  Returns:
    The experiment and what it came from, as `parsing.parse_resolved`.
  """
  text = report["configuration"]["resolved"]
  if checkpoint is not None:
    if "%CHECKPOINT" not in text:
      raise UserError("--checkpoint: the run began with none (CHECKPOINT)")
    text += f"\nCHECKPOINT = {checkpoint!r}\n"
  return parsing.parse_resolved(text)
