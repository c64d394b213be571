"""A run from start to report, and its life after being stopped anywhere."""

import dataclasses
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from cot_latent import cli
from cot_latent.data import prompts, scoring
from cot_latent.em import evaluation
from cot_latent.em.drawing import Drawer
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method
from cot_latent.errors import RunError, UserError
from cot_latent.inference import estimators
from cot_latent.reporting import environment, record, summary
from cot_latent.runtime import files, lock
from cot_latent.training import (
  base,
  bootstrap,
  checkpoints,
  loading,
  mstep,
  train,
)
from tests.asserts import assert_trees_equal
from tests.params import by_day, by_night
from tests.training import toy
from tests.training.kills import (
  assert_same_run,
  last_state,
  num_updates,
  report_of,
  run_until,
)

pytestmark = pytest.mark.usefixtures("compile_once", "read_once")


def test_report_holds_the_run(whole):
  config, report = whole
  directory = pathlib.Path(config.model_dir)
  assert report["status"] == "complete"
  assert record.read_whole(directory) == json.loads(json.dumps(report))
  written = record.read_file(directory / "report.json")
  assert report.keys() - written.keys() == {"metrics", "samples", "stuck"}
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
    assert "averages" not in row
  for row in report["metrics"]:
    parts = ("sampling", "checking", "gradient", "rest")
    assert all(row[f"time/{part}"] >= 0 for part in parts)
  assert list((directory / "tensorboard").glob("events*"))


def test_every_visit_of_a_question_is_noted(whole):
  """They agree with the step's means and with the memory at the end."""
  config, report = whole
  visits = [row["visits"] for row in report["metrics"]]
  for row, found in zip(report["metrics"], visits, strict=True):
    assert len(set(found["question"])) == config.batch_size
    right = sum(found["num_correct"]) / config.batch_size
    assert row["chain/accept_rate"] == right / found["num_draws"]
    assert row["estimator/num_valid"] == sum(found["is_correct"])
    # The sampler tells it of accepted draws, and the M-step of old ones.
    for is_correct, nats in zip(
      found["is_correct"], found["log_prob"], strict=True
    ):
      assert (nats is not None) == is_correct
      assert nats is None or nats < 0
  (part,) = pathlib.Path(config.model_dir, "outputs").glob("*7-memory.npz")
  memory = np.load(part)
  for question, ident in enumerate(memory["ids"]):
    own = [
      (number, found["question"].index(question))
      for number, found in enumerate(visits, start=1)
      if question in found["question"]
    ]
    moves = [
      number
      for number, place in own
      if visits[number - 1]["num_correct"][place]
    ]
    assert memory["num_proposed"][question] == len(own), ident
    assert memory["num_accepted"][question] == len(moves), ident
    if moves:
      assert memory["accepted_at"][question] == moves[-1], ident
  chains = report["diagnostics"]["chains"]
  is_drawn = memory["num_proposed"] > 0
  assert chains["questions"] == is_drawn.sum()
  is_unmoved = is_drawn & (memory["num_accepted"] == 0)
  assert chains["never_moved"] == is_unmoved.sum()
  assert chains["never_correct"] == (is_drawn & ~memory["is_correct"]).sum()
  stuck = {(row["id"], row["why"]) for row in report["stuck"]}
  assert stuck == {
    (ident, "never correct" if not is_correct else "never moved")
    for ident, is_correct in zip(
      memory["ids"][is_unmoved], memory["is_correct"][is_unmoved], strict=True
    )
  }


def test_results_can_be_counted_again_from_the_outputs(whole):
  config, report = whole
  for row in report["results"]:
    name = f"{row['step']:06}-test-{row['decoder']}.jsonl"
    path = pathlib.Path(config.model_dir) / "outputs" / name
    outputs = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(outputs) == row["total"]
    correct = sum(o["extracted"] == o["target"] for o in outputs)
    assert correct == row["correct"]
    for output in outputs:
      ended = output["ended"]
      if row["num_samples"] == 1:
        assert isinstance(output["completion"], str)
        assert isinstance(ended, bool)
      else:
        assert len(output["completions"]) == len(ended) == row["num_samples"]
    ends = [end for o in outputs for end in np.atleast_1d(o["ended"])]
    assert len(ends) == row["num_samples"] * row["total"]
    assert row["num_cut"] == ends.count(False)
    missing = sum(o["extracted"] is None for o in outputs)
    assert row["num_unparseable"] == missing
    # And by the same rule from the completions alone.
    task = toy.open_task(config.task.source)
    again = scoring.score(task, None, path)
    assert [v.extracted for v in again] == [o["extracted"] for o in outputs]
    assert sum(v.correct for v in again) == correct


def rescore(capsys, path, task=toy.PARITY):
  """Scores a file by the command."""
  assert cli.main(["score", str(path), f"--task={task}"]) == 0
  return json.loads(capsys.readouterr().out)


def test_the_command_finds_the_run_s_own_numbers(whole, capsys, tmp_path):
  config, report = whole
  num_different = 0
  for row in report["results"]:
    name = f"{row['step']:06}-test-{row['decoder']}.jsonl"
    path = pathlib.Path(config.model_dir) / "outputs" / name
    found = rescore(capsys, path)
    assert found == {
      "correct": row["correct"],
      "total": row["total"],
      "accuracy": row["accuracy"],
      "unparseable": row["num_unparseable"],
    }
    # The broken twin: it is not told which completions were cut.
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    untold = [{k: v for k, v in x.items() if k != "ended"} for x in lines]
    (tmp_path / name).write_text("".join(map(files.to_json_line, untold)))
    num_different += rescore(capsys, tmp_path / name) != found
  cut = {row["decoder"] for row in report["results"] if row["num_cut"]}
  assert cut == {"greedy", "self_consistency"}
  assert num_different > 0


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
  return base.fit(
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
  assert num_updates(state.opt_state) == config.steps
  assert len(np.unique(state.memory.accepted_at)) > 2
  assert state.memory.num_accepted.max() > 1


def test_same_seed_same_run(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "again"))
  assert_same_run(whole, (config, toy.run(config)))


def test_another_seed_is_another_run(whole, tmp_path):
  """Other questions and other draws, from the first step on."""
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path), seed=1)
  for one, other in zip(
    whole[1]["metrics"], toy.run(config)["metrics"], strict=True
  ):
    assert one["choices"] != other["choices"]


# A row is what the journal gets: phases, results and steps, in order. Saves
# are at steps 0, 2, 4, 6 and 7.
PLACES = [
  (("before_save", 2), [2]),  # steps 3 and 4 are in the journal alone
  *by_night(
    (("after_row", 1), []),  # the base model is fitted, the memory is empty
    (("before_save", 0), []),  # evaluated, and nothing saved yet
    (("after_save", 1), [0]),
    (("after_save", 3), [4]),
    (("before_save", 4), [6]),  # the last evaluation is in the journal alone
    (("after_save", 5), [7]),  # all is saved but the report's last word
  ),
]


@pytest.mark.parametrize(("place", "resumed"), PLACES)
def test_killed_anywhere_ends_the_same(whole, tmp_path, place, resumed):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "killed"))
  run_until(config, place)
  again = toy.run(config)
  assert again["status"] == "complete"
  assert_same_run(whole, (config, again))
  assert [r["step"] for r in again["continuity"]["resumes"]] == resumed


@pytest.mark.parametrize(
  "forgotten", by_day(["params", "opt_state", "memory"], "memory")
)
def test_resuming_without_a_part_would_be_seen(
  whole, tmp_path, monkeypatch, forgotten
):
  """The broken twins: a resume that starts a part of the state again."""
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "twin"))
  run_until(config, ("after_save", 3))
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
  monkeypatch.setattr(train, "Run", None)  # would fail if it were used
  assert toy.run(config) == json.loads(json.dumps(report))


def test_a_run_keeps_the_code_that_it_began_with(whole, monkeypatch):
  config, report = whole
  code = report["code"] | {"revision": "newer"}
  monkeypatch.setattr(environment, "code", lambda _: (code, ""))
  prepared = toy.prepare(config)
  assert prepared.header["code"] == report["code"]
  assert prepared.code == code


def check_refused(config, name, open_task=toy.open_task):
  """Checks that a run is refused in a folder, in which nothing changes."""
  root = pathlib.Path(config.model_dir)
  before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
  nothing = {"gin_files": [], "bindings": [], "resolved": "", "operative": ""}
  with pytest.raises(UserError) as caught:
    train.prepare(config, nothing, open_task)
  message = str(caught.value)
  assert message.startswith(f"MODEL_DIR {root} belongs to another run: {name}")
  assert "\n" not in message
  assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def with_source(config, max_length=8, **changes):
  """The same run with another source, of the base model too."""
  source = dataclasses.replace(config.task.source, **changes)
  return {
    "task": dataclasses.replace(
      config.task, source=source, max_length=max_length
    ),
    "base": dataclasses.replace(config.base, source=source),
  }


HINTED = dataclasses.replace(prompts.COMPACT, guide="{question}? [{answer}]\n")


@pytest.mark.parametrize(
  ("change", "name"),
  [
    (lambda _: {"seed": 1}, "seed was 0 there and is 1 here"),
    (lambda _: {"steps": 8}, "steps was 7 there and is 8 here"),
    (
      lambda config: with_source(config, 24, task="toy_words"),
      "base.source.task was 'toy_parity' there and is 'toy_words' here",
    ),
    (lambda config: with_source(config, prompts=HINTED), "base.source.prompts"),
    (
      lambda c: {"method": dataclasses.replace(c.method, name="other")},
      "method.name was 'trice' there and is 'other'",
    ),
    (
      lambda _: {"method": Method("trice", estimators.basic())},
      "method.estimator.correct_first_acceptance was False there and is None",
    ),
    (
      lambda _: {"method": Method("trice", estimators.control_variate(True))},
      "method.estimator.correct_first_acceptance was False there and is True",
    ),
  ],
)
def test_another_run_in_the_same_folder_is_refused(whole, change, name):
  config = dataclasses.replace(whole[0], **change(whole[0]))
  check_refused(config, f"configuration {name}")


class Altered:
  """A task of which something is not as it was."""

  def __init__(self, task, split):
    self._task, self._split = task, split

  def __getattr__(self, name):
    return getattr(self._task, name)

  def load(self, split, **settings):
    """Loads a split, in which the last token of a prompt may be another."""
    loaded = self._task.load(split, **settings)
    if split == self._split:
      prompts = loaded.prompts.copy()
      prompts[3, -1] += 1
      loaded = dataclasses.replace(loaded, prompts=prompts)
    return loaded


@pytest.mark.parametrize("split", ["base", "train", "test"])
def test_other_data_under_the_same_name_are_refused(whole, split):
  name = "base (base model)" if split == "base" else split
  check_refused(
    whole[0],
    f"data splits.{name}.fingerprint was",
    lambda source: Altered(toy.open_task(source), split),
  )


def test_another_vocabulary_is_refused(whole):
  vocabulary = toy.open_task(whole[0].task.source).vocabulary
  other = dataclasses.replace(vocabulary, name="Other")
  check_refused(
    whole[0],
    "data vocabulary was 'ByteVocabulary' there and is 'Other' here",
    lambda source: dataclasses.replace(toy.open_task(source), vocabulary=other),
  )


@pytest.mark.parametrize(
  ("setting", "value", "name"),
  [
    ("jax_default_prng_impl", "rbg", "settings.jax_default_prng_impl was"),
    (
      "jax_threefry_partitionable",
      False,
      "settings.jax_threefry_partitionable was True there and is False",
    ),
    (
      "jax_default_matmul_precision",
      "highest",
      "settings.jax_default_matmul_precision was None there and is 'highest'",
    ),
    # Seen by what is drawn.
    ("jax_random_seed_offset", 5, "test_vectors"),
  ],
)
def test_other_random_numbers_or_rounding_are_refused(
  whole, setting, value, name
):
  before = getattr(jax.config, setting)
  assert before != value
  jax.config.update(setting, value)
  try:
    check_refused(whole[0], f"randomness {name}")
  finally:
    jax.config.update(setting, before)
  assert toy.prepare(whole[0]).is_complete()


def test_double_precision_is_refused(whole):
  with (
    jax.enable_x64(True),
    pytest.raises(UserError, match="jax_enable_x64 is"),
  ):
    toy.prepare(whole[0])


def test_how_often_it_saves_makes_no_other_run(whole):
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
    patch.setattr(EStep, "step", fail)
    with pytest.raises(type(error)):
      toy.run(config)
  report = json.loads((tmp_path / "stopped/report.json").read_text())
  assert report["status"] == status
  expected = "ValueError: no luck" if status == "failed" else None
  assert report["error"] == expected
  # What was measured until then is there, and the run can go on.
  assert [r["step"] for r in report["results"]] == [0, 0]
  assert_same_run(whole, (config, toy.run(config)))


def poison(monkeypatch, steps):
  """Makes the gradient of some steps not finite."""
  e_step = EStep.step

  def poisoned(*arguments):
    state, rows, info = e_step(*arguments)
    if arguments[4] in steps:
      rows = rows._replace(weights=rows.weights * np.nan)
    return state, rows, info

  monkeypatch.setattr(EStep, "step", poisoned)


def test_a_step_that_is_not_finite_is_skipped(whole, tmp_path, monkeypatch):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "nan"))
  poison(monkeypatch, [2, 3, 4, 6])
  report = toy.run(config)
  assert report["status"] == "complete"
  finite = [row["grad/is_finite"] for row in report["metrics"]]
  assert finite == [1, 0, 0, 0, 1, 0, 1]
  for row in report["metrics"]:
    assert (row["grad/norm"] is None) == (not row["grad/is_finite"])
  assert report["diagnostics"]["steps_not_finite"] == 4
  state = last_state(config)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  # Neither parameters nor Adam's moments moved in those steps; memory did.
  assert num_updates(state.opt_state) == 3
  assert state.memory.num_proposed.sum() == 7 * config.batch_size


def test_steps_in_a_row_that_are_not_finite_stop_the_run(
  whole, tmp_path, monkeypatch
):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "nan"))
  poison(monkeypatch, range(2, 99))
  with pytest.raises(RunError, match="in 4 steps in a row, up to step 5: try"):
    toy.run(config)
  assert report_of(config)["status"] == "failed"
  strict = dataclasses.replace(
    config, model_dir=str(tmp_path / "x"), max_nonfinite_steps=0
  )
  with pytest.raises(RunError, match="in 1 steps in a row, up to step 2: try"):
    toy.run(strict)


DAMAGES = {
  "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
  "missing": lambda path: path.unlink(),
  "torn": lambda path: path.write_bytes(path.read_bytes()[:9]),
}


@pytest.mark.parametrize("damage", by_day(DAMAGES, "changed"))
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
  whole, tmp_path, damage, capsys
):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "run"))
  run_until(config, ("after_save", 3))
  folder = tmp_path / "run/checkpoints/4"
  stored = (folder / "default").rglob("*")
  DAMAGES[damage](max(stored, key=lambda path: path.stat().st_size))
  again = toy.run(config)
  assert "the checkpoint of step 4 is damaged (" in capsys.readouterr().err
  assert [r["step"] for r in again["continuity"]["resumes"]] == [2]
  assert_same_run(whole, (config, again))
  # What was damaged is kept.
  assert (tmp_path / "run/checkpoints/unusable-4").is_dir()


def test_a_checkpoint_without_manifest_was_not_finished(
  whole, tmp_path, capsys
):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "run"))
  run_until(config, ("after_save", 3))
  (tmp_path / "run/checkpoints/4/sha256.json").unlink()
  again = toy.run(config)
  assert "the checkpoint of step 4 is not finished" in capsys.readouterr().err
  assert [r["step"] for r in again["continuity"]["resumes"]] == [2]
  assert_same_run(whole, (config, again))


def test_where_all_checkpoints_are_damaged_nothing_is_lost(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "run"))
  run_until(config, ("after_save", 3))
  root = tmp_path / "run/checkpoints"
  for step in (2, 4):
    (root / f"{step}/sha256.json").write_text("{}")
  before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
  with pytest.raises(UserError, match=r"no checkpoint in .* can be used"):
    toy.run(config)
  assert before == {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_folder_in_use_is_refused(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "run"))
  run_until(config, ("after_save", 1))
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  with (
    lock.hold(tmp_path / "run"),
    pytest.raises(UserError, match="is in use by another process"),
  ):
    toy.run(config)
  assert before == {
    p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
  }
  assert_same_run(whole, (config, toy.run(config)))


def test_what_another_process_did_in_the_meantime_is_kept(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "run"))
  prepared = toy.prepare(config)
  toy.run(config)
  with pytest.raises(UserError, match="another process has worked in"):
    train.train(prepared)


def test_steps_without_a_valid_row_are_skipped(whole, tmp_path, monkeypatch):
  """Nothing moves, Adam's momentum included, and the report counts it."""
  check = Drawer.draw_and_check

  def always_incorrect(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(is_correct=np.zeros_like(checked.is_correct))

  monkeypatch.setattr(Drawer, "draw_and_check", always_incorrect)
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "dead"))
  report = toy.run(config)
  assert report["status"] == "suspect"
  assert {row["estimator/is_skipped"] for row in report["metrics"]} == {1}
  assert {row["grad/norm"] for row in report["metrics"]} == {0}
  saved = checkpoints.Checkpoints(tmp_path / "dead/checkpoints")
  state = saved.restore(last_state(config))
  saved.close()
  assert_trees_equal(state.params, base_model(config))


def test_a_gradient_of_zero_is_still_a_step(whole, tmp_path, monkeypatch):
  """All accepted: every term cancels, and Adam's momentum continues."""
  check = Drawer.draw_and_check

  def always_correct(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(is_correct=np.ones_like(checked.is_correct))

  monkeypatch.setattr(Drawer, "draw_and_check", always_correct)
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "perfect"))
  report = toy.run(config)
  assert {row["estimator/num_weighted"] for row in report["metrics"]} == {0}
  assert {row["estimator/is_skipped"] for row in report["metrics"]} == {0}
  assert {row["estimator/scale"] for row in report["metrics"]} == {1}
  assert num_updates(last_state(config).opt_state) == config.steps


def test_a_skipped_step_counts_in_the_schedule(whole, tmp_path, monkeypatch):
  """As in the paper, whose optimizer is given the step's number."""
  e_step = EStep.step

  def without_valid_rows_at_first(*arguments):
    state, rows, info = e_step(*arguments)
    return (
      state,
      rows,
      info._replace(num_valid=0) if arguments[4] < 3 else info,
    )

  monkeypatch.setattr(EStep, "step", without_valid_rows_at_first)
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "skipped"))
  rates = [r["optimizer/learning_rate"] for r in toy.run(config)["metrics"]]
  schedule = mstep.learning_rate(config.optimizer, config.steps)
  assert rates == [float(schedule(n)) for n in range(7)]
  assert num_updates(last_state(config).opt_state) == 5


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


def test_what_is_too_long_can_be_truncated(tmp_path, capsys):
  config = toy.make_experiment(tmp_path / "short")
  whole = toy.load(config)
  length, width = 5, 3

  def change(part, **changes):
    fields = {"over_long": "truncate"} | changes
    return dataclasses.replace(part, **fields)

  config = dataclasses.replace(
    config,
    task=change(config.task, prompt_length=length, max_length=width),
    base=change(config.base),
  )
  data = toy.load(config)
  for name in ("base", "train", "test"):
    full, cut = getattr(whole, name), getattr(data, name)
    assert cut.ids == full.ids
    assert cut.num_left_out == 0
    num_over = 0
    for i in range(len(full)):
      rows = [rows[rows != 0] for rows in (full.prompts[i], full.guides[i])]
      # A prompt keeps its end, a target its beginning.
      for kept, row in zip((cut.prompts[i], cut.guides[i]), rows, strict=True):
        assert kept[kept != 0].tolist() == row[-length:].tolist()
      target = full.targets[i][full.targets[i] != 0]
      num_over += max(map(len, rows)) > length or len(target) > width
      if name == "base":
        kept = cut.targets[i]
        assert kept[kept != 0].tolist() == target[:width].tolist()
    assert num_over == cut.num_truncated > 0
  described = loading.describe_data(config, data)["splits"]
  names = ["base (base model)", "train", "test"]
  assert [described[name]["num_truncated"] for name in names] == [
    *(x.num_truncated for x in (data.base, data.train, data.test)),
  ]
  assert described["train"]["longest_prompt"] == length
  text = summary.left_out_text({"splits": described})
  assert text.startswith("truncated, being too long: ")
  assert f"{data.test.num_truncated} of {toy.SIZES['test']} in test" in text
  # Left out instead, it is others that are counted.
  fewer = toy.load(
    dataclasses.replace(
      config,
      task=change(config.task, over_long="leave_out", prompt_length=9),
      base=change(config.base, over_long="leave_out"),
    )
  )
  assert fewer.base.num_truncated == 0
  assert len(fewer.base) + fewer.base.num_left_out == toy.SIZES["base"]


# Worked examples drawn from the base model ----------------------------------


class Seen(dict):
  """The questions that each part of a run was given, by the part's name."""

  def spy(self, patch, module, name, questions):
    function = getattr(module, name)

    def call(*arguments, **settings):
      self.setdefault(name, []).append(questions(*arguments))
      return function(*arguments, **settings)

    patch.setattr(module, name, call)


@pytest.fixture(scope="module")
def worked(whole, tmp_path_factory):
  """A run with worked examples: configuration, report, what it was given."""
  directory = tmp_path_factory.mktemp("runs") / "worked"
  config = toy.bootstrapped(
    dataclasses.replace(whole[0], model_dir=str(directory))
  )
  seen = Seen()
  with pytest.MonkeyPatch.context() as patch:
    seen.spy(patch, base, "fit", lambda *given: given[2])
    seen.spy(patch, EStep, "start_memory", lambda one, *_: one.examples)
    seen.spy(patch, EStep, "step", lambda one, *_: one.examples)
    seen.spy(patch, evaluation, "evaluate", lambda one, *_: one.examples)
    report = toy.run(config)
  return config, report, seen


def exemplars_of(config):
  path = pathlib.Path(config.model_dir) / "exemplars.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_worked_examples_are_training_questions_with_correct_answers(worked):
  config, report, _ = worked
  found = exemplars_of(config)
  train_data = toy.load(config).train
  known = dict(
    zip(
      train_data.ids,
      zip(train_data.questions, train_data.answers, strict=True),
      strict=True,
    )
  )
  assert len(found) == 2
  assert len({one["id"] for one in found}) == 2
  for one in found:
    assert known[one["id"]] == (one["question"], one["answer"])
    assert one["task"] == toy.PARITY
    assert str(len(one["completion"]) % 2) == one["answer"]
    assert one["tokens"] == encode(one["completion"])
  # The report shows them.
  shown = [
    sample
    for sample in report["samples"]
    if sample["source"] == "bootstrapped exemplar"
  ]
  assert [(s["id"], s["completion"]) for s in shown] == [
    (one["id"], one["completion"]) for one in found
  ]
  assert all(sample["is_correct"] for sample in shown)
  assert report["cost"]["seconds"]["bootstrap"] > 0


def encode(text):
  return [byte + 3 for byte in text.encode()]


def written(exemplars, template, row):
  """A question with what stands before it, as tokens, from its text."""
  parts = [
    encode(template.format(q=one["question"], a=one["answer"]))
    + one["tokens"]
    + encode("\n\n")
    for one in exemplars
  ]
  return [*itertools.chain(*parts), *encode(template.format(**row))]


def check_prompts(config, given):
  """Checks the prompts and guides that a part of the run was given."""
  before = exemplars_of(config)
  for rows, template in (
    (given.prompts, "{q}?\n"),
    (given.guides, "{q}? ({a})\n"),
  ):
    expected = [
      written(before, template, {"q": question, "a": answer})
      for question, answer in zip(given.questions, given.answers, strict=True)
    ]
    longest = max(map(len, expected))
    assert rows.shape == (len(expected), -(-longest // 8) * 8)
    assert longest <= config.task.prompt_length
    for row, tokens in zip(rows.tolist(), expected, strict=True):
      assert row == [0] * (rows.shape[1] - len(tokens)) + tokens


def test_worked_examples_precede_every_question(worked):
  config, _, seen = worked
  assert len(seen["start_memory"]) == 1
  assert len(seen["step"]) == config.steps
  assert len(seen["evaluate"]) == 6
  for given in seen["start_memory"] + seen["step"]:
    assert len(given) == toy.SIZES["train"]
    check_prompts(config, given)
  for given in seen["evaluate"]:
    assert len(given) == toy.SIZES["test"]
    check_prompts(config, given)
  # The broken twins: prompts without them, hints where none should be.
  data = toy.load(config)
  swapped = dataclasses.replace(seen["step"][0], prompts=seen["step"][0].guides)
  for wrong in (data.train, swapped):
    with pytest.raises(AssertionError):
      check_prompts(config, wrong)


def test_worked_examples_leave_the_base_model_alone(whole, worked):
  config, report, seen = worked
  (given,) = seen["fit"]
  data = toy.load(config)
  for name in ("prompts", "guides", "targets"):
    np.testing.assert_array_equal(
      getattr(given, name), getattr(data.base, name)
    )
  assert given.fingerprint() == toy.load(whole[0]).base.fingerprint()
  fingerprints = report["data"]["splits"]
  assert fingerprints == whole[1]["data"]["splits"]
  assert_trees_equal(base_model(config), base_model(whole[0]))
  # The rest of the run is another one.
  assert report["results"] != whole[1]["results"]


def test_worked_examples_are_sampled_and_counted(worked):
  config, report, _ = worked
  drawn = report["cost"]["sequences_sampled"]
  planned = report["plan"]["sequences_sampled"]
  # In whole batches, or what is left of a pass over the questions.
  assert 0 < drawn - planned <= 4 * toy.SIZES["train"]
  assert (drawn - planned) % config.evaluation.batch_size == 0


@pytest.mark.parametrize(
  ("place", "resumed"),
  [
    (("after_save", 1), [0]),
    # The worked examples are written, and not in a checkpoint.
    (("after_row", 2), []),
    (("before_save", 2), [2]),
  ],
)
@pytest.mark.slow
def test_killed_with_worked_examples_ends_the_same(
  worked, tmp_path, place, resumed
):
  config = dataclasses.replace(worked[0], model_dir=str(tmp_path / "killed"))
  run_until(config, place)
  again = toy.run(config)
  assert [r["step"] for r in again["continuity"]["resumes"]] == resumed
  assert_same_run(worked[:2], (config, again))
  assert exemplars_of(config) == exemplars_of(worked[0])
  assert (
    again["cost"]["sequences_sampled"]
    == (worked[1]["cost"]["sequences_sampled"])
  )


def test_lost_or_edited_worked_examples_are_refused(worked, tmp_path):
  config = dataclasses.replace(worked[0], model_dir=str(tmp_path / "edited"))
  run_until(config, ("after_save", 2))
  path = tmp_path / "edited" / "exemplars.jsonl"
  content = path.read_bytes()
  one, other = content.splitlines(keepends=True)
  assert b'"tokens": [' in one
  for edited in (
    None,
    b"",
    b"{",
    one,
    other + one,
    content.replace(b'"tokens": [', b'"tokens": [7, ', 1),
    content + one,
  ):
    if edited is None:
      path.unlink()
    else:
      path.write_bytes(edited)
    with pytest.raises(UserError, match=r"exemplars\.jsonl .*put it") as caught:
      toy.run(config)
    assert "\n" not in str(caught.value)
    assert "MODEL_DIR" in str(caught.value)
  # Put back, the run resumes.
  path.write_bytes(content)
  assert_same_run(worked[:2], (config, toy.run(config)))


@pytest.mark.slow
@pytest.mark.parametrize(
  "twin",
  [
    lambda found: found[::-1],
    lambda found: [one._replace(tokens=one.tokens[::-1]) for one in found],
  ],
)
def test_resuming_with_other_worked_examples_would_be_seen(
  worked, tmp_path, monkeypatch, twin
):
  config = dataclasses.replace(worked[0], model_dir=str(tmp_path / "twin"))
  run_until(config, ("after_save", 2))
  read = bootstrap.read
  monkeypatch.setattr(bootstrap, "read", lambda *given: twin(read(*given)))
  with pytest.raises(AssertionError):
    assert_same_run(worked[:2], (config, toy.run(config)))


@pytest.mark.slow
def test_no_room_for_worked_examples_stops_the_run(worked, tmp_path):
  config = toy.bootstrapped(
    dataclasses.replace(worked[0], model_dir=str(tmp_path / "tight")),
    prompt_length=16,
  )
  with pytest.raises(RunError) as caught:
    toy.run(config)
  message = str(caught.value)
  assert message == (
    f"the base model wrote only 0 correct rationales for {toy.PARITY} that fit "
    "into PROMPT_LENGTH, and 2 are wanted: set a larger PROMPT_LENGTH or fewer "
    "Prompts.num_exemplars, in another MODEL_DIR"
  )
  report = json.loads((tmp_path / "tight/report.json").read_text())
  assert report["status"] == "failed"
  assert message in report["error"]
  assert not (tmp_path / "tight/exemplars.jsonl").exists()
  # Some room is not enough for all.
  config = toy.bootstrapped(
    dataclasses.replace(worked[0], model_dir=str(tmp_path / "half")),
    prompt_length=24,
  )
  with pytest.raises(RunError, match="wrote only 1 correct rationales"):
    toy.run(config)


@pytest.mark.slow
def test_a_base_model_without_correct_rationales_stops_the_run(
  worked, tmp_path, monkeypatch
):
  check = Drawer.draw_and_check

  def always_incorrect(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(is_correct=np.zeros_like(checked.is_correct))

  monkeypatch.setattr(Drawer, "draw_and_check", always_incorrect)
  config = dataclasses.replace(worked[0], model_dir=str(tmp_path / "dead"))
  with pytest.raises(
    RunError, match="wrote only 0 correct rationales for toy_p"
  ):
    toy.run(config)


def test_worked_examples_serve_another_run(worked, tmp_path):
  config, _, seen = worked
  path = pathlib.Path(config.model_dir) / "exemplars.jsonl"
  asked = dataclasses.replace(prompts.COMPACT, exemplars=str(path))
  other = toy.with_prompts(config, asked, config.task.prompt_length)
  data = toy.load(other)
  for mine, given in (
    (data.train, seen["step"][0]),
    (data.test, seen["evaluate"][0]),
  ):
    np.testing.assert_array_equal(mine.prompts, given.prompts)
    np.testing.assert_array_equal(mine.guides, given.guides)
  # There the base model is fitted with them, because they are known by then.
  assert data.base.fingerprint() != toy.load(config).base.fingerprint()
