"""What is installed is whole, and the lock pins all that it needs."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cot_latent

ROOT = pathlib.Path(cot_latent.__file__).parents[1]
SOURCES = ("cot_latent", "gin")


def read_lock(text):
  """Reads a lock file: requirement -> its hashes."""
  found: dict[str, list[str]] = {}
  name = None
  for line in text.replace("\\\n", "\n").splitlines():
    line = line.strip()
    if line.startswith("--hash="):
      found[name].append(line.removeprefix("--hash="))
    elif line and not line.startswith("#"):
      name = line
      assert name not in found
      found[name] = []
  return found


def check_lock(text):
  """Checks that each line pins one version by hash, of whatever index."""
  assert not re.search(r"https?:|file:|--(extra-)?index|--find|@ ", text)
  locked = read_lock(text)
  assert locked
  for line, hashes in locked.items():
    requirement = Requirement(line)
    assert re.fullmatch(r"==[^*,]+", str(requirement.specifier))
    assert hashes
    for value in hashes:
      assert re.fullmatch(r"sha256:[0-9a-f]{64}", value)


def test_the_lock_has_hashes_and_no_address():
  check_lock((ROOT / "requirements.lock").read_text())


@pytest.mark.parametrize(
  "text",
  [
    "",
    "numpy==2.1\n",
    f"numpy>=2.1 \\\n    --hash=sha256:{'a' * 64}\n",
    f"numpy==2.* \\\n    --hash=sha256:{'a' * 64}\n",
    "numpy==2.1 \\\n    --hash=md5:abc\n",
    f"--index-url https://x\nnumpy==2.1 \\\n    --hash=sha256:{'a' * 64}\n",
    f"numpy @ https://x/n.whl \\\n    --hash=sha256:{'a' * 64}\n",
  ],
)
def test_a_loose_lock_is_rejected(text):
  check_lock(f"numpy==2.1 \\\n    --hash=sha256:{'a' * 64}\n")
  with pytest.raises(AssertionError):
    check_lock(text)


def test_the_lock_has_every_dependency():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  lock = (ROOT / "requirements.lock").read_text()
  locked: dict[str, list[Requirement]] = {}
  for requirement in map(Requirement, read_lock(lock)):
    locked.setdefault(canonicalize_name(requirement.name), []).append(
      requirement
    )
  optional = project["optional-dependencies"]
  extras = [*optional["dev"], *optional["docs"]]
  for wanted in map(Requirement, [*project["dependencies"], *extras]):
    pins = locked[canonicalize_name(wanted.name)]
    for pin in pins:
      version = str(pin.specifier).removeprefix("==")
      assert wanted.specifier.contains(version, prereleases=True)
    # A pin for some platforms only would leave the others without.
    assert len(pins) > 1 or pins[0].marker is None


def source_files():
  return [
    str(path.relative_to(ROOT))
    for folder in (*SOURCES, "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
  ]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_git_ignores_no_source():
  done = subprocess.run(
    ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--stdin"],
    input="\n".join(["build/x", *source_files()]),
    capture_output=True,
    text=True,
  )
  assert done.stdout.splitlines() == ["build/x"]  # which it should ignore


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel's content, built from a copy so that nothing is left here."""
  copy = tmp_path_factory.mktemp("source")
  for name in SOURCES:
    shutil.copytree(
      ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
    )
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, copy)
  pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
  done = subprocess.run(
    [*pip, "--no-deps", "--no-build-isolation", "--no-index", "."],
    cwd=copy,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  (built,) = copy.glob("*.whl")
  unpacked = tmp_path_factory.mktemp("unpacked")
  zipfile.ZipFile(built).extractall(unpacked)
  return unpacked


def test_the_wheel_holds_every_source_file(wheel):
  packed = {
    str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()
  }
  wanted = set()
  for name in source_files():
    folder = name.split("/")[0]
    if folder != "tests":
      wanted.add(name if folder == "cot_latent" else f"cot_latent/{name}")
  assert {
    "cot_latent/gin/runs/quickstart.gin",
    "cot_latent/tasks/bbh.py",
  } <= wanted
  assert {
    "cot_latent/reporting/report.html.j2",
    "cot_latent/tasks/datasets/checksums.tsv",
    "cot_latent/tasks/synthetic/navigate.py",
    "cot_latent/gin/prompts/few_shot.gin",
  } <= wanted
  assert {name for name in packed if ".dist-info/" not in name} == wanted


def test_the_wheel_has_the_command_and_its_licence(wheel):
  (info,) = wheel.glob("*.dist-info")
  assert "t5x = cot_latent.cli:main" in (info / "entry_points.txt").read_text()
  assert list(info.rglob("LICENSE"))
  metadata = (info / "METADATA").read_text()
  assert f"Version: {cot_latent.__version__}\n" in metadata


def test_the_wheel_runs_by_itself(wheel, tmp_path):
  code = (
    "import sys, cot_latent\nfrom cot_latent import cli\n"
    "print(cot_latent.__file__)\n"
    "sys.exit(cli.main(['train', '--gin_file=gin/runs/quickstart.gin', "
    "'--dry_run']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(wheel)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(str(wheel))
  assert "scored, at most" in done.stdout
  assert str(ROOT) not in done.stdout
  assert list(tmp_path.iterdir()) == []
