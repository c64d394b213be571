"""Where a rationale ends, and the known answer after it, as tokens."""

import numpy as np
import pytest

from cot_latent.data.prompts import Prompts
from cot_latent.data.task import Task
from cot_latent.em import answers, likelihood
from tests.asserts import message_of

QUESTIONS, ANSWERS = ["a", "b"], ["12", "five"]


def task(**settings):
  return Task.from_rows(QUESTIONS, ANSWERS, **settings)


def made(of_task, **settings):
  stated = likelihood.answer_given_rationale(**settings)
  return answers.build_answers(stated, of_task, of_task.load("train"))


def rows(of_task, *texts, length=24):
  """Tokens of texts, ended by EOS where a text has a $, padded with 0."""
  found = np.zeros((len(texts), length), np.int32)
  for row, text in zip(found, texts, strict=True):
    ids = of_task.vocabulary.encode(text.rstrip("$"))
    ids += [of_task.vocabulary.eos_id] * text.endswith("$")
    row[: len(ids)] = ids
  return found


def test_the_known_answer_is_put_after_the_rationale():
  own = task()
  found = made(own)
  rationales = rows(own, "x. The answer is", "So the answer is")
  joined = found.join(rationales, np.array([1, 0]))
  texts = ["x. The answer is five.", "So the answer is 12."]
  for row, text in zip(joined.targets, texts, strict=True):
    whole = [*own.vocabulary.encode(text), own.vocabulary.eos_id]
    assert row[: len(whole)].tolist() == whole
    assert not row[len(whole) :].any()
  assert joined.has_answer().all()
  decode = own.vocabulary.decode
  first = joined.targets[0]
  assert decode(first[joined.is_rationale[0]].tolist()) == "x. The answer is"
  assert decode(first[joined.is_answer[0]].tolist()) == " five."


def test_other_ends_have_no_answer():
  own = task()
  own = own.ending_at(("\n",))
  found = made(own)
  cut = "z" * 24
  joined = found.join(rows(own, "no$", "no\n", cut, ""), np.array([0, 1, 0, 1]))
  assert not joined.has_answer().any()
  assert joined.is_rationale.sum(axis=1).tolist() == [3, 3, 24, 24]


def test_a_form_of_your_own():
  own = task(check=lambda text, answer: True)
  assert "ANSWER_PREFIX" in message_of(made, own)
  found = made(own, prefix="=>", answer="{answer}!")
  joined = found.join(rows(own, "x=>"), np.array([0]))
  text = own.vocabulary.decode(joined.targets[0][:7].tolist())
  assert text.startswith("x=>12!")


def test_prompts_without_rationales_are_refused():
  direct = task(prompts=Prompts(prior="{question}", is_direct=True))
  assert "without rationales" in message_of(made, direct)


@pytest.mark.parametrize(
  ("settings", "words"),
  [({"prefix": ""}, "prefix is empty"), ({"answer": "x"}, "{answer}")],
)
def test_bad_settings_are_refused(settings, words):
  refused = message_of(lambda: likelihood.answer_given_rationale(**settings))
  assert words in refused
