"""The command in processes of its own: killed, interrupted, out of disk."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest

from cot_latent import cli
from cot_latent.reporting import record
from tests import processes
from tests.asserts import assert_trees_equal

STEPS = 40
SMALL = [
  "--gin_file=gin/runs/quickstart.gin",
  "--gin.BASE_STEPS=300",
  f"--gin.TRAIN_STEPS={STEPS}",
  "--gin.BATCH_SIZE=8",
  "--gin.EVAL_PERIOD=25",
  "--gin.NUM_VOTES=2",
  "--gin.CHECKPOINT_PERIOD=3",
]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _cached_task(tmp_path_factory):
  """Has the processes start without TensorFlow."""
  path = tmp_path_factory.mktemp("cache") / "chain.npz"
  assert cli.main(["cache", "--task=chain", f"--output={path}"]) == 0
  flags = [f"--gin.CACHE='{path}'", f"--gin.BASE_CACHE='{path}'"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys.modules[__name__], "SMALL", [*SMALL, *flags])
    yield


def command(directory, *flags):
  settings = [*SMALL, *flags, f"--gin.MODEL_DIR='{directory}'"]
  # A shell that starts jobs in the background has them ignore SIGINT.
  program = (
    "import signal, sys; from cot_latent import cli; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.exit(cli.main(sys.argv[1:]))"
  )
  return [sys.executable, "-c", program, "train", *settings]


def start(directory, *flags):
  return processes.start(
    command(directory, *flags),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for_step(process, directory, step, num_resumed=0):
  """Waits until a process that has resumed so often has taken a step."""
  journal = directory / "journal.jsonl"

  def is_there():
    assert process.poll() is None, process.communicate()
    # The report says that a process resumes once the journal is cut.
    is_on = (
      journal.exists()
      and len(report_of(directory)["continuity"]["resumes"]) == num_resumed
    )
    lines = journal.read_text().splitlines() if is_on else []
    return any(f'"step": {step},' in line for line in lines)

  processes.wait_until(is_there, f"step {step} in {journal}")


def finish(process):
  output, errors = process.communicate(timeout=processes.LIMIT)
  return process.returncode, output, errors


def test_sigterm_before_the_first_step_ends_at_once(tmp_path):
  process = start(tmp_path / "run")
  processes.wait_until((tmp_path / "run/tensorboard").exists, "run")
  process.send_signal(signal.SIGTERM)
  status, _, errors = finish(process)
  assert status == 143, errors
  assert "Traceback" not in errors
  assert report_of(tmp_path / "run")["status"] == "interrupted"


def report_of(directory):
  return json.loads((directory / "report.json").read_text())


def last_checkpoint(directory):
  names = [p.name for p in (directory / "checkpoints").iterdir()]
  steps = [int(name) for name in names if name.isdecimal()]
  path = directory / "checkpoints" / str(max(steps)) / "default"
  return ocp.StandardCheckpointer().restore(path.absolute())


def check_stopped(process, directory, wanted, what):
  """Checks how a process ends that was asked to."""
  status, _, errors = finish(process)
  assert status == wanted
  assert errors.splitlines()[-1] == (
    f"t5x: error: {what}; the same command resumes from the last checkpoint, "
    "or from the start"
  )
  assert "Traceback" not in errors
  assert report_of(directory)["status"] == "interrupted"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The folder of a run that nothing disturbs."""
  directory = tmp_path_factory.mktemp("alone") / "run"
  status, output, errors = finish(start(directory))
  assert status == 0, errors
  assert f"{STEPS} steps of trice on chain_v1" in output
  return directory


def kill(stopped, step, num_resumed):
  killed = start(stopped)
  wait_for_step(killed, stopped, step, num_resumed)
  killed.send_signal(signal.SIGKILL)
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL
  assert report_of(stopped)["status"] == "running"


def interrupt(stopped, step, num_resumed):
  interrupted = start(stopped)
  wait_for_step(interrupted, stopped, step, num_resumed)
  interrupted.send_signal(signal.SIGINT)
  check_stopped(interrupted, stopped, 130, "interrupted")


def preempt(stopped, step, num_resumed):
  preempted = start(stopped)
  wait_for_step(preempted, stopped, step, num_resumed)
  preempted.send_signal(signal.SIGTERM)
  check_stopped(preempted, stopped, 143, "ended by SIGTERM")
  # It has saved what it had done.
  lines = (stopped / "journal.jsonl").read_text().splitlines()
  last = json.loads(lines[-1])["step"]
  assert (stopped / "checkpoints" / str(last)).is_dir()


@pytest.mark.slow
def test_runs_that_are_ended_end_as_if_left_alone(alone, tmp_path):
  stopped = tmp_path / "stopped"
  ends = kill, interrupt, preempt
  for number, end in enumerate(ends):
    end(stopped, 8 * (number + 1), number)
  status, _, errors = finish(start(stopped))
  assert status == 0, errors
  one, other = record.read_whole(alone), record.read_whole(stopped)
  assert other["status"] == "complete"
  assert one["digest"] == other["digest"]
  assert len(other["continuity"]["resumes"]) == len(ends)
  # It says something that they agree, for much has happened.
  assert sum(row["estimator/is_skipped"] for row in one["metrics"]) == 0
  assert sum(row["chain/accept_rate"] > 0 for row in one["metrics"]) > 12
  assert one["results"] == other["results"]
  assert one["samples"] == other["samples"]
  for mine, others in zip(one["metrics"], other["metrics"], strict=True):
    assert mine.keys() == others.keys()
    for key in mine:
      assert key.startswith("time/") or mine[key] == others[key]
  state, again = last_checkpoint(alone), last_checkpoint(stopped)
  assert int(state["step"]) == STEPS
  assert np.any(state["memory"]["tokens"])
  assert_trees_equal(state, again)


# A process that kills itself, with the signal that nothing can answer, where
# Orbax writes the arrays, where it moves what is whole to its place, where the
# manifest is about to be written or to take its place, and between memory and
# checkpoint; and how often it does that before.
DEADLY = """
import asyncio, os, pathlib, signal, sys
from cot_latent import cli
owner, name, number = sys.argv[1].split(":")
path, _, owner = owner.rpartition(".")
holder = __import__(path, fromlist=[owner])
holder = getattr(holder, owner)
whole, calls = getattr(holder, name), []

def die(*arguments, **fields):
  meant = sys.argv[2]
  if meant in str(arguments[0]):
    calls.append(1)
    if len(calls) > int(number):
      os.kill(os.getpid(), signal.SIGKILL)
  return whole(*arguments, **fields)

setattr(holder, name, die)
sys.exit(cli.main(sys.argv[3:]))
"""
_ATOMIC = "orbax.checkpoint._src.path.atomicity.AtomicRenameTemporaryPath"
DEATHS = [
  # Where, what the first argument names, the step that the next process resumes
  # from; steps 0, 3, 6, ... are saved, and Orbax moves two folders for each.
  (f"{_ATOMIC}:finalize:0", "", None),
  (f"{_ATOMIC}:finalize:2", "", 0),
  ("cot_latent.training.checkpoints:_write_manifest:2", "", 6),
  ("cot_latent.runtime.files:write_atomically:1", "sha256.json", 9),
  ("cot_latent.training.mstep:learning_rate:7", "", 15),
]
# The second loop begins with step 6.
LOOPED = [
  *("--gin_file=gin/methods/rest_em.gin", "--gin.LOOP_STEPS=5"),
  *("--gin.TRAIN_STEPS=12", "--gin.BASE_STEPS=60"),
  *("--gin.TRAIN_SPLIT='train[:80]'", "--gin.EVAL_SPLIT='test[:20]'"),
  "--gin.decoder.DecoderConfig.num_layers=1",
]


def check_killed(alone, killed, deaths, *flags):
  """Checks that a run ends as one left alone, killed at places in turn."""
  for place, meant, _ in deaths:
    arguments = command(killed, *flags)[3:]
    done = subprocess.run(
      [sys.executable, "-c", DEADLY, place, meant, *arguments],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=processes.LIMIT,
      check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert report_of(killed)["status"] == "running"
    if meant.startswith("-"):
      left = {path.name for path in (killed / "drawn").iterdir()}
      assert f"000000{meant}0000.part" in left
  status, _, errors = finish(start(killed, *flags))
  assert status == 0, errors
  one, other = record.read_whole(alone), record.read_whole(killed)
  assert one["digest"] == other["digest"]
  resumed = [row["step"] for row in other["continuity"]["resumes"]]
  assert resumed == [step for *_, step in deaths if step is not None]
  names = {path.name for path in (killed / "checkpoints").iterdir()}
  assert not [name for name in names if "tmp" in name]
  assert_trees_equal(last_checkpoint(alone), last_checkpoint(killed))


@pytest.mark.slow
def test_killed_within_a_checkpoint_it_ends_as_if_undisturbed(alone, tmp_path):
  check_killed(alone, tmp_path / "killed", DEATHS)


def test_killed_in_a_checkpoint_and_in_a_loop_it_is_the_same_run(tmp_path):
  assert cli.main(command(tmp_path / "alone", *LOOPED)[3:]) == 0
  rows = record.read_whole(tmp_path / "alone")["metrics"]
  assert [row["step"] for row in rows if row["num_sampled"]] == [1, 6, 11]
  check_killed(
    tmp_path / "alone",
    tmp_path / "killed",
    [DEATHS[1], ("cot_latent.training.mstep:learning_rate:7", "", 6)],
    *LOOPED,
  )


# Where the second part of the memory start, and later of an evaluation, is
# about to be written.
IN_PARTS = [
  ("cot_latent.runtime.files:write_atomically:1", "-memory-", None),
  ("cot_latent.runtime.files:write_atomically:1", "-self_consistency-", None),
]


@pytest.mark.slow
def test_killed_in_the_memory_start_it_draws_what_is_missing(tmp_path):
  short = ["--gin.TRAIN_STEPS=2", "--gin.BASE_STEPS=60", "--gin.PART_BATCHES=1"]
  status, _, errors = finish(start(tmp_path / "alone", *short))
  assert status == 0, errors
  check_killed(tmp_path / "alone", tmp_path / "killed", IN_PARTS, *short)
  assert not (tmp_path / "killed/drawn").exists()


def can_mount(directory):
  if not shutil.which("unshare") or os.geteuid() != 0:
    return False
  probe = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs x {directory}"]
  return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
  "size", ["64k", pytest.param("600k", marks=pytest.mark.slow)]
)
def test_a_full_disk_is_one_clear_line(tmp_path, size):
  directory = tmp_path / "small"
  directory.mkdir()
  if not can_mount(directory):
    pytest.skip("needs root and unshare, to mount a small disk")
  mount = f"mount -t tmpfs -o size={size} small {directory}"
  script = f'{mount} && "$@"; status=$?; cat {directory}/run/report.json >&2'
  done = subprocess.run(
    [
      *["unshare", "--mount", "sh", "-c", f"{script}; exit $status", "sh"],
      *command(directory / "run"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=processes.LIMIT,
    check=False,
  )
  assert done.returncode == 1, done.stderr
  assert "Traceback" not in done.stderr
  (line,) = [x for x in done.stderr.splitlines() if x.startswith("t5x: error")]
  assert line == (
    "t5x: error: the disk is full; free some space, and the same command "
    "resumes from the last checkpoint, or from the start"
  )
