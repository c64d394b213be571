"""What each part of a run asks of its sampler, and what it makes of the answer.

With a sampler that notes its calls: a trained model would hide a wrong
temperature or another's random numbers in plausible draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.em import estep, evaluation, outer_loops, scored_step
from cot_latent.em.drawing import Drawer
from cot_latent.em.estep import EStep
from cot_latent.em.held_out import HeldOut
from cot_latent.em.method import Method, OuterLoops
from cot_latent.em.scored_step import Nats
from cot_latent.errors import UserError
from cot_latent.inference import baselines, estimators, memory, rng
from cot_latent.training import bootstrap
from tests.training import toy
from tests.training.scripted import Scripted

LENGTH, N = toy.LENGTH[toy.CHAIN], toy.SIZES["train"]
ALL, INDEX = np.arange(N), np.array([5, 2, 11, 0])
SEED, STEP = 3, 7
TRICE = Method("x", estimators.control_variate(), num_draws=2)


@pytest.fixture(scope="module")
def data():
  config = toy.make_experiment("unused", toy.CHAIN)
  return toy.load(toy.bootstrapped(config))


def dumb(data):
  """A sampler that is never right."""
  return Scripted(
    data.task, lambda rows: (["?"] * len(rows), [True] * len(rows))
  )


def e_step(data, sampler, method):
  task, train = data.task, data.train
  return EStep(sampler, task, train, method, SEED, LENGTH, batch_size=N)


def draw_for_step(data, sampler):
  start = memory.init(N, LENGTH)
  e_step(data, sampler, TRICE).step(None, start, INDEX, STEP)


def evaluate(num_samples, data, sampler):
  drawer = Drawer(sampler, data.task, data.train)
  settings = dict(num_samples=num_samples, seed=SEED, step=STEP)
  evaluation.evaluate(drawer, None, **settings)


def start_memory(start, data, sampler):
  method = Method("x", estimators.basic(), start)
  e_step(data, sampler, method).start_memory(None)


def fill_pool(source, data, sampler):
  loops = OuterLoops(source, hint_on_failure=True)
  method = Method("x", baselines.rloo(), "empty", 2, loops=loops)
  outer_loops.collect(e_step(data, sampler, method), None, loop=1)


def assert_keys(keys, key, words, number):
  """Checks that rows have the keys of their questions and draws."""
  made = rng.row_keys(key, words, number)
  np.testing.assert_array_equal(
    jax.random.key_data(keys), jax.random.key_data(made)
  )


TWICE, SHORT_TWICE = np.repeat(ALL, 2), np.repeat(INDEX, 2)


class ByNumber:
  """A scorer by which the likelihood of a row's answer is its number."""

  def score(self, params, rationales, question):
    assert params == "theirs"
    assert rationales.shape == (2 * N, LENGTH)
    np.testing.assert_array_equal(question, TWICE)
    return Nats(-np.ones(2 * N), np.arange(2 * N)), None


def measure_likelihood(data, sampler):
  drawer = Drawer(sampler, data.task, data.train)
  held_out = HeldOut(drawer, ByNumber(), num_samples=2)
  nats = held_out.log_likelihood("theirs", SEED, STEP)
  np.testing.assert_array_equal(nats, np.arange(2 * N).reshape(N, 2))


# What is drawn: by whom, the purpose and numbers of its keys, the questions
# in order, from which prompt, at which temperature.
@pytest.mark.parametrize(
  ("draw", "calls"),
  [
    (draw_for_step, [("draw", (STEP,), SHORT_TWICE, "prompts", 1.0)]),
    (
      lambda *given: start_memory("guide", *given),
      [("memory", (), ALL, "guides", 1.0)],
    ),
    (
      lambda *given: start_memory("prior", *given),
      [("memory", (), ALL, "prompts", 1.0)],
    ),
    (
      lambda *given: evaluate(None, *given),
      [("evaluate", (STEP,), ALL, "prompts", 0.0)],
    ),
    (
      lambda *given: evaluate(2, *given),
      [("evaluate", (STEP,), TWICE, "prompts", 1.0)],
    ),
    (
      lambda *given: fill_pool("sample", *given),
      [
        ("pool", (1, 0), TWICE, "prompts", 1.0),
        ("pool", (1, 1), TWICE, "guides", 1.0),
      ],
    ),
    (
      lambda *given: fill_pool("greedy", *given),
      [
        ("pool", (1, 0), TWICE, "prompts", 0.0),
        ("pool", (1, 1), TWICE, "guides", 0.0),
      ],
    ),
    (
      measure_likelihood,
      [("likelihood/evaluate", (STEP,), TWICE, "prompts", 1.0)],
    ),
  ],
  ids=[
    *("a step", "memory from guides", "memory from prompts", "greedily"),
    *("self-consistency", "a pool", "a greedy pool", "held-out likelihood"),
  ],
)
def test_every_draw_has_its_prompt_temperature_and_keys(data, draw, calls):
  sampler = dumb(data)
  draw(data, sampler)
  assert len(sampler.calls) == len(calls)
  for (prompts, keys, temperature), expected in zip(
    sampler.calls, calls, strict=True
  ):
    purpose, numbers, rows, source, wanted = expected
    np.testing.assert_array_equal(prompts, getattr(data.train, source)[rows])
    assert temperature == wanted
    # The draws of a question are numbered from 0.
    number = [list(rows[:i]).count(row) for i, row in enumerate(rows)]
    key = rng.purpose_key(SEED, purpose, *numbers)
    assert_keys(keys, key, data.train.words[rows], np.array(number))


def test_worked_examples_are_drawn_at_temperature_1(data):
  known = dict(zip(ALL, data.train.answers, strict=True))
  sampler = Scripted(data.task, None)

  def say(rows):
    # Right whatever was asked, for the rows are in the order of the keys.
    key = rng.purpose_key(SEED, "bootstrap", 0, 0)
    order = np.asarray(jax.random.permutation(key, N))
    answers = [known[i] for i in order[: len(rows)]]
    return [f"The answer is {a}." for a in answers], [True] * len(rows)

  sampler.say = say
  drawer = Drawer(sampler, data.task, data.train, batch_size=8)
  bootstrap.draw(drawer, None, SEED, room=999)
  ((prompts, keys, temperature),) = sampler.calls
  assert temperature == 1.0
  key = rng.purpose_key(SEED, "bootstrap", 0, 0)
  rows = np.asarray(jax.random.permutation(key, N))[:8]
  np.testing.assert_array_equal(prompts, data.train.prompts[rows])
  assert_keys(keys, key, data.train.words[rows], np.zeros(8, int))


def test_rows_are_subsampled_by_a_random_number_of_the_step(data, monkeypatch):
  offsets = []

  def noting(function, place):
    def call(*arguments, **settings):
      offsets.append(float(arguments[place].offset))
      return function(*arguments, **settings)

    return call

  for owner, name, place in (
    (estep, "move_and_weigh", 5),
    (outer_loops, "_weigh", 3),
  ):
    noted = noting(getattr(owner, name), place)
    monkeypatch.setattr(owner, name, noted)
  chains = memory.init(N, LENGTH)
  step = e_step(data, dumb(data), TRICE)
  step.step(None, jax.tree.map(jnp.copy, chains), INDEX, STEP)
  pool = outer_loops.empty_pool(N, 2, LENGTH)
  outer_loops.pool_step(step, chains, pool, INDEX, STEP + 1)
  assert offsets == [
    float(jax.random.uniform(rng.purpose_key(SEED, "subsample", number)))
    for number in (STEP, STEP + 1)
  ]


class Noisy:
  """An estimator that needs random numbers; notes their key."""

  purpose = "tests/noise"

  def __init__(self):
    self.keys = []

  def __call__(self, taken, key):
    jax.debug.callback(self.keys.append, jax.random.key_data(key))
    shape = taken.draw_is_correct.shape
    return jax.random.normal(key, (shape[0], 1 + shape[1]))


def test_an_estimator_s_own_numbers_are_of_its_purpose_and_the_step(data):
  noisy = Noisy()
  step = e_step(data, dumb(data), Method("x", noisy, num_draws=2))
  chains = memory.init(N, LENGTH)
  weights = [
    step.step(None, jax.tree.map(jnp.copy, chains), INDEX, number)[1].weights
    for number in (STEP, STEP + 1, STEP)
  ]
  pool = outer_loops.empty_pool(N, 2, LENGTH)
  outer_loops.pool_step(step, chains, pool, INDEX, STEP + 1)
  jax.effects_barrier()
  numbers = (STEP, STEP + 1, STEP, STEP + 1)
  np.testing.assert_array_equal(
    noisy.keys,
    [
      jax.random.key_data(rng.purpose_key(SEED, "tests/noise", number))
      for number in numbers
    ],
  )
  np.testing.assert_array_equal(weights[0], weights[2])
  assert (weights[0] != weights[1]).any()


@pytest.mark.parametrize("purpose", ["noise", "draw"])
def test_an_estimator_s_purpose_must_be_its_own(purpose):
  noisy = Noisy()
  noisy.purpose = purpose
  with pytest.raises(UserError, match=f"'my_method/{purpose}'") as error:
    Method("x", noisy)
  assert str(error.value).startswith("Method.estimator: ")


# The gap between sampler and scorer -----------------------------------------

# Of three draws each: none, the first, the second, the first and the last.
RIGHT = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1]], bool)


def weighted(data, tells=True):
  """The rows of a step of three draws, which say which question they are of."""
  texts = [
    f"{i} {k}. The answer is {data.train.answers[i] if right else '?'}."
    for i, row in zip(INDEX, RIGHT, strict=True)
    for k, right in enumerate(row)
  ]
  sampler = Scripted(data.task, lambda rows: (texts, [True] * len(texts)))
  sampler.tells = tells
  method = Method("x", _everything, num_draws=3)
  start = memory.init(N, LENGTH)
  _, rows, info = e_step(data, sampler, method).step(None, start, INDEX, STEP)
  assert info.accept_rate == RIGHT.mean()
  assert info.num_valid == 3
  # The last correct draw is remembered; the rows are numbered from 0.
  remembered = [np.nan, 3, 7, 11] if tells else [np.nan] * 4
  np.testing.assert_array_equal(info.visits.log_prob, remembered)
  return rows


def _everything(taken):
  """Weighs all draws, and all memories."""
  return jnp.ones((len(taken.is_correct), 1 + taken.accepted.shape[1]))


def test_a_remembered_draw_has_the_log_probability_it_was_drawn_with(data):
  rows = weighted(data)
  texts = data.task.vocabulary.decode_rows(rows.targets)
  seen = set()
  for text, weight, is_fresh, log_prob in zip(
    texts, rows.weights, rows.is_fresh, rows.sampler_log_prob, strict=True
  ):
    if not weight or not text:  # filler, or the memory that was empty
      assert not is_fresh
      continue
    question, draw = map(int, text.partition(".")[0].split())
    # The sampler's log-probability is the row's number.
    assert is_fresh
    assert log_prob == 3 * list(INDEX).index(question) + draw
    seen.add((question, draw))
  assert len(seen) == RIGHT.size


def test_the_gap_is_the_largest_of_the_fresh_rows(data):
  rows = weighted(data)
  scored = rows.sampler_log_prob.copy()
  assert rows.log_prob_gap(scored) == 0
  scored[~rows.is_fresh] += 9  # another model drew the old ones
  assert rows.log_prob_gap(scored) == 0
  place = np.flatnonzero(rows.is_fresh)
  scored[place[[0, 3]]] += [0.25, -0.5]
  assert rows.log_prob_gap(scored) == 0.5


def test_scored_rows_keep_the_sampler_s_log_probability_of_rationales():
  # One memory and two draws; the second draw's answer alone has weight.
  nats = scored_step.Nats(
    np.array([-1.0, -2.0, -3.0], np.float32),
    np.array([-0.25, -np.inf, -0.5], np.float32),
  )
  weights = np.array([[[1, 1], [1, 0], [0, 1]]], np.float32)
  sampled = np.array([-20.0, -30.0], np.float32)
  expected = scored_step._expected(weights, sampled, nats, (1, 3))
  np.testing.assert_array_equal(expected, [[-1.25, -20, -0.5]])
  assert scored_step._expected(weights, None, nats, (1, 3)) is None


def test_a_sampler_need_not_return_its_log_probabilities(data):
  rows, told = weighted(data, tells=False), weighted(data)
  assert rows.sampler_log_prob is None
  assert rows.log_prob_gap(np.zeros(len(rows.weights))) is None
  np.testing.assert_array_equal(rows.weights, told.weights)
  np.testing.assert_array_equal(rows.targets, told.targets)


def test_a_plain_tuple_is_as_good_as_draws(data):
  class Theirs:
    def sample(self, params, prompts, rng_keys, temperature, **settings):
      assert params == "theirs"
      return [[5, 1] + [0] * (LENGTH - 2)] * len(prompts), [True] * N, None

  method = Method("x", estimators.basic(), "prior")
  state = e_step(data, Theirs(), method).start_memory("theirs")
  np.testing.assert_array_equal(state.tokens[:, :3], [[5, 1, 0]] * N)
