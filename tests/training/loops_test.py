"""What an outer loop begins from, and when it ends."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.em import outer_loops
from cot_latent.em.drawing import Checked, Drawer
from cot_latent.em.drawn_parts import Phase
from cot_latent.em.estep import EStep
from cot_latent.em.method import OuterLoops
from cot_latent.inference import memory
from cot_latent.training import loops, mstep
from cot_latent.training.state import TrainState
from tests.asserts import assert_trees_equal
from tests.training import toy
from tests.training.kills import last_state, num_updates, run_until
from tests.training.watching import (
  N,
  base_params,
  copied,
  empty_pool,
  looped,
  quick,
  watch,
)

pytestmark = pytest.mark.usefixtures("compile_once")

LENGTH = toy.LENGTH[toy.CHAIN]


# What a loop begins from ----------------------------------------------------


# Loops of 2, 3 and 4 steps, the last cut by the run's end.
STAR = OuterLoops("greedy", True, True, 2, 1.5)
STARTS, LOOPS = [0, 2, 5], [2, 3, 4]


@pytest.fixture(scope="module")
def star(folder):
  return watch(quick(folder / "star", looped(STAR)))


def place_of_loops(watched):
  """The steps before which a pool was filled."""
  return [
    number
    for number, step in enumerate(watched.steps)
    if step.filled_from is not None
  ]


def check_restarts(watched):
  """Checks what each loop is drawn with and begins from."""
  config, _, steps = watched
  from_base = base_params(config)
  optimizer = mstep.build_optimizer(config.optimizer)
  fresh = copied(optimizer.init(from_base))
  assert place_of_loops(watched) == STARTS
  for number in STARTS:
    before = steps[number - 1].after.params if number else from_base
    assert_trees_equal(steps[number].filled_from, before)
    assert_trees_equal(steps[number].state.params, from_base)
    assert_trees_equal(steps[number].state.opt_state, fresh)
  for number in set(range(config.steps)) - set(STARTS):
    assert_trees_equal(
      steps[number].state.params, steps[number - 1].after.params
    )
    assert num_updates(steps[number].state.opt_state) > 0


def test_star_draws_with_the_last_fit_and_begins_from_the_base(star):
  check_restarts(star)
  assert all(step.metrics["estimator/is_skipped"] == 0 for step in star.steps)
  for number, step in enumerate(star.steps):
    loop = sum(number >= start for start in STARTS) - 1
    assert int(step.state.pool.loop) == loop
    assert int(step.state.pool.ends_at) == [2, 5, 8][loop]


@pytest.mark.slow
def test_loops_that_do_not_begin_again_would_be_seen(folder):
  settings = dataclasses.replace(STAR, restart=False)
  watched = watch(quick(folder / "going_on", looped(settings)))
  assert last_state(watched.config).base_params is None
  with pytest.raises(AssertionError):
    check_restarts(watched)
  # There each fit continues where the last one ended, with a new optimizer.
  for number in STARTS[1:]:
    step, before = watched.steps[number], watched.steps[number - 1]
    assert_trees_equal(step.state.params, before.after.params)
    assert num_updates(step.state.opt_state) == 0


def test_the_learning_rate_begins_again_with_each_loop(star):
  expected = []
  for start, end, length in zip(STARTS, [2, 5, 8], LOOPS, strict=True):
    schedule = mstep.learning_rate(star.config.optimizer, length)
    expected += [float(schedule(n)) for n in range(end - start)]
  rates = [row["optimizer/learning_rate"] for row in star.report["metrics"]]
  assert rates == expected
  whole = mstep.learning_rate(star.config.optimizer, star.config.steps)
  assert rates != [float(whole(n)) for n in range(star.config.steps)]


def test_loops_hint_in_a_run_as_well_and_count_it(star):
  drawn = 0
  for number, step in enumerate(star.steps):
    if number not in STARTS:
      assert step.drawn == []
      assert step.metrics["num_sampled"] == 0
      assert step.metrics["time/sampling"] == 0
      continue
    (first, plain), *rest = step.drawn
    assert not first
    assert 0 < plain.sum() < N
    ((is_hinted, hinted),) = rest
    assert is_hinted
    assert len(hinted) == N - plain.sum()
    assert step.metrics["num_sampled"] == N + len(hinted)
    assert step.metrics["time/sampling"] > 0
    correct = plain.copy()
    correct[~plain] = hinted
    np.testing.assert_array_equal(step.state.pool.is_correct[:, 0], correct)
    drawn += N + len(hinted)
  cost, plan = star.report["cost"], star.report["plan"]
  evaluated = 2 * toy.SIZES["test"]
  assert cost["sequences_sampled"] == drawn + evaluated
  assert drawn < plan["sampled_by_phase"]["steps"]
  assert (
    cost["sequences_scored"]
    == sum(step.metrics["estimator/num_weighted"] for step in star.steps)
    + star.config.base.steps * star.config.base.batch_size
  )


def check_memory(step, number):
  """The memory is the first correct rationale of the pool, if there is one."""
  pool, chains = step.state.pool, step.state.memory
  started_at = max(start for start in STARTS if start <= number) + 1
  for i, correct in enumerate(pool.is_correct):
    assert chains.is_correct[i] == correct.any()
    if correct.any():
      first = pool.tokens[i][np.argmax(correct)]
      np.testing.assert_array_equal(chains.tokens[i], first)
      assert chains.accepted_at[i] == started_at
  rate = np.asarray(pool.is_correct).mean()
  metrics = step.metrics
  assert metrics["chain/accept_rate"] == pytest.approx(rate)
  share = np.asarray(chains.is_correct).mean()
  assert metrics["memory/correct_fraction"] == pytest.approx(share)
  assert metrics["memory/age"] == number + 1 - started_at
  valid = pool.is_correct[step.index].any(axis=1).sum()
  assert metrics["estimator/num_valid"] == valid
  assert metrics["grad/loss"] > 0


def test_the_memory_is_the_pool_s_first_correct_rationale(star):
  for number, step in enumerate(star.steps):
    check_memory(step, number)
  # The broken twin: the memory of the loop before.
  stale = star.steps[2]._replace(
    state=star.steps[2].state._replace(memory=star.steps[1].state.memory)
  )
  with pytest.raises(AssertionError):
    check_memory(stale, 2)
  proposed = star.steps[-1].state.memory.num_proposed
  assert set(proposed.tolist()) == {len(STARTS)}


@pytest.mark.parametrize("seed", range(3))
def test_of_several_correct_rationales_the_first_is_remembered(
  monkeypatch, seed
):
  method = looped(OuterLoops("sample"), num_draws=3)
  config = toy.make_experiment("x", method=method)
  length = config.task.max_length
  generator = np.random.default_rng(seed)
  pool = empty_pool(3, 0, length)._replace(
    tokens=jnp.asarray(generator.integers(3, 99, (N, 3, length), np.int32)),
    is_correct=jnp.asarray(generator.random((N, 3)) < 0.5),
    began_at=jnp.int32(4),
    ends_at=jnp.int32(5),
  )
  drawn = Checked(
    *(np.ones((3 * N, 10), np.int32), [], [], None, None, None),
    sampling_seconds=0.5,
    checking_seconds=0.25,
  )
  collected = outer_loops.Collected(drawn.tokens, drawn.is_correct, (drawn,))
  monkeypatch.setattr(outer_loops, "collect", lambda *_: collected)
  monkeypatch.setattr(outer_loops, "next_pool", lambda *_: pool)
  state = TrainState(
    *({}, {}, memory.init(N, length), 4), pool._replace(ends_at=jnp.int32(4))
  )
  e_step = EStep(
    *(toy.make_model(config), None, toy.load(config).train, method, 0, length)
  )
  index = np.arange(8, dtype=np.int32)
  after, rows, info = loops.step(
    e_step, config, lambda _: "fresh", state, index, lambda: None
  )
  assert after.opt_state == "fresh"
  is_correct = np.asarray(pool.is_correct)
  for i, correct in enumerate(is_correct):
    first = correct.tolist().index(True) if correct.any() else 0
    assert after.memory.is_correct[i] == correct.any()
    np.testing.assert_array_equal(after.memory.tokens[i], pool.tokens[i, first])
    assert after.memory.accepted_at[i] == (5 if correct.any() else -1)
  assert set(after.memory.num_proposed.tolist()) == {3}
  assert (info.num_sampled, info.num_tokens) == (3 * N, 30 * N)
  assert (info.sampling_seconds, info.checking_seconds) == (0.5, 0.25)
  assert info.accept_rate == pytest.approx(is_correct.mean())
  assert info.num_weighted == is_correct[:8].sum()
  assert rows.weights.sum() == pytest.approx(1)


def test_what_a_killed_run_drew_for_a_loop_is_not_drawn_again(
  folder, star, monkeypatch
):
  config = quick(folder / "killed", looped(STAR))
  run_until(config, ("before_fill", 1))
  noted, draw = set(), Phase.draw

  def noting(phase, *arguments, **settings):
    step, _ = phase.next_path().name.split("-", maxsplit=1)
    part = draw(phase, *arguments, **settings)
    noted.add((int(step), part.was_read))
    return part

  monkeypatch.setattr(Phase, "draw", noting)
  again = toy.run(config)
  # The third loop, and the evaluation at the end.
  assert noted == {(1, True), (3, True), (6, False), (8, False)}
  # Their costs differ: this run only read the base model.
  assert again["digest"] == star.report["digest"]
  assert_trees_equal(last_state(config), last_state(star.config))


def test_only_correct_rationales_are_fitted_under_the_question_alone(star):
  train_data = toy.load(star.config).train
  for step in star.steps:
    correct = step.state.pool.is_correct[step.index][:, 0]
    chosen = step.index[correct]
    rows, num = step.rows, len(chosen)
    np.testing.assert_array_equal(
      rows.prompts[:num], train_data.prompts[chosen]
    )
    np.testing.assert_array_equal(
      rows.targets[:num], step.state.pool.tokens[chosen][:, 0]
    )
    np.testing.assert_allclose(rows.weights[:num], 1 / num, rtol=1e-6)
    assert not rows.weights[num:].any()
  assert any(step.drawn[1][1].any() for step in star.steps if step.drawn)


def test_the_checkpoint_keeps_the_base_model(star):
  state = last_state(star.config)
  assert_trees_equal(copied(state.base_params), base_params(star.config))
  assert_trees_equal(copied(state), star.steps[-1].after._replace(step=8))


# Loops that end early -------------------------------------------------------


def test_a_loop_ends_when_the_loss_is_low():
  pool = empty_pool()._replace(ends_at=jnp.int32(9))
  settings = OuterLoops("greedy", stop_loss=0.5)
  assert int(outer_loops.end_early(settings, pool, 4, 0.49).ends_at) == 4
  for same in (
    outer_loops.end_early(settings, pool, 4, 0.5),
    outer_loops.end_early(OuterLoops("greedy"), pool, 4, 0.0),
  ):
    assert int(same.ends_at) == 9
  assert outer_loops.end_early(None, None, 4, 0.0) is None


def test_steps_saved_go_to_the_loops_that_follow(folder, star):
  losses = [row["grad/loss"] for row in star.report["metrics"]]
  # The first loop's first minibatch is fitted well enough, others are not.
  settings = dataclasses.replace(STAR, stop_loss=losses[0] * (1 + 1e-6))
  watched = watch(quick(folder / "early", looped(settings)))
  first, *rest = place_of_loops(watched)
  assert (first, rest[0]) == (0, 1)
  early = [row["grad/loss"] for row in watched.report["metrics"]]
  skipped = [row["estimator/is_skipped"] for row in watched.report["metrics"]]
  assert early[0] == losses[0]
  assert len(early) == 8
  # Each loop is as long as it is planned, or ends after the first low loss.
  for loop, (start, end) in enumerate(zip([0, *rest], [*rest, 8], strict=True)):
    length = STAR.loop_steps(loop, 8)
    low = [
      n
      for n in range(start, 8)
      if early[n] < settings.stop_loss and not skipped[n]
    ]
    stops = min([*(n + 1 for n in low[:1]), start + length, 8])
    assert end == stops
  assert place_of_loops(watched) != STARTS


def test_after_the_last_loop_nothing_is_fitted(folder, star):
  settings = dataclasses.replace(STAR, max_loops=2)
  watched = watch(quick(folder / "two", looped(settings)))
  assert place_of_loops(watched) == [0, 2]
  last = watched.steps[4].after
  for number in range(5, 8):  # three steps are left
    step = watched.steps[number]
    assert_trees_equal(step.after.params, last.params)
    assert_trees_equal(step.after.opt_state, last.opt_state)
    assert step.metrics["estimator/num_weighted"] == 0
    assert step.metrics["grad/norm"] is None
    assert step.metrics["optimizer/learning_rate"] == 0
  assert watched.report["status"] == "complete"
  for number in range(5):  # as without the limit
    assert_trees_equal(
      watched.steps[number].after.params, star.steps[number].after.params
    )
  assert dataclasses.replace(STAR, max_loops=2).num_loops(8) == 2


def test_a_skipped_step_does_not_end_a_loop(folder, monkeypatch):
  check = Drawer.draw_and_check

  def always_incorrect(*arguments, **settings):
    checked = check(*arguments, **settings)
    return checked._replace(is_correct=np.zeros_like(checked.is_correct))

  monkeypatch.setattr(Drawer, "draw_and_check", always_incorrect)
  settings = dataclasses.replace(STAR, stop_loss=1e9)
  watched = watch(quick(folder / "incorrect", looped(settings), steps=4))
  assert place_of_loops(watched) == [0, 2]
  assert {step.metrics["estimator/is_skipped"] for step in watched.steps} == {1}
  assert_trees_equal(
    watched.steps[-1].after.params, base_params(watched.config)
  )
  assert len(watched.report["suspect"]) == 2
