"""What a model that a program gives is asked for, in a part and in whole runs.

The model notes its calls: a wrong temperature, another's random numbers or the
parameters of another step would hide in plausible draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cot_latent as cl
from cot_latent.em import likelihood
from cot_latent.em.method import Method
from cot_latent.em.scored_step import AnswerScorer
from cot_latent.inference import estimators, rng, scored_estimators
from cot_latent.models.stops import Ending
from cot_latent.training.given import GivenModel

EOS, LENGTH = 1, 4


class Call(NamedTuple):
  """What a sampler was given, on the host; `stop` are its stop strings."""

  stop: tuple[str, ...]
  params: np.ndarray
  prompts: np.ndarray
  keys: np.ndarray
  temperature: float


class Noting:
  """Writes "a" or "b", by the row's key, and EOS; notes its calls."""

  def __init__(self, ending=None, calls=None):
    self.ending = ending or Ending((EOS,))
    self.calls: list[Call] = [] if calls is None else calls

  def with_ending(self, ending):
    return Noting(ending, self.calls)

  def sample(self, params, prompts, rng_keys, temperature=1.0):
    keys, prompts = np.asarray(jax.random.key_data(rng_keys)), np.array(prompts)
    weight = np.array(params["w"])
    self.calls.append(
      Call(self.ending.stop, weight, prompts, keys, temperature)
    )
    tokens = np.zeros((len(prompts), LENGTH), np.int32)
    tokens[:, 0] = 3 + np.where(keys[:, 1] % 2, ord("a"), ord("b"))
    tokens[:, 1] = EOS
    lengths, ended = self.ending.lengths(tokens)
    tokens[np.arange(LENGTH) >= lengths[:, None]] = 0
    nats = np.where(tokens, np.asarray(rows_of(keys))[:, None], 0)
    return tokens, ended, nats.astype(np.float32)

  def log_prob(self, params, prompts, targets):
    chosen = jax.nn.log_softmax(params["w"])[targets]
    return jnp.where(targets != 0, chosen, 0)


def rows_of(keys):
  """A number by which a row is told from others."""
  return keys[:, 0] % 97


def noted():
  """A model, its parameters, and the same with what the trainer needs."""
  model = Noting()
  params = {"w": jnp.linspace(0, 1, 259)}
  return model, params, GivenModel(model, params, model.ending)


# A part of a run: the call that the trainer makes.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_slots_are_parts_of_the_rows_at_the_same_temperature(temperature):
  model, params, given = noted()
  prompts = np.arange(3, 24).reshape(7, 3)
  keys, done = jax.random.split(jax.random.key(0), 7), []
  drawn = given.sample(
    *(params, prompts, keys, temperature),
    num_slots=3,
    report_done=done.append,
  )
  assert done == [3, 6, 7]
  assert [call.temperature for call in model.calls] == 3 * [temperature]
  for name, whole in (
    ("prompts", prompts),
    ("keys", jax.random.key_data(keys)),
  ):
    parts = [getattr(call, name) for call in model.calls]
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
  whole = model.sample(params, prompts, keys, temperature)
  for found, expected in zip(drawn, whole, strict=True):
    np.testing.assert_array_equal(found, expected)


def test_without_slots_all_rows_are_one_call_at_temperature_1():
  model, params, given = noted()
  given.sample(params, np.ones((5, 2)), jax.random.split(jax.random.key(0), 5))
  ((_, _, prompts, _, temperature),) = model.calls
  assert (len(prompts), temperature) == (5, 1.0)


# Whole runs: each call, in order.

SEED, N, NUM_TEST, BATCH, STEPS = 5, 8, 3, 4, 3
QUESTIONS = [f"question {'x' * (i % 3)} {i}" for i in range(N)]
ANSWERS = ["1", "2"] * (N // 2)
STATED = likelihood.answer_given_rationale("a", "{answer}", num_samples=3)
# With outer loops nothing is drawn in a step: see em/sampler_calls_test.py.
METHODS = {
  "trice": Method("trice", estimators.control_variate(), num_draws=2),
  "isir": Method(
    "isir", scored_estimators.isir(), "guide", 2, likelihood=STATED
  ),
  "latro": Method(
    "latro", scored_estimators.latro(0.2), "prior", 2, likelihood=STATED
  ),
}


class Scoring(NamedTuple):
  """What a scorer was given, on the host."""

  params: np.ndarray
  rationales: np.ndarray
  question: np.ndarray


class Run(NamedTuple):
  method: Method
  train: Any
  test: Any
  calls: list[Call]
  scored: list[Scoring]


def train(model, params, method, model_dir, **changes):
  """Trains a model for a few steps on questions whose answer is "a"."""
  task = cl.Task.from_rows(
    QUESTIONS,
    ANSWERS,
    check=lambda text, answer: text == "a",
    test=(QUESTIONS[:NUM_TEST], ANSWERS[:NUM_TEST]),
    prompts=cl.Prompts(prior="{question}?", guide="{question} {answer}?"),
  )
  settings = {
    "steps": STEPS,
    "max_length": LENGTH,
    "method": method,
    "batch_size": BATCH,
    "learning_rate": 0.1,
    "seed": SEED,
    "eval_period": 2,
    "num_votes": 2,
  }
  report = cl.train(
    task,
    model=model,
    params=params,
    model_dir=str(model_dir),
    **(settings | changes),
  )
  return task, report


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory):
  model, params, _ = noted()
  score, scored = AnswerScorer.score, []

  def noting(self, params, rationales, question):
    given = np.array(params["w"]), np.array(rationales), np.array(question)
    scored.append(Scoring(*given))
    return score(self, params, rationales, question)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(AnswerScorer, "score", noting)
    task, _ = train(
      *(model, params, METHODS[request.param]),
      tmp_path_factory.mktemp("run") / "run",
    )
  examples = task.load("train"), task.load("test")
  return Run(METHODS[request.param], *examples, model.calls, scored)


def index_of(step):
  return rng.minibatch(SEED, "order", step - 1, N, BATCH)


def expected_draws(run):
  """Yields each draw: updates before it, purpose, numbers, rows, and the rest.

  The rest: rows of a question, whose prompts, temperature, whether it is up to
  the answer.
  """
  is_scored = run.method.scores_answers()
  every, test = np.arange(N), np.arange(NUM_TEST)
  start = run.train.guides
  if run.method.memory_start == "prior":
    start = run.train.prompts
  yield 0, "memory", (), every, 1, start, 1.0, is_scored
  for step in range(STEPS + 1):
    if step > 0:
      rows = step - 1, "draw", (step,), index_of(step), 2
      yield *rows, run.train.prompts, 1.0, is_scored
    if step in (0, 2, STEPS):
      given = run.test.prompts
      yield step, "evaluate", (step,), test, 1, given, 0.0, False
      if is_scored:
        number = STATED.num_samples
        held_out = step, "likelihood/evaluate", (step,), test, number
        yield *held_out, given, 1.0, True
    if step in (0, STEPS):
      yield step, "evaluate", (step,), test, 2, given, 1.0, False


def without_padding(rows):
  return [row[row != 0].tolist() for row in rows]


def test_a_run_asks_for_just_these_draws(run):
  words = {
    id(run.train.prompts): run.train.words,
    id(run.train.guides): run.train.words,
    id(run.test.prompts): run.test.words,
  }
  params: dict[int, np.ndarray] = {}
  for call, wanted in zip(run.calls, expected_draws(run), strict=True):
    updates, purpose, numbers, rows, each, prompts, *rest = wanted
    temperature, is_up_to_the_answer = rest
    assert call.temperature == temperature, wanted
    assert call.stop == (("a",) if is_up_to_the_answer else ()), wanted
    which = np.repeat(rows, each)
    assert without_padding(call.prompts) == without_padding(prompts[which])
    keys = rng.row_keys(
      rng.purpose_key(SEED, purpose, *numbers),
      words[id(prompts)][which],
      np.tile(np.arange(each), len(rows)),
    )
    np.testing.assert_array_equal(call.keys, jax.random.key_data(keys))
    first = params.setdefault(updates, call.params)
    np.testing.assert_array_equal(call.params, first)
  # Each step's parameters are others, so that no step draws with old ones.
  assert len({array.tobytes() for array in params.values()}) == STEPS + 1


def expected_scores(run):
  """Yields each scoring: updates before it, questions, rows of each."""
  for step in range(STEPS + 1):
    if step > 0:
      yield step - 1, index_of(step), 1 + run.method.num_draws
      if run.method.has_reference():
        yield 0, index_of(step), run.method.num_draws
    if step in (0, 2, STEPS):
      yield step, np.arange(NUM_TEST), STATED.num_samples


def test_a_run_scores_just_these_rationales(run):
  if not run.method.scores_answers():
    assert not run.scored
    return
  params = {
    updates: call.params
    for call, (updates, *_) in zip(run.calls, expected_draws(run), strict=True)
  }
  before = None
  for found, (updates, index, each) in zip(
    run.scored, expected_scores(run), strict=True
  ):
    np.testing.assert_array_equal(found.params, params[updates])
    np.testing.assert_array_equal(found.question, np.repeat(index, each))
    if each == run.method.num_draws:  # by the base model: without the memory
      rows = before.reshape(len(index), 1 + each, -1)[:, 1:]
      np.testing.assert_array_equal(
        found.rationales, rows.reshape(len(found.rationales), -1)
      )
    before = found.rationales


# Other widths.


class Narrow(Noting):
  """Draws as many columns as its longest row needs, or one more."""

  def with_ending(self, ending):
    return Narrow(ending, self.calls)

  def sample(self, *arguments, **settings):
    tokens, ended, nats = super().sample(*arguments, **settings)
    width = int((tokens != 0).sum(axis=1).max()) + len(self.calls) % 2
    return tokens[:, :width], ended, nats[:, :width]


@pytest.mark.parametrize("name", ["trice", "isir"])
def test_narrow_draws_are_padded(name, tmp_path):
  _, params, _ = noted()
  one, other = (
    train(
      *(model, params, METHODS[name], tmp_path / str(number)),
      eval_batch_size=2,
    )[1]
    for number, model in enumerate((Noting(), Narrow()))
  )
  assert one["results"] == other["results"]
  assert one["model"]["params_sha256"] == other["model"]["params_sha256"]
  assert one["journal_content"] == other["journal_content"]


def test_draws_that_are_too_wide_are_refused(tmp_path, monkeypatch):
  model, params, _ = noted()
  with pytest.raises(cl.UserError) as caught:
    train(model, params, METHODS["trice"], tmp_path / "run", max_length=3)
  assert str(caught.value) == (
    "the model's method sample returned rows of 4 tokens, padding included, "
    "and max_length is 3: cut them there, or set a larger max_length"
  )
  # Nothing was stored that a corrected model would be given again.
  monkeypatch.setitem(globals(), "LENGTH", 3)
  _, report = train(
    model, params, METHODS["trice"], tmp_path / "run", max_length=3
  )
  assert report["status"] == "complete"
