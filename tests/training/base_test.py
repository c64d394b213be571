"""Base models that runs share, and runs that only evaluate one."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import random
import re

import numpy as np
import orbax.checkpoint as ocp
import pytest

from cot_latent import cli
from cot_latent.data import prompts
from cot_latent.em import drawn_parts
from cot_latent.em.drawing import Drawer
from cot_latent.em.method import Method
from cot_latent.errors import RunError, UserError
from cot_latent.inference import estimators, rng
from cot_latent.models import decoder, digests
from cot_latent.reporting import page, summary
from cot_latent.training import base, mstep
from cot_latent.training.checkpoints import Checkpoints
from tests.asserts import assert_trees_equal
from tests.training import toy
from tests.training.kills import (
  assert_same_run,
  last_state,
  report_of,
  run_until,
)

pytestmark = pytest.mark.usefixtures("compile_once")


def make(directory, **changes):
  """A short run that shares its base model."""
  settings = {"steps": 2, "base_dir": str(directory.parent / "bases")}
  return toy.make_experiment(directory, **settings | changes)


def phase_of(config):
  """What the journal says of the base model."""
  path = pathlib.Path(config.model_dir) / "journal.jsonl"
  rows = map(json.loads, path.read_text().splitlines())
  (found,) = [row for row in rows if row.get("phase") == "base"]
  return found


def bases(folder):
  return sorted((folder / "bases").glob("*.npz"))


@pytest.fixture(scope="module")
def first(folder):
  """The run that fits the base model: configuration, report, the file."""
  config = make(folder / "first")
  report = toy.run(config)
  (file,) = bases(folder)
  return config, report, file


def test_a_shared_base_model_gives_the_same_run(folder, first):
  config, report, file = first
  content, changed_at = file.read_bytes(), file.stat().st_mtime_ns
  alone = make(folder / "alone", base_dir=None)
  again = make(folder / "again")
  assert phase_of(config)["was_read"] is False
  for other in (alone, again):
    assert_trees_equal_but_cost((config, report), (other, toy.run(other)))
  assert phase_of(alone)["num_scored"] == 40 * 8
  assert phase_of(again) | {"seconds": 0} == {
    "step": 0,
    "kind": "phase",
    "phase": "base",
    "seconds": 0,
    "num_scored": 0,
    "was_read": True,
  }
  assert bases(folder) == [file]
  assert (file.read_bytes(), file.stat().st_mtime_ns) == (content, changed_at)


def assert_trees_equal_but_cost(one, other):
  """As `assert_same_run`; a base model that is read costs nothing."""
  (config, report), (other_config, other_report) = one, other
  scored = {"sequences_scored": 0}
  assert_same_run(
    (config, report | {"cost": report["cost"] | scored}),
    (other_config, other_report | {"cost": other_report["cost"] | scored}),
  )


def test_runs_share_what_they_draw_before_the_first_step(tmp_path, monkeypatch):
  """The evaluation of the base model, and how the memory starts."""
  drawn, read = [], drawn_parts._found

  def noting(path, *arguments):
    found = read(path, *arguments)
    drawn.append((path.parent.parent.name, found is not None))
    return found

  monkeypatch.setattr(drawn_parts, "_found", noting)
  one, two = make(tmp_path / "one"), make(tmp_path / "two")
  reports = toy.run(one), toy.run(two)
  assert_trees_equal_but_cost((one, reports[0]), (two, reports[1]))
  looked = [is_read for place, is_read in drawn if place == "bases"]
  half = looked.count(False)
  assert half >= 3  # memory, greedy, self-consistency
  assert looked == [False] * half + [True] * half
  other = make(tmp_path / "other", seed=1)
  toy.run(other)
  assert [x for x in drawn if x[0] == "bases"][2 * half :] == [
    ("bases", False)
  ] * half


@pytest.mark.slow
def test_another_method_reads_the_same_base_model(folder, first, monkeypatch):
  monkeypatch.setattr(base, "fit", None)  # would fail if it were used
  method = Method("trice_basic", estimators.basic(), "prior")
  config = make(folder / "other", method=method, steps=1, batch_size=4)
  assert toy.run(config)["status"] == "complete"
  assert bases(folder) == [first[2]]


def test_half_of_each_minibatch_is_hinted(monkeypatch):
  """Each step fits its own minibatch's targets, all with the same weight."""
  config = toy.make_experiment("x", seed=3)
  model, examples, steps = toy.make_model(config), toy.load(config).base, []

  def noting(*_):
    def step(params, opt_state, frozen, rate, *batch):
      steps.append(batch)
      return mstep.Updated(params, opt_state, 0.0, np.bool_(True), 0.0, None)

    return step

  monkeypatch.setattr(mstep, "build_step", noting)
  base.fit(model, config.base, examples, 3, lambda _: None)
  assert len(steps) == config.base.steps
  for number, (asked, targets, weights) in enumerate(steps):
    index = rng.minibatch(3, "base_order", number, len(examples), 8)
    for row, (place, prompt) in enumerate(zip(index, asked, strict=True)):
      source = examples.guides if row % 2 else examples.prompts
      wanted = source[place]
      assert prompt[prompt != 0].tolist() == wanted[wanted != 0].tolist()
    np.testing.assert_array_equal(targets, examples.targets[index])
    np.testing.assert_array_equal(weights, np.float32([1 / 8] * 8))


class Pending:
  """A result that the device has not computed: reading it would wait."""

  def __init__(self):
    self.is_done = False

  def __and__(self, other):
    return self

  def read(self, *_, **__):
    assert self.is_done, "the loop waits for the device"
    return True

  __bool__ = __float__ = __array__ = read


def test_the_loop_does_not_wait_for_the_device(monkeypatch, tmp_path):
  config = toy.make_experiment("x")
  model, examples, made = toy.make_model(config), toy.load(config).base, []

  def quick(*_):
    def step(params, opt_state, *_):
      made.append(Pending())
      if len(made) == config.base.steps:
        for each in made:
          each.is_done = True
      return mstep.Updated(
        params, opt_state, made[-1], made[-1], made[-1], None
      )

    return step

  monkeypatch.setattr(mstep, "build_step", quick)
  with contextlib.closing(Checkpoints(tmp_path / "fit")) as saved:
    base.fit(model, config.base, examples, 3, lambda _: None, None, saved)
  assert len(made) == config.base.steps > 2


def name_of(config):
  return base._name(config, toy.load(config).base)


def test_whatever_makes_a_base_model_names_it():
  config = toy.make_experiment("x")

  def changed(**changes):
    return dataclasses.replace(config, **changes)

  def fitted(**changes):
    return changed(base=dataclasses.replace(config.base, **changes))

  source = config.base.source
  others = [
    changed(seed=1),
    changed(model=decoder.DecoderConfig(1, 16, 2, 8, 16)),
    changed(task=dataclasses.replace(config.task, max_length=9)),
    fitted(steps=41),
    fitted(batch_size=4),
    fitted(split="train"),
    fitted(
      optimizer=dataclasses.replace(config.base.optimizer, learning_rate=0.1)
    ),
    fitted(
      source=dataclasses.replace(
        source, prompts=dataclasses.replace(prompts.COMPACT, separator=" ")
      )
    ),
    fitted(
      source=dataclasses.replace(
        source, prompts=dataclasses.replace(prompts.COMPACT, prior="{question}")
      )
    ),
  ]
  names = [name_of(run) for run in [config, *others]]
  # And other data under the same name, such as a file that was edited.
  examples = toy.load(config).base
  edited = dataclasses.replace(examples, targets=examples.targets[::-1])
  names.append(base._name(config, edited))
  # And what the fit began with.
  starts = [{"kernel": np.full(2, value, np.float32)} for value in (0, 1)]
  names += [base._name(config, examples, start) for start in starts]
  # And where its targets end.
  stops = [(".",), ("\n\n", "\nQ:")]
  names += [base._name(config, examples, stop=stop) for stop in stops]
  assert len(set(names)) == len(names)
  # What is learnt afterwards, and where things are stored, makes no other.
  optimizer = dataclasses.replace(config.optimizer, learning_rate=0.5)
  same = [
    changed(steps=9, batch_size=3, checkpoint_period=1),
    changed(optimizer=optimizer),
    changed(method=Method("x", estimators.basic(), "empty")),
    changed(model_dir="elsewhere", base_dir="elsewhere"),
    changed(evaluation=dataclasses.replace(config.evaluation, num_samples=9)),
  ]
  assert {name_of(run) for run in same} == {names[0]}


def test_a_fit_of_a_run_with_stops_is_found_again(tmp_path):
  """Training fits with the model's stops, and export reads with the task's."""
  config = make(tmp_path / "run")
  config = dataclasses.replace(
    config, task=dataclasses.replace(config.task, stop=(" ",))
  )
  data = toy.load(config)
  model = toy.make_model(config).with_ending(data.task.ending)
  folder = tmp_path / "bases"
  fitted, was_read = base.fit_once(
    folder, model, config, data.base, lambda _: None
  )
  assert not was_read
  assert data.task.ending.stop == (" ",)
  found = base.read(tmp_path / "run", toy.make_model(config), config, data)
  assert_trees_equal(found, fitted)


@functools.cache
def needed():
  """The model and the examples of all runs of this module."""
  config = toy.make_experiment("x")
  return toy.make_model(config), toy.load(config).base


def read(config):
  """Reads the base model of a run that another run has fitted."""
  model, examples = needed()
  folder = pathlib.Path(config.base_dir)
  params, was_read = base.fit_once(
    folder, model, config, examples, lambda _: None
  )
  assert was_read
  return params


def check_refused(config):
  with pytest.raises(UserError) as caught:
    read(config)
  message = str(caught.value)
  assert "\n" not in message
  assert message.startswith(f"the base model {config.base_dir}")
  assert "is damaged" in message
  assert message.endswith("delete it, and it is fitted again")


@pytest.fixture
def copy(first, tmp_path):
  """A run whose base model may be damaged, and that file."""
  config, _, file = first
  (tmp_path / file.name).write_bytes(file.read_bytes())
  moved = dataclasses.replace(
    config, model_dir=str(tmp_path / "run"), base_dir=str(tmp_path)
  )
  return moved, tmp_path / file.name


def claiming_terabytes(content):
  """The same archive, the first of whose arrays claims to be large."""
  claim = b"'shape': (9999999999999,), }"
  return re.sub(
    rb"'shape': \([^)]*\), } *",
    lambda found: claim.ljust(len(found[0])),
    content,
    count=1,
  )


def test_a_damaged_base_model_is_one_line(first, copy):
  config, file = copy
  content = file.read_bytes()
  assert_trees_equal(read(config), read(first[0]))
  ends = [0, 1, 4, 30, len(content) // 2, len(content) - 1]
  for twin in (
    *(content[:end] for end in ends),
    b"\x93NUMPY" + content,
    b"something else",
    content.replace(b"scale", b"scalf"),
    claiming_terabytes(content),
  ):
    file.write_bytes(twin)
    check_refused(config)
  # A flipped bit is found, or it stands where nothing is read.
  expected, rng = read(first[0]), random.Random(0)
  num_refused = 0
  for place in [*rng.sample(range(len(content)), 30), *range(30)]:
    twin = bytearray(content)
    twin[place] ^= 1 << rng.randrange(8)
    file.write_bytes(twin)
    try:
      assert_trees_equal(read(config), expected)
    except UserError:
      num_refused += 1
      check_refused(config)
  assert num_refused > 30


def test_arrays_of_other_sizes_are_damage(first, copy):
  config, file = copy
  with np.load(file) as stored:
    arrays = dict(stored)
  name = next(iter(arrays))
  for twin in (arrays[name][:-1], arrays[name].astype(np.float64)):
    np.savez(file, **arrays | {name: twin})
    check_refused(config)
  objects = np.array([{}], object)
  np.savez(file, **arrays | {name: objects})
  check_refused(config)
  np.savez(file, **arrays)
  read(config)


def test_a_damaged_base_model_ends_a_run_and_is_not_replaced(first, copy):
  config, file = copy
  content = file.read_bytes()
  file.write_bytes(content[:100])
  with pytest.raises(UserError, match="is damaged"):
    toy.run(config)
  report = report_of(config)
  assert (report["status"], "damaged" in report["error"]) == ("failed", True)
  file.unlink()
  assert_trees_equal_but_cost(first[:2], (config, toy.run(config)))
  assert file.read_bytes() == content  # fitted again, bit for bit


@pytest.mark.parametrize("inner", ["", "inner"])
def test_a_file_is_no_folder_for_base_models(tmp_path, monkeypatch, inner):
  monkeypatch.setattr(base, "fit", None)  # it is noticed before the work
  (tmp_path / "file").write_text("")
  base_dir = str(tmp_path / "file" / inner)
  with pytest.raises(
    UserError, match=r"BASE_DIR .* is a file or is inside one"
  ):
    toy.run(make(tmp_path / "run", base_dir=base_dir))


def test_a_base_model_that_failed_is_not_kept(tmp_path, monkeypatch):
  build = mstep.build_step

  def broken(*arguments):
    step = build(*arguments)
    return lambda *given: step(*given)._replace(is_finite=np.bool_(False))

  monkeypatch.setattr(mstep, "build_step", broken)
  with pytest.raises(RunError, match="base model's gradient is not finite"):
    toy.run(make(tmp_path / "run"))
  assert not bases(tmp_path)


@pytest.mark.parametrize(
  "place",
  [("after_row", 1), pytest.param(("after_save", 1), marks=pytest.mark.slow)],
)
def test_killed_with_a_shared_base_model_ends_the_same(first, tmp_path, place):
  config = make(tmp_path / "killed")
  run_until(config, place)
  again = toy.run(config)
  assert_trees_equal_but_cost(first[:2], (config, again))
  # Read again only where there was no checkpoint yet.
  assert phase_of(config)["was_read"] == (place == ("after_row", 1))
  assert bases(tmp_path)[0].read_bytes() == first[2].read_bytes()


# Runs without a step --------------------------------------------------------


@pytest.fixture(scope="module")
def untouched(folder):
  method = Method("few_shot", estimators.basic(), "empty")
  config = make(folder / "untouched", method=method, steps=0)
  return config, toy.run(config)


def test_without_steps_the_base_model_is_evaluated(first, untouched):
  config, report = untouched
  assert report["status"] == "complete"
  assert report["metrics"] == []
  assert report["suspect"] == []
  before = [row for row in first[1]["results"] if row["step"] == 0]
  assert report["results"] == before
  assert [row["decoder"] for row in before] == ["greedy", "self_consistency"]
  num_test = toy.SIZES["test"]
  assert report["plan"]["sampled_by_phase"] == {
    "memory_start": 0,
    "steps": 0,
    "evaluation": 3 * num_test,
  }
  assert report["cost"]["sequences_sampled"] == 3 * num_test
  assert report["cost"]["sequences_scored"] <= 40 * 8
  assert {row["source"] for row in report["samples"]} == {"greedy"}
  state = last_state(config)
  assert state.step == 0
  # The checkpoint has no copy of what is unchanged; the report says what it is.
  saved = pathlib.Path(config.model_dir) / "checkpoints/0/default"
  tree = ocp.StandardCheckpointer().restore(saved.absolute())
  assert "params" not in tree
  kept = report["model"]["params_sha256"]
  assert kept == {"0": digests.tree_sha256(read(config))}


def test_a_run_without_steps_has_a_page_and_a_summary(untouched):
  config, report = untouched
  directory = pathlib.Path(config.model_dir)
  text = (directory / "report.html").read_text()
  assert text == page.render(report)
  row = report["results"][0]
  assert f"{100 * row['accuracy']:.1f}%" in text
  assert "complete" in text
  assert "suspect" not in text
  lines = summary.report_text(report, directory).splitlines()
  accuracy = f"{row['accuracy']:.3f}"
  assert lines[1].split()[:3] == ["greedy", accuracy, accuracy]
  assert "0 steps of few_shot on toy_parity" in lines[3]
  assert "sequences" in summary.plan_text(report["plan"])


def test_a_run_without_steps_can_be_stopped_and_asked_for_again(
  untouched, tmp_path, monkeypatch
):
  config = dataclasses.replace(untouched[0], model_dir=str(tmp_path / "killed"))
  for place in (("before_save", 0), ("after_save", 1)):
    run_until(config, place)
  assert_trees_equal_but_cost(untouched, (config, toy.run(config)))
  assert [r["step"] for r in report_of(config)["continuity"]["resumes"]] == [0]
  monkeypatch.setattr(base, "fit_once", None)
  assert toy.run(config)["status"] == "complete"


def test_an_evaluation_that_was_cut_is_announced_at_once_and_stays_suspect(
  untouched, tmp_path, monkeypatch, capsys
):
  check = Drawer.draw_and_check

  def cut(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(ended=np.zeros_like(checked.ended))

  monkeypatch.setattr(Drawer, "draw_and_check", cut)
  config = dataclasses.replace(untouched[0], model_dir=str(tmp_path / "cut"))
  report = toy.run(config)
  sign = "100% of the completions of the greedy evaluation at step 0 were cut"
  assert f"suspect: {sign}\n" in capsys.readouterr().err
  assert report["status"] == "suspect"
  for text in (
    summary.report_text(report, tmp_path),
    summary.overview(report),
    (tmp_path / "cut/report.html").read_text(),
  ):
    assert sign in text


def test_the_command_scores_what_a_run_without_steps_wrote(untouched, capsys):
  config, report = untouched
  path = pathlib.Path(config.model_dir) / "outputs/000000-test-greedy.jsonl"
  assert cli.main(["score", str(path), f"--task={toy.PARITY}"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["accuracy"] == report["results"][0]["accuracy"]
