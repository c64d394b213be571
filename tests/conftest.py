"""Where tests find real data, and where they put what they share."""

import atexit
import os
import pathlib
import shutil
import tempfile

import pytest

_DATA = pathlib.Path(__file__).parents[1] / "../shared/data"

# Before TFDS and JAX are imported, and once for all processes: pytest's workers
# inherit it. Nothing is written into the home folder, and what one process has
# compiled the others need not.
for name in ("TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR"):
  if name not in os.environ:
    os.environ[name] = tempfile.mkdtemp(prefix="cot-latent-")
    atexit.register(shutil.rmtree, os.environ[name], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Marks the tests of by_night.txt as slow, and puts whole runs first.

  First, so that no process is left with one at the end.
  """
  files = {item.nodeid.partition("::")[0] for item in items}
  for name in _by_night():
    found = [item for item in items if item.nodeid.startswith(name)]
    for item in found:
      item.add_marker(pytest.mark.slow)
    is_whole = not any("::" in argument for argument in config.args)
    if is_whole and not found and name.partition("::")[0] in files:
      raise pytest.UsageError(f"tests/by_night.txt: there is no {name}")
  items.sort(key=lambda item: "/e2e/" not in str(item.path))


def _by_night() -> list[str]:
  lines = pathlib.Path(__file__).with_name("by_night.txt").read_text()
  return [line for line in lines.split("\n") if line and line[0] != "#"]


@pytest.fixture(scope="session")
def data_dir() -> str:
  """The DATA_DIR of the tasks that read files."""
  if not _DATA.is_dir():
    pytest.skip("needs ../shared/data (the GSM8K and BBH files)")
  return str(_DATA.resolve())
