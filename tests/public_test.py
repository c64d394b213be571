"""`import cot_latent`: the names that it promises, and what they do."""

import functools
import importlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cot_latent as cl
from cot_latent.data.chat import Chat
from cot_latent.models import decoder, language_model
from tests.asserts import message_of


def test_every_public_name_is_there():
  assert sorted(cl.__all__) == sorted({*cl.__all__})
  for name in cl.__all__:
    assert getattr(cl, name) is not None
    assert name in dir(cl)
  with pytest.raises(AttributeError, match="nothing"):
    _ = cl.nothing


def test_importing_it_starts_nothing():
  code = (
    "import sys, cot_latent, cot_latent.cli\n"
    "print([m for m in ('jax', 'tensorflow', 'flax') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout == "[]\n"


QUESTIONS = [f"{'ab'[i % 2]} {i}" for i in range(12)]
ANSWERS = ["odd" if i % 2 else "even" for i in range(12)]


def by_length(completion, answer):
  return (len(completion) % 2 == 1) == (answer == "odd")


def make_task(check=by_length, **settings):
  return cl.Task.from_rows(
    QUESTIONS,
    ANSWERS,
    check=check,
    prompts=cl.Prompts(prior="{question}?", guide="{question} {answer}?"),
    **settings,
  )


def test_rows_become_prompts_and_hinted_prompts():
  train = make_task().load("train")
  vocabulary = make_task().vocabulary
  for rows, texts in (
    (train.prompts, [f"{q}?" for q in QUESTIONS]),
    (
      train.guides,
      [f"{q} {a}?" for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    ),
  ):
    found = [vocabulary.decode(row[row != 0].tolist()) for row in rows]
    assert found == texts
  assert train.answers == ANSWERS


def test_without_a_check_a_sentence_is_read():
  task = cl.Task.from_rows(["1 + 1"], ["2"])
  assert task.extract("It is so. The answer is 2.") == "2"
  assert task.is_correct("2", "2")
  assert not task.is_correct("3", "2")
  assert not task.is_correct(None, "2")


def test_rows_that_do_not_fit_are_refused():
  assert "2 questions and 1 answers" in message_of(
    cl.Task.from_rows, ["a", "b"], ["1"]
  )
  assert "0 questions" in message_of(cl.Task.from_rows, [], [])
  assert "row 1: 5 is not a string" in message_of(
    cl.Task.from_rows, ["a", "b"], ["1", 5]
  )


@pytest.mark.parametrize("answer", ["Yes ", "a\nb", ""])
def test_an_answer_that_no_sentence_states_is_refused(answer):
  questions, answers = ["a", "b"], ["No", answer]
  said = message_of(cl.Task.from_rows, questions, answers)
  assert f"split 'train', row 1: the answer {answer!r} is not" in said
  said = message_of(
    functools.partial(cl.Task.from_rows, test=(questions, answers)),
    ["c"],
    ["d"],
  )
  assert "split 'test', row 1" in said
  cl.Task.from_rows(questions, answers, check=by_length)


def test_rows_have_no_chat():
  made = functools.partial(cl.Task.from_rows, prompts=Chat())
  assert "has no chat" in message_of(made, ["a"], ["b"])


LETTERS = cl.Vocabulary(
  name="letters",
  size=10,
  eos_id=1,
  encode=lambda text: [2 + ord(letter) % 8 for letter in text],
  decode=lambda ids: "".join("abcdefgh"[i - 2] for i in ids if i > 1),
)


class OwnModel:
  """Somebody's model: a decoder whose parts are called by other code."""

  def __init__(self):
    self.inner = language_model.from_config(
      decoder.DecoderConfig(1, 16, 2, 8, 32), LETTERS.size, 1, 8
    )
    self.params = self.inner.init(jax.random.key(0))

  def sample(self, params, prompts, rng_keys, temperature=1.0, **_):
    return tuple(self.inner.sample(params, prompts, rng_keys, temperature))

  def log_prob(self, params, prompts, targets):
    return self.inner.log_prob(params, prompts, targets)


def run(model, folder, check=by_length, **changes):
  settings = {
    "steps": 12,
    "max_length": 8,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "eval_period": 6,
    "method": cl.Method(
      "trice", cl.estimators.control_variate(), memory_start="prior"
    ),
    "model_dir": str(folder),
  }
  return cl.train(
    make_task(check, test=(QUESTIONS, ANSWERS), vocabulary=LETTERS),
    model=model,
    params=model.params,
    **(settings | changes),
  )


@pytest.fixture(scope="module")
def model():
  return OwnModel()


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "own"
  return folder, run(model, folder)


def test_any_model_is_trained(model, finished):
  folder, report = finished
  assert report["status"] in ("complete", "suspect")
  assert len(report["metrics"]) == 12
  gaps = [row["sampler/log_prob_gap"] for row in report["metrics"]]
  # Sampler and scorer agree, with what all prompts share put before each row.
  assert max(gap for gap in gaps if gap is not None) < 1e-3
  assert {row["step"] for row in report["results"]} == {0, 6, 12}
  again = run(model, folder)  # is complete: nothing is done
  assert again["digest"] == report["digest"]
  read = cl.load_report(folder)
  assert read["metrics"] == report["metrics"]


def test_the_given_parameters_stay(model, finished):
  fresh = OwnModel().params
  for kept, new in zip(
    jax.tree.leaves(model.params), jax.tree.leaves(fresh), strict=True
  ):
    np.testing.assert_array_equal(kept, new)


def test_another_model_is_another_run(model, finished):
  other = OwnModel()
  other.params = jax.tree.map(lambda leaf: leaf + 1, other.params)
  assert "belongs to another run" in message_of(run, other, finished[0])


def test_another_checker_or_another_setting_is_another_run(
  model, finished, tmp_path
):
  folder, report = finished
  assert report["data"]["check"] == {"name": f"{__name__}.by_length"}

  def weigh_by(share):
    def weigh(taken):
      return share * cl.estimators.basic()(taken)

    return cl.Method("trice", weigh, memory_start="prior")

  def stricter(completion, answer):
    return by_length(completion, answer) and len(completion) > 2

  text = message_of(run, model, folder, check=stricter)
  assert "belongs to another run" in text
  assert "data check.name" in text
  one, two = (
    run(model, tmp_path / str(share), method=weigh_by(share), steps=0)
    for share in (1.0, 0.5)
  )
  assert one["identity"]["run_id"] != two["identity"]["run_id"]


def test_what_is_no_model_is_refused(tmp_path):
  class Half:
    def __init__(self):
      self.params = {"w": jnp.zeros(1)}

    def sample(self):
      pass

  assert "Half is not a Scorer" in message_of(run, Half(), tmp_path)


def test_public_modules_can_be_imported_by_their_names():
  for name in (
    *("estimators", "baselines", "scored_estimators", "resampling", "rng"),
  ):
    module = importlib.import_module(f"cot_latent.inference.{name}")
    assert getattr(cl, name) is module
