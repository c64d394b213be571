"""The E-step as it is run equals the statistics that the exact tests prove."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.em import weighing, weighted_rows
from cot_latent.em.drawing import Drawer
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method, Weighing
from cot_latent.inference import estimators, memory, resampling, transition
from tests.asserts import assert_trees_equal
from tests.training import toy
from tests.training.scripted import Scripted, keys_of, spelled

LENGTH, SIZE = toy.LENGTH[toy.CHAIN], 8


@pytest.fixture(scope="module")
def data():
  return toy.load(toy.make_experiment("unused", toy.CHAIN))


def answers_to(data, correct):
  """Says the answer to the i-th call's row where `correct` says so."""
  known = {
    tuple(prompt): answer
    for prompt, answer in zip(
      data.train.prompts.tolist(), data.train.answers, strict=True
    )
  }

  def say(prompts):
    texts = [
      f"1+1=2. The answer is {known[tuple(p)]}."
      if is_correct
      else "The answer is no."
      for p, is_correct in zip(prompts.tolist(), correct, strict=True)
    ]
    return texts, [True] * len(texts)

  return say


def make_e_step(data, scripted, method):
  # 24 questions do not divide into batches of 9.
  return EStep(scripted, data.task, data.train, method, 0, LENGTH, 9)


def run_e_step(data, scripted, method, state, index, step=3):
  return make_e_step(data, scripted, method).step(None, state, index, step)


def started(data, correct):
  """A memory with the given rows correct and all others incorrect."""
  state = memory.init(len(data.train), LENGTH)
  texts = [
    f"The answer is {answer}." if n in correct else "?"
    for n, answer in enumerate(data.train.answers)
  ]
  tokens = spelled(data.task, texts, [True] * len(texts))
  is_correct = np.isin(np.arange(len(texts)), correct)
  return memory.start(state, np.arange(len(texts)), tokens, is_correct)


INDEX = np.array([5, 2, 11, 0, 7, 23, 3, 9], np.int32)
RIGHT = [True, False, True, False, False, True, False, False]


def test_weights_are_those_of_algorithm_1(data):
  scripted = Scripted(data.task, answers_to(data, RIGHT))
  state = started(data, correct=[2, 11, 0])
  method = Method("trice", estimators.control_variate())
  after, rows, info = run_e_step(data, scripted, method, state, INDEX)
  # Valid after the step: questions 5 (first accepted), 2, 11, 0 and 23: C = 5,
  # of which 5, 11 and 23 accepted. Accepted rows keep 1 - 2/4 on what is now
  # the memory; rejected ones have 1 on it and -3/4 on the draw.
  weight = {5: [0.5], 11: [0.5], 23: [0.5], 2: [1, -0.75], 0: [1, -0.75]}
  expected = sorted((q, w / 5) for q, ws in weight.items() for w in ws)
  got = []
  for prompt, weight in zip(rows.prompts, rows.weights, strict=True):
    (question,) = np.flatnonzero((data.train.prompts == prompt).all(axis=1))
    if weight:
      got.append((int(question), float(weight)))
  assert [q for q, _ in sorted(got)] == [q for q, _ in expected]
  np.testing.assert_allclose(
    [w for _, w in sorted(got)], [w for _, w in expected], rtol=1e-6
  )
  assert info.accept_rate == 3 / 8
  assert info.memory_correct == pytest.approx(5 / 24)
  assert info.num_weighted == 7
  assert info.num_valid == 5
  np.testing.assert_array_equal(
    np.flatnonzero(after.accepted_at == 3), [5, 11, 23]
  )
  texts = data.task.vocabulary.decode_rows(np.asarray(after.tokens))
  assert texts[11] == f"1+1=2. The answer is {data.train.answers[11]}."
  assert texts[0] == f"The answer is {data.train.answers[0]}."


def test_rows_pair_each_weight_with_its_sequence(data):
  scripted = Scripted(data.task, answers_to(data, RIGHT))
  method = Method("trice", estimators.control_variate())
  state = started(data, correct=[2, 11, 0])
  _, rows, _ = run_e_step(data, scripted, method, state, INDEX)
  texts = data.task.vocabulary.decode_rows(rows.targets)
  assert min(rows.weights) < 0 < max(rows.weights)
  for text, weight in zip(texts, rows.weights, strict=True):
    # Only the rejected draws say no, and only they are pushed down.
    assert (text == "The answer is no.") == (weight < 0) or weight == 0


def test_draws_are_made_from_the_question_alone_at_temperature_1(data):
  scripted = Scripted(data.task, answers_to(data, RIGHT))
  method = Method("trice", estimators.control_variate())
  run_e_step(data, scripted, method, started(data, [0]), INDEX)
  ((prompts, _, temperature),) = scripted.calls
  np.testing.assert_array_equal(prompts, data.train.prompts[INDEX])
  assert temperature == 1.0


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_memory_starts_from_the_prompt_that_the_method_names(data, start):
  def say(prompts):
    return ["The answer is 1."] * len(prompts), [True] * len(prompts)

  scripted = Scripted(data.task, say)
  method = Method("trice", estimators.basic(), memory_start=start)
  done = []
  state = make_e_step(data, scripted, method).start_memory(None, done.append)
  asked = np.concatenate([call[0] for call in scripted.calls])
  prompts = data.train.guides if start == "guide" else data.train.prompts
  np.testing.assert_array_equal(asked, prompts)
  assert done == [9, 18, 24]
  expected = [answer == "1" for answer in data.train.answers]
  np.testing.assert_array_equal(state.is_correct, expected)
  assert (np.asarray(state.accepted_at) == 0).all()
  assert len(set(keys_of(scripted))) == len(prompts)


def test_an_empty_start_draws_nothing(data):
  scripted = Scripted(data.task, None)
  method = Method("trice", estimators.basic(), memory_start="empty")
  state = make_e_step(data, scripted, method).start_memory(None)
  assert not scripted.calls
  assert_trees_equal(state, memory.init(len(data.train), LENGTH))


def test_a_sequence_cut_by_the_limit_is_incorrect(data):
  def say(prompts):
    texts, _ = answers_to(data, [True] * SIZE)(prompts)
    return texts, [False] * 4 + [True] * 4  # correct answers, half of them cut

  scripted = Scripted(data.task, say)
  method = Method("trice_basic", estimators.basic())
  state = memory.init(len(data.train), LENGTH)
  after, _, info = run_e_step(data, scripted, method, state, INDEX)
  np.testing.assert_array_equal(after.is_correct[INDEX], [0] * 4 + [1] * 4)
  assert info.capped_fraction == 0.5


def test_a_completion_without_an_answer_is_incorrect(data):
  scripted = Scripted(data.task, lambda p: (["dunno"] * SIZE, [True] * SIZE))
  method = Method("trice_basic", estimators.basic())
  state = memory.init(len(data.train), LENGTH)
  after, rows, info = run_e_step(data, scripted, method, state, INDEX)
  assert not after.is_correct.any()
  assert not rows.weights.any()
  assert info.unparseable_fraction == 1


def test_several_draws_have_keys_of_their_own(data):
  scripted = Scripted(data.task, answers_to(data, RIGHT * 2))
  method = Method("trice_basic", estimators.basic(), num_draws=2)
  state = memory.init(len(data.train), LENGTH)
  state, *_ = run_e_step(data, scripted, method, state, INDEX, step=1)
  run_e_step(data, scripted, method, state, INDEX, step=2)
  assert len(set(keys_of(scripted))) == 2 * 2 * SIZE
  ((prompts, *_), _) = scripted.calls
  repeated = data.train.prompts[np.repeat(INDEX, 2)]
  np.testing.assert_array_equal(prompts, repeated)


@pytest.mark.parametrize(
  ("num_scored", "always"), [(None, False), (3, False), (19, True)]
)
def test_move_and_weigh_is_its_parts(data, num_scored, always):
  rng = np.random.default_rng(0)
  state = started(data, correct=[2, 11, 0])
  tokens = rng.integers(3, 99, (SIZE, 1, LENGTH), np.int32)
  is_correct = np.array(RIGHT)[:, None]
  estimator = estimators.control_variate()
  after, moved, (weights, scale, terms) = weighing.move_and_weigh(
    jax.tree.map(jnp.copy, state),  # it is donated
    INDEX,
    tokens,
    is_correct,
    3,
    weighing.Noise(0.3),
    weighing=Weighing(estimator, num_scored, always),
  )
  expected = transition.independence(
    state.tokens[INDEX], state.is_correct[INDEX], tokens, is_correct
  )
  assert_trees_equal(moved, expected)
  written = memory.write(
    state, INDEX, moved.tokens, moved.is_correct, moved.accepted, 3
  )
  assert_trees_equal(after, written)
  valid = np.asarray(moved.is_correct)
  betas = np.asarray(estimators.leave_one_out_scale(moved))
  np.testing.assert_allclose(scale, betas[valid].mean(), rtol=1e-6)
  by_hand = estimators.merge_accepted(moved, estimator(moved))
  if num_scored:
    exact = np.asarray(by_hand)
    by_hand = resampling.subsample(by_hand, num_scored, 0.3, always)
    assert always == (num_scored > 2 * SIZE)
    assert (np.abs(exact - by_hand).max() > 1e-3) == (always or num_scored == 3)
    assert np.count_nonzero(weights) <= num_scored
  np.testing.assert_allclose(weights, by_hand, rtol=1e-6)
  assert terms is None


@pytest.mark.parametrize("num_weighted", [0, 1, 4, 5, 16])
def test_gather_rows_keeps_every_weight(num_weighted):
  rng = np.random.default_rng(num_weighted)
  draws = rng.integers(9, size=(SIZE, 1, 5), dtype=np.int32)
  moved = transition.independence(
    rng.integers(9, size=(SIZE, 5), dtype=np.int32),
    np.zeros(SIZE, bool),
    draws,
    jnp.zeros((SIZE, 1), bool),
  )
  prompts = rng.integers(9, size=(SIZE, 3), dtype=np.int32)
  weights = np.zeros(2 * SIZE, np.float32)
  chosen = np.sort(rng.permutation(2 * SIZE)[:num_weighted])
  weights[chosen] = rng.normal(size=num_weighted)
  rows = weighted_rows.gather_rows(prompts, moved, weights.reshape(SIZE, 2))
  # Sizes are multiples of half the minibatch: five of them at most.
  assert len(rows.weights) % (SIZE // 2) == 0
  assert len(rows.weights) - num_weighted < SIZE // 2 or num_weighted == 0
  for place, j in enumerate(chosen):
    question, column = divmod(int(j), 2)
    expected = draws[question, 0] if column else moved.tokens[question]
    np.testing.assert_array_equal(rows.targets[place], expected)
    np.testing.assert_array_equal(rows.prompts[place], prompts[question])
    assert rows.weights[place] == weights[j]
    assert rows.memory_of[place] == (-1 if column else question)
  assert (rows.memory_of[num_weighted:] == -1).all()
  assert not rows.weights[num_weighted:].any()


@pytest.mark.parametrize(("num_rows", "batch_size"), [(7, 2), (8, 4), (1, 4)])
def test_every_row_is_drawn_once_and_in_order(data, num_rows, batch_size):
  number = dict(
    zip(map(tuple, data.train.prompts.tolist()), range(99), strict=False)
  )

  def say(prompts):
    texts = [f"it is {number[tuple(row)]}" for row in prompts.tolist()]
    return texts, [True] * len(prompts)

  scripted, done = Scripted(data.task, say), []
  rows = np.random.default_rng(0).permutation(len(data.train))[:num_rows]
  drawn = Drawer(scripted, data.task, data.train, batch_size, 2).draw_all(
    None,
    rows,
    np.zeros_like(rows),
    jax.random.key(0),
    report_done=done.append,
  )
  assert drawn.texts == [f"it is {row}" for row in rows]
  assert len(scripted.calls) == -(-num_rows // (2 * batch_size))
  assert done == [
    min(start + batch_size, num_rows)
    for start in range(0, num_rows, batch_size)
  ]
