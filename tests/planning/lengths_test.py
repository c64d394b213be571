"""The lengths that a plan takes from a run's data."""

import dataclasses

import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.models.api import PAD_ID
from cot_latent.planning import lengths
from tests.training import toy

STEP = 8


def widest(data):
  """Tokens of the longest prompt or guide."""
  return max(
    int((rows != PAD_ID).sum(axis=1).max())
    for examples in (data.train, data.test)
    for rows in (examples.prompts, examples.guides)
  )


def test_lengths_are_those_of_the_data():
  config = toy.make_experiment("x", toy.CHAIN)
  data = toy.load(config)
  _, found = lengths.of_data(config)
  assert (found.train, found.test) == (len(data.train), len(data.test))
  assert found.vocab == data.task.vocabulary.size
  assert found.ending == data.task.ending
  for whole, rows in (
    (found.prefix + found.prompt, (data.train.prompts, data.test.prompts)),
    (found.guide_prefix + found.guide, (data.train.guides,)),
    (found.base_prefix + found.base, (data.base.prompts, data.base.guides)),
  ):
    longest = max((part != PAD_ID).sum(axis=1).max() for part in rows)
    assert longest <= whole < longest + STEP
  assert found.soft == 0


def test_the_longest_held_out_question_counts(monkeypatch):
  config = toy.make_experiment("x", toy.CHAIN)
  data = toy.load(config)
  _, short = lengths.of_data(config)
  longer = np.pad(data.test.prompts, ((0, 0), (0, 24)), constant_values=9)
  test = dataclasses.replace(data.test, prompts=longer)
  monkeypatch.setattr(
    lengths.loading, "load_data", lambda _: data._replace(test=test)
  )
  _, found = lengths.of_data(config)
  assert found.prompt == short.prompt + 24


def test_without_a_fit_there_are_no_prompts_of_one():
  config = toy.make_experiment("x", toy.CHAIN)
  data = toy.load(config)
  assert lengths._base_widths(data.base) != (0, 0)
  assert lengths._base_widths(None) == (0, 0)


@pytest.mark.parametrize("task", [toy.CHAIN, toy.MIXTURE])
def test_worked_examples_to_be_drawn_are_taken_to_fill_the_prompts(task):
  """Questions of one task share them as a prefix; those of several do not."""
  plain = toy.make_experiment("x", task)
  config = toy.bootstrapped(plain, prompt_length=120)
  data = toy.load(config)
  room = 120 - widest(data)
  _, without = lengths.of_data(plain)
  _, found = lengths.of_data(config)
  grown = {
    name: getattr(found, name) - getattr(without, name)
    for name in ("prompt", "guide", "prefix", "guide_prefix")
  }
  is_mixture = task == toy.MIXTURE
  more = grown["prompt" if is_mixture else "prefix"]
  assert room - STEP < more <= room
  wanted = [more, more, 0, 0] if is_mixture else [0, 0, more, more]
  assert [*grown.values()] == wanted


def test_worked_examples_without_room_are_refused():
  config = toy.bootstrapped(
    toy.make_experiment("x", toy.CHAIN), num_exemplars=20, prompt_length=80
  )
  with pytest.raises(UserError, match="and 20 need more than"):
    lengths.of_data(config)
