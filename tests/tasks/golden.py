"""Digests that must stay the same from one version to the next."""

import hashlib
import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def digest(content) -> str:
  """The sha256 of plain data, as JSON."""
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_golden(content, golden: str, test_file: str) -> None:
  """Compares a digest with the golden one that a test file holds."""
  found = digest(content)
  where = pathlib.Path(test_file).relative_to(ROOT)
  assert found == golden, (
    "the data changed, so earlier runs cannot be compared with later ones; "
    f"if that is meant: sed -i s/{golden}/{found}/ {where}"
  )
