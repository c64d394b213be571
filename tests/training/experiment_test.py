"""An experiment checks itself, and is named after what it computes."""

import dataclasses

import pytest

from cot_latent.data import prompts
from cot_latent.data.source import Source
from cot_latent.em.method import Method, OuterLoops
from cot_latent.errors import UserError
from cot_latent.inference import estimators
from cot_latent.training import experiment
from cot_latent.training.tuning import SoftPrompt
from tests.training import toy


def _for_one_draw(taken):
  if taken.draw_is_correct.shape[1] != 1:
    raise ValueError("it is for one draw")
  return estimators.basic()(taken)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(estimator=_for_one_draw, num_draws=2), "for one draw"),
    (dict(estimator=estimators.basic), r"write it with \(\)"),
    (dict(estimator=lambda taken: taken.is_correct), "must return weights"),
    (dict(estimator=lambda: None), "Method.estimator: "),
    (dict(num_draws=0), "num_draws = 0 must be above 0"),
    (dict(num_scored=0), "num_scored = 0 must be above 0"),
    (dict(always_subsample=True), "always_subsample needs num_scored"),
    (dict(memory_start="hint"), "'guide', 'prior', 'empty'"),
  ],
)
def test_a_method_that_cannot_work_is_refused(changes, message):
  settings = dict(name="x", estimator=estimators.basic()) | changes
  with pytest.raises(UserError, match=message) as caught:
    Method(**settings)
  assert "\n" not in str(caught.value)


def test_a_method_may_have_several_draws():
  assert Method("x", _for_one_draw).num_draws == 1
  method = Method("x", estimators.basic(), num_draws=3)
  assert method.max_scored(4) == 16
  assert dataclasses.replace(method, num_scored=5).max_scored(4) == 5


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("warmup_steps", -1, "must be at least 0"),
    ("decay_steps", 0, "must be above 0"),
    ("clip_norm", -1.0, "must be above 0"),
    ("final_ratio", 1.5, "must be between 0 and 1"),
    ("b1", 2.0, "must be between 0 and 1"),
    ("b1", 1.0, "must be below 1"),
    ("b2", 1.0, "must be below 1"),
    ("eps", -1.0, "must be above 0"),
  ],
)
def test_an_optimizer_that_cannot_work_is_refused(name, value, message):
  with pytest.raises(UserError, match=f"OptimizerConfig.{name} = .*{message}"):
    experiment.OptimizerConfig(1e-3, **{name: value})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seed": -1}, "seed = -1 must be between 0 and 4294967295"),
    ({"seed": 2**32}, "must be between"),
    ({"steps": -1}, "steps = -1 must be at least 0"),
    ({"model_dir": ""}, "model_dir is empty"),
    ({"model_dir": "gs://b/x"}, "model_dir = 'gs://b/x' is a bucket's address"),
    ({"base_dir": "gs://b/x"}, "base_dir = 'gs://b/x' is a bucket's address"),
    ({"base_dir": ""}, "base_dir is empty"),
  ],
)
def test_an_experiment_that_cannot_run_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    toy.make_experiment(**{"model_dir": "x"} | changes)


def test_the_id_tells_every_setting_apart_but_the_folder():
  config = toy.make_experiment("x")

  def changed(**changes):
    return dataclasses.replace(config, **changes)

  def method(**changes):
    return changed(method=dataclasses.replace(config.method, **changes))

  corrected = estimators.control_variate(correct_first_acceptance=True)
  others = [
    changed(seed=1),
    changed(steps=8),
    method(estimator=corrected),
    method(estimator=estimators.basic()),
    method(num_scored=3),
    method(memory_start="empty"),
    method(memory_start="empty", loops=OuterLoops("greedy")),
    method(memory_start="empty", loops=OuterLoops("sample")),
  ]

  def source(part, **changes):
    own = getattr(config, part)
    moved = dataclasses.replace(own.source, **changes)
    return changed(**{part: dataclasses.replace(own, source=moved)})

  others += [
    source("task", prompts=prompts.PAPER),
    source("task", prompts=dataclasses.replace(prompts.PAPER, exemplars="x")),
    source("task", vocabulary="v.model"),
    source("task", module="mine"),
    source("base", prompts=prompts.PAPER),
    source("base", task=toy.CHAIN),
    changed(task=dataclasses.replace(config.task, over_long="truncate")),
    changed(base=dataclasses.replace(config.base, over_long="truncate")),
    changed(base=dataclasses.replace(config.base, split="train")),
  ]
  ids = [experiment.run_id(run) for run in [config, *others]]
  assert len(set(ids)) == len(ids)
  same = [config, changed(model_dir=None), method(estimator=_again())]
  same += [
    source(part, **{name: "elsewhere"})
    for part in ("task", "base")
    for name in ("data_dir", "cache")
  ]
  same += [changed(checkpoint_period=9), changed(base_dir="elsewhere")]
  assert len({experiment.run_id(run) for run in same}) == 1
  # Nor does it matter where a soft prompt's task is stored.
  asked = Source(toy.CHAIN, vocabulary="a/v.model")
  soft = [
    changed(tuning=SoftPrompt(source=source))
    for source in (
      asked,
      dataclasses.replace(asked, data_dir="elsewhere", cache="elsewhere"),
      dataclasses.replace(asked, vocabulary="b/v.model"),
      dataclasses.replace(asked, task=toy.PARITY),
    )
  ]
  first, *moved, another = map(experiment.run_id, soft)
  assert {*moved} == {first} != {another}


def _again():
  """Built again, it is another function with the same settings."""
  return estimators.control_variate()
