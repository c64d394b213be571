"""A file is whole or not there, and a journal survives a kill."""

import errno
import hashlib
import json
import math
import os

import pytest

from cot_latent.runtime import files

OLD, NEW = "old ✓\n", "new ✓, and longer than the old one\n"


class Stop(BaseException):
  """Like KeyboardInterrupt: no Exception."""


def check_replaces(write, path):
  """Checks that a write leaves the new content and nothing else."""
  path.write_text(OLD, encoding="utf-8")
  write(path, NEW)
  assert path.read_bytes() == NEW.encode()
  assert list(path.parent.iterdir()) == [path]


def check_fails_whole(write, path, text, error):
  """Checks that a write that fails leaves the old content and nothing else."""
  path.write_text(OLD, encoding="utf-8")
  with pytest.raises(type(error)):
    write(path, text)
  assert path.read_bytes() == OLD.encode()
  assert list(path.parent.iterdir()) == [path]


def in_place(path, text):
  """A writer that opens the file itself."""
  with path.open("w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def leaves_its_partial(path, text):
  """A writer that does not clean up."""
  partial = files.partial_path(path)
  in_place(partial, text)
  partial.replace(path)


def without_end(path, text):
  """A writer that fails to write all."""
  files.write_atomically(path, text[:-1])


def test_write_replaces(tmp_path):
  check_replaces(files.write_atomically, tmp_path / "a.json")
  with pytest.raises(AssertionError):
    check_replaces(without_end, tmp_path / "a.json")


def test_write_makes_a_new_file(tmp_path):
  path = tmp_path / "a.json"
  files.write_atomically(path, NEW)
  assert path.read_bytes() == NEW.encode()


@pytest.mark.parametrize(
  "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), Stop()]
)
def test_a_failure_in_the_middle_leaves_the_old(tmp_path, monkeypatch, error):
  def fail(file):
    raise error

  monkeypatch.setattr(os, "fsync", fail)
  for number, writer in enumerate([in_place, leaves_its_partial]):
    folder = tmp_path / str(number)
    folder.mkdir()
    with pytest.raises(AssertionError):
      check_fails_whole(writer, folder / "a", NEW, error)
  folder = tmp_path / "mine"
  folder.mkdir()
  check_fails_whole(files.write_atomically, folder / "a", NEW, error)


def test_text_that_cannot_be_encoded_leaves_the_old(tmp_path):
  text = NEW * 10_000 + "\ud800"  # fails after much has been written
  error = UnicodeEncodeError("utf-8", "", 0, 1, "")
  check_fails_whole(files.write_atomically, tmp_path / "a", text, error)


def test_a_folder_that_does_not_exist(tmp_path):
  with pytest.raises(FileNotFoundError):
    files.write_atomically(tmp_path / "no" / "a", NEW)


def test_the_old_content_is_there_until_all_is_written(tmp_path, monkeypatch):
  path, seen = tmp_path / "a", []
  path.write_text(OLD, encoding="utf-8")
  sync = os.fsync

  def look(file):
    seen.append(path.read_text(encoding="utf-8"))
    sync(file)

  monkeypatch.setattr(os, "fsync", look)
  files.write_atomically(path, NEW)
  assert seen == [OLD]
  in_place(path, NEW * 2)
  assert seen == [OLD, NEW * 2]  # what a writer in place shows


def test_what_a_killed_process_left_does_no_harm(tmp_path):
  path = tmp_path / "a"
  files.partial_path(path).write_text("half")
  files.write_atomically(path, NEW)
  assert list(tmp_path.iterdir()) == [path]
  assert path.read_text(encoding="utf-8") == NEW


@pytest.mark.parametrize("write", [files.to_json, files.to_json_line])
def test_json_has_no_nan(write):
  for value in (math.nan, math.inf, -math.inf):
    for tree in (value, [value], {"a": {"b": [0.5, value]}}):
      with pytest.raises(ValueError, match="not JSON compliant"):
        write(tree)


def test_json_is_the_same_for_the_same_value():
  value = {"b": [1, 2.5, None, True], "a": {"é\u2028": "\n"}}
  turned = dict(reversed(value.items()))
  for write in (files.to_json, files.to_json_line):
    text = write(value)
    assert text == write(turned)
    assert text.isascii()
    assert text.endswith("\n")
    assert json.loads(text) == value
  assert files.to_json_line(value).count("\n") == 1


def test_short_hash():
  content = '{"a": 1, "b": [2]}\n'
  expected = hashlib.sha256(content.encode()).hexdigest()[:8]
  assert files.short_hash({"b": [2], "a": 1}) == expected
  assert files.short_hash({"b": [2], "a": 2}) != expected


def start(path, resume_at=None):
  return files.Journal(path, resume_at)


def fill(path, steps=(0, 1, 2, 3, 3, 4)):
  journal = start(path)
  for number, step in enumerate(steps):
    journal.add(
      step, "even" if number % 2 == 0 else "odd", text=f"é\u2028{step}"
    )
  journal.close()
  return journal.rows


def test_journal_rows_are_on_disk_at_once(tmp_path):
  path = tmp_path / "journal.jsonl"
  journal = start(path)
  for number in range(1, 4):
    journal.add(number, "metrics", loss=0.5)
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == journal.rows
    assert len(lines) == number
  journal.close()


def test_a_journal_refuses_nan_and_stays_whole(tmp_path):
  path = tmp_path / "j"
  journal = start(path)
  journal.add(1, "a", x=1.0)
  with pytest.raises(ValueError, match="not JSON compliant"):
    journal.add(2, "a", x=math.nan)
  journal.add(3, "a", x=3.0)
  journal.close()
  assert [row["step"] for row in journal.rows] == [1, 3]
  assert start(path, 3).rows == journal.rows


@pytest.mark.parametrize("resume_at", [0, 1, 2, 3, 4, 100])
def test_resuming_drops_what_came_after(tmp_path, resume_at):
  path = tmp_path / "j"
  kept = [row for row in fill(path) if row["step"] <= resume_at]
  journal = start(path, resume_at)
  assert journal.rows == kept
  journal.add(resume_at + 1, "new", x=1)
  journal.close()
  # A second resumption finds the same and the new row.
  again = start(path, resume_at + 1)
  assert again.rows == [*kept, {"step": resume_at + 1, "kind": "new", "x": 1}]
  assert list(tmp_path.iterdir()) == [path]


def test_a_fresh_start_forgets_the_old(tmp_path):
  path = tmp_path / "j"
  fill(path)
  journal = start(path)
  assert journal.rows == []
  journal.add(1, "a", x=1)
  journal.close()
  assert start(path, 9).rows == [{"step": 1, "kind": "a", "x": 1}]


def test_resuming_without_a_journal(tmp_path):
  journal = start(tmp_path / "j", 5)
  assert journal.rows == []
  journal.add(6, "a", x=1)
  journal.close()
  assert start(tmp_path / "j", 6).rows == journal.rows


def check_torn_anywhere(resume, path):
  """Cuts a journal at every byte; whole lines are kept, the rest dropped."""
  rows = fill(path)
  content = path.read_bytes()
  for size in range(len(content) + 1):
    path.write_bytes(content[:size])
    kept = rows[: content[:size].count(b"\n")]
    journal = resume(path)
    assert journal.rows == kept
    journal.add(9, "after", x=1)
    journal.close()
    lines = path.read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == journal.rows


def takes_what_can_be_read(path):
  """Keeps a last line that only lacks its end."""
  torn = path.read_bytes()
  if torn.endswith(b"}"):
    path.write_bytes(torn + b"\n")
  return files.Journal(path, 100)


def test_a_torn_last_line_is_dropped(tmp_path):
  check_torn_anywhere(lambda path: files.Journal(path, 100), tmp_path / "j")
  with pytest.raises(AssertionError):
    check_torn_anywhere(takes_what_can_be_read, tmp_path / "k")


def test_a_damaged_line_ends_the_journal(tmp_path):
  # What follows a line that cannot be read cannot be trusted either.
  path = tmp_path / "j"
  rows = fill(path)
  lines = path.read_text().splitlines(keepends=True)
  lines[2] = "\0" * 10 + "\n"
  path.write_text("".join(lines))
  assert start(path, 100).rows == rows[:2]


def test_closing_an_unused_journal(tmp_path):
  journal = start(tmp_path / "j")
  journal.close()
  assert journal.rows == []
