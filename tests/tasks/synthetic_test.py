"""Synthetic tasks: right, as flawed as they say, and no text of BBH."""

import collections
import functools
import importlib
import itertools
import json
import math
import pathlib
import random
import re
import statistics
import time
import types

import hypothesis
import pytest
import seqio
from hypothesis import strategies as st

from cot_latent.data.answers import checkers
from cot_latent.errors import UserError
from cot_latent.tasks import synthetic
from cot_latent.tasks.synthetic import (
  draw,
  inventory,
  object_counting,
  splits,
  testimony,
  words,
)
from cot_latent.tasks.synthetic import kind as kinds
from cot_latent.tasks.synthetic import tracking_shuffled_objects as tracking
from tests.tasks import golden
from tests.tasks.synthetic_solvers import READERS, REJECTED

# `check_golden` says how to make them again.
GOLDEN = {
  "boolean_expressions": (
    "c0e2e3a2d3002e176a2e3181f0487546e6ccdbf53ac7e26ab8878d0725fdeaec"
  ),
  "dyck_languages": (
    "9b6a00a8b3975407abfa1e4e1a7e5c5f41e49d827622d6901d47008e48232e6a"
  ),
  "formula": (
    "db35d369f912fed356487ba5baa05864a19c666575b1ed0cf2a11087058bf4e4"
  ),
  "inventory": (
    "23203ba21edb6ebe8ee8a0f51095bf8806ddb7bb9266d9ac495ee71659c1ebbd"
  ),
  "multistep_arithmetic": (
    "04cc4c2cc5722ed2aba1adc1ecd8780756183d8d3a461732eca97683fb0f76c8"
  ),
  "navigate": (
    "ea80307eed6ce3724aa9495e7cf819126378d9476ed9a411150f92ce674d4d59"
  ),
  "object_counting": (
    "7950cc2e3eaa0eb2c9c02dca17f8b70abcd21f7a3bf4fb4d6ef9c469a4389ec7"
  ),
  "testimony": (
    "9d66695b98292350714afb7b5d99344ace9930d09e5da8559ba7ba45b3163b9d"
  ),
  "tracking_shuffled_objects": (
    "89b0c2f540a46d52e3e0218b3d02e2093608131e7c302755aeef37c8530185d2"
  ),
  "web_of_lies": (
    "c50f15986248caf3e5d9e16f0d847a121bd1e05e0e6dc82f89dc02fce6e080a5"
  ),
  "word_sorting": (
    "b9ae86d5e9fe94bdee5a6addf135e21a1a7e3ff2d5b24aab3b96fcd0c783e1b2"
  ),
}
# Two-sided error 1e-6 over the few dozen comparisons of this file together.
Z = 5.6
RUN = 40  # characters in a row that must not be shared with BBH

each_kind = pytest.mark.parametrize("kind", sorted(synthetic.KINDS))
# The same examples on every machine.


@functools.cache
def read_split(kind, split, levels=(1, 2, 3)):
  return list(synthetic.examples(kind, split, levels=levels))


def read_splits(kind):
  return {split: read_split(kind, split) for split in splits.SPLITS}


def read_row(kind, row):
  """Judges each step of a rationale; None is a bare guess.

  The answer must be the one that the rationale states and reaches.
  """
  assert checkers.answer_sentence(row["targets"]) == row["answer"]
  assert checkers.admits(synthetic.KINDS[kind].answer, row["answer"])
  *steps, sentence = row["targets"].split("\n")
  assert sentence == f"So the answer is {row['answer']}."
  if not steps:
    return None
  judged, answer = READERS[kind].read(row["question"], steps)
  assert answer == row["answer"]
  return judged


def check_correct(kind, rows):
  """Checks answers, and rationales step by step."""
  for row in rows:
    assert row["answer"] == READERS[kind].solve(row["question"])
    judged = read_row(kind, row)
    assert judged
    assert all(judged)


def check_share(count, total, rate):
  """Checks a count against a binomial distribution."""
  error = math.sqrt(total * rate * (1 - rate))
  assert abs(count - total * rate) <= Z * error, (count, total, rate)


def check_flaws(kind, rows, guess_rate, slip_rate):
  """Checks how often rationales are guesses, and steps slips."""
  judged = [read_row(kind, row) for row in rows]
  steps = [is_correct for found in judged for is_correct in found or []]
  check_share(judged.count(None), len(rows), guess_rate)
  check_share(steps.count(False), len(steps), slip_rate)
  # Without a flaw they are correct.
  check_correct(
    kind,
    [r for r, found in zip(rows, judged, strict=True) if all(found or [0])],
  )


def check_apart(asked):
  """Checks that no question is met twice, except those of `base`."""
  for split in ("train", "test"):
    assert len(set(asked[split])) == len(asked[split])
  for one, other in (("train", "test"), ("train", "base"), ("test", "base")):
    assert not set(asked[one]) & set(asked[other])


@each_kind
def test_the_splits_are_what_they_should_be(kind):
  asked = {}
  for split, rows in read_splits(kind).items():
    assert [row["id"] for row in rows] == [
      f"synthetic/{kind}/{split}/{number:05}"
      for number in range(splits.SIZES[split])
    ]
    asked[split] = [row["question"] for row in rows]
  check_apart(asked)
  for split, other in (("train", "test"), ("base", "train"), ("test", "test")):
    broken = asked | {split: [*asked[split], asked[other][0]]}
    with pytest.raises(AssertionError):
      check_apart(broken)


@each_kind
def test_correct_rationales_are_correct(kind):
  for split in ("train", "test"):
    check_correct(kind, read_split(kind, split, (1, 2, 3, 4)))
  with pytest.raises(AssertionError):
    check_correct(kind, read_split(kind, "base"))


@each_kind
@hypothesis.given(
  level=st.integers(1, 12), seed=st.integers(), rate=st.sampled_from([0, 0.3])
)
def test_rationales_of_all_levels_reach_their_answers(kind, level, seed, rate):
  of_kind, rng = synthetic.KINDS[kind], random.Random(str(seed))
  problem = of_kind.make_problem(rng, level)
  targets, answer = kinds.flawed_rationale(of_kind, problem, rng, 0, rate)
  row = {"question": problem.question, "answer": answer, "targets": targets}
  if rate:
    assert read_row(kind, row) is not None
  else:
    check_correct(kind, [row])


CHANGES = {
  "another answer": lambda row, other: {
    "answer": other["answer"],
    "targets": row["targets"].replace(
      f"is {row['answer']}.", f"is {other['answer']}."
    ),
  },
  "another answer stated": lambda row, other: {
    "targets": row["targets"].replace(
      f"is {row['answer']}.", f"is {other['answer']}."
    )
  },
  "no steps": lambda row, other: {"targets": row["targets"].split("\n")[-1]},
  "a step less": lambda row, other: {
    "targets": row["targets"].split("\n", 1)[1]
  },
  "a step twice": lambda row, other: {
    "targets": row["targets"].split("\n")[0] + "\n" + row["targets"]
  },
  "other steps": lambda row, other: {
    "targets": other["targets"].rpartition("\n")[0]
    + "\n"
    + row["targets"].split("\n")[-1]
  },
  "another question": lambda row, other: {"question": other["question"]},
}


@each_kind
@pytest.mark.parametrize("name", sorted(CHANGES))
def test_wrong_rows_are_rejected(kind, name):
  rows = read_split(kind, "test")
  row = rows[5]  # of level 3
  other = next(r for r in rows[8::3] if r["answer"] != row["answer"])
  check_correct(kind, [row, other])
  with pytest.raises(REJECTED):
    check_correct(kind, [row | CHANGES[name](row, other)])


@each_kind
def test_base_rationales_are_as_flawed_as_they_should_be(kind):
  rows = read_split(kind, "base")
  guess_rate, slip_rate = splits.GUESS_RATE, splits.SLIP_RATE
  check_flaws(kind, rows, guess_rate, slip_rate)
  for broken in ((guess_rate - 0.1, slip_rate), (guess_rate, slip_rate + 0.1)):
    with pytest.raises(AssertionError):
      check_flaws(kind, rows, *broken)


@each_kind
def test_the_rates_are_those_asked_for(kind):
  def make(guess_rate, slip_rate):
    rates = {"guess_rate": guess_rate, "slip_rate": slip_rate}
    sizes = {"base": 200, "train": 1, "test": 1}
    rows = synthetic.examples(kind, "base", levels=(1, 4), sizes=sizes, **rates)
    rows = list(rows)
    return rows, [read_row(kind, row) for row in rows]

  right, judged = make(0, 0)
  check_correct(kind, right)
  _, judged = make(1, 0)
  assert judged == [None] * 200
  slipped, judged = make(0, 1)  # each step has a wrong result
  assert not any(any(found) for found in judged)
  asked = [row["question"] for row in slipped]
  assert asked == [row["question"] for row in right]


def check_guesses(kind, rows, shares):
  """Checks that each answer of a closed set is guessed as often as another."""
  guesses = [row["answer"] for row in rows if read_row(kind, row) is None]
  for answer, share in shares.items():
    check_share(guesses.count(answer), len(guesses), share)


@pytest.mark.parametrize(
  ("kind", "answers"),
  [
    ("boolean_expressions", ["True", "False"]),
    ("navigate", ["Yes", "No"]),
    ("web_of_lies", ["Yes", "No"]),
    ("tracking_shuffled_objects", ["(A)", "(B)", "(C)", "(D)"]),
  ],
)
def test_guesses_are_of_any_answer(kind, answers):
  rows = list(synthetic.examples(kind, "base", levels=(2,)))
  shares = dict.fromkeys(answers, 1 / len(answers))
  check_guesses(kind, rows, shares)
  with pytest.raises(AssertionError):
    check_guesses(kind, rows, shares | {answers[0]: 1.3 / len(answers)})


def check_balance(rows):
  """Checks that no constant guess scores."""
  count = collections.Counter(row["answer"] for row in rows)
  assert max(count.values()) <= 0.65 * len(rows)


@each_kind
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_no_answer_is_nearly_always_correct(kind, level):
  rows = list(
    synthetic.examples(
      kind,
      "train",
      levels=(level,),
      sizes={"base": 1, "train": 300, "test": 1},
    )
  )
  check_balance(rows)
  with pytest.raises(AssertionError):
    check_balance([row | {"answer": "Yes"} for row in rows[:200]] + rows[200:])


def check_rising(samples):
  """Checks that each sample's mean is clearly above the one before."""
  for low, high in itertools.pairwise(samples):
    error = math.sqrt(
      statistics.variance(low) / len(low)
      + statistics.variance(high) / len(high)
    )
    assert statistics.mean(high) - statistics.mean(low) > Z * error


@each_kind
def test_levels_get_harder(kind):
  of_kind, rng = synthetic.KINDS[kind], random.Random("levels")
  questions, rationales = [], []
  for level in range(1, 7):
    problems = [of_kind.make_problem(rng, level) for _ in range(400)]
    questions.append([len(problem.question) for problem in problems])
    rationales.append(
      [len(kinds.correct_rationale(of_kind, p)[0]) for p in problems]
    )
  check_rising(questions)
  check_rising(rationales)
  with pytest.raises(AssertionError):
    check_rising([*questions, questions[-1]])


def check_levels(kind, rows, levels):
  """Checks example n for level n % len(levels), by the question's length."""
  of_kind, rng = synthetic.KINDS[kind], random.Random("levels")
  for place, level in enumerate(levels):
    lengths = [
      len(of_kind.make_problem(rng, level).question) for _ in range(1000)
    ]
    found = [len(row["question"]) for row in rows[place :: len(levels)]]
    assert min(lengths) - 5 <= statistics.mean(found) <= max(lengths)
    assert abs(statistics.mean(found) - statistics.mean(lengths)) < 5


@each_kind
def test_the_levels_take_turns(kind):
  rows = read_split(kind, "train")
  check_levels(kind, rows, (1, 2, 3))
  with pytest.raises(AssertionError):
    check_levels(kind, rows, (3, 2, 1))


def read_benchmark(data_dir):
  """Reads all inputs and all worked examples of BBH."""
  folder = pathlib.Path(data_dir, "bbh")
  inputs = [
    row["input"]
    for file in sorted(folder.glob("tasks/*.json"))
    for row in json.loads(file.read_text(encoding="utf-8"))["examples"]
  ]
  exemplars = [
    file.read_text(encoding="utf-8")
    for file in sorted(folder.glob("cot-prompts/*.txt"))
  ]
  assert len(inputs) == 6511
  assert len(exemplars) == 27
  return inputs, exemplars


def check_not_shared(ours, theirs):
  """Checks that no text is in another one, nor a run of RUN characters."""
  runs = {t[at : at + RUN] for t in ours for at in range(len(t) - RUN + 1)}
  for text in theirs:
    for at in range(len(text) - RUN + 1):
      assert text[at : at + RUN] not in runs, text[at : at + RUN]
  # Longer ones would share a run.
  for some, others in ((ours, theirs), (theirs, ours)):
    everything = "\0".join(others)
    for text in some:
      assert len(text) >= RUN or text not in everything, text


def read_all_kinds(column):
  """Lists texts of all kinds and of levels 1 to 4, and some of level 9."""
  rows = []
  for kind in sorted(synthetic.KINDS):
    for split in ("train", "test"):
      rows += read_split(kind, split, (1, 2, 3, 4))
    sizes = {"base": 1, "train": 50, "test": 1}
    rows += synthetic.examples(kind, "train", levels=(9,), sizes=sizes)
  return [row[column] for row in rows]


def test_no_text_of_the_benchmark_is_in_a_question(data_dir):
  inputs, exemplars = read_benchmark(data_dir)
  check_not_shared(read_all_kinds("question"), inputs + exemplars)


def test_no_text_of_the_benchmark_is_in_a_rationale(data_dir):
  inputs, exemplars = read_benchmark(data_dir)
  check_not_shared(read_all_kinds("targets"), inputs + exemplars)


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    ("Sort: balbo", "Sort: balbo"),
    ("Sort: balbo", "x Sort: balbo y"),
    ("x Sort: balbo y", "Sort: balbo"),
    ("a" * 20 + "b" * 20, "c" + "a" * 20 + "b" * 20 + "c"),
  ],
)
def test_shared_text_is_rejected(ours, theirs):
  check_not_shared([ours], [theirs.replace("b", "d")])
  with pytest.raises(AssertionError):
    check_not_shared(["other", ours], ["another one", theirs])


def check_own_words(ours, data_dir, pattern):
  """Checks that no input of some tasks of BBH has one of our words."""
  folder = pathlib.Path(data_dir, "bbh", "tasks")
  files = list(folder.glob(pattern))
  assert files
  for file in files:
    rows = json.loads(file.read_text(encoding="utf-8"))["examples"]
    text = " ".join(row["input"] for row in rows).lower()
    assert not set(ours) & set(re.findall(r"[a-z-]+", text))


def test_words_names_and_things_are_not_the_benchmarks(data_dir):
  made = [head + tail for head in words.HEADS for tail in words.TAILS]
  things = [thing for sort in object_counting.SORTS.values() for thing in sort]
  things += [f"{thing}s" for thing in things]
  things += [*object_counting.SORTS, *object_counting._PLACES]
  listed = [thing for sort in inventory.SORTS.values() for thing in sort]
  things += re.findall(r"[a-z-]+", " ".join(listed))
  made += [name.lower() for name in words.NAMES]
  check_own_words(made, data_dir, "*.json")
  check_own_words(things, data_dir, "object_counting.json")
  check_own_words(tracking.THINGS, data_dir, "tracking*.json")
  people = [name.lower() for name in testimony.NAMES]
  check_own_words(people, data_dir, "web_of_lies.json")
  for broken, pattern in (
    ("vernell", "web_of_lies.json"),
    ("piano", "object_counting.json"),
    ("ball", "tracking*.json"),
  ):
    with pytest.raises(AssertionError):
      check_own_words([*made, broken], data_dir, pattern)


def read_with_random_alone(kind, split):
  """Reads a split where `random()` is the only source of chance."""

  class RandomAlone:
    def __init__(self, seed):
      assert isinstance(seed, str)
      self.random = random.Random(seed).random

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(splits, "random", types.SimpleNamespace(Random=RandomAlone))
    return list(synthetic.examples(kind, split))


@each_kind
def test_the_splits_stay_the_same(kind):
  """In every process, too: the hashes of strings differ from one to another."""
  content = read_splits(kind)
  golden.check_golden(content, GOLDEN[kind], __file__)
  assert read_with_random_alone(kind, "base") == content["base"]


def test_another_source_of_chance_is_rejected(monkeypatch):
  monkeypatch.setattr(draw, "choice", lambda rng, items: rng.choice(items))
  with pytest.raises(AttributeError):
    read_with_random_alone("navigate", "test")


@each_kind
def test_another_seed_gives_other_questions(kind):
  sizes = {"base": 10, "train": 10, "test": 10}
  for split in splits.SPLITS:
    one, same, other = (
      list(synthetic.examples(kind, split, sizes=sizes, seed=seed))
      for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_all_is_made_in_a_moment():
  start = time.process_time()
  for kind in synthetic.KINDS:
    for split in splits.SPLITS:
      for _ in synthetic.examples(kind, split):
        pass
  assert time.process_time() - start < 3


def stub(num_questions):
  """A kind that has so many questions."""
  return kinds.Kind(
    name="stub",
    answer="integer",
    make_problem=lambda rng, level: kinds.Problem(
      f"{level}: {draw.below(rng, num_questions)}", None
    ),
    solve=lambda parts, slip: (["1 = 1"], "1"),
    guess=lambda rng, parts: "1",
  )


@pytest.mark.parametrize(
  ("num_questions", "split", "has_enough"),
  [
    (9, "test", False),
    (10, "test", True),
    (19, "train", False),
    (20, "train", True),
    (20, "base", False),
    (21, "base", True),
  ],
)
def test_a_level_with_too_few_questions_is_an_error(
  num_questions, split, has_enough, monkeypatch
):
  monkeypatch.setitem(synthetic.KINDS, "stub", stub(num_questions))
  sizes = {"base": 30, "train": 10, "test": 10}
  rows = synthetic.examples("stub", split, levels=(1,), sizes=sizes)
  if has_enough:
    assert len(list(rows)) == sizes[split]
  else:
    with pytest.raises(
      UserError, match=r"level 1 has too few .* smaller sizes"
    ):
      list(rows)


def test_a_real_kind_can_have_too_few_questions():
  sizes = {"base": 1, "train": 2000, "test": 1}
  read = functools.partial(
    synthetic.examples, "multistep_arithmetic", "train", sizes=sizes
  )
  with pytest.raises(UserError, match="'multistep_arithmetic': level 1"):
    list(read(levels=(1,)))
  assert len(list(read(levels=(2,)))) == 2000


BAD = [
  ({"kind": "snarks"}, "'snarks'; there are boolean_expressions, dyck_lang"),
  ({"kind": ["navigate"]}, "there are"),
  *[
    ({"levels": levels}, "levels = .* must be integers from 1 on, at least one")
    for levels in ((), (0,), (1, -1), (1.0,), (True,), 1, None, "12", {1, 2})
  ],
  *[
    ({"sizes": sizes}, "sizes = .* must be .* for base, train, test")
    for sizes in (
      *({}, 100, None, {"base": 1, "train": 1}),
      *({**splits.SIZES, "dev": 1}, {**splits.SIZES, "test": 0}),
      *({**splits.SIZES, "test": 1.5}, {**splits.SIZES, "test": True}),
    )
  ],
  *[
    ({name: rate}, f"{name} = .* must be a number from 0 to 1")
    for name in ("guess_rate", "slip_rate")
    for rate in (-0.1, 1.1, math.nan, math.inf, "0.5", None, True)
  ],
  *[
    ({"seed": seed}, "seed = .* must be an integer")
    for seed in (1.5, "1", None, True)
  ],
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=str)
def test_bad_arguments(bad, message):
  with pytest.raises(UserError, match=message) as caught:
    synthetic.examples(**{"kind": "navigate", "split": "test"} | bad)
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match=message):
    synthetic.register(**{"name": "bad_synthetic", "kind": "navigate"} | bad)
  assert "bad_synthetic" not in seqio.TaskRegistry.names()


def test_a_bad_split_or_name():
  with pytest.raises(UserError, match="'navigate': no split 'dev', only base"):
    synthetic.examples("navigate", "dev")
  with pytest.raises(UserError, match=r"navigate_v1.* registered already"):
    synthetic.register("synthetic_navigate_v1", "navigate")
  with pytest.raises(UserError, match="name"):
    synthetic.register(None, "navigate")


def read_task(name, split):
  """Reads rows out of SeqIO, and the answers that are read back."""
  task = seqio.get_mixture_or_task(name)
  decode = task.output_features["targets"].vocabulary.decode
  rows, answers = [], []
  for row in task.get_dataset(None, split, shuffle=False).as_numpy_iterator():
    targets = decode([int(token) for token in row["targets"]])
    fields = {key: row[key].decode() for key in ("id", "question", "answer")}
    rows.append(fields | {"targets": targets})
    answers.append(task.postprocess_fn(targets, example=None, is_target=False))
  return rows, answers


@each_kind
def test_a_task_of_each_kind_is_registered(kind):
  rows, answers = read_task(f"synthetic_{kind}_v1", "test")
  assert rows == read_split(kind, "test")
  assert answers == [row["answer"] for row in rows]


def test_a_task_of_your_own():
  settings = {
    "levels": [5],
    "sizes": {"base": 20, "train": 3, "test": 2},
    "guess_rate": 0.1,
    "slip_rate": 0.2,
    "seed": 3,
  }
  rows = list(synthetic.examples("dyck_languages", "base", **settings))
  given = {key: type(value)(value) for key, value in settings.items()}
  synthetic.register("synthetic_own", "dyck_languages", **given)
  given["levels"][:] = [1]  # which changes nothing any more
  given["sizes"]["base"] = 1
  try:
    assert read_task("synthetic_own", "base")[0] == rows
  finally:
    seqio.TaskRegistry.remove("synthetic_own")


@pytest.mark.parametrize(
  ("name", "most", "guesses"),
  [
    ("formula_short", 5, 0.75),
    ("inventory_long", 8, 0.3),
    ("testimony_long", 6, 0.3),
  ],
)
def test_the_tasks_for_pretrained_models(name, most, guesses):
  rows, answers = read_task(f"synthetic_{name}_v1", "base")
  steps = [row["targets"].count("\n") for row in rows]
  assert max(steps) == most
  assert abs(steps.count(0) / len(rows) - guesses) < 0.05
  assert answers == [row["answer"] for row in rows]


@pytest.mark.parametrize(
  "kind",
  [
    *("boolean_expressions", "dyck_languages", "multistep_arithmetic"),
    *("formula", "inventory", "object_counting", "testimony", "word_sorting"),
  ],
)
def test_the_examples_in_the_docstrings(kind):
  module = importlib.import_module(f"cot_latent.tasks.synthetic.{kind}")
  question = re.search("`([^`]+)`", module.__doc__)[1]
  answer = READERS[kind].solve(question)
  assert checkers.admits(synthetic.KINDS[kind].answer, answer)


def test_samples_have_all_before_one_twice():
  rng = random.Random("sample")
  for n in range(8):
    drawn = draw.sample(rng, "abc", n)
    assert len(drawn) == n
    for start in range(0, n - 2, 3):
      assert sorted(drawn[start : start + 3]) == ["a", "b", "c"]
  orders = collections.Counter(
    "".join(draw.shuffled(rng, "abc")) for _ in range(6000)
  )
  assert len(orders) == 6
  for count in orders.values():
    check_share(count, 6000, 1 / 6)


@pytest.mark.parametrize("n", [1, 3, 200, 2000])
def test_made_words_are_different(n):
  made = words.make_words(random.Random("words"), n, ["ba", "do"])
  assert len(set(made)) == len(made) == n
  assert {word[:2] for word in made} <= {"ba", "do"}


@pytest.mark.parametrize("n", [3, len(words.NAMES), 200])
def test_names_are_different(n):
  names = words.make_names(random.Random("names"), n)
  assert len(set(names)) == len(names) == n
  assert all(re.fullmatch("[A-Z][a-z]+", name) for name in names)
