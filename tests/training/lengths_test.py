"""The length limit that worked examples give."""

import dataclasses
import math

import pytest

from cot_latent.data import prompts
from cot_latent.errors import UserError
from cot_latent.tasks import common
from cot_latent.training import lengths
from tests.training import toy


def make(factor, exemplars="train", max_length=toy.LENGTH[toy.CHAIN]):
  config = toy.make_experiment("x", toy.CHAIN)
  asked = dataclasses.replace(
    prompts.COMPACT, exemplars=exemplars, num_exemplars=2
  )
  source = dataclasses.replace(config.task.source, prompts=asked)
  return dataclasses.replace(
    config,
    task=dataclasses.replace(
      config.task, source=source, max_length=max_length, length_factor=factor
    ),
  )


def limit(config):
  return lengths.limited(config, toy.open_task).task.max_length


@pytest.mark.parametrize("factor", [0.5, 1.25])
@pytest.mark.parametrize("exemplars", ["train", "none", "bootstrapped"])
def test_it_is_that_of_the_longest_worked_example(factor, exemplars):
  texts = common.worked_rationales(
    toy.CHAIN, make(1.0).task.source.prompts, None
  )
  assert len(texts) == 2
  longest = max(len(text.encode()) for text in texts)
  found = limit(make(factor, exemplars, max_length=1000))
  assert found == math.ceil(factor * longest)


def test_it_is_never_longer_than_max_length():
  assert limit(make(99.0)) == toy.LENGTH[toy.CHAIN]


def test_without_a_factor_nothing_is_cut():
  config = make(None)
  assert lengths.limited(config, toy.open_task) is config


def test_a_task_of_another_library_has_no_worked_examples(monkeypatch):
  monkeypatch.setattr(common, "resolve", lambda name: name)  # SeqIO has it
  with pytest.raises(UserError, match=r"'foreign' was not .*LENGTH_FACTOR"):
    common.worked_rationales("foreign", None, None)


def test_a_cache_has_no_worked_examples():
  config = make(1.25)
  source = dataclasses.replace(config.task.source, cache="a.npz")
  task = dataclasses.replace(config.task, source=source)
  with pytest.raises(UserError, match="LENGTH_FACTOR = None"):
    limit(dataclasses.replace(config, task=task))
