"""A base model's fit that is stopped resumes bit for bit."""

import dataclasses
import pathlib
import shutil
import signal

import numpy as np
import pytest

from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.runtime import preemption
from cot_latent.training import base
from cot_latent.training.checkpoints import Checkpoints
from tests.asserts import assert_trees_equal
from tests.params import by_night
from tests.training import toy
from tests.training.kills import Killed, assert_same_run, report_of

pytestmark = pytest.mark.usefixtures("compile_once")

STEPS = 12


def make(directory, shared):
  folder = str(directory / "bases") if shared else None
  config = toy.make_experiment(directory / "run", steps=1, base_dir=folder)
  return dataclasses.replace(
    config, base=dataclasses.replace(config.base, steps=STEPS)
  )


def unfinished(directory):
  return sorted(directory.rglob("*.unfinished"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  config = make(tmp_path_factory.mktemp("whole"), shared=False)
  return config, toy.run(config)


@pytest.fixture
def done(monkeypatch):
  """The steps of fits, in the order in which they were taken."""
  numbers = []
  monkeypatch.setattr(base, "Progress", lambda *_: numbers.append)
  return numbers


def run_until(config, step, act):
  """Runs until a step of the fit is over, where something happens."""

  def act_at(*_):
    def report_step(number):
      if number == step:
        act()

    return report_step

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(base, "Progress", act_at)
    toy.run(config)


def kill():
  raise Killed


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("killed_at", [2, *by_night(1, STEPS)])
def test_a_killed_fit_resumes(
  whole, tmp_path, monkeypatch, done, shared, killed_at
):
  monkeypatch.setattr(base, "SECONDS_BETWEEN", 0.0)
  config = make(tmp_path, shared)
  with pytest.raises(Killed):
    run_until(config, killed_at, kill)
  report = toy.run(config)
  # The step at which it was killed was not saved yet.
  assert done == list(range(killed_at, STEPS + 1))
  assert_same_run(whole, (config, report))
  assert not unfinished(tmp_path)


def test_a_fit_that_is_asked_to_end_is_saved(whole, tmp_path, done):
  config = make(tmp_path, shared=False)
  with preemption.handled(), pytest.raises(Preempted):
    run_until(config, 7, lambda: signal.raise_signal(signal.SIGTERM))
  assert report_of(config)["status"] == "interrupted"
  assert len(unfinished(tmp_path)) == 1
  report = toy.run(config)
  assert done == list(range(8, STEPS + 1))
  assert_same_run(whole, (config, report))
  assert not unfinished(tmp_path)


def test_a_damaged_fit_says_how_to_begin_again(whole, tmp_path, monkeypatch):
  monkeypatch.setattr(base, "SECONDS_BETWEEN", 0.0)
  config = make(tmp_path, shared=True)
  with pytest.raises(Killed):
    run_until(config, 2, kill)
  (folder,) = unfinished(tmp_path)
  for manifest in folder.glob("*/sha256.json"):
    manifest.write_text("{}")
  with pytest.raises(UserError) as caught:
    toy.run(config)
  said = str(caught.value)
  assert said.startswith(f"no checkpoint in {folder} can be used")
  assert said.endswith("put one back, or delete it to fit from the beginning")
  shutil.rmtree(folder)
  assert_same_run(whole, (config, toy.run(config)))


def test_a_short_fit_is_not_saved(tmp_path, monkeypatch):
  saved = []
  monkeypatch.setattr(base.Checkpoints, "save", lambda *_: saved.append(1))
  config = make(tmp_path, shared=True)
  run_base(config)
  assert not saved
  monkeypatch.setattr(base, "SECONDS_BETWEEN", 0.0)
  (file,) = pathlib.Path(config.base_dir).glob("*.npz")
  file.unlink()
  run_base(config)
  assert len(saved) == STEPS


def run_base(config, note=lambda step: None):
  model, examples = toy.make_model(config), toy.load(config).base
  folder = pathlib.Path(config.base_dir)
  return base.fit_once(folder, model, config, examples, note)[0]


def test_a_fit_is_kept_until_the_run_is_saved(whole, tmp_path, monkeypatch):
  """Where no folder has the base model."""
  monkeypatch.setattr(base, "SECONDS_BETWEEN", 0.0)
  config, steps = make(tmp_path, shared=False), []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(base, "forget_fit", lambda _: kill())
    with pytest.raises(Killed):
      toy.run(config)
  (folder,) = unfinished(tmp_path)
  checkpoints = Checkpoints(folder)
  assert checkpoints.latest_step() == STEPS
  model, examples = toy.make_model(config), toy.load(config).base
  found = base.fit(
    *(model, config.base, examples, config.seed, steps.append),
    checkpoints=checkpoints,
  )
  checkpoints.close()
  assert steps == []
  assert_trees_equal(
    found,
    base.fit(model, config.base, examples, config.seed, lambda _: None),
  )
  assert_same_run(whole, (config, toy.run(config)))
  assert not unfinished(tmp_path)


def test_a_fit_that_failed_is_not_saved(tmp_path, monkeypatch):
  monkeypatch.setattr(base, "SECONDS_BETWEEN", 0.0)
  config = make(tmp_path, shared=True)
  build = base.mstep.build_step

  def broken(*arguments):
    step = build(*arguments)
    return lambda *given: step(*given)._replace(is_finite=np.bool_(False))

  monkeypatch.setattr(base.mstep, "build_step", broken)
  steps = []
  with pytest.raises(RunError, match="base model's gradient is not finite"):
    run_base(config, steps.append)
  assert steps == [1]  # and not after the last step
  (folder,) = unfinished(tmp_path)
  checkpoints = Checkpoints(folder)
  assert checkpoints.latest_step() is None
  checkpoints.close()
