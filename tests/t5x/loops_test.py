"""Outer loops: what is drawn, what a fit begins from, and going on."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from t5x import optimizers

from cot_latent.em import outer_loops
from cot_latent.em.estep import EStep
from cot_latent.em.method import OuterLoops
from cot_latent.errors import RunError, UserError
from cot_latent.inference import baselines
from cot_latent.models import language_model
from cot_latent.reporting import record, replication
from cot_latent.runtime import files
from cot_latent.t5x import loops, storage, weights
from tests.params import by_day
from tests.t5x import fitted, runs, small
from tests.t5x.trainer_test import train

METHODS = {
  "star": (OuterLoops("greedy", True, True, 2, 1.5), 1),
  "rest_em": (OuterLoops("sample", False, True, 2), 3),
}


def make(monkeypatch, directory, name, **changes):
  """A trainer whose model has learnt a little."""
  model = small.encoder_decoder(optimizers.adam(small.RATE))
  settings, num_draws = METHODS[name]
  method = small.method(
    name=name,
    estimator=baselines.rejection_sampling(pooled=True),
    memory_start="empty",
    num_draws=num_draws,
    loops=dataclasses.replace(settings, **changes),
  )
  made = small.make_latent(model, monkeypatch, method)
  made.model_dir = str(directory)
  theirs = weights.to_t5x(small.SIZES, fitted.params(small.SIZES, 259))
  return small.make_trainer(model, made, params=theirs)


def embedded_pool(trainer, params, old, step):
  """The pool that the embedded trainer fills with the same parameters."""
  made = trainer._latent
  model = language_model.from_config(small.SIZES, 259, 1, 8)
  e_step = EStep(
    *(model, made.task, made.examples, made.method, made.seed),
    *(8, 8),
  )
  params, loop = weights.from_t5x(small.SIZES, params), int(old.loop) + 1
  collected = outer_loops.collect(e_step, params, loop)
  return outer_loops.next_pool(e_step, old, collected, step, 100)


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, small.host(one), other)


@pytest.mark.parametrize("name", METHODS)
def test_the_pools_are_those_of_the_embedded_trainer(
  name, monkeypatch, tmp_path
):
  with make(monkeypatch, tmp_path, name) as trainer:
    pool = loops.empty_pool(trainer._latent)
    for loop, step in enumerate((0, 2)):
      params = small.host(trainer.train_state.params)
      wanted = embedded_pool(trainer, params, pool, step)
      train(trainer, 2, step)
      pool = trainer.chains.pool
      assert_same(pool, small.host(wanted))
      assert int(pool.loop) == loop
      assert pool.is_correct.any()
      assert not pool.is_correct.all()
    # Those of the base model, or of another loop, are others.
    base = weights.to_t5x(small.SIZES, fitted.params(small.SIZES, 259))
    old = pool._replace(loop=np.int32(0))
    with pytest.raises(AssertionError):
      assert_same(pool, small.host(embedded_pool(trainer, base, old, 2)))
    index = np.arange(24)
    first = np.asarray(pool.is_correct).argmax(axis=1)
    chains = trainer.chains.memory
    np.testing.assert_array_equal(chains.tokens, pool.tokens[index, first])
    proposed = 2 * METHODS[name][1]
    assert (np.asarray(chains.num_proposed) == proposed).all()


def begin(trainer, step):
  """Begins the loop of this step; gives the state before and after."""
  before = small.host(trainer.train_state.state_dict())
  state, collected = loops.begin(
    trainer._latent,
    trainer.chains,
    trainer._e_step,
    trainer.train_state,
    step,
  )
  assert len(collected.written[0].tokens) >= 24
  return before, small.host(state.state_dict())


def check_begun(first, before, after):
  """Parameters and optimizer are the first ones; the step count continues."""
  assert_same(first["target"], after["target"])
  parts = (state["state"]["param_states"] for state in (first, after))
  jax.tree.map(np.testing.assert_array_equal, *parts)
  assert int(after["state"]["step"]) == int(before["state"]["step"]) == 2


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_begins_as_the_run_began(name, monkeypatch, tmp_path):
  with make(monkeypatch, tmp_path, name) as trainer:
    first = small.host(trainer.train_state.state_dict())
    train(trainer, 2)
    before, after = begin(trainer, 2)
  check_begun(first, before, after)
  with pytest.raises(AssertionError):
    check_begun(first, before, before)


def test_without_restart_the_optimizer_alone_begins_again(
  monkeypatch, tmp_path
):
  with make(monkeypatch, tmp_path, "star", restart=False) as trainer:
    first = small.host(trainer.train_state.state_dict())
    train(trainer, 2)
    before, after = begin(trainer, 2)
  with pytest.raises(AssertionError):
    check_begun(first, before, after)
  check_begun(first | {"target": before["target"]}, before, after)


def test_between_loops_nothing_is_drawn(monkeypatch, tmp_path):
  with make(monkeypatch, tmp_path, "star") as trainer:
    train(trainer, 1)
    state = trainer.train_state
    again, drawn = loops.begin(trainer._latent, trainer.chains, None, state, 1)
  assert again is state
  assert drawn is None


def test_a_low_loss_ends_a_loop(monkeypatch, tmp_path):
  ended = []
  for stop_loss in (1e9, 0.0):
    folder = tmp_path / str(stop_loss)
    with make(monkeypatch, folder, "star", stop_loss=stop_loss) as trainer:
      train(trainer, 1)
      ended.append(int(trainer.chains.pool.ends_at))
      train(trainer, 1, 1)
      ended.append(int(trainer.chains.pool.loop))
  assert ended == [1, 1, 2, 0]


def test_a_run_that_cannot_resume_is_refused(monkeypatch, tmp_path):
  with make(monkeypatch, tmp_path, "rest_em") as trainer:
    train(trainer, 2)
    latent, chains = trainer._latent, trainer.chains
    loops.check(latent, chains)
    for pool in (None, chains.pool._replace(tokens=chains.pool.tokens[:, :2])):
      twin = dataclasses.replace(chains, pool=pool)
      with pytest.raises(UserError, match="'rest_em' with 3 draws"):
        loops.check(latent, twin)
    shutil.rmtree(tmp_path / "first_state")
    with pytest.raises(UserError, match="first_state is lost, but method"):
      loops.check(latent, chains)
    with pytest.raises(RunError, match="first_state cannot be used") as raised:
      begin(trainer, 2)
    assert "\n" not in str(raised.value)


def test_what_was_kept_is_of_this_model(tmp_path):
  state, path = {"a": jax.numpy.arange(3)}, str(tmp_path / "state")
  for kept in ({"a": jax.numpy.ones(2)}, state):  # it is replaced
    storage.keep_state(path, kept)
  read = storage.kept_state(path, state)
  np.testing.assert_array_equal(read["a"], state["a"])
  with pytest.raises(RunError, match="state cannot be used"):
    storage.kept_state(path, {"b": state["a"]})


# Whole runs.

LOOP = 3  # the second loop's middle is the checkpoint of step 4
STEPS = 6


def flags(name, base):
  return (
    *(f"--gin_file=gin/methods/{name}.gin", f"--gin.LOOP_STEPS={LOOP}"),
    *("--gin_file=gin/t5x/parameters_only.gin",),
    f"--gin.INITIAL_CHECKPOINT_PATH='{base}'",
  )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return fitted.write(
    tmp_path_factory.mktemp("fitted") / "base", fitted.SMALL, 264
  )


@pytest.mark.parametrize("name", by_day(METHODS, "rest_em"))
def test_killed_in_the_second_loop_it_is_the_same_run(name, base, tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  runs.run_well(whole, *flags(name, base))
  runs.run_until(killed, 4, *flags(name, base))
  assert not (killed / "checkpoint_6").exists()
  runs.run_well(killed, *flags(name, base))
  for step in (4, STEPS):
    runs.assert_same(runs.memory(whole, step), runs.memory(killed, step))
    runs.assert_same(
      runs.parameters(whole, step), runs.parameters(killed, step)
    )
  found = replication.compare(whole / "report.json", killed / "report.json")
  assert found.verdict == replication.BITWISE, found
  # It was the second loop, which draws once and continues to learn.
  within, ended = (runs.memory(whole, step) for step in (4, STEPS))
  assert int(within["pool_loop"]) == int(ended["pool_loop"]) == 1
  np.testing.assert_array_equal(within["pool_tokens"], ended["pool_tokens"])
  with pytest.raises(AssertionError):
    runs.assert_same(runs.parameters(whole, 4), runs.parameters(killed, STEPS))
  check_report(whole)


def check_report(directory):
  """It counts what was drawn, in the steps where loops began."""
  rows = record.of_kind(
    files.read_rows(directory / record.JOURNAL, None), "metrics"
  )
  drawn = [row["num_sampled"] for row in rows]
  assert [number > 0 for number in drawn] == [n % LOOP == 0 for n in range(6)]
  assert all(row["time/sampling"] > 0 for row in rows[::LOOP])
  report = record.read_file(directory / "report.json")
  assert report["status"] in record.FINISHED
  by_phase = report["plan"]["sampled_by_phase"]
  assert sum(drawn) <= by_phase["steps"]
  evaluated = report["cost"]["sequences_sampled"] - sum(drawn)
  assert evaluated == by_phase["evaluation"]
  assert any(row["estimator/num_valid"] for row in rows[LOOP:])


def test_a_run_whose_first_state_is_lost_is_refused(base, tmp_path):
  directory = tmp_path / "run"
  runs.run_until(directory, 4, *flags("star", base))
  shutil.rmtree(directory / "first_state")
  refused = runs.run(directory, *flags("star", base))
  assert refused.returncode != 0
  assert "t5x: error: " in refused.stderr
  assert "'star' begins each outer loop" in refused.stderr
  assert not (directory / "checkpoint_6").exists()
