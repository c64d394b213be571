"""`t5x train` shows progress, and T5X's log goes into a file."""

import logging
import re
import time
import weakref

import pytest

from cot_latent.t5x import own_log
from tests.t5x import runs

SHORT = ("--gin.TRAIN_STEPS=4",)
# Seconds between the end of T5X's train and the end of the process.
MOST_AFTER_END = 5


def run_timed(directory):
  """Runs it; gives what it said and the seconds after "Finished."."""
  done = runs.run_well(directory, *SHORT, by_t5x=False)
  ended = time.time()
  return done, ended - (directory / "t5x.log").stat().st_mtime


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
  directory = tmp_path_factory.mktemp("quiet") / "run"
  return directory, *run_timed(directory)


def test_the_terminal_has_progress_alone(quiet):
  directory, done, _ = quiet
  lines = done.stderr.splitlines()
  assert len(lines) < 20, done.stderr
  assert not [line for line in lines if re.match(r"[IWE]\d{4} ", line)]
  assert f"T5X's log: {directory}/t5x.log" in lines
  assert any(re.match(r"trice +4/4 .*accepted \S+  memory ", x) for x in lines)
  assert any(re.match(r"greedy +step 4: \d+/\d+ correct", x) for x in lines)


def test_the_log_is_whole(quiet):
  directory, _, _ = quiet
  log = (directory / "t5x.log").read_text()
  assert "Gin Configuration:" in log  # said before there was a folder
  assert log.splitlines()[-1].endswith("Finished.")


def test_the_process_ends_soon(quiet):
  *_, seconds = quiet
  assert seconds < MOST_AFTER_END


def test_what_t5x_s_train_has_is_not_freed_when_it_returns(monkeypatch):
  """Freeing it takes long; the process ends at once instead."""
  monkeypatch.setattr(own_log, "_kept", [])

  class Data:
    pass

  freed = []

  def cleanup():
    logging.getLogger("t5x").warning("Finished.")

  def train():
    data = Data()
    weakref.finalize(data, freed.append, "data")
    cleanup()

  with own_log.kept_off_terminal():
    train()
  assert not freed
  own_log._kept.clear()
  assert freed == ["data"]


def test_verbosity_brings_the_log_back(tmp_path):
  done = runs.run_well(tmp_path / "run", *SHORT, "--verbosity=0", by_t5x=False)
  assert "Gin Configuration:" in done.stderr
  assert "Finished." in done.stderr
  assert not (tmp_path / "run" / "t5x.log").exists()


def test_a_mistake_leaves_one_line_and_no_file(tmp_path):
  done = runs.run(tmp_path / "run", "--gin.DROPOUT_RATE=0.1", by_t5x=False)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith("t5x: error: DROPOUT_RATE = 0.1")
  assert not (tmp_path / "run").exists()
