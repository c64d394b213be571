"""TensorFlow's notices are held back, and its absence is no trouble."""

import os
import subprocess
import sys

import pytest

from cot_latent.errors import UserError
from cot_latent.runtime import tf_startup


def start_with(monkeypatch, *, fails):
  """Starts a TensorFlow that writes a notice and then perhaps fails."""

  class Import:
    def find_spec(self, name, path=None, target=None):
      if name == "seqio":
        os.write(2, b"a notice\n")
        if fails:
          raise ImportError("no")

  monkeypatch.delitem(sys.modules, "seqio", raising=False)
  monkeypatch.setattr(sys, "meta_path", [Import(), *sys.meta_path])
  try:
    tf_startup.start_tensorflow()
  finally:
    os.write(2, b"afterwards\n")


def test_notices_are_held_back(monkeypatch, capfd):
  import seqio

  # What is imported already is not imported twice.
  monkeypatch.setitem(sys.modules, "seqio", seqio)
  tf_startup.start_tensorflow()
  os.write(2, b"before\n")
  code = (
    "import os, sys\n"
    "class Import:\n"
    "  def find_spec(self, name, path=None, target=None):\n"
    "    if name == 'seqio': os.write(2, b'a notice\\n')\n"
    "sys.meta_path.insert(0, Import())\n"
    "from cot_latent.runtime import tf_startup\n"
    "tf_startup.start_tensorflow()\n"
    "assert 'seqio' in sys.modules\n"
    "os.write(2, b'afterwards\\n')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stderr == "afterwards\n"
  assert capfd.readouterr().err == "before\n"


def test_what_is_not_installed_is_said(monkeypatch, capfd):
  """And nothing of what its parts wrote before."""
  monkeypatch.delitem(sys.modules, "seqio", raising=False)

  class Missing:
    def find_spec(self, name, path=None, target=None):
      if name == "seqio":
        os.write(2, b"a notice\n")
        raise ModuleNotFoundError("no", name="seqio")

  monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
  with pytest.raises(UserError, match=r"needs seqio.*t5x cache"):
    tf_startup.start_tensorflow()
  assert capfd.readouterr().err == ""


def test_notices_are_shown_if_the_import_fails(monkeypatch, capfd):
  with pytest.raises(ImportError, match="no"):
    start_with(monkeypatch, fails=True)
  assert capfd.readouterr().err == "a notice\nafterwards\n"


def starts_tensorflow(folder, line):
  """Whether TensorBoard's writer does, in a process of its own."""
  code = (
    "import sys\nfrom tensorboard import summary\n"
    "from cot_latent.runtime import tf_startup\n"
    f"{line}\n"
    f"writer = summary.Writer({str(folder)!r})\n"
    "writer.add_scalar('a/b', 0.5, 3)\nwriter.close()\n"
    "print('tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  return done.stdout == "True\n"


def test_tensorboard_writes_without_tensorflow(tmp_path):
  line = "tf_startup.keep_tensorboard_from_tensorflow()"
  assert not starts_tensorflow(tmp_path, line)
  (path,) = tmp_path.glob("events*")
  assert b"a/b" in path.read_bytes()


@pytest.mark.slow
def test_tensorboard_left_alone_starts_tensorflow(tmp_path):
  assert starts_tensorflow(tmp_path, "pass")
