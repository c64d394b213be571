"""Runs whose likelihood is the probability of the known answer."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cot_latent as cl
from cot_latent.em import likelihood, scored_step
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method, OuterLoops
from cot_latent.em.scored_step import ScoredEStep
from cot_latent.inference import estimators, rng, scored, scored_estimators
from cot_latent.models import decoder, language_model
from cot_latent.models.stops import Ending
from cot_latent.training import gradients, run, start, train
from tests.asserts import message_of
from tests.params import by_night
from tests.training import toy
from tests.training.kills import assert_same_run, run_or_be_killed

pytestmark = pytest.mark.usefixtures("compile_once")
# A completion of the toy is some letters: an "a" ends the rationale.
STATED = likelihood.answer_given_rationale(prefix="a", answer="b{answer}")
ISIR = Method(
  "isir",
  scored_estimators.isir(True),
  "guide",
  num_draws=2,
  num_scored=15,
  likelihood=STATED,
)
LATRO = Method(
  "latro", scored_estimators.latro(0.2), "empty", 2, likelihood=STATED
)


def of_method(method, folder):
  return toy.make_experiment(folder, method=method)


@pytest.fixture(scope="module", params=[ISIR, LATRO], ids=lambda m: m.name)
def whole(request, tmp_path_factory):
  """A run that nothing disturbs."""
  config = of_method(request.param, tmp_path_factory.mktemp("whole") / "run")
  return config, toy.run(config)


def test_the_report_tells_the_likelihood(whole):
  config, report = whole
  rows = [row for row in report["results"] if row["decoder"] == "greedy"]
  assert len(rows) == 4
  for row in rows:
    found = row["answer_likelihood"]
    low, high = found["log_likelihood"]["interval"]
    assert low <= found["log_likelihood"]["value"] <= high < 0
    assert found["num_samples"] == STATED.num_samples
  metrics = report["metrics"]
  assert all(row["draws/log_likelihood"] < 0 for row in metrics)
  assert (
    report["diagnostics"]["log_likelihood"]["last"]
    == (metrics[-1]["draws/log_likelihood"])
  )
  assert any(row["chain/accept_rate"] > 0 for row in metrics)
  assert "chains" not in report["diagnostics"]
  sampled = report["cost"]["sequences_sampled"]
  assert sampled == report["plan"]["sequences_sampled"]
  assert report["diagnostics"]["largest_log_prob_gap"] < 1e-3
  limit = config.method.max_scored(config.batch_size)
  assert max(row["num_scored"] for row in metrics) <= limit


@pytest.mark.parametrize(
  "place", [("after_step", 4), *by_night((("after_save", 2),))]
)
def test_a_killed_run_resumes_bit_for_bit(whole, place, tmp_path):
  config, report = whole
  resumed = dataclasses.replace(config, model_dir=str(tmp_path / "run"))
  assert run_or_be_killed(resumed, place) is None
  assert_same_run((resumed, toy.run(resumed)), (config, report))


# What it shares with other runs before the first step.


def shared_draws(config, code="this"):
  code = {"files": {"my_methods": code}, "packages": {}}
  return train._shared_draws(config, code)


def test_only_runs_whose_rationales_end_alike_share_draws(tmp_path):
  """Even from the same base model, questions and random keys."""

  def of(**changes):
    stated = dataclasses.replace(STATED, **changes)
    return dataclasses.replace(ISIR, likelihood=stated)

  bases = toy.make_experiment(tmp_path / "run", base_dir=str(tmp_path))
  methods = [bases.method, ISIR, of(prefix="b"), of(answer=" {answer}")]
  configs = [dataclasses.replace(bases, method=m) for m in methods]
  shared = [shared_draws(config) for config in configs]
  assert len({*shared}) == 4
  assert len({*shared, shared_draws(bases, "other")}) == 5
  again = dataclasses.replace(ISIR, name="alike", num_draws=3)
  assert shared_draws(dataclasses.replace(bases, method=again)) == shared[1]
  assert shared_draws(of_method(ISIR, tmp_path)) is None


def test_it_reads_no_memory_that_another_likelihood_began(whole, tmp_path):
  config, report = whole
  beside = dataclasses.replace(
    config, model_dir=str(tmp_path / "run"), base_dir=str(tmp_path / "bases")
  )
  of_verdicts = dataclasses.replace(
    toy.make_experiment(tmp_path / "first", steps=0), base_dir=beside.base_dir
  )
  assert toy.run(of_verdicts)["status"] == "complete"
  assert toy.run(beside)["digest"] == report["digest"]


def test_whatever_it_draws_is_seen_to_go_on(tmp_path, monkeypatch):
  seen = []

  class Noting:
    def __init__(self, name, total, longest, tells_end=True):
      self.told = name, total, longest, tells_end
      self.rows = 0

    def __call__(self, rows, *_):
      if rows == self.told[1] != self.rows:
        seen.append(self.told)
      self.rows = rows

  for module in (start, run):
    monkeypatch.setattr(module, "DrawingProgress", Noting)
  config = of_method(ISIR, tmp_path / "run")
  config = toy.bootstrapped(dataclasses.replace(config, steps=2))
  evaluation = dataclasses.replace(config.evaluation, period=1)
  toy.run(dataclasses.replace(config, evaluation=evaluation))
  drawn = [name for name, *_ in seen]
  first = drawn.index("memory")
  assert {*drawn[:first]} == {"bootstrap"}
  test, (length, votes) = toy.SIZES["test"], (8, config.evaluation.num_samples)
  greedy = "greedy", test, length
  others = [
    ("likelihood", test * STATED.num_samples, length),
    ("self-consistency", test * votes, length),
  ]
  ends = [(*one, True) for one in (greedy, *others)]
  between = [(*one, False) for one in (greedy, others[0])]
  assert seen[first:] == [
    ("memory", toy.SIZES["train"], length, True),
    *ends,
    *between,
    *ends,
  ]


# One step, against what is computed row by row.


class Step(NamedTuple):
  """The second step of a run of i-SIR: what it was given, and what it gave."""

  e_step: ScoredEStep
  params: Any
  index: np.ndarray
  before: Any
  after: Any
  rows: Any
  info: Any


@pytest.fixture(scope="module")
def step(tmp_path_factory):
  method = dataclasses.replace(ISIR, num_scored=None)
  folder = tmp_path_factory.mktemp("step") / "run"
  config = toy.make_experiment(folder, method=method, steps=2)
  take, seen = ScoredEStep.step, []

  def watched(self, params, state, index, *rest):
    given = jax.tree.map(np.array, (params, state))
    after, rows, info = take(self, params, state, index, *rest)
    kept = jax.tree.map(np.array, after)
    seen.append(Step(self, given[0], index, given[1], kept, rows, info))
    return after, rows, info

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ScoredEStep, "step", watched)
    toy.run(config)
  return seen[-1]


def slow_nats(e_step, params, rationale, question):
  """log p(z|x) and log p(y|x, z) of one rationale, by the tokens' texts."""
  vocabulary = e_step.task.vocabulary
  ids = [*rationale.tolist()]
  end = next(
    (
      place
      for place, one in enumerate(ids)
      if one == vocabulary.eos_id or vocabulary.decode([one]) == "a"
    ),
    len(ids) - 1,
  )
  ids = ids[: end + 1]
  answer = []
  if vocabulary.decode(ids[-1:]) == "a":
    text = f"b{e_step.examples.answers[question]}"
    answer = [*vocabulary.encode(text), vocabulary.eos_id]
  model = e_step.scorer.model
  prompt = e_step.examples.prompts[[question]]
  nats = model.log_prob(params, prompt, np.array([ids + answer]))[0]
  return float(nats[: len(ids)].sum()), (
    float(nats[len(ids) :].sum()) if answer else -np.inf
  )


def test_weights_are_those_of_the_present_likelihoods(step):
  """The memory's too, whose likelihood was another one step before."""
  e_step, rows = step.e_step, step.rows
  num_memories = num_draws = 0
  for m, question in enumerate(step.index):
    prompt = e_step.examples.prompts[question]
    own = [
      s
      for s in np.flatnonzero(rows.is_weighted())
      if (rows.prompts[s] == prompt).all()
    ]
    log_l = [
      slow_nats(e_step, step.params, rows.targets[s], question)[1] for s in own
    ]
    total = np.logaddexp.reduce(log_l)
    for s, nats in zip(own, log_l, strict=True):
      if not np.isfinite(nats):
        continue
      length = int((rows.targets[s] != 0).sum())
      share = rows.token_weights[s, length - 1] * step.info.num_valid
      assert share == pytest.approx(np.exp(nats - total), rel=1e-4)
      if rows.memory_of[s] == m:
        memory = step.before.tokens[question]
        _, of_memory = slow_nats(e_step, step.params, memory, question)
        assert of_memory == pytest.approx(nats, abs=1e-4)
      num_memories += rows.memory_of[s] == m
      num_draws += rows.memory_of[s] != m
  assert num_memories
  assert num_draws


def test_the_gradient_is_that_of_the_estimate(step):
  rows, model = step.rows, step.e_step.scorer.model

  def estimate(params):
    nats = model.log_prob(params, rows.prompts, rows.targets)
    return -(rows.token_weights * nats).sum()

  expected = jax.grad(estimate)(step.params)
  shared = gradients.begin(model, step.params, None, np.zeros(0, np.int32))
  sums, log_prob = gradients.of_part(
    *(model, step.params, None, shared),
    *(jnp.asarray(rows.prompts), jnp.asarray(rows.targets)),
    jnp.asarray(rows.token_weights),
  )
  for one, other in zip(
    jax.tree.leaves(sums.gradient), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-5)
  # What sampler and scorer say of the weighted tokens is the same.
  assert rows.log_prob_gap(np.asarray(log_prob)) < 1e-3


def test_the_memory_is_a_candidate_and_moves_by_its_number(step):
  e_step, index = step.e_step, step.index
  uniform = rng.row_uniform(
    rng.purpose_key(e_step.seed, scored_step.MOVE, 2),
    e_step.examples.words[index],
  )
  checked = e_step.drawer.draw_and_check(
    *(step.params, np.repeat(index, 2), np.tile(np.arange(2), len(index))),
    rng.purpose_key(e_step.seed, "draw", 2),
  )
  draws = checked.tokens.reshape(len(index), 2, -1)
  of_draws = []
  for m, question in enumerate(index):
    candidates = [step.before.tokens[question], *draws[m]]
    log_l = [slow_nats(e_step, step.params, z, question)[1] for z in candidates]
    of_draws.append(max(np.logaddexp(*log_l[1:]) - np.log(2), -30))
    moves = scored.importance(jnp.array([log_l]))
    (taken,) = scored.pick(moves, uniform[m : m + 1]).tolist()
    np.testing.assert_array_equal(
      step.after.tokens[question], candidates[taken]
    )
    is_valid = bool(step.after.is_correct[question])
    assert is_valid == bool(np.isfinite(log_l[taken]))
  # What is reported is of the draws alone, of which the memory is none.
  mean = np.mean(of_draws)
  assert step.info.log_likelihood == pytest.approx(mean, abs=1e-4)


# A program's own questions and model; no checker.


def test_a_program_needs_questions_and_answers_alone(tmp_path):
  task = cl.Task.from_rows(["p", "q"] * 4, ["1", "2"] * 4)
  size = task.vocabulary.size
  model = language_model.from_config(
    decoder.DecoderConfig(1, 16, 2, 8, 32),
    size,
    Ending((task.vocabulary.eos_id,)),
    8,
  )
  method = Method(
    "mh", scored_estimators.metropolis_hastings(), "prior", likelihood=STATED
  )
  report = cl.train(
    task,
    model=model,
    params=model.init(jax.random.key(0)),
    steps=1,
    max_length=8,
    method=method,
    batch_size=4,
    model_dir=str(tmp_path / "run"),
  )
  assert report["results"][-1]["answer_likelihood"]["num_samples"] == 4

  class Fixed:
    def sample(self, *arguments, **settings):
      raise NotImplementedError

    def log_prob(self, *arguments):
      raise NotImplementedError

  text = message_of(
    lambda: cl.train(
      task,
      model=Fixed(),
      params={"w": jnp.zeros(1)},
      steps=1,
      max_length=8,
      method=method,
      batch_size=4,
      model_dir=str(tmp_path / "other"),
    )
  )
  assert "with_ending" in text


# What does not fit together.


def test_an_e_step_of_verdicts_is_refused(step):
  e_step = step.e_step
  text = message_of(
    lambda: EStep(e_step.sampler, e_step.task, e_step.examples, ISIR, 0, 8)
  )
  assert "ScoredEStep" in text


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"estimator": estimators.basic()}, "needs a checker's verdicts"),
    ({"likelihood": likelihood.indicator()}, "is indicator"),
    ({"loops": OuterLoops("sample"), "memory_start": "empty"}, "outer loops"),
    ({"estimator": scored_estimators.jepo(), "num_draws": 1}, "several draws"),
  ],
)
def test_misfits_are_named(settings, words):
  assert words in message_of(lambda: dataclasses.replace(ISIR, **settings))
