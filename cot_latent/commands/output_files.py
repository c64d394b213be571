"""Files that a flag names and a command writes."""

import pathlib

from cot_latent.errors import UserError


def check(flag: str, output: str) -> None:
  """Refuses a file that has no place, before there is anything to write."""
  path = pathlib.Path(output)
  if path.is_dir():
    raise UserError(f"{flag}={output} is a folder: name a file")
  if not path.parent.is_dir():
    raise UserError(f"{flag}={output}: there is no folder {path.parent}")
