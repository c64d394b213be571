"""Runs on a checkpoint's tokenizer: BOS stays first, and caches are enough."""

import dataclasses
import json

import pytest

from cot_latent.em.estep import EStep
from cot_latent.errors import UserError
from cot_latent.training import bootstrap, loading
from tests.data import cache_test
from tests.models.hf import tokenizer_checkpoints as checkpoints
from tests.training import toy


def with_vocabulary(config, **settings):
  source = dataclasses.replace(config.task.source, **settings)
  return dataclasses.replace(
    config,
    task=dataclasses.replace(config.task, source=source),
    base=dataclasses.replace(config.base, source=source),
  )


def test_exemplars_are_put_after_bos():
  folder = str(checkpoints.folders()["llama_3"])
  config = with_vocabulary(
    toy.bootstrapped(toy.make_experiment("unused"), 1), vocabulary=folder
  )
  task, data = (getattr(toy.load(config), name) for name in ("task", "train"))
  encode = task.vocabulary.encode
  one = bootstrap.Exemplar(
    data.ids[3],
    *(data.tasks[3], data.questions[3], data.answers[3]),
    *("abc", encode("abc")),
  )
  before = [
    encode(f"{one.question}{hint}\n") for hint in ("?", f"? ({one.answer})")
  ]
  end = [*one.tokens, *encode("\n\n")]

  def check(found):
    for rows, longer, asked in (
      (data.prompts, found.prompts, before[0]),
      (data.guides, found.guides, before[1]),
    ):
      for row, got in zip(rows, longer, strict=True):
        bos, *rest = row[row != 0].tolist()
        assert bos == task.vocabulary.bos_id
        assert got[got != 0].tolist() == [bos, *asked, *end, *rest]

  check(bootstrap.put_before(task, data, [one], data))
  unaware = dataclasses.replace(data, bos_id=None)
  for own, others in ((unaware, data), (data, unaware)):
    with pytest.raises(AssertionError):
      check(bootstrap.put_before(task, own, [one], others))


@pytest.mark.slow
def test_a_short_run(tmp_path, monkeypatch):
  """With worked examples of its own, which are put after BOS."""
  folder = str(checkpoints.folders()["llama_3"])
  config = toy.make_experiment(tmp_path / "run", steps=2)
  config = with_vocabulary(toy.bootstrapped(config), vocabulary=folder)
  seen, start_memory = [], EStep.start_memory

  def spy(e_step, *arguments):
    seen.append((e_step.task, e_step.examples))
    return start_memory(e_step, *arguments)

  monkeypatch.setattr(EStep, "start_memory", spy)
  report = toy.run(config)
  assert report["status"] == "complete"
  ((task, data),) = seen
  assert report["data"]["vocabulary"] == task.vocabulary.name
  lines = (tmp_path / "run" / "exemplars.jsonl").read_text().splitlines()
  before = []
  for line in lines:
    one = json.loads(line)
    assert task.vocabulary.decode(one["tokens"]) == one["completion"]
    before += task.vocabulary.encode(f"{one['question']}?\n")
    before += [*one["tokens"], *task.separator.tolist()]
  assert len(lines) == 2
  for question, row in zip(data.questions, data.prompts, strict=True):
    assert row[row != 0].tolist() == [
      task.vocabulary.bos_id,
      *before,
      *task.vocabulary.encode(f"{question}?\n"),
    ]


def test_a_run_from_a_cache_sees_the_same(tmp_path):
  folder = str(checkpoints.folders()["gemma"])
  config = toy.make_experiment(tmp_path / "run", toy.CHAIN)
  config = with_vocabulary(config, vocabulary=folder)
  long = dataclasses.replace(config.task, prompt_length=99, max_length=99)
  config = dataclasses.replace(config, task=long)
  path = cache_test.store(toy.open_task(config.task.source), tmp_path / "a.npz")
  cached = with_vocabulary(config, vocabulary=None, cache=str(path))
  one, other = (
    loading.describe_data(c, loading.load_data(c)) for c in (config, cached)
  )
  assert one == other


def test_another_vocabulary_of_the_base_model_is_refused(tmp_path):
  folder = str(checkpoints.folders()["llama_3"])
  config = with_vocabulary(toy.make_experiment(tmp_path), vocabulary=folder)
  source = dataclasses.replace(config.task.source, bos=False)
  base = dataclasses.replace(config.base, source=source)
  with pytest.raises(UserError, match="different vocabularies"):
    toy.load(dataclasses.replace(config, base=base))
