"""Where tests find real data, what they share, and how much they try."""

import atexit
import functools
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests import processes

_ROOT = pathlib.Path(__file__).parents[1]
_DATA = _ROOT / "../shared/data"

# Before TFDS and JAX are imported, and once for all processes: pytest's workers
# inherit it. Nothing is written into the home folder. What one run of the tests
# has compiled, the next one reads.
if "TFDS_DATA_DIR" not in os.environ:
  os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="cot-latent-")
  atexit.register(
    shutil.rmtree, os.environ["TFDS_DATA_DIR"], ignore_errors=True
  )
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".cache/compiled")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# The same examples everywhere: few in `make test`, more in `make nightly`.
_FIXED = hypothesis.settings(derandomize=True, deadline=None, database=None)
for profile, number in (("day", 25), ("night", 500)):
  hypothesis.settings.register_profile(profile, _FIXED, max_examples=number)
hypothesis.settings.load_profile("day")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts whole runs first, so that no worker is left with one at the end."""
  items.sort(key=lambda item: "/e2e/" not in str(item.path))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
  with processes.none_left():
    yield


@pytest.fixture(autouse=True, scope="module")
def _few_compiled_functions() -> Iterator[None]:
  """Keeps a worker of many files below Linux's limit of mappings."""
  yield
  if "jax" in sys.modules:
    from cot_latent.runtime import compilation

    compilation.release_if_many()


@pytest.fixture(scope="session")
def data_dir() -> str:
  """The DATA_DIR of the tasks that read files."""
  if not _DATA.is_dir():
    pytest.skip("needs ../shared/data (the GSM8K and BBH files)")
  return str(_DATA.resolve())


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder of this session that all workers share."""
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    folder = folder.parent
  shared = folder / "shared"
  shared.mkdir(exist_ok=True)
  return shared


@pytest.fixture(scope="session")
def finished_run(shared_folder: pathlib.Path) -> Callable:
  """Gives a toy run that nothing disturbs, trained once for all workers."""
  from tests.training import store

  return functools.partial(store.finished_run, shared_folder)


@pytest.fixture(scope="module")
def compile_once() -> Iterator[None]:
  """Shares compiled functions between the runs of a process."""
  from tests.training import toy

  with toy.shared_compilation():
    yield


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
  """Has a process read a task once for all commands that open it."""
  from cot_latent.data import open as opening
  from cot_latent.training import train

  once, whole = functools.cache(opening.open_task), train.prepare

  def prepare(config, gin_record, open_task=once, *others):
    return whole(config, gin_record, open_task, *others)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(opening, "open_task", once)
    patch.setattr(train, "prepare", prepare)
    yield
