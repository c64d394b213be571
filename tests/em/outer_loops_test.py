"""Outer loops: what is drawn, what a loop begins from, what is fitted."""

import dataclasses
from collections import Counter
from typing import NamedTuple

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from cot_latent.em import drawn_parts, outer_loops, weighing
from cot_latent.em.drawn_parts import DrawnParts
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method, OuterLoops
from cot_latent.em.outer_loops import Pool
from cot_latent.em.step_info import StepInfo
from cot_latent.errors import UserError
from cot_latent.inference import baselines
from cot_latent.models.api import PAD_ID
from cot_latent.training import experiment
from tests.asserts import assert_trees_equal
from tests.training import toy
from tests.training.scripted import Scripted, keys_of, spelled
from tests.training.watching import POOLED, empty_pool, looped

pytestmark = pytest.mark.usefixtures("compile_once")

LENGTH, N, BATCH = toy.LENGTH[toy.CHAIN], toy.SIZES["train"], 9
NO_INFO = StepInfo(0, 0, 0, 0, 0, 0, 0, None, 0, 0, "")
# Of the paper's appendix F: 40 steps, growing by 20% up to 200.
PAPER = [40, 48, 58, 69, 83, 100, 119, 143, 172, 200, 200, 200]


@pytest.fixture(scope="module")
def data():
  return toy.load(toy.make_experiment("unused", toy.CHAIN))


# How long the loops are -----------------------------------------------------


def test_loops_have_the_papers_lengths():
  settings = OuterLoops("greedy", first_steps=40, growth=1.2, max_steps=200)
  assert [settings.loop_steps(i, 10_000) for i in range(12)] == PAPER
  # The broken twins: rounding down, and rounding at every loop.
  assert [min(200, int(40 * 1.2**i)) for i in range(12)] != PAPER
  twin = [40]
  while len(twin) < 12:
    twin.append(min(200, round(1.2 * twin[-1])))
  assert twin != PAPER


@pytest.mark.parametrize(
  ("num_steps", "loops"),
  [(1, 1), (40, 1), (41, 2), (88, 2), (89, 3), (832, 9), (1_032, 10)],
)
def test_as_many_loops_as_the_steps_need(num_steps, loops):
  settings = OuterLoops("greedy", first_steps=40, growth=1.2, max_steps=200)
  assert settings.num_loops(num_steps) == loops


@hypothesis.given(
  first=st.integers(1, 50),
  growth=st.floats(1, 1e3),
  most=st.none() | st.integers(1, 300),
  num_steps=st.integers(1, 3_000),
)
def test_loops_never_shrink_nor_exceed_their_bounds(
  first, growth, most, num_steps
):
  settings = OuterLoops("sample", False, True, first, growth, most)
  loops = settings.num_loops(num_steps)
  steps = [settings.loop_steps(i, num_steps) for i in range(loops)]
  assert steps == sorted(steps)
  assert 0 < steps[0] <= steps[-1] <= min(most or num_steps, num_steps)
  assert sum(steps[:-1]) < num_steps <= sum(steps)


def test_growth_beyond_all_numbers_is_bounded():
  assert (
    OuterLoops("sample", first_steps=5, growth=10.0).loop_steps(400, 70) == 70
  )
  bounded = OuterLoops("sample", first_steps=5, growth=10.0, max_steps=6)
  assert bounded.loop_steps(400, 70) == 6
  assert bounded.num_loops(2_400) == 401


def test_without_first_steps_there_is_one_loop():
  assert OuterLoops("human").loop_steps(0, 17) == 17
  assert OuterLoops("human").num_loops(17) == 1


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(source="best"), "one of 'sample', 'greedy', 'human'"),
    (dict(source="greedy", growth=0.5), "growth = 0.5 must be at least 1"),
    (dict(source="greedy", first_steps=0), "first_steps = 0 must be above 0"),
    (dict(source="greedy", max_steps=0), "max_steps = 0 must be above 0"),
    (dict(source="human", hint_on_failure=True), "one loop without hints"),
    (dict(source="human", first_steps=4), "one loop without hints"),
    (dict(source="greedy", growth=1.2), "no effect without first_steps"),
    (dict(source="greedy", max_steps=9), "no effect without first_steps"),
  ],
)
def test_loops_that_cannot_work_are_refused(settings, message):
  with pytest.raises(UserError, match=message) as caught:
    OuterLoops(**settings)
  assert "\n" not in str(caught.value)


def test_methods_that_do_not_go_with_loops_are_refused():
  for start in ("guide", "prior"):
    with pytest.raises(UserError, match="must be 'empty' with outer loops"):
      Method("x", POOLED, start, loops=OuterLoops("greedy"))
  with pytest.raises(UserError, match="one human rationale per question"):
    looped(OuterLoops("human"), num_draws=2)


@pytest.mark.parametrize(
  ("settings", "num_draws", "drawn"),
  [
    # Loops of 2, 3 and 4 steps in a run of 7.
    (OuterLoops("greedy", True, True, 2, 1.5), 1, 3 * N * 2),
    (OuterLoops("sample", False, True, 2, 1.5), 4, 3 * N * 4),
    (OuterLoops("human"), 1, 0),
  ],
)
def test_the_plan_counts_what_loops_draw(settings, num_draws, drawn):
  config = toy.make_experiment("x", method=looped(settings, num_draws))
  plan = experiment.plan(config, N, 10)
  assert plan["sampled_by_phase"]["steps"] == drawn
  assert plan["sampled_by_phase"]["memory_start"] == 0
  assert plan["scored_by_phase"]["steps"] == 7 * 8 * (1 + num_draws)


# What is drawn --------------------------------------------------------------


def knowing(data, plain, hinted):
  """Says the answer to the questions that are known, each with its own words.

  Args:
    data: Of the run.
    plain: Known from the question alone.
    hinted: Known from the guide.
  """
  known, train = {}, data.train
  for rows, correct, words in (
    (train.prompts, plain, "plain"),
    (train.guides, hinted, "told"),
  ):
    for i, row in enumerate(rows.tolist()):
      text = f"{words}. The answer is {train.answers[i]}."
      known[tuple(row)] = text if i in correct else "no idea"

  def say(rows):
    return [known[tuple(row)] for row in rows.tolist()], [True] * len(rows)

  return Scripted(data.task, say)


class Filled(NamedTuple):
  pool: Pool
  num_sampled: int


def make_e_step(data, model, method):
  return EStep(model, data.task, data.train, method, 0, LENGTH, BATCH)


def fill(data, model, method, step=0, old=None, num_steps=20, parts=None):
  """Gives the pool, the sequences drawn for it, and what was reported."""
  done, old = [], old or empty_pool(method.num_draws)
  e_step = make_e_step(data, model, method)
  loop = int(old.loop) + 1

  def progress(total):
    return lambda rows: done.append((rows, total))

  collected = outer_loops.collect(e_step, None, loop, progress, parts)
  pool = outer_loops.next_pool(e_step, old, collected, step, num_steps)
  return Filled(pool, collected.charged_to(NO_INFO).num_sampled), done


def asked(model):
  """The prompts that a model was given, in order, and the temperatures."""
  rows = [tuple(row) for call in model.calls for row in call[0].tolist()]
  return rows, {call[2] for call in model.calls}


def texts_of(data, pool):
  flat = np.asarray(pool.tokens).reshape(-1, LENGTH)
  return data.task.vocabulary.decode_rows(flat)


PLAIN = {0, 3, 5, 7, 8, 12, 20}
HINTED = {0, 1, 2, 9, 20, 22}  # 0 and 20 need no hint


def check_hinted_where_it_failed(data, filled, model):
  """Checks STaR's draws: hints where the plain draw failed, and only there."""
  rows, temperatures = asked(model)
  failed = [i for i in range(N) if i not in PLAIN]
  assert rows[:N] == [tuple(row) for row in data.train.prompts.tolist()]
  guides = [tuple(row) for row in data.train.guides.tolist()]
  assert rows[N:] == [guides[i] for i in failed]
  assert temperatures == {0.0}
  assert filled.num_sampled == N + len(failed)
  correct = np.asarray(filled.pool.is_correct)[:, 0]
  assert set(np.flatnonzero(correct)) == PLAIN | HINTED
  for i, text in enumerate(texts_of(data, filled.pool)):
    word = "plain" if i in PLAIN else "told" if i in HINTED else "no idea"
    assert text.startswith(word)


def test_star_hints_only_where_the_plain_draw_failed(data):
  model = knowing(data, PLAIN, HINTED)
  settings = OuterLoops("greedy", True, True, 3)
  filled, done = fill(data, model, looped(settings))
  check_hinted_where_it_failed(data, filled, model)
  assert done == [(9, 24), (18, 24), (24, 24), (9, 17), (17, 17)]
  assert (int(filled.pool.loop), int(filled.pool.ends_at)) == (0, 3)
  # 17 of 24 plain draws say nothing, and 13 of the 17 hinted ones.
  assert float(filled.pool.capped_fraction) == 0
  assert float(filled.pool.unparseable_fraction) == pytest.approx(30 / 41)
  # The broken twins: no hints, hints for all, hints in place of correct draws.
  for change in (
    dataclasses.replace(settings, hint_on_failure=False),
    dataclasses.replace(settings, source="sample"),
  ):
    other = knowing(data, PLAIN, HINTED)
    with pytest.raises(AssertionError):
      check_hinted_where_it_failed(
        data, fill(data, other, looped(change))[0], other
      )
  swapped = dataclasses.replace(
    data.train, prompts=data.train.guides, guides=data.train.prompts
  )
  other = knowing(data, PLAIN, HINTED)
  filled, _ = fill(data._replace(train=swapped), other, looped(settings))
  with pytest.raises(AssertionError):
    check_hinted_where_it_failed(data, filled, other)


def test_a_pool_that_was_drawn_is_read_again(data, tmp_path):
  """Hinted draws are parts of the same phase."""
  method = looped(OuterLoops("greedy", True, True, 3))

  def filled(model):
    parts = DrawnParts(tmp_path).phase("loop", 1, "params")
    return fill(data, model, method, parts=parts)[0]

  model = knowing(data, PLAIN, HINTED)
  whole = filled(model)
  assert len(model.calls) == 2
  check_hinted_where_it_failed(data, whole, model)
  again = knowing(data, PLAIN, HINTED)
  assert_trees_equal(filled(again), whole)
  assert not again.calls
  # A process that was killed after the plain draws makes the hinted ones.
  *_, hinted = sorted((tmp_path / drawn_parts.FOLDER).iterdir())
  hinted.unlink()
  assert_trees_equal(filled(again), whole)
  (call,) = again.calls
  guides = data.train.guides[[i for i in range(N) if i not in PLAIN]]
  np.testing.assert_array_equal(call[0], guides)


def test_the_time_of_earlier_processes_is_charged_once(data, tmp_path):
  e_step = make_e_step(
    data, knowing(data, PLAIN, HINTED), looped(OuterLoops("sample"))
  )

  def collect():
    parts = DrawnParts(tmp_path).phase("loop", 1, "params")
    return outer_loops.collect(e_step, None, 0, parts=parts)

  first, again = collect(), collect()
  assert first.seconds_before == 0
  assert 0 < again.seconds_before <= first.written[0].sampling_seconds
  charged = again.charged_to(NO_INFO)
  assert charged.seconds_before == again.seconds_before
  assert charged.sampling_seconds == (
    again.seconds_before + again.written[0].sampling_seconds
  )


def test_the_tokens_of_failed_draws_are_charged(data):
  """The hinted draws replace them in the pool, and not in the cost."""
  model = knowing(data, PLAIN, HINTED)
  said, say = [], model.say

  def noting(rows):
    said.extend(say(rows)[0])
    return say(rows)

  model.say = noting
  e_step = make_e_step(
    data, model, looped(OuterLoops("greedy", hint_on_failure=True))
  )
  collected = outer_loops.collect(e_step, None, 0)
  charged = collected.charged_to(NO_INFO)
  assert charged.num_sampled == len(said) == 2 * N - len(PLAIN)
  num_tokens = sum(len(text) + 1 for text in said)  # bytes, and EOS
  assert charged.num_tokens == num_tokens
  assert num_tokens > int((collected.tokens != PAD_ID).sum())


def test_no_hint_is_drawn_where_all_are_correct(data):
  model = knowing(data, set(range(N)), set())
  filled, _ = fill(data, model, looped(OuterLoops("greedy", True)))
  assert filled.num_sampled == N
  assert filled.pool.is_correct.all()


def test_a_cut_rationale_is_incorrect_and_counted(data):
  model = knowing(data, set(range(N)), set())
  say = model.say

  def cut(rows):
    texts, _ = say(rows)
    is_told = [text.startswith("no idea") for text in texts]
    return texts, is_told

  model.say = cut
  filled, _ = fill(data, model, looped(OuterLoops("sample")))
  assert not filled.pool.is_correct.any()
  assert float(filled.pool.capped_fraction) == 1
  assert float(filled.pool.unparseable_fraction) == 1


def test_rest_em_draws_several_at_temperature_1(data):
  method = looped(OuterLoops("sample", False, True, 3), num_draws=3)
  model = knowing(data, PLAIN, HINTED)
  filled, _ = fill(data, model, method)
  rows, temperatures = asked(model)
  expected = [tuple(row) for row in data.train.prompts.tolist()]
  assert rows == [row for row in expected for _ in range(3)]
  assert temperatures == {1.0}
  assert filled.num_sampled == 3 * N
  keys = keys_of(model)
  assert len(set(keys)) == 3 * N
  # Another loop, other draws; the same loop, the same, whenever it begins.
  later = knowing(data, PLAIN, HINTED)
  fill(data, later, method, step=5, old=filled.pool)
  assert not set(keys) & set(keys_of(later))
  again = knowing(data, PLAIN, HINTED)
  fill(data, again, method, step=5)
  assert keys_of(again) == keys


def test_hinted_draws_have_random_numbers_of_their_own(data):
  model = knowing(data, PLAIN, HINTED)
  fill(data, model, looped(OuterLoops("sample", True)))
  keys = keys_of(model)
  assert not set(keys[:N]) & set(keys[N:])


def test_a_loop_ends_no_later_than_the_run(data):
  method = looped(OuterLoops("sample", False, True, 4, 2.0))
  for step, loop, ends_at in ((0, -1, 4), (4, 0, 12), (12, 1, 15)):
    old = empty_pool(loop=loop)
    model = knowing(data, PLAIN, HINTED)
    pool = fill(data, model, method, step, old, num_steps=15)[0].pool
    assert (int(pool.loop), int(pool.ends_at)) == (loop + 1, ends_at)


# What weight it gets --------------------------------------------------------

INDEX = np.array([5, 2, 11, 0, 7, 23, 3, 9], np.int32)


def some_pool(data, correct):
  """A pool of three rationales per question, correct as given: [8, 3]."""
  is_correct = np.zeros((N, 3), bool)
  is_correct[INDEX] = correct
  texts = [f"{i} {k}" for i in range(N) for k in range(3)]
  tokens = spelled(data.task, texts, [True] * len(texts))
  return empty_pool(3)._replace(
    tokens=jnp.asarray(tokens.reshape(N, 3, LENGTH)),
    is_correct=jnp.asarray(is_correct),
  )


def weights_of(data, pool, estimator=POOLED, offset=0.5, **changes):
  """Weights by (question, draw), their prompts, and the number of valid."""
  method = dataclasses.replace(
    looped(OuterLoops("sample"), 3, estimator), **changes
  )
  rows, num_valid = outer_loops.weighted_rows(
    make_e_step(data, None, method),
    pool,
    INDEX,
    weighing.Noise(jnp.float32(offset)),
  )
  found = {}
  texts = data.task.vocabulary.decode_rows(np.asarray(rows.targets))
  for prompt, text, weight in zip(
    rows.prompts, texts, rows.weights, strict=True
  ):
    if weight:
      i, k = map(int, text.split())
      np.testing.assert_array_equal(prompt, data.train.prompts[i])
      assert (i, k) not in found
      found[i, k] = float(weight)
  return found, num_valid


RIGHT = np.array(
  [[1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]] + [[0, 0, 0]] * 3 + [[0, 0, 1]],
  bool,
)


def check_counts(found):
  """A question counts by how many of its draws were correct, and by no more."""
  total = int(RIGHT.sum())
  expected = {(int(INDEX[m]), int(k)): 1 / total for m, k in np.argwhere(RIGHT)}
  assert found.keys() == expected.keys()
  assert found == pytest.approx(expected)


def test_rest_em_weighs_by_the_number_of_correct_draws(data):
  found, num_valid = weights_of(data, some_pool(data, RIGHT))
  check_counts(found)
  assert num_valid == 4
  by_question = Counter(i for i, _ in found)
  assert by_question == {5: 3, 11: 1, 0: 2, 9: 1}
  # The broken twin: every question counts as much.
  twin, _ = weights_of(
    data, some_pool(data, RIGHT), baselines.rejection_sampling()
  )
  assert twin.keys() == found.keys()
  with pytest.raises(AssertionError):
    check_counts(twin)


def test_without_a_correct_rationale_nothing_has_weight(data):
  found, num_valid = weights_of(data, some_pool(data, 0 * RIGHT))
  assert (found, num_valid) == ({}, 0)


def test_a_pool_can_be_subsampled(data):
  few, num_valid = weights_of(data, some_pool(data, RIGHT), num_scored=3)
  assert len(few) == 3
  assert num_valid == 4
  assert sum(few.values()) == pytest.approx(1)
  assert few.keys() < weights_of(data, some_pool(data, RIGHT))[0].keys()
