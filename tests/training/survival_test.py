"""Runs that are asked to end, run out of disk, or find half a checkpoint."""

import dataclasses
import errno
import itertools
import json
import os
import pathlib
import shutil
import signal
import threading

import pytest
from orbax.checkpoint import CheckpointManager
from tensorboard.summary.writer import record_writer

from cot_latent import cli
from cot_latent.commands import train as train_command
from cot_latent.em import results
from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.reporting import environment, record
from cot_latent.runtime import files, lock, preemption
from cot_latent.training import base
from tests.params import by_night
from tests.training import toy
from tests.training.kills import act_at, assert_same_run, report_of, run_until

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def config(whole, tmp_path):
  """The same run elsewhere."""
  return dataclasses.replace(whole[0], model_dir=str(tmp_path / "run"))


def resumes(report):
  return [row["step"] for row in report["continuity"]["resumes"]]


def saved_steps(config):
  folder = pathlib.Path(config.model_dir) / "checkpoints"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


# SIGTERM --------------------------------------------------------------------


def terminate():
  signal.raise_signal(signal.SIGTERM)


def run_terminated(config, place):
  """Runs until SIGTERM comes at a place."""
  with pytest.MonkeyPatch.context() as patch, preemption.handled():
    act_at(patch, place, terminate)
    with pytest.raises(Preempted):
      toy.run(config)
  assert report_of(config)["status"] == "interrupted"


# In `make test` saving_test.py covers most of these, and the writes below.
# Where SIGTERM comes, and the step that is saved; there are 7, of which every
# second one is saved anyway. None is before there is anything to save.
@pytest.mark.parametrize(
  ("place", "step"),
  [
    (("after_e_step", 2), 2),
    *by_night(
      (("after_row", 1), None),  # the base model is fitted
      (("before_save", 0), 0),
      (("before_manifest", 0), 0),
      (("after_e_step", 1), 1),
      (("before_save", 2), 4),
      (("after_step", 7), 7),
      (("before_manifest", 4), 7),
    ),
  ],
)
def test_sigterm_ends_the_step_and_saves(whole, config, place, step):
  run_terminated(config, place)
  assert saved_steps(config)[-1:] == ([] if step is None else [step])
  again = toy.run(config)
  assert again["status"] == "complete"
  assert resumes(again) == ([] if step is None else [step])
  assert_same_run(whole, (config, again))


def test_without_deferring_a_step_would_be_lost(config, monkeypatch):
  """The broken twin."""
  monkeypatch.setattr(preemption, "deferred", lambda: no_deferring())
  run_terminated(config, ("after_e_step", 1))
  assert saved_steps(config) == [0]


class no_deferring:
  def __enter__(self):
    return lambda: False

  def __exit__(self, *_):
    return None


def test_sigterm_while_the_base_model_is_fitted_leaves_nothing(
  config, tmp_path, monkeypatch
):
  config = dataclasses.replace(config, base_dir=str(tmp_path / "bases"))
  fit = base.fit

  def terminated(*arguments):
    terminate()
    return fit(*arguments)

  with monkeypatch.context() as patch, preemption.handled():
    patch.setattr(base, "fit", terminated)
    with pytest.raises(Preempted):
      toy.run(config)
  assert report_of(config)["status"] == "interrupted"
  assert not list((tmp_path / "bases").glob("*npz*partial"))
  assert not list((tmp_path / "bases").glob("*.npz"))
  assert toy.run(config)["status"] == "complete"


def test_a_signal_s_old_meaning_comes_back():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.handled():
    handled = signal.getsignal(signal.SIGTERM)
    with preemption.deferred() as is_asked:
      assert not is_asked()
    assert signal.getsignal(signal.SIGTERM) == handled != before
  assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_leaves_signals_alone():
  before, seen = signal.getsignal(signal.SIGTERM), []

  def work():
    with preemption.handled(), preemption.deferred() as is_asked:
      seen.append((signal.getsignal(signal.SIGTERM), is_asked()))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(before, False)]


# A full or read-only disk ---------------------------------------------------

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/x")
ERRORS = {"full": FULL, "read-only": READ_ONLY}
_SAYS = {
  FULL: "t5x: error: the disk is full; free some space, and the same command "
  "resumes from the last checkpoint, or from the start\n",
  READ_ONLY: "t5x: error: cannot read or write: [Errno 30] Read-only file "
  "system: 'runs/x'\n",
}


def break_at(patch, owner, function, error, is_meant, number):
  """Makes a function fail from its call of a number on, if that is meant."""
  whole, calls = getattr(owner, function), []

  def call(*arguments, **fields):
    if is_meant(*arguments):
      calls.append(arguments)
      if len(calls) >= number:
        raise error
    return whole(*arguments, **fields)

  patch.setattr(owner, function, call)


def is_named(*names):
  return lambda path, *_: path.name in names


# What is written, how often before it fails.
WRITES = {
  "checkpoint": (CheckpointManager, "save", lambda *_: True, 3),
  "manifest": (files, "write_atomically", is_named("sha256.json"), 3),
  "journal": (files.Journal, "add", lambda *_: True, 30),
  "report": (files, "write_atomically", is_named("report.json"), 3),
  "page": (files, "write_atomically", is_named("report.html"), 3),
  "outputs": (results, "write", lambda *_: True, 3),
  "first report, with code that is changed": (
    files,
    "write_atomically",
    is_named("report.json"),
    1,
  ),
  "events": (record_writer.RecordWriter, "write", lambda *_: True, 60),
}


@pytest.mark.parametrize(
  ("what", "which"),
  [
    ("events", "full"),
    ("page", "read-only"),
    *by_night(*itertools.product(WRITES, ERRORS)),
  ],
)
@pytest.mark.filterwarnings(
  # TensorBoard's thread, whose error the main thread raises again.
  "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
def test_a_disk_that_takes_nothing_is_one_line_and_loses_nothing(
  whole, config, monkeypatch, capsys, what, which
):
  error = ERRORS[which]
  owner, function, is_meant, number = WRITES[what]
  # As the command has it, from a run to the exit status.
  monkeypatch.setattr(train_command, "run", lambda _: toy.run(config) and 0)
  code, _ = environment.code(None)
  monkeypatch.setattr(environment, "code", lambda _: (code, "a change"))
  with monkeypatch.context() as patch:
    break_at(patch, owner, function, error, is_meant, number)
    assert cli.main(["train", "--gin_file=x"]) == 1
  lines = capsys.readouterr().err.splitlines(keepends=True)
  assert [x for x in lines if x.startswith("t5x")] == [_SAYS[error]]
  root = pathlib.Path(config.model_dir)
  assert not list(root.rglob("*.partial"))
  if not what.startswith("first"):
    for name in ("report.json", "report.html"):
      assert (root / name).is_file()
    assert saved_steps(config)
    assert report_of(config)["status"] == (
      "running" if what == "report" else "failed"
    )
  assert cli.main(["train", "--gin_file=x"]) == 0
  again = record.read_whole(root)
  assert bool(resumes(again)) == (not what.startswith("first"))
  assert_same_run(whole, (config, again))


# Checkpoints that are not whole ---------------------------------------------


def test_every_checkpoint_has_its_row(whole, config):
  """Though the process was killed between the two."""
  run_until(config, ("after_save", 3))
  rows = report_of(config)["continuity"]["checkpoints"]
  assert [row["step"] for row in rows] == [0, 2]
  again = toy.run(config)
  rows = again["continuity"]["checkpoints"]
  assert [row["step"] for row in rows] == [0, 2, 4, 6, 7]
  for step in (6, 7):
    path = f"checkpoints/{step}/sha256.json"
    content = (pathlib.Path(config.model_dir) / path).read_bytes()
    (row,) = [row for row in rows if row["step"] == step]
    assert row["sha256"] == files.sha256(content)


@pytest.mark.slow
def test_a_first_checkpoint_that_was_not_finished_begins_again(
  whole, config, capsys
):
  run_until(config, ("before_manifest", 0))
  again = toy.run(config)
  assert (
    "the checkpoint of step 0 is not finished: there is none before, and the "
    "run begins again"
  ) in capsys.readouterr().err
  assert resumes(again) == []
  assert_same_run(whole, (config, again))


@pytest.mark.slow
def test_two_checkpoints_without_manifest_are_no_kill_s_doing(config):
  run_until(config, ("after_save", 3))
  root = pathlib.Path(config.model_dir) / "checkpoints"
  kept = {step: (root / f"{step}/sha256.json").read_text() for step in (2, 4)}
  for step in kept:
    (root / f"{step}/sha256.json").unlink()
  with pytest.raises(UserError, match=r"no checkpoint in .*json is missing"):
    toy.run(config)
  assert saved_steps(config) == [2, 4]
  for step, text in kept.items():
    (root / f"{step}/sha256.json").write_text(text)
  assert resumes(toy.run(config)) == [4]


@pytest.mark.slow
def test_what_orbax_did_not_finish_is_tidied_up(whole, config):
  run_until(config, ("after_save", 3))
  root = pathlib.Path(config.model_dir) / "checkpoints"
  torn = root / "6.orbax-checkpoint-tmp"
  shutil.copytree(root / "4", torn)
  (torn / "sha256.json").unlink()
  next(p for p in torn.rglob("*") if p.is_file()).write_bytes(b"torn")
  again = toy.run(config)
  assert resumes(again) == [4]
  assert not torn.exists()
  assert_same_run(whole, (config, again))


# Steps without a finite gradient --------------------------------------------


@pytest.mark.slow
def test_steps_that_are_not_finite_are_counted_across_a_kill(
  config, monkeypatch
):
  """And a skipped step between them does not make them fewer."""
  from cot_latent.em.estep import EStep

  config = dataclasses.replace(config, checkpoint_period=1)
  e_step = EStep.step

  def poisoned(*arguments):
    state, rows, info = e_step(*arguments)
    if arguments[4] == 3:
      info = info._replace(num_valid=0)
    elif arguments[4] > 1:
      rows = rows._replace(weights=rows.weights * float("nan"))
    return state, rows, info

  monkeypatch.setattr(EStep, "step", poisoned)
  run_until(config, ("after_save", 5))
  rows = [json.loads(x) for x in journal_of(config).read_text().splitlines()]
  steps = [row for row in rows if row["kind"] == "metrics"]
  assert [row["grad/is_finite"] for row in steps] == [1, 0, 1, 0]
  with pytest.raises(RunError, match="in 4 steps in a row, up to step 6"):
    toy.run(config)


def journal_of(config):
  return pathlib.Path(config.model_dir) / "journal.jsonl"


# Two runs that share a base model -------------------------------------------


@pytest.mark.slow
def test_a_run_waits_for_the_base_model_that_another_fits(
  whole, config, tmp_path, monkeypatch, capsys
):
  shared = tmp_path / "bases"
  config = dataclasses.replace(config, base_dir=str(shared))
  other = dataclasses.replace(config, model_dir=str(tmp_path / "other"))
  is_fitting, may_end, reports = threading.Event(), threading.Event(), []
  fit, fitted = base.fit, []

  def slow_fit(*arguments):
    fitted.append(threading.current_thread().name)
    is_fitting.set()
    assert may_end.wait(60)
    return fit(*arguments)

  monkeypatch.setattr(base, "fit", slow_fit)
  thread = threading.Thread(target=lambda: reports.append(toy.run(other)))
  thread.start()
  assert is_fitting.wait(60)
  acquire = lock._acquire

  def letting_go(held, timeout):
    if timeout == -1:
      may_end.set()
    acquire(held, timeout)
    if timeout == -1:
      thread.join()  # Orbax: two runs of one process must not save at once

  monkeypatch.setattr(lock, "_acquire", letting_go)
  mine = toy.run(config)
  thread.join()
  assert fitted == [thread.name]
  assert "another run fits the same base model; waiting" in (
    capsys.readouterr().err
  )
  assert mine["digest"] == reports[0]["digest"] == whole[1]["digest"]
