"""Where the tests find real benchmark data."""

import pathlib

import pytest

_DATA = pathlib.Path(__file__).parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def data_dir() -> str:
  """The DATA_DIR of the tasks that read files."""
  if not _DATA.is_dir():
    pytest.skip("needs ../shared/data (the GSM8K and BBH files)")
  return str(_DATA.resolve())
