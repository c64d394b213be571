"""Fitting to what people wrote: rationales, or answers alone."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cot_latent.data import prompts
from cot_latent.em import outer_loops
from cot_latent.em.estep import EStep
from cot_latent.em.method import OuterLoops
from cot_latent.errors import UserError
from cot_latent.inference import rng
from tests.training import toy
from tests.training.kills import last_state
from tests.training.watching import (
  N,
  base_params,
  empty_pool,
  looped,
  quick,
  watch,
)

pytestmark = pytest.mark.usefixtures("compile_once")


# Rationales that people wrote -----------------------------------------------


@pytest.fixture(scope="module")
def supervised(folder):
  return watch(quick(folder / "human", looped(OuterLoops("human")), steps=3))


def check_supervised(watched, examples):
  """Checks that a step fits the minibatch's targets, each with weight 1/M."""
  config = watched.config
  for number, step in enumerate(watched.steps):
    index = rng.minibatch(
      config.seed, "order", number, len(examples), config.batch_size
    )
    np.testing.assert_array_equal(step.index, index)
    rows = step.rows
    np.testing.assert_array_equal(rows.prompts, examples.prompts[index])
    np.testing.assert_array_equal(rows.targets, examples.targets[index])
    assert rows.weights.tolist() == [1 / config.batch_size] * config.batch_size


def test_supervised_steps_fit_the_data_s_targets(supervised):
  data = toy.load(supervised.config)
  assert data.train.targets.shape == (N, toy.LENGTH[toy.PARITY])
  check_supervised(supervised, data.train)
  # The broken twins: the hinted prompt, another's rationale.
  for twin in (
    dataclasses.replace(data.train, prompts=data.train.guides),
    dataclasses.replace(data.train, targets=data.train.targets[::-1]),
  ):
    with pytest.raises(AssertionError):
      check_supervised(supervised, twin)


def test_supervised_runs_draw_nothing(supervised):
  report = supervised.report
  assert all(step.drawn == [] for step in supervised.steps)
  assert report["plan"]["sampled_by_phase"]["steps"] == 0
  evaluated = 2 * toy.SIZES["test"]
  assert report["cost"]["sequences_sampled"] == evaluated
  assert {row["chain/accept_rate"] for row in report["metrics"]} == {1}
  assert {row["num_scored"] for row in report["metrics"]} == {8}
  assert not report["suspect"]
  # Nothing begins from the base model again, so that none is kept.
  assert last_state(supervised.config).base_params is None


def check_first_step(watched, score):
  """Compares the first step with Adam's on the mean of `score` over rows."""
  config = watched.config
  params, step = base_params(config), watched.steps[0]
  examples = toy.load(config).train
  gradients = [
    score(params, examples.prompts[i], examples.targets[i]) for i in step.index
  ]
  mean = jax.tree.map(lambda *parts: sum(parts) / len(parts), *gradients)
  norm = float(optax.tree.norm(mean))
  assert step.metrics["grad/norm"] == pytest.approx(norm, rel=1e-4)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
  updates, _ = optimizer.update(
    jax.tree.map(jnp.negative, mean), optimizer.init(params), params
  )
  moved = optax.apply_updates(params, updates)
  for got, expected, was in zip(
    *map(jax.tree.leaves, (step.after.params, moved, params)), strict=True
  ):
    # Adam's first step is nearly the gradient's sign, where it is not tiny.
    np.testing.assert_allclose(got - was, expected - was, atol=2e-4)


def test_the_supervised_gradient_is_that_of_the_mean_log_likelihood(supervised):
  model = toy.make_model(supervised.config)

  @jax.jit
  @jax.grad
  def score(params, prompt, target):
    return model.log_prob(params, prompt[None], target[None]).sum()

  def per_token(params, prompt, target):
    return jax.tree.map(
      lambda leaf: leaf / (target != 0).sum(), score(params, prompt, target)
    )

  check_first_step(supervised, score)
  with pytest.raises(AssertionError):
    check_first_step(supervised, per_token)


def test_the_supervised_loss_is_in_nats_a_sequence(supervised):
  config, step = supervised.config, supervised.steps[0]
  data = toy.load(config).train
  log_prob = toy.make_model(config).log_prob(
    base_params(config), data.prompts[step.index], data.targets[step.index]
  )
  expected = -float(log_prob.sum(axis=1).mean())
  assert step.metrics["grad/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_task_without_rationales_is_refused():
  method = dataclasses.replace(
    looped(OuterLoops("human")), name="cot_supervised"
  )
  config = toy.make_experiment("x", toy.UNEXPLAINED, method=method)
  with pytest.raises(UserError) as caught:
    toy.load(config)
  assert str(caught.value) == (
    f"task {toy.UNEXPLAINED!r} has no rationales in split 'train', which "
    "method 'cot_supervised' learns from"
  )
  # Other methods need none, and answers are always there.
  star_like = looped(OuterLoops("greedy"))
  toy.load(toy.make_experiment("x", toy.UNEXPLAINED, method=star_like))
  toy.load(asked_directly(config))


def limited(over_long, max_length=4):
  config = toy.make_experiment("x", method=looped(OuterLoops("human")))
  task = dataclasses.replace(
    config.task, max_length=max_length, over_long=over_long
  )
  return dataclasses.replace(config, task=task)


def test_over_long_rationales_follow_over_long():
  whole = toy.load(limited("error", max_length=8))
  is_long = (whole.train.targets != 0).sum(axis=1) > 4
  assert 0 < is_long.sum() < N - 8
  with pytest.raises(UserError, match="OVER_LONG = 'leave_out' or 'truncate'"):
    toy.load(limited("error"))
  left = toy.load(limited("leave_out")).train
  assert (len(left), left.num_left_out) == (N - is_long.sum(), is_long.sum())
  assert left.ids == [
    name
    for name, over in zip(whole.train.ids, is_long, strict=True)
    if not over
  ]
  cut = toy.load(limited("truncate")).train
  assert (len(cut), cut.num_truncated) == (N, is_long.sum())
  np.testing.assert_array_equal(cut.targets, whole.train.targets[:, :4])
  # Methods that draw do not look at them.
  config = dataclasses.replace(
    limited("error"), method=looped(OuterLoops("greedy"))
  )
  assert len(toy.load(config).train) == N


def test_a_truncated_rationale_is_incorrect_and_counted():
  """Even where its answer is still there, as here the parity may be."""
  config = limited("truncate")
  data = toy.load(config)
  collected = outer_loops.given(data.task, data.train)
  e_step = EStep(
    *(None, data.task, data.train, config.method, 0, config.task.max_length)
  )
  pool = outer_loops.next_pool(e_step, empty_pool(), collected, 0, 5)
  is_whole = (data.train.targets == data.task.vocabulary.eos_id).any(axis=1)
  np.testing.assert_array_equal(pool.is_correct[:, 0], is_whole)
  share = 1 - is_whole.mean()
  assert float(pool.capped_fraction) == pytest.approx(share)
  assert float(pool.unparseable_fraction) == pytest.approx(share)
  texts = data.task.vocabulary.decode_rows(data.train.targets)
  by_text = [
    data.task.extract(text) == answer
    for text, answer in zip(texts, data.train.answers, strict=True)
  ]
  assert by_text != is_whole.tolist()  # what the text alone would say


# Answers without rationales -------------------------------------------------


def asked_directly(config):
  """The same run, with direct prompts for the method alone."""
  asked = dataclasses.replace(prompts.COMPACT, is_direct=True)
  source = dataclasses.replace(config.task.source, prompts=asked)
  task = dataclasses.replace(config.task, source=source)
  return dataclasses.replace(config, task=task)


@pytest.fixture(scope="module")
def direct(folder):
  config = quick(folder / "direct", looped(OuterLoops("human")), steps=60)
  chain = toy.make_experiment("x", toy.CHAIN)
  config = dataclasses.replace(config, task=chain.task, base=chain.base)
  return watch(asked_directly(config))


def check_bare_answers(watched, extract):
  """Checks that what is fitted are answers, and that the outputs are too."""
  config = watched.config
  data = toy.load(config)
  texts = data.task.vocabulary.decode_rows(data.train.targets)
  assert texts == data.train.answers
  check_supervised(watched, data.train)
  path = (
    pathlib.Path(config.model_dir)
    / f"outputs/{config.steps:06}-test-greedy.jsonl"
  )
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert len(lines) == toy.SIZES["test"]
  for line in lines:
    said = extract(line["completion"]) if line["ended"] else None
    assert line["extracted"] == said
    assert line["is_correct"] == (said == line["target"])
  last = watched.report["results"][-1]
  assert last["correct"] == sum(line["is_correct"] for line in lines)
  # A model that has learnt the form answers with a digit and nothing else.
  assert sum(line["extracted"] is not None for line in lines) > 5


def test_direct_prompts_fit_bare_answers_and_score_them(direct):
  check_bare_answers(direct, str.strip)
  with pytest.raises(AssertionError):  # the rule of rationales
    check_bare_answers(
      direct, toy.load(toy.make_experiment("x", toy.CHAIN)).task.extract
    )
