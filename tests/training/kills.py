"""Runs that are stopped dead anywhere, and the comparison with whole ones."""

import contextlib
import json
import pathlib

import numpy as np
import optax
import pytest

from cot_latent.em import outer_loops
from cot_latent.em.estep import EStep
from cot_latent.em.scored_step import ScoredEStep
from cot_latent.inference import fitting, memory, rng
from cot_latent.models.network import SOFT_PROMPT
from cot_latent.reporting.runlog import RunLog
from cot_latent.runtime import files
from cot_latent.training import checkpoints, experiment, loops, mstep, tuning
from cot_latent.training.run import Run
from cot_latent.training.state import TrainState
from tests.asserts import assert_trees_equal
from tests.training import toy


class Killed(BaseException):
  """Stands for a SIGKILL: nothing of the trainer may catch it by name."""


def last_state(config):
  """What the last checkpoint of a run holds."""
  params = _trained_like(config)
  optimizer = mstep.build_optimizer(config.optimizer)
  chains = memory.init(toy.SIZES["train"], config.task.max_length)
  fit = fitting.begin() if config.method.is_fitted() else None
  like = TrainState(params, optimizer.init(params), chains, 0, fit=fit)
  saved = checkpoints.Checkpoints(
    pathlib.Path(config.model_dir) / "checkpoints"
  )
  with contextlib.closing(saved):
    return saved.restore(loops.first_state(config, like))


def num_updates(opt_state):
  """Counts the updates of an optimizer, which leave out skipped steps."""
  counts = optax.tree.get_all_with_path(opt_state, "count")
  return int(counts[0][1])


def _trained_like(config):
  """Parameters of the shapes of those that a run trains."""
  if isinstance(config.tuning, tuning.SoftPrompt):
    (path,) = pathlib.Path(config.model_dir).glob("outputs/*-soft_prompt.npy")
    return {SOFT_PROMPT: np.load(path)}
  if config.tuning is None and not experiment.trains_all(config):
    return {}
  params = toy.make_model(config).init(rng.purpose_key(0, "params"))
  return tuning.split(params, config.tuning)[0]


def report_of(config):
  """The report in a run's folder."""
  path = pathlib.Path(config.model_dir) / "report.json"
  return json.loads(path.read_text())


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith("time/")} for row in rows
  ]


def assert_same_run(one, other):
  """Checks that two finished runs agree in every bit but times."""
  (config, report), (other_config, other_report) = one, other
  for section in ("results", "samples", "data", "plan", "diagnostics", "model"):
    assert report[section] == other_report[section]
  mine, others = report["metrics"], other_report["metrics"]
  assert without_times(mine) == without_times(others)
  for count in ("sequences_sampled", "sequences_scored", "steps_skipped"):
    assert report["cost"][count] == other_report["cost"][count]
  assert report["digest"] == other_report["digest"]
  assert_trees_equal(last_state(config), last_state(other_config))


# What a process does again and again, and may be killed before or after.
DOINGS = (
  ("row", files.Journal, "add"),
  ("fill", outer_loops, "next_pool"),  # a pool
  # The memory is moved, and neither parameters nor anything on disk.
  ("e_step", EStep, "step"),
  ("e_step", ScoredEStep, "step"),
  ("e_step", loops, "step"),
  ("step", Run, "step"),  # taken, and not even in the journal
  ("save", checkpoints.Checkpoints, "save"),
  # Orbax has finished, and nothing says so.
  ("manifest", checkpoints, "_write_manifest"),
  ("report", RunLog, "write"),
)


def act_at(monkeypatch, place, act):
  """Does something at a place of a run.

  Args:
    monkeypatch: Undone before the run resumes.
    place: "before_" or "after_" and one of DOINGS, and how often this process
      has done that by then.
    act: What is done.
  """
  kind, number = place
  calls = {name: 0 for name, *_ in DOINGS}

  def counted(name, function):
    def call(*arguments, **fields):
      if kind == f"before_{name}" and calls[name] == number:
        act()
      made = function(*arguments, **fields)
      calls[name] += 1
      if kind == f"after_{name}" and calls[name] == number:
        act()
      return made

    return call

  for name, owner, function in DOINGS:
    counting = counted(name, getattr(owner, function))
    monkeypatch.setattr(owner, function, counting)


def kill_at(monkeypatch, place):
  """Stops the process, as it were, at a place; nothing is tidied up."""

  def die():
    raise Killed

  act_at(monkeypatch, place, die)
  # A killed process writes no last report.
  write = RunLog.write

  def write_unless_dead(self, status, error=None):
    if status in ("failed", "interrupted"):
      return None
    return write(self, status, error)

  monkeypatch.setattr(RunLog, "write", write_unless_dead)


def run_or_be_killed(config, place):
  """Runs, and gives the report; None if the run was killed at a place."""
  with pytest.MonkeyPatch.context() as patch:
    kill_at(patch, place)
    try:
      return toy.run(config)
    except Killed:
      pass
  assert report_of(config)["status"] == "running"
  return None


def run_until(config, place):
  """Runs until a place, where the run is killed."""
  assert run_or_be_killed(config, place) is None
