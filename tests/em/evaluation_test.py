"""Held-out answers: order, votes, and independence of the batches."""

import numpy as np
import pytest

from cot_latent.data import scoring
from cot_latent.em import evaluation
from cot_latent.em.drawing import Drawer
from cot_latent.inference import rng
from tests.training import toy


@pytest.fixture(scope="module")
def setting():
  config = toy.make_experiment("unused", toy.CHAIN)
  data, model = toy.load(config), toy.make_model(config)
  return model, data.task, model.init(rng.purpose_key(0, "params")), data.test


def evaluate(setting, **changes):
  model, task, params, examples = setting
  settings = dict(num_samples=None, seed=0, step=0) | changes
  drawer = Drawer(model, task, examples, settings.pop("batch_size", 4))
  return evaluation.evaluate(drawer, params, **settings)


@pytest.mark.parametrize("num_samples", [None, 3])
def test_outputs_come_in_the_order_of_the_examples(setting, num_samples):
  examples = setting[3]
  done = []
  outputs = evaluate(
    setting,
    num_samples=num_samples,
    report_done=lambda rows, *_: done.append(rows),
  )
  assert [output.id for output in outputs] == examples.ids
  assert [output.target for output in outputs] == examples.answers
  assert {len(output.completions) for output in outputs} == {num_samples or 1}
  assert done[-1] == len(examples) * (num_samples or 1)
  extract = setting[1].extract
  for output in outputs:
    votes = [extract(text) for text in output.completions]
    if None not in votes:  # a completion cut by the limit has no vote
      assert output.extracted == scoring.majority(votes)
    assert output.is_correct == (output.extracted == output.target)


def test_batches_do_not_matter(setting):
  # The same draws whatever the batch, up to rounding that none of these meets.
  few = evaluate(setting, num_samples=3, batch_size=4)
  many = evaluate(setting, num_samples=3, batch_size=30)
  assert few == many


def test_every_evaluation_draws_again(setting):
  first = evaluate(setting, num_samples=2, step=0)
  assert first == evaluate(setting, num_samples=2, step=0)
  assert first != evaluate(setting, num_samples=2, step=1)
  assert first != evaluate(setting, num_samples=2, seed=1)
  texts = [text for output in first for text in output.completions]
  assert len(set(texts)) == len(texts)


def test_greedy_needs_no_random_number(setting):
  assert evaluate(setting, seed=0, step=0) == evaluate(setting, seed=5, step=9)


def test_a_completion_that_was_cut_has_no_answer(setting):
  _, task, _, examples = setting
  ids = task.vocabulary.encode("what it said")
  tokens = np.int32([*ids, task.vocabulary.eos_id, 0])
  output = evaluation.judge(task, examples, 1, tokens)
  assert (output.id, output.target) == (examples.ids[1], examples.answers[1])
  assert output.ended == [True]
  assert task.extract(output.completions[0]) == output.extracted
  cut = tokens * (tokens != task.vocabulary.eos_id)
  without = evaluation.judge(task, examples, 1, cut)
  assert without.completions == output.completions
  assert (without.ended, without.extracted) == ([False], None)
  assert not without.is_correct
