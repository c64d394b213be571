"""Only the trained parameters move, and they begin where they should."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cot_latent.data import prompts
from cot_latent.data.source import Source
from cot_latent.em import outer_loops, training_data
from cot_latent.em.method import Method, OuterLoops
from cot_latent.errors import UserError
from cot_latent.inference import estimators
from cot_latent.models import decoder, language_model
from cot_latent.models.api import Draws
from cot_latent.models.lora import TARGETS, Lora, merged
from cot_latent.models.network import SOFT_PROMPT
from cot_latent.training import bootstrap, mstep, setup, tuning
from cot_latent.training.tuning import SoftPrompt
from tests.asserts import assert_trees_equal
from tests.models import common
from tests.params import by_night
from tests.training import toy
from tests.training.kills import (
  assert_same_run,
  last_state,
  report_of,
  run_until,
)
from tests.training.watching import looped

pytestmark = pytest.mark.usefixtures("compile_once")

LORA = Lora(2, targets=("query", "value", "down"))
SOFT = SoftPrompt(length=4)


# What a soft prompt and an update compute.


@functools.cache
def tokens():
  return np.random.default_rng(3).integers(2, common.VOCABULARY, 5, np.int32)


def begin(part, own_tokens=None, seed=0):
  model = language_model.from_config(
    *(common.CONFIG, common.VOCABULARY, common.EOS_ID, common.LENGTH),
    lora=part if isinstance(part, Lora) else None,
  )
  return model, *tuning.begin(
    part, common.params(), model, own_tokens, jax.random.key(seed)
  )


def check_text(own_tokens):
  """Checks a soft prompt against the text before every prompt."""
  model, trained, frozen = begin(SoftPrompt(text="x"), own_tokens)
  params = tuning.merge(trained, frozen)
  targets = common.random_targets()
  scores = model.log_prob(params, common.prompts(), targets)
  plain = common.compiled()
  shared = plain.encode_prefix(common.params(), tokens())
  expected = plain.log_prob(common.params(), common.prompts(), targets, shared)
  np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
  draws = model.sample(params, common.prompts(), common.keys())
  scores = model.log_prob(params, common.prompts(), draws.tokens)
  np.testing.assert_allclose(draws.log_prob, scores, rtol=0, atol=1e-4)


def test_a_soft_prompt_of_a_text_counts_as_the_text():
  check_text(tokens())
  with pytest.raises(AssertionError):
    check_text(tokens()[::-1])


def test_an_update_begins_as_none_and_is_merged():
  model, trained, frozen = begin(LORA)
  targets = common.random_targets()

  def score(model, params):
    return model.log_prob(params, common.prompts(), targets)

  plain = score(common.compiled(), common.params())
  np.testing.assert_array_equal(
    score(model, tuning.merge(trained, frozen)), plain
  )
  moved = jax.tree.map(lambda x: x + 0.1, trained)
  params = tuning.merge(moved, frozen)
  assert np.abs(score(model, params) - plain).max() > 1e-2
  np.testing.assert_allclose(
    score(common.compiled(), merged(params, LORA)),
    score(model, params),
    rtol=0,
    atol=1e-4,
  )
  names = {
    path[1] for path in traverse_util.flatten_dict(trained) if len(path) > 2
  }
  assert names == {*LORA.targets} < {*TARGETS}


# What moves, and what it costs.


def step(part, rows_at_once=None):
  model, trained, frozen = begin(part, tokens())
  # An update begins as zero, and one of its factors would not move at first.
  trained = jax.tree.map(lambda x: x + 0.01, trained)
  optimizer = mstep.build_optimizer(toy.make_experiment("x").optimizer)
  opt_state = optimizer.init(trained)
  weights = np.random.default_rng(1).normal(size=common.ROWS)
  build = getattr(mstep.build_step, "__wrapped__", mstep.build_step)
  updated = build(model, optimizer, rows_at_once)(
    *(jax.tree.map(jnp.copy, trained), opt_state, frozen, 0.1),
    *(common.prompts(), common.random_targets(), np.float32(weights)),
  )
  return trained, frozen, updated


@pytest.mark.parametrize(
  "part",
  [pytest.param(None, marks=pytest.mark.slow), LORA, SOFT],
  ids=str,
)
def test_a_step_moves_what_is_trained_and_keeps_no_more(part):
  trained, frozen, updated = step(part)
  assert jax.tree.structure(updated.params) == jax.tree.structure(trained)
  for before, after in zip(
    jax.tree.leaves(trained), jax.tree.leaves(updated.params), strict=True
  ):
    assert (np.asarray(before) != np.asarray(after)).any()
  size = sum(x.size for x in jax.tree.leaves(trained))
  kept = sum(x.size for x in jax.tree.leaves(updated.opt_state))
  assert 2 * size <= kept <= 2 * size + 4  # two moments, and counts
  if part is None:
    assert frozen is None
  else:
    assert_trees_equal(frozen, common.params())
    assert size < sum(x.size for x in jax.tree.leaves(frozen)) / 5


@pytest.mark.parametrize(
  "part",
  [
    pytest.param(None, marks=pytest.mark.slow),
    LORA,
    pytest.param(SOFT, marks=pytest.mark.slow),
  ],
  ids=str,
)
@pytest.mark.parametrize(
  "rows",
  [
    pytest.param(1, marks=pytest.mark.slow),
    5,
    pytest.param(14, marks=pytest.mark.slow),
    pytest.param(100, marks=pytest.mark.slow),
  ],
)
def test_rows_by_parts_give_the_same_step(part, rows):
  _, _, whole = step(part)
  _, _, parts = step(part, rows)
  np.testing.assert_allclose(parts.norm, whole.norm, rtol=1e-4)
  np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-4)
  np.testing.assert_allclose(
    parts.log_prob.fetch(), whole.log_prob.fetch(), atol=1e-4
  )


# Runs.


@pytest.mark.parametrize(
  "part",
  by_night(LORA, SOFT),
  ids=["lora", "soft"],
)
def test_a_run_trains_a_part_alone(tmp_path, part):
  config = toy.make_experiment(tmp_path / "run", tuning=part)
  report = toy.run(config)
  state = last_state(config)
  flat = traverse_util.flatten_dict(state.params)
  if part is SOFT:
    assert {*flat} == {(SOFT_PROMPT,)}
    (path,) = (tmp_path / "run/outputs").glob("*-soft_prompt.npy")
    stored = tuning.read_soft_prompt(path)
    np.testing.assert_array_equal(stored, flat[SOFT_PROMPT,])
    assert f"outputs/{path.name}" in {p["path"] for p in report["parts"]}
    # From where another run continues.
    again = SoftPrompt(path=str(path))
    table = np.zeros((9, stored.shape[1]), np.float32)
    made = tuning.make_soft_prompt(again, table, None, jax.random.key(0))
    np.testing.assert_array_equal(made, stored)
  else:
    assert {path[-1] for path in flat} == {"lora_down", "lora_up"}
  assert report["status"] in ("complete", "suspect")
  gaps = [row["sampler/log_prob_gap"] for row in report["metrics"]]
  assert max(gap for gap in gaps if gap is not None) < 1e-4
  again = dataclasses.replace(config, model_dir=str(tmp_path / "again"))
  assert toy.run(again)["digest"] == report["digest"]


@pytest.mark.slow
def test_a_run_that_is_killed_ends_the_same(tmp_path):
  config = toy.make_experiment(tmp_path / "whole", tuning=LORA)
  whole = config, toy.run(config)
  killed = dataclasses.replace(config, model_dir=str(tmp_path / "killed"))
  run_until(killed, ("after_save", 3))
  assert_same_run(whole, (killed, toy.run(killed)))


@pytest.mark.slow
def test_another_base_model_is_refused(tmp_path):
  config = toy.make_experiment(tmp_path / "run", tuning=LORA)
  run_until(config, ("after_save", 3))
  (path,) = (tmp_path / "run/base").glob("*.npz")
  with np.load(path) as stored:
    arrays = dict(stored)
  name = next(iter(arrays))
  arrays[name] = arrays[name] + 1
  with path.open("wb") as file:
    np.savez(file, **arrays)
  with pytest.raises(UserError, match="the base model is not the one"):
    toy.run(config)
  assert report_of(config)["status"] != "complete"


# Worked examples.


def worked(tmp_path):
  """Prompts with worked examples of a file before each question."""
  path = tmp_path / "exemplars.jsonl"
  rows = [
    {"question": "b7", "answer": "1", "completion": "aba"},
    {"question": "b12", "answer": "0", "completion": "ab"},
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return dataclasses.replace(prompts.COMPACT, exemplars=str(path))


@pytest.mark.slow
def test_a_soft_prompt_of_worked_examples_answers_as_they_do(tmp_path):
  """Before the first step, that is, which is the only one here."""
  asked = worked(tmp_path)
  plain = toy.make_experiment(tmp_path / "plain", steps=0)
  few_shot = dataclasses.replace(
    plain,
    model_dir=str(tmp_path / "few_shot"),
    task=dataclasses.replace(
      plain.task,
      source=dataclasses.replace(plain.task.source, prompts=asked),
      prompt_length=96,
    ),
  )
  part = SoftPrompt(source=few_shot.task.source)
  soft = dataclasses.replace(
    plain, tuning=part, model_dir=str(tmp_path / "soft")
  )
  expected, actual, without = (
    outputs(config) for config in (few_shot, soft, plain)
  )
  assert actual == expected
  assert actual != without
  data = toy.prepare(soft).data
  assert len(data.soft_tokens) == len("b7?\naba\n\nb12?\nab\n\n")
  # And the memory begins as theirs: the untuned model draws, and sees hints.
  expected, actual, without = map(memory_of, (few_shot, soft, plain))
  assert_trees_equal(actual, expected)
  assert (actual["tokens"] != without["tokens"]).any()


def memory_of(config):
  (path,) = pathlib.Path(config.model_dir, "outputs").glob("*-memory.npz")
  with np.load(path) as stored:
    return dict(stored)


def texts_of(data, rows):
  return [data.task.vocabulary.decode(row[row != 0].tolist()) for row in rows]


def test_hinted_questions_have_hinted_examples_before_them(tmp_path):
  part = SoftPrompt(source=Source(toy.PARITY, prompts=worked(tmp_path)))
  config = toy.make_experiment(tmp_path / "run", tuning=part)
  short = dataclasses.replace(
    config.task, prompt_length=8, over_long="leave_out"
  )
  for settings, num in ((config.task, toy.SIZES["train"]), (short, 10)):
    data = toy.load(dataclasses.replace(config, task=settings))
    train = data.train
    assert len(train) == num  # "t10? (0)\n" has nine letters
    assert texts_of(data, data.hinted) == [
      f"b7? (1)\naba\n\nb12? (0)\nab\n\n{question}? ({answer})\n"
      for question, answer in zip(train.questions, train.answers, strict=True)
    ]
  # Of a text nothing is known that could be hinted.
  given = dataclasses.replace(config, tuning=SoftPrompt(text="ab"))
  assert toy.load(given).hinted is None


def test_examples_that_were_drawn_are_hinted_too(tmp_path):
  data = toy.load(bootstrapped(tmp_path / "run"))
  assert data.hinted is None
  train = data.train
  exemplars = [
    bootstrap.Exemplar(
      *(train.ids[i], train.tasks[i], train.questions[i], train.answers[i]),
      *("ab", data.task.vocabulary.encode("ab")),
    )
    for i in (3, 5)
  ]
  before = "".join(f"{e.question}? ({e.answer})\nab\n\n" for e in exemplars)
  assert texts_of(data, bootstrap.use(data, exemplars).hinted) == [
    f"{before}{question}? ({answer})\n"
    for question, answer in zip(train.questions, train.answers, strict=True)
  ]


@pytest.mark.parametrize("hints", ["memory", "star"])
def test_the_untuned_model_draws_what_is_hinted(tmp_path, hints):
  part = SoftPrompt(source=Source(toy.PARITY, prompts=worked(tmp_path)))
  method = Method("trice", estimators.basic())
  if hints == "star":
    method = looped(OuterLoops("greedy", hint_on_failure=True))
  config = toy.make_experiment(tmp_path / "run", tuning=part, method=method)
  data, seen = toy.load(config), []

  class Silent:
    def sample(self, params, prompts, *_, **settings):
      del settings
      seen.append((params, np.asarray(prompts)))
      size = len(prompts)
      return Draws(np.zeros((size, 8), np.int32), np.zeros(size, bool))

  made = setup.build_setup(config, tmp_path, data.task).e_step(data)
  e_step = dataclasses.replace(made, sampler=Silent())
  params = {SOFT_PROMPT: "tuned", "embed": "frozen"}
  if hints == "star":
    outer_loops.collect(e_step, params, 0)
    assert seen[0][0] == params
    np.testing.assert_array_equal(seen.pop(0)[1], data.train.prompts)
  else:
    e_step.start_memory(params)
  ((drawn_by, prompts),) = seen
  assert drawn_by == {"embed": "frozen"}
  np.testing.assert_array_equal(prompts, data.hinted)


def outputs(config):
  """What a run without steps writes for each question."""
  assert toy.run(config)["status"] in ("complete", "suspect")
  folder = pathlib.Path(config.model_dir) / "outputs"
  (path,) = folder.glob("*-greedy.jsonl")
  return path.read_text()


def bootstrapped(model_dir, **changes):
  asked = dataclasses.replace(
    prompts.COMPACT, exemplars="bootstrapped", num_exemplars=2
  )
  part = SoftPrompt(source=Source(toy.PARITY, prompts=asked))
  return toy.make_experiment(model_dir, tuning=part, **changes)


@pytest.mark.slow
def test_a_soft_prompt_of_drawn_examples_survives(tmp_path):
  whole = bootstrapped(tmp_path / "whole")
  report = toy.run(whole)
  killed = bootstrapped(tmp_path / "killed")
  run_until(killed, ("after_save", 3))
  assert_same_run((whole, report), (killed, toy.run(killed)))
  lines = (tmp_path / "whole/exemplars.jsonl").read_text().splitlines()
  rows = list(map(json.loads, lines))
  text = "".join(f"{r['question']}?\n{r['completion']}\n\n" for r in rows)
  assert len(last_state(whole).params[SOFT_PROMPT]) == len(text)
  # It is what stands before the questions, and no example does so too.
  prepared = toy.prepare(whole)
  longest = report["data"]["splits"]["train"]["longest_prompt"]
  assert longest == max(map(len, prepared.data.task.read("train").prompts))


def test_examples_are_asked_for_once(tmp_path):
  config = bootstrapped(tmp_path / "run")
  both = dataclasses.replace(
    config,
    task=dataclasses.replace(
      config.task, source=config.tuning.source, prompt_length=96
    ),
  )
  with pytest.raises(UserError, match="both use them"):
    toy.prepare(both)


BOS = 9


@pytest.mark.parametrize(
  ("longer", "rows", "expected"),
  [
    ([[3, 4, 5], [3, 4, 6]], [[5], [6]], [3, 4]),
    # A question may begin as a worked example does.
    ([[5, 4, 5, 7], [5, 4, 5, 8]], [[5, 7], [5, 8]], [5, 4]),
    ([[BOS, 3, 5], [BOS, 3, 6]], [[BOS, 5], [BOS, 6]], [3]),
    ([[BOS, 3, 5], [BOS, 3, 6]], [[5], [6]], [BOS, 3]),
    ([[3, 5], [4, 6]], [[5], [6]], None),  # others each
    ([[3, 5], [3, 7]], [[5], [6]], None),  # other questions
    ([[3, 5], [3, 6], [3, 7]], [[5], [6]], None),  # more questions
    ([[3, 5]], [[5], [6]], None),  # fewer
    ([[5], [6]], [[5], [6]], None),  # no longer
    ([[5], [6]], [[3, 5], [3, 6]], None),  # shorter
  ],
)
def test_what_prompts_are_longer_by(longer, rows, expected):
  arrays = [[np.array(row, np.int32) for row in x] for x in (longer, rows)]
  if expected is None:
    with pytest.raises(UserError, match="must be the task's own"):
      training_data.common_beginning(*arrays, BOS)
  else:
    assert training_data.common_beginning(*arrays, BOS).tolist() == expected


# What is refused.


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({}, "needs a length"),
    ({"length": 0}, "length = 0"),
    ({"text": "x", "path": "y"}, "give one of them"),
  ],
)
def test_soft_prompts_that_say_too_little_or_too_much(fields, said):
  with pytest.raises(UserError, match=said):
    SoftPrompt(**fields)


# It has no number.
TERABYTES = (
  b"\x93NUMPY\x01\x00\x76\x00"
  + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999), }"
).ljust(127) + b"\n"


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (None, "there is no file"),
    (b"", "not a file of numpy.save"),
    (b"junk" * 9, "not a file of numpy.save"),
    (TERABYTES, "claims to be float32"),
    (np.zeros(3), "has no"),
    (np.zeros((2, 3), int), "has no"),
    (np.zeros((0, 3)), "is empty"),
    (np.full((2, 3), np.nan), "is empty or not finite"),
    (np.zeros((2, 3)), "of width 3, and the model's is 4"),
  ],
)
def test_files_that_hold_no_soft_prompt(tmp_path, content, said):
  path = pathlib.Path(tmp_path / "prompt.npy")
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    np.save(path, content)
  config = SoftPrompt(path=str(path))
  with pytest.raises(UserError, match=said) as caught:
    tuning.make_soft_prompt(config, jnp.zeros((9, 4)), None, jax.random.key(0))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"rank": 0}, "rank = 0"),
    ({"rank": 2, "targets": ()}, "give some of"),
    ({"rank": 2, "targets": ("quary",)}, "give some of query"),
  ],
)
def test_updates_of_nothing(fields, said):
  with pytest.raises(UserError, match=said):
    Lora(**fields)


@pytest.mark.slow
def test_remat_changes_no_gradient():
  plain = decoder.DecoderConfig(2, 16, 2, 8, 32)
  targets = common.random_targets(4)

  def gradient(config):
    model = language_model.from_config(
      config, common.VOCABULARY, common.EOS_ID, common.LENGTH
    )
    params = model.init(jax.random.key(0))

    def value(params):
      return model.log_prob(params, common.prompts()[:4], targets).sum()

    return jax.jit(jax.grad(value))(params)

  for one, other in zip(
    jax.tree.leaves(gradient(plain)),
    jax.tree.leaves(gradient(dataclasses.replace(plain, remat=True))),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
