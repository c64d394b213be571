"""A run from start to report, and its life after being stopped anywhere."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from cot_latent.errors import RunError, UserError
from cot_latent.inference import estimators, memory, rng
from cot_latent.models import language_model
from cot_latent.reporting import files
from cot_latent.training import checkpoints, estep, mstep, train
from cot_latent.training.experiment import Method
from tests.asserts import assert_trees_equal
from tests.training import toy


@pytest.fixture(autouse=True, scope="module")
def _compile_once():
  """Shares compiled functions between the runs of this module."""
  patch = pytest.MonkeyPatch()
  build = functools.cache(language_model.build)
  patch.setattr(language_model, "build", build)
  optimizer = functools.cache(mstep.build_optimizer)
  patch.setattr(mstep, "build_optimizer", optimizer)
  patch.setattr(mstep, "build", functools.cache(mstep.build))
  # One estimator, so that it is one static argument.
  estimator = functools.cache(estimators.control_variate)
  patch.setattr(estimators, "control_variate", estimator)
  yield
  patch.undo()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing disturbs: its configuration and report."""
  config = toy.make_experiment(tmp_path_factory.mktemp("runs") / "whole")
  return config, toy.run(config)


def last_state(config):
  """What the last checkpoint of a finished run holds."""
  model = toy.make_model(config)
  params = model.init(rng.purpose_key(0, "params"))
  optimizer = mstep.build_optimizer(config.optimizer, config.steps)
  like = checkpoints.TrainState(
    params, optimizer.init(params), memory.init(24, config.task.max_length), 0
  )
  saved = checkpoints.Checkpoints(
    pathlib.Path(config.model_dir) / "checkpoints"
  )
  state = saved.restore(like)
  saved.close()
  return state


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith("time/")} for row in rows
  ]


def assert_same_run(one, other):
  """Checks that two finished runs agree in every bit but times."""
  (config, report), (other_config, other_report) = one, other
  for section in ("results", "samples", "data", "plan"):
    assert report[section] == other_report[section]
  mine, others = report["metrics"], other_report["metrics"]
  assert without_times(mine) == without_times(others)
  assert_trees_equal(last_state(config), last_state(other_config))


def test_report_holds_the_run(whole):
  config, report = whole
  directory = pathlib.Path(config.model_dir)
  assert report["status"] == "complete"
  assert json.loads((directory / "report.json").read_text()) == json.loads(
    json.dumps(report)
  )
  assert "<html" in (directory / "report.html").read_text()
  assert [row["step"] for row in report["metrics"]] == list(range(1, 8))
  places = [(r["decoder"], r["step"]) for r in report["results"]]
  assert places == [
    ("greedy", 0),
    ("self_consistency", 0),
    ("greedy", 3),
    ("greedy", 6),
    ("greedy", 7),
    ("self_consistency", 7),
  ]
  for row in report["results"]:
    assert row["accuracy"] == row["correct"] / row["total"]
    assert row["total"] == toy.SIZES["test"]
    assert row["task"] == toy.PARITY
  for row in report["metrics"]:
    parts = ("sampling", "checking", "gradient", "rest")
    assert all(row[f"time/{part}"] >= 0 for part in parts)
  assert list((directory / "tensorboard").glob("events*"))


def test_results_can_be_counted_again_from_the_outputs(whole):
  config, report = whole
  for row in report["results"]:
    name = f"{row['step']:06}-test-{row['decoder']}.jsonl"
    path = pathlib.Path(config.model_dir) / "outputs" / name
    outputs = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(outputs) == row["total"]
    correct = sum(o["extracted"] == o["answer"] for o in outputs)
    assert correct == row["correct"]
    assert all(len(o["completions"]) == row["num_samples"] for o in outputs)


def test_cost_is_what_was_planned(whole):
  _, report = whole
  plan, cost = report["plan"], report["cost"]
  assert cost["sequences_sampled"] == plan["sequences_sampled"]
  # Rows without weight are not differentiated.
  assert 0 < cost["sequences_scored"] <= plan["sequences_scored"]
  parts = sum(cost["step_seconds"].values())
  assert parts == pytest.approx(cost["seconds"]["steps"])


def base_model(config):
  """Fits the base model again."""
  data = toy.load(config)
  return train.base.fit(
    toy.make_model(config), config.base, data.base, config.seed, lambda _: None
  )


def test_every_part_of_the_state_has_moved(whole):
  """Otherwise it would say little that runs are equal."""
  config, report = whole
  state = last_state(config)
  for row in report["metrics"]:
    assert row["estimator/is_skipped"] == 0
    assert 0 < row["chain/accept_rate"] < 1
    assert row["estimator/num_weighted"] > 0
  moved = jax.tree.map(
    lambda a, b: (a != b).any(), state.params, base_model(config)
  )
  assert all(jax.tree.leaves(moved))
  assert mstep.num_updates(state.opt_state) == config.steps
  assert len(np.unique(state.memory.accepted_at)) > 2
  assert state.memory.num_accepted.max() > 1


def test_same_seed_same_run(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "again"))
  assert_same_run(whole, (config, toy.run(config)))


def test_another_seed_is_another_run(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path), seed=1)
  with pytest.raises(AssertionError):
    assert_same_run(whole, (config, toy.run(config)))


class Killed(BaseException):
  """Stands for a SIGKILL: nothing of the trainer may catch it by name."""


def kill_at(monkeypatch, place):
  """Stops the process, as it were, at a place; nothing is tidied up."""
  kind, number = place
  calls = {"row": 0, "save": 0}
  add, save = files.Journal.add, checkpoints.Checkpoints.save

  def counted(name, function):
    def call(self, *arguments, **fields):
      if name == "save" and kind == "before_save" and calls[name] == number:
        raise Killed
      function(self, *arguments, **fields)
      calls[name] += 1
      if kind == f"after_{name}" and calls[name] == number:
        raise Killed

    return call

  monkeypatch.setattr(files.Journal, "add", counted("row", add))
  monkeypatch.setattr(checkpoints.Checkpoints, "save", counted("save", save))
  # A killed process writes no last report.
  write = train.record.Record.write

  def write_unless_dead(self, status, error=None):
    if status in ("failed", "interrupted"):
      return None
    return write(self, status, error)

  monkeypatch.setattr(train.record.Record, "write", write_unless_dead)


# A row is what the journal gets: phases, results and steps, in order. Saves
# are at steps 0, 2, 4, 6 and 7.
PLACES = [
  ("after_row", 1),  # the base model is fitted, the memory is empty
  ("before_save", 0),  # evaluated, and nothing saved yet
  ("after_save", 1),
  ("before_save", 2),  # steps 3 and 4 are in the journal alone
  ("after_save", 3),
  ("before_save", 4),  # the last evaluation is in the journal alone
  ("after_save", 5),  # all is saved but the report's last word
]


@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_ends_the_same(whole, tmp_path, place):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "killed"))
  with pytest.MonkeyPatch.context() as patch:
    kill_at(patch, place)
    with pytest.raises(Killed):
      toy.run(config)
  report = json.loads((tmp_path / "killed/report.json").read_text())
  assert report["status"] == "running"
  again = toy.run(config)
  assert again["status"] == "complete"
  assert_same_run(whole, (config, again))
  kind, number = place
  resumed = {
    ("after_row", 1): [],
    ("before_save", 0): [],
    ("after_save", 1): [0],
    ("before_save", 2): [2],
    ("after_save", 3): [4],
    ("before_save", 4): [6],
    ("after_save", 5): [7],
  }[kind, number]
  assert again["identity"]["resumed_at_steps"] == resumed


@pytest.mark.parametrize("forgotten", ["params", "opt_state", "memory"])
def test_resuming_without_a_part_would_be_seen(
  whole, tmp_path, monkeypatch, forgotten
):
  """The broken twins: a resume that starts a part of the state anew."""
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "twin"))
  with pytest.MonkeyPatch.context() as patch:
    kill_at(patch, ("after_save", 3))
    with pytest.raises(Killed):
      toy.run(config)
  restore = checkpoints.Checkpoints.restore

  def forgetful(self, like):
    part = {forgotten: getattr(like, forgotten)}
    return restore(self, like)._replace(**part)

  monkeypatch.setattr(checkpoints.Checkpoints, "restore", forgetful)
  with pytest.raises(AssertionError):
    assert_same_run(whole, (config, toy.run(config)))


def test_killed_while_the_first_report_is_written(whole, tmp_path, monkeypatch):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "first"))
  directory = tmp_path / "first"
  directory.mkdir()
  files.partial_path(directory / "report.json").write_text('{"stat')
  assert toy.run(config)["status"] == "complete"


def test_a_complete_run_is_left_alone(whole, monkeypatch):
  config, report = whole
  monkeypatch.setattr(train, "_Run", None)  # would fail if it were used
  assert toy.run(config) == json.loads(json.dumps(report))


@pytest.mark.parametrize(
  ("changes", "name"),
  [
    ({"seed": 1}, "configuration seed was 0 there and is 1"),
    ({"steps": 8}, "configuration steps was 7 there and is 8"),
    (
      {"method": Method("trice", estimators.basic())},
      "configuration method.estimator",
    ),
  ],
)
def test_another_run_in_the_same_folder_is_refused(whole, changes, name):
  config = dataclasses.replace(whole[0], **changes)
  before = sorted(pathlib.Path(config.model_dir).rglob("*"))
  with pytest.raises(UserError, match=name):
    toy.run(config)
  assert sorted(pathlib.Path(config.model_dir).rglob("*")) == before


def test_how_often_it_saves_may_change(whole):
  config = dataclasses.replace(whole[0], checkpoint_period=1)
  assert toy.run(config)["status"] == "complete"


@pytest.mark.parametrize(
  ("error", "status"),
  [(ValueError("no luck"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_a_stopped_run_says_so(whole, tmp_path, monkeypatch, error, status):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "stopped"))

  def fail(*_, **__):
    raise error

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(estep, "e_step", fail)
    with pytest.raises(type(error)):
      toy.run(config)
  report = json.loads((tmp_path / "stopped/report.json").read_text())
  assert report["status"] == status
  expected = "ValueError: no luck" if status == "failed" else None
  assert report["error"] == expected
  # What was measured until then is there, and the run can go on.
  assert [r["step"] for r in report["results"]] == [0, 0]
  assert_same_run(whole, (config, toy.run(config)))


def test_a_gradient_that_is_not_finite_stops_the_run(
  whole, tmp_path, monkeypatch
):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "nan"))
  e_step = estep.e_step

  def poisoned(*arguments):
    state, rows, metrics = e_step(*arguments)
    return state, rows._replace(weights=rows.weights * np.nan), metrics

  monkeypatch.setattr(estep, "e_step", poisoned)
  with pytest.raises(RunError, match="not finite at step 1: try a lower"):
    toy.run(config)


def test_steps_without_a_valid_row_are_skipped(whole, tmp_path, monkeypatch):
  """Nothing moves, Adam's momentum included, and the report counts it."""
  check = estep.draw_and_check

  def always_wrong(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(is_correct=np.zeros_like(checked.is_correct))

  monkeypatch.setattr(estep, "draw_and_check", always_wrong)
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "dead"))
  report = toy.run(config)
  assert report["status"] == "complete"
  assert {row["estimator/is_skipped"] for row in report["metrics"]} == {1}
  assert {row["grad/norm"] for row in report["metrics"]} == {0}
  saved = checkpoints.Checkpoints(tmp_path / "dead/checkpoints")
  state = saved.restore(last_state(config))
  saved.close()
  assert_trees_equal(state.params, base_model(config))


def test_a_gradient_of_zero_is_a_step_all_the_same(
  whole, tmp_path, monkeypatch
):
  """All accepted: every term cancels, and Adam's momentum goes on."""
  check = estep.draw_and_check

  def always_right(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(is_correct=np.ones_like(checked.is_correct))

  monkeypatch.setattr(estep, "draw_and_check", always_right)
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "perfect"))
  report = toy.run(config)
  assert {row["estimator/num_weighted"] for row in report["metrics"]} == {0}
  assert {row["estimator/is_skipped"] for row in report["metrics"]} == {0}
  assert {row["estimator/scale"] for row in report["metrics"]} == {1}
  assert mstep.num_updates(last_state(config).opt_state) == config.steps


def test_the_learning_rate_is_that_of_the_steps_taken(
  whole, tmp_path, monkeypatch
):
  """A skipped step does not move the optimizer's schedule."""
  e_step = estep.e_step

  def without_valid_rows_at_first(*arguments):
    state, rows, metrics = e_step(*arguments)
    step = arguments[-1]
    return (
      state,
      rows,
      metrics | ({"estimator/num_valid": 0} if step < 3 else {}),
    )

  monkeypatch.setattr(estep, "e_step", without_valid_rows_at_first)
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "skipped"))
  rates = [r["optimizer/learning_rate"] for r in toy.run(config)["metrics"]]
  schedule = mstep.learning_rate(config.optimizer, config.steps)
  expected = [float(schedule(n)) for n in (0, 0, 0, 1, 2, 3, 4)]
  assert rates == expected


def test_the_folder_is_named_after_the_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = dataclasses.replace(toy.make_experiment("x"), model_dir=None)
  gin_record = {"gin_files": [], "bindings": []}
  prepared = train.prepare(config, gin_record)
  name = prepared.header["identity"]["run_id"]
  assert str(prepared.directory) == f"runs/{name}"
  assert name.startswith("toy_parity-trice-s0-")
  # It depends on what is computed, not on where.
  here = dataclasses.replace(config, model_dir="elsewhere")
  assert train.prepare(here, gin_record).header["identity"]["run_id"] == name
  other = dataclasses.replace(config, steps=9)
  assert train.prepare(other, gin_record).header["identity"]["run_id"] != name
  assert not list(tmp_path.iterdir())  # preparing writes nothing


def test_a_minibatch_larger_than_its_split_is_refused():
  with pytest.raises(UserError, match="minibatch of 25 does not fit the 24"):
    toy.load(toy.make_experiment("x", batch_size=25))
