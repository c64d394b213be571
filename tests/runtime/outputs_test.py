"""Files that a flag names: written to whatever they are, or one line."""

import errno
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from cot_latent.errors import UserError
from cot_latent.runtime import files


def write(path, text="new"):
  files.check_output("--output", str(path))
  files.write_output(path, text)


def test_a_file_is_replaced_whole(tmp_path):
  path = tmp_path / "a"
  write(path, "one")
  before = path.stat().st_ino
  write(path, "two")
  assert path.read_text() == "two"
  assert path.stat().st_ino != before
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_leads_to_what_was_written(tmp_path, is_there):
  path, link = tmp_path / "a", tmp_path / "link"
  link.symlink_to("a")
  if is_there:
    path.write_text("old")
  write(link)
  assert link.is_symlink()
  assert path.read_text() == "new"


def test_a_fifo_is_written_to(tmp_path):
  path, found = tmp_path / "fifo", []
  os.mkfifo(path)
  reader = threading.Thread(target=lambda: found.append(path.read_text()))
  reader.start()
  write(path)
  reader.join(timeout=30)
  assert found == ["new"]
  assert path.is_fifo()


def test_a_device_is_written_to():
  write(pathlib.Path("/dev/null"))
  assert pathlib.Path("/dev/null").is_char_device()


@pytest.mark.parametrize("place", ["pipe", "file"])
def test_the_command_s_own_output_is_written_to(tmp_path, place):
  code = (
    "import pathlib\nfrom cot_latent.runtime import files\n"
    "print('before')\n"
    "files.write_output(pathlib.Path('/dev/stdout'), 'new\\n')\n"
    "print('after')"
  )
  path = tmp_path / "out"
  with path.open("wb") as file:
    done = subprocess.run(
      [sys.executable, "-c", code],
      stdout=file if place == "file" else subprocess.PIPE,
      check=True,
      timeout=60,
    )
  text = path.read_bytes() if place == "file" else done.stdout
  assert text == b"before\nnew\nafter\n"


def test_a_file_in_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
  path = tmp_path / "a"
  path.write_text("old")
  before = path.stat().st_ino

  def refuse(*arguments):
    raise PermissionError(errno.EACCES, "Permission denied")

  monkeypatch.setattr(files, "write_atomically", refuse)
  write(path)
  assert path.read_text() == "new"
  assert path.stat().st_ino == before
  with pytest.raises(PermissionError):
    files.write_output(tmp_path / "b", "new")


def test_what_cannot_be_written_is_said_at_once(tmp_path, monkeypatch):
  def said(path):
    with pytest.raises(UserError) as raised:
      files.check_output("--output", str(path))
    return str(raised.value)

  loop = tmp_path / "loop"
  loop.symlink_to("loop")
  assert said(tmp_path) == f"--output={tmp_path} is a folder: name a file"
  assert "there is no folder" in said(tmp_path / "no/a")
  assert "cannot be used" in said(loop)
  assert "cannot be used" in said("a\0b")
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  assert said(tmp_path / "a").endswith("/a: no permission to write there")


def test_a_folder_of_outputs_is_none_where_a_file_is(tmp_path):
  files.check_output_folder("--collect", str(tmp_path / "new/folder"))
  path = tmp_path / "a"
  path.touch()
  for output in (path, path / "b"):
    with pytest.raises(UserError, match=r"a is a file, not a folder$"):
      files.check_output_folder("--collect", str(output))
