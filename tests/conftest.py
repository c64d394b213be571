"""Where the tests find real benchmark data, and where prepared copies go."""

import atexit
import os
import pathlib
import shutil
import tempfile

import pytest

_DATA = pathlib.Path(__file__).parents[1] / "../shared/data"

# Before TFDS is imported, and once for all processes: pytest's workers inherit
# it. Nothing is written into the home folder.
if "TFDS_DATA_DIR" not in os.environ:
  os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="tfds-")
  atexit.register(
    shutil.rmtree, os.environ["TFDS_DATA_DIR"], ignore_errors=True
  )


@pytest.fixture(scope="session")
def data_dir() -> str:
  """The DATA_DIR of the tasks that read files."""
  if not _DATA.is_dir():
    pytest.skip("needs ../shared/data (the GSM8K and BBH files)")
  return str(_DATA.resolve())
