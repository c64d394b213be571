"""Stop strings in a run: whose they are, and what they leave of completions."""

import dataclasses
import json

import numpy as np
import pytest

from cot_latent.data.prompts import COMPACT, Prompts
from cot_latent.em import evaluation, outer_loops
from cot_latent.em.drawing import Drawer
from cot_latent.errors import UserError
from cot_latent.models.api import Draws
from cot_latent.training import bootstrap
from cot_latent.training.tuning import SoftPrompt
from tests.training import toy

LENGTH = toy.LENGTH[toy.MIXTURE]
STOP = ("\n\n",)


def with_stop(config, stop):
  return dataclasses.replace(
    config, task=dataclasses.replace(config.task, stop=stop)
  )


def with_prompts(config, prompts):
  source = dataclasses.replace(config.task.source, prompts=prompts)
  return dataclasses.replace(
    config,
    task=dataclasses.replace(config.task, source=source, prompt_length=96),
  )


def encode(text):
  return [byte + 3 for byte in text.encode()]


def rows(*texts):
  """[B, T] tokens of texts, in which $ is EOS."""
  tokens = np.zeros((len(texts), LENGTH), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    ids = [1 if byte == ord("$") + 3 else byte for byte in encode(text)]
    row[: len(ids)] = ids
  return tokens


# Whose they are.


def test_a_run_stops_where_its_worked_examples_do():
  plain = toy.make_experiment("unused")
  asked = dataclasses.replace(COMPACT, exemplars="bootstrapped")
  few_shot = with_prompts(plain, asked)
  soft = dataclasses.replace(
    plain, tuning=SoftPrompt(source=few_shot.task.source)
  )
  for config, stop in [
    (plain, ()),
    (with_stop(plain, STOP), STOP),
    (few_shot, STOP),
    (with_stop(few_shot, ()), ()),
    (with_prompts(plain, dataclasses.replace(asked, separator="##")), ("##",)),
    (soft, STOP),
    (with_stop(soft, ("Q:",)), ("Q:",)),
  ]:
    data = toy.load(config)
    assert data.task.stop == stop
    assert data.task.ending.ids == (1,)
    assert (data.task.ending.automaton is None) == (not stop)
    assert data.soft_task is None or data.soft_task.stop == stop


def test_prompts_without_examples_stop_nothing():
  assert Prompts().stop == ()
  assert Prompts(exemplars="task", separator="").stop == ()


def test_malformed_stops_are_refused():
  task = toy.make_experiment("unused").task
  with pytest.raises(UserError, match="STOP has an empty string"):
    dataclasses.replace(task, stop=("", "x"))
  with pytest.raises(UserError, match=r"TaskConfig\.stop: expected tuple"):
    dataclasses.replace(task, stop="\n\n")


# What they leave.


@pytest.fixture(scope="module")
def data():
  config = toy.make_experiment("unused", toy.MIXTURE)
  return toy.load(toy.bootstrapped(with_stop(config, STOP)))


@pytest.mark.parametrize(
  ("written", "text", "has_ended"),
  [
    ("It is red.$", "It is red.", True),
    ("It is red.\n\n", "It is red.", True),
    ("It is red.\n\nIt is blue$", "It is red.", True),
    ("It is red.\n$\n\nIt", "It is red.\n", True),
    ("It is red.\n", "It is red.\n", False),
  ],
)
def test_the_judged_text_ends_before_the_stop(data, written, text, has_ended):
  output = evaluation.judge(data.task, data.test, 0, rows(written)[0])
  assert (output.completions, output.ended) == ([text], [has_ended])


def test_a_given_rationale_ends_at_a_stop_too(data):
  some = dataclasses.replace(
    data.train,
    ids=data.train.ids[:3],
    answers=["red", "red", "red"],
    targets=rows(
      "The answer is red.$", "The\n\n answer is red.$", "The answer is red."
    ),
  )
  (checked,) = outer_loops.given(data.task, some).written
  assert checked.texts == ["The answer is red.", "The", "The answer is red."]
  assert checked.ended.tolist() == [True, True, False]
  assert checked.is_correct.tolist() == [True, False, False]


class Ends:
  """A sampler that is correct, and ends as it is told."""

  def __init__(self, data, end):
    self.data, self.end = data, end

  def sample(self, params, prompts, rng_keys, temperature):
    del params, rng_keys, temperature
    texts = []
    for prompt in np.asarray(prompts):
      asked = self.data.task.vocabulary.decode(prompt[prompt != 0].tolist())
      (answer,) = (
        answer
        for question, answer in zip(
          self.data.train.questions, self.data.train.answers, strict=True
        )
        if asked.endswith(f"{question}?\n")
      )
      texts.append(f"The answer is {answer}.{self.end}")
    tokens = rows(*texts)
    return Draws(tokens, np.ones(len(tokens), bool))


@pytest.mark.parametrize("end", ["$", "\n\n"])
def test_worked_examples_are_kept_without_their_end(data, end):
  drawer = Drawer(Ends(data, end), data.task, data.train, 8)
  found, _ = bootstrap.draw(drawer, None, 0, 999)
  assert found
  for one in found:
    assert one.completion == f"The answer is {one.answer}."
    assert one.tokens == encode(one.completion)


# A whole run.


def test_a_run_with_stops_scores_what_it_samples(tmp_path):
  stop = ("b", "aa")
  config = with_stop(toy.make_experiment(tmp_path, steps=3), stop)
  report = toy.run(config)
  assert report["data"]["stop"] == list(stop)
  assert report["configuration"]["experiment"]["task"]["stop"] == stop
  assert report["diagnostics"]["largest_log_prob_gap"] < 1e-4
  lines = [
    json.loads(line)
    for path in sorted(tmp_path.glob("outputs/*.jsonl"))
    for line in path.read_text().splitlines()
  ]
  texts = [
    text
    for line in lines
    for text in line.get("completions", [line.get("completion")])
  ]
  assert any(line["ended"] for line in lines)
  assert not any(one in text for text in texts for one in stop)
