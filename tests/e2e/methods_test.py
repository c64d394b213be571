"""Every file of gin/methods/ in a small run, whole and stopped in between."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import pytest

from cot_latent.configuration import parsing
from cot_latent.em import plan
from cot_latent.runtime import files
from cot_latent.training import base, checkpoints, experiment
from tests.params import by_day, by_night
from tests.training import toy
from tests.training.kills import (
  assert_same_run,
  last_state,
  num_updates,
  run_or_be_killed,
  run_until,
)

pytestmark = pytest.mark.usefixtures("compile_once")

ROOT = pathlib.Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (ROOT / "gin/methods").glob("*.gin"))
STEPS = 7
SMALL = f"""
from __gin__ import dynamic_registration

from cot_latent.models import decoder
from cot_latent.reporting import health

include 'gin/runs/quickstart.gin'

# A model this small writes as it likes.
health.Limits.most_truncated = 1.0
health.Limits.most_unparseable = 1.0

decoder.DecoderConfig:
  num_layers = 1
  embed_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 32

TASK = 'toy_parity'
PROMPT_LENGTH = 96
MAX_LENGTH = 8
TRAIN_STEPS = {STEPS}
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
BASE_STEPS = 60
BASE_BATCH_SIZE = 8
BASE_LEARNING_RATE = 1e-2
EVAL_PERIOD = 100
EVAL_BATCH_SIZE = 16
NUM_VOTES = 0
CHECKPOINT_PERIOD = 2
"""
# What a file may leave to be set, made small: loops of 3 steps, of which the
# second begins at step 4.
SMALLER = {"NUM_SCORED": 5, "NUM_DRAWS": 2, "LOOP_STEPS": 3}

ESTIMATORS = "cot_latent.inference.estimators"
BASELINES = "cot_latent.inference.baselines"
SCORED = "cot_latent.inference.scored_estimators"
POOLED = {"name": f"{BASELINES}.rejection_sampling", "pooled": True}
CONTROL = {
  "name": f"{ESTIMATORS}.control_variate",
  "correct_first_acceptance": False,
}
BOUND = {"no_answer": -30.0}
CHAIN = {"correct_first_acceptance": True}
# Each method's estimator with its settings, as a report has them.
KNOWN = {
  "cot_supervised": POOLED,
  "direct": POOLED,
  "few_shot": {"name": f"{ESTIMATORS}.basic"},
  "grpo": {"name": f"{BASELINES}.grpo"},
  "jepo": {"name": f"{SCORED}.Jepo"} | BOUND,
  "latro": {"name": f"{SCORED}.Latro", "kl": 0.05} | BOUND,
  "maxrl": {"name": f"{BASELINES}.maxrl"},
  "rejection_sampling": POOLED | {"pooled": False},
  "rest_em": POOLED,
  "rloo": {"name": f"{BASELINES}.rloo"},
  "star": POOLED,
  "trice": CONTROL,
  "trice_basic": {"name": f"{ESTIMATORS}.basic"},
  "trice_fitted": {
    "name": f"{ESTIMATORS}.FittedControlVariate",
    "correct_first_acceptance": True,
    "fit_period": 1,
  },
  "trice_isir": {"name": f"{SCORED}.ISir"} | CHAIN,
  "trice_mh": {"name": f"{SCORED}.MetropolisHastings"} | CHAIN,
  "trice_subsampled": CONTROL,
  "verifree": {"name": f"{SCORED}.VeriFree"} | BOUND,
}
# In completions of some letters an "a" ends the rationale.
STATED = ["ANSWER_PREFIX = 'a'", "ANSWER = 'b{answer}'"]
# Loops: what is drawn, with hints, from the base model, first steps, growth,
# bounds of steps and of loops, least loss.
LOOPS = {
  "cot_supervised": ("human", False, False, None, 1.0, None, None, None),
  "direct": ("human", False, False, None, 1.0, None, None, None),
  "rest_em": ("sample", False, True, 40, 1.0, None, None, None),
  "star": ("greedy", True, True, 40, 1.2, 200, 10, 0.01),
}


@pytest.fixture(scope="session")
def folder(shared_folder):
  """The small run's gin file, and the base model that all runs share."""
  toy.register()
  folder = shared_folder / "methods"
  folder.mkdir(exist_ok=True)
  files.write_atomically(folder / "small.gin", SMALL)
  config, _ = parse(folder, "trice", [])
  examples = toy.load(config).base
  base.fit_once(
    folder / "bases", toy.make_model(config), config, examples, lambda _: None
  )
  return folder


def parse(folder, method, bindings):
  """Reads the small run with a method: experiment and record."""
  paths = [str(folder / "small.gin"), f"gin/methods/{method}.gin"]
  has_scores = SCORED in KNOWN[method]["name"]
  bindings = [*bindings, *(STATED if has_scores else [])]
  return parsing.parse(paths, [*bindings, f"BASE_DIR = '{folder}/bases'"], [])


def smaller(method):
  """Bindings that make small what the method's file leaves to be set."""
  text = (ROOT / f"gin/methods/{method}.gin").read_text()
  values = dict(re.findall(r"^([A-Z_]+) = (\d+)$", text, re.MULTILINE))
  return [
    f"{name} = {value}"
    for name, value in SMALLER.items()
    if int(values.get(name, 0)) > value
  ]


# In `make test`, one of each kind: without steps, from answers, with a memory
# and with outer loops. The steps of the others differ by the estimator.
@pytest.fixture(
  scope="session",
  params=by_day(METHODS, "cot_supervised", "few_shot", "grpo", "star", "trice"),
)
def whole(request, folder, finished_run):
  """A method's run that nothing disturbs: configuration and report."""
  config, record = parse(folder, request.param, smaller(request.param))
  return finished_run(config, record)


def stops(config):
  """Where the run is killed, one process after the other.

  Yields:
    How often that process saves, where it is killed, and the step that the next
    one resumes from: one where a pool was filled and not yet saved, one exactly
    where a loop ends, and one within a loop.
  """
  if not config.steps:
    yield 2, ("before_save", 0), None
    yield 2, ("after_save", 1), 0
    return
  loops = config.method.loops
  if loops:
    yield 2, ("after_fill", 1), 0
  if loops and loops.first_steps:
    yield 2, ("after_fill", 2), 2
  else:
    yield 2, ("before_save", 1 if loops else 2), 2
  yield 1, ("after_save", 1), 3
  yield 1, ("after_save", 2), 5


def test_the_runs_differ_only_by_the_method(whole, folder):
  """The base model is the same, so that they can be compared."""
  config, report = whole
  assert len(list((folder / "bases").glob("*.npz"))) == 1
  (row,) = (r for r in journal(config) if r.get("phase") == "base")
  assert row["was_read"] is True
  method = config.method.name
  other, _ = parse(folder, "trice", [])
  changes = {"method": other.method, "model_dir": other.model_dir}
  if method == "few_shot":
    changes["steps"] = STEPS
  if method == "direct":
    assert config.task.source.prompts.is_direct
    changes["task"] = other.task
  assert dataclasses.replace(config, **changes) == other
  assert report["identity"]["method"] == method


def journal(config):
  path = pathlib.Path(config.model_dir) / "journal.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_method_s_run_is_complete(whole):
  config, report = whole
  assert report["status"] == "complete"
  assert [row["step"] for row in report["metrics"]] == [
    *range(1, config.steps + 1)
  ]
  ends = sorted({0, config.steps})
  assert [row["step"] for row in report["results"]] == ends
  cost, plan = report["cost"], report["plan"]
  assert cost["sequences_sampled"] <= plan["sequences_sampled"]
  assert cost["sequences_scored"] <= plan["sequences_scored"]
  text = (pathlib.Path(config.model_dir) / "report.html").read_text()
  assert config.method.name in text
  assert not report["suspect"]


def test_a_method_s_run_learns_something(whole):
  """Otherwise it would say little that stopped runs agree."""
  config, report = whole
  state, metrics = last_state(config), report["metrics"]
  if not config.steps:
    assert not jax.tree.leaves(state.params)
    return
  params, _ = base.fit_once(
    pathlib.Path(config.base_dir),
    toy.make_model(config),
    config,
    toy.load(config).base,
    lambda _: None,
  )
  moved = jax.tree.leaves(
    jax.tree.map(lambda a, b: bool((a != b).any()), state.params, params)
  )
  assert all(moved)
  assert sum(row["estimator/num_weighted"] > 0 for row in metrics) > STEPS / 2
  assert sum(row["grad/norm"] > 0 for row in metrics) > STEPS / 2
  assert state.memory.is_correct.any()
  assert num_updates(state.opt_state) > 0
  if config.method.loops is not None:
    assert int(state.pool.ends_at) == STEPS
    filled = [row["step"] for row in metrics if row["num_sampled"]]
    expected = [] if config.method.loops.source == "human" else [1, 4, 7]
    if config.method.name == "star":  # 3 steps, and then 4
      expected = [1, 4]
    assert filled == expected


def test_a_report_names_the_estimator_and_its_settings(whole, folder):
  config, report = whole
  name = config.method.name
  method = report["configuration"]["experiment"]["method"]
  assert method["name"] == name
  assert method["estimator"] == KNOWN[name]
  paths = [file["path"] for file in report["configuration"]["gin_files"]]
  assert paths[-1] == f"gin/methods/{name}.gin"
  # As the file has it, before it was made small.
  made, _ = parse(folder, name, [])
  kept = made.method.loops
  assert (kept and dataclasses.astuple(kept)) == LOOPS.get(name)
  small = dict(pair.split(" = ") for pair in smaller(name))
  for macro, field in (
    ("NUM_DRAWS", "num_draws"),
    ("NUM_SCORED", "num_scored"),
  ):
    if macro in small:
      assert method[field] == int(small[macro]) < getattr(made.method, field)
    else:
      assert method[field] == getattr(made.method, field)
  if "LOOP_STEPS" in small:
    assert method["loops"]["first_steps"] == 3


def test_star_has_the_papers_schedule(folder):
  loops = parse(folder, "star", [])[0].method.loops
  assert [loops.loop_steps(i, 10_000) for i in range(11)] == (
    [40, 48, 58, 69, 83, 100, 119, 143, 172, 200, 200]
  )


def test_the_paper_s_line_on_subsampling_is_available(folder):
  name, binding = "trice_subsampled", "ALWAYS_SUBSAMPLE = True"
  assert not parse(folder, name, [])[0].method.always_subsample
  assert parse(folder, name, [binding])[0].method.always_subsample


def test_a_method_s_setting_changes_the_report(folder):
  """The broken twin: a setting that the report would not tell apart."""
  for name, binding in (
    ("trice", "estimators.control_variate.correct_first_acceptance = True"),
    ("rejection_sampling", "baselines.rejection_sampling.pooled = True"),
    ("star", "LOOP_STEPS = 4"),
  ):
    one, other = parse(folder, name, [])[0], parse(folder, name, [binding])[0]
    assert plan.as_dict(one.method) != plan.as_dict(other.method)
    assert experiment.run_id(one) != experiment.run_id(other)


@pytest.mark.parametrize("whole", by_day(METHODS, "star"), indirect=True)
def test_stopped_anywhere_a_method_s_run_ends_the_same(whole, tmp_path):
  config = dataclasses.replace(whole[0], model_dir=str(tmp_path / "stopped"))
  resumed = []
  for period, place, resumes_from in stops(config):
    resumed += [resumes_from] if resumes_from is not None else []
    run_until(dataclasses.replace(config, checkpoint_period=period), place)
    latest = checkpoints.Checkpoints(tmp_path / "stopped/checkpoints")
    assert latest.latest_step() == resumes_from
    latest.close()
  again = toy.run(config)
  assert again["status"] == "complete"
  assert [r["step"] for r in again["continuity"]["resumes"]] == resumed
  assert_same_run(whole, (config, again))


# Where each process is killed: the first one, those after it, and how often
# they save. What comes before is done again in each: every place of a run of 11
# steps is met, the ends of epochs (3 steps) and of loops among them.
EVERYWHERE = {
  "with only the memory moved": (("after_e_step", 1), ("after_e_step", 2), 1),
  "with a step in no file": (("after_step", 1), ("after_step", 2), 1),
  "before a checkpoint": (("before_save", 0), ("before_save", 1), 1),
  "in a checkpoint": (("before_manifest", 0), ("before_manifest", 1), 1),
  "after a checkpoint": (("after_save", 1), ("after_save", 1), 1),
  "before a report": (("before_report", 2), ("before_report", 1), 1),
  "steps after a checkpoint": (("after_step", 1), ("after_step", 4), 3),
}
# Where each method is killed, and the methods that are killed everywhere: one
# with a chain, one with loops, one whose state has a fitted scale.
OF_EACH = {"with only the memory moved", "steps after a checkpoint"}
EVERYWHERE_KILLED = {"trice", "star", "trice_fitted"}
LONG = 11


def long_run(folder, method):
  """The configuration of a run of 11 steps."""
  bindings = [*smaller(method), f"TRAIN_STEPS = {LONG}"]
  if method == "few_shot":
    bindings.pop()
  return parse(folder, method, bindings)[0]


# In `make test` a step that does nothing covers these: saving_test.py.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "where"),
  [
    (method, where)
    for method in METHODS
    for where in EVERYWHERE
    if where in OF_EACH or method in EVERYWHERE_KILLED
  ],
)
def test_killed_at_every_step_a_method_s_run_ends_the_same(
  folder, finished_run, tmp_path, method, where
):
  first, others, period = EVERYWHERE[where]
  config = dataclasses.replace(
    long_run(folder, method),
    model_dir=str(tmp_path / "killed"),
    checkpoint_period=period,
  )
  num_killed = 0
  # One that is killed before its last report would be so for ever.
  while num_killed < LONG + 2:
    if run_or_be_killed(config, others if num_killed else first):
      break
    num_killed += 1
  again = toy.run(config)
  resumed = [row["step"] for row in again["continuity"]["resumes"]]
  if config.steps:
    assert num_killed >= LONG // period
    assert {*range(0, LONG - period, period)} <= {*resumed}
  elif "step" not in first[0]:
    assert num_killed >= 1
  whole = finished_run(long_run(folder, method))
  assert_same_run(whole, (config, again))
  saved = again["continuity"]["checkpoints"]
  assert [row["step"] for row in saved] == sorted(
    {*range(0, config.steps, period), config.steps}
  )
  # Nothing is left of what was begun.
  names = {p.name for p in (tmp_path / "killed/checkpoints").iterdir()}
  assert not [name for name in names if "tmp" in name]


@pytest.fixture(scope="module")
def looped(folder):
  """A run with loops, whole and killed within one: reports and folders."""
  config, _ = parse(folder, "rest_em", smaller("rest_em"))
  config = dataclasses.replace(config, checkpoint_period=1)
  whole, killed = (
    dataclasses.replace(config, model_dir=str(folder / f"looped_{name}"))
    for name in ("whole", "killed")
  )
  report = toy.run(whole)
  run_until(killed, ("after_save", 6))  # step 5, of a loop that ends with 6
  return (whole, report), killed


@pytest.mark.parametrize(
  "forgotten", ["pool", *by_night("base_params", "memory")]
)
def test_a_loop_resumed_without_a_part_would_be_seen(
  looped, tmp_path, monkeypatch, forgotten
):
  """The broken twins: a resume within a loop that starts a part again."""
  whole, killed = looped
  config = dataclasses.replace(killed, model_dir=str(tmp_path / "twin"))
  shutil.copytree(killed.model_dir, config.model_dir)
  restore = checkpoints.Checkpoints.restore

  def forgetful(self, like):
    part = {forgotten: getattr(like, forgotten)}
    return restore(self, like)._replace(**part)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, "restore", forgetful)
    again = toy.run(config)
  with pytest.raises(AssertionError):
    assert_same_run(whole, (config, again))
