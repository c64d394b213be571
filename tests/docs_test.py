"""The pages of docs/ followed to the letter, in an empty folder."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A file: its language, its name, its text. A command: what is said to follow.
_BLOCK = re.compile(
  r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def read_page(name):
  """Reads the files that a page shows, and its commands with their output."""
  files, commands = {}, []
  for language, file, text in _BLOCK.findall(
    (ROOT / "docs" / name).read_text()
  ):
    if file:
      files[file] = text
    elif language == "console":
      prompt, _, output = text.partition("\n")
      assert prompt.startswith("$ ")
      commands.append((prompt.removeprefix("$ "), output))
  return files, commands


def run(command, folder):
  """Runs a command as a shell would find `t5x` after installation."""
  environment = os.environ | {
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  }
  done = subprocess.run(
    command,
    shell=True,
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=280,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def check_page(name, folder):
  """Writes a page's files and runs its commands, comparing what is shown."""
  files, commands = read_page(name)
  for file, text in files.items():
    (folder / file).write_text(text)
  for command, shown in commands:
    output = run(command, folder)
    assert not shown or output == shown


@pytest.mark.slow
def test_a_new_task(tmp_path):
  files, commands = read_page("new_task.md")
  assert {"days.json", "my_tasks.py", "days.gin", "capitals.csv"} == set(files)
  assert len(commands) == 4
  check_page("new_task.md", tmp_path)
  assert (tmp_path / "runs/days/report.html").is_file()
  assert not ROOT.is_relative_to(tmp_path)


@pytest.mark.slow
def test_a_new_method(tmp_path):
  files, commands = read_page("new_method.md")
  assert {"my_methods.py", "all_right.gin"} == set(files)
  assert len(commands) == 1
  check_page("new_method.md", tmp_path)
  report = json.loads((tmp_path / "runs/all_right/report.json").read_text())
  method = report["configuration"]["experiment"]["method"]
  assert method["estimator"]["name"] == "my_methods.all_right"
  assert report["status"] in ("complete", "suspect")


def check_names_every_method(text):
  """Checks that a page's table has a row for each file, and no other."""
  rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
  assert rows == {path.stem for path in (ROOT / "gin/methods").glob("*.gin")}


def test_the_methods_page_has_every_method():
  text = (ROOT / "docs/methods.md").read_text()
  check_names_every_method(text)
  for twin in (
    text.replace("| `star` |", "| star |"),
    text.replace("| `star` |", "| `star` |\n| `comet` |"),
  ):
    with pytest.raises(AssertionError):
      check_names_every_method(twin)


def test_a_page_that_shows_something_else_is_noticed(tmp_path, monkeypatch):
  (tmp_path / "docs").mkdir()
  page = tmp_path / "docs/page.md"
  page.write_text(
    "```text a.txt\nhello\n```\n\n```console\n$ cat a.txt\nhello\n```\n"
  )
  monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
  check_page("page.md", tmp_path)
  page.write_text(
    page.read_text().replace("cat a.txt\nhello", "cat a.txt\nhullo")
  )
  with pytest.raises(AssertionError):
    check_page("page.md", tmp_path)
