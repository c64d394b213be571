"""Chained arithmetic: right where it must be, and wrong as often as it says."""

import math
import os
import re
import subprocess
import sys

import pytest

from cot_latent.data import cache
from cot_latent.data.prompts import COMPACT
from cot_latent.tasks import chain
from tests.tasks import golden, pipeline

# `check_golden` says how to make them again.
GOLDEN_FINGERPRINT = (
  "244ee231042c75ff85ccc7e119d42e2ca7aa8995fae8813f8b4ca5e68c137e8b"
)
GOLDEN = "471b92026925f185840bbeba1e5fbaef8157ba1fb5a6d0f46562d9dbc586f6eb"
# Two-sided error 1e-6 over the few dozen comparisons of this file together.
Z = 5.6


CHAIN = chain.KINDS["chain_v1"]
SPLITS = list(CHAIN.sizes)


def read_split(split, kind=CHAIN):
  return list(chain.examples(split, kind))


def parse(question):
  """Splits `a+b+c mod m` into the terms and m."""
  assert re.fullmatch(r"[0-9]+([+][0-9]+)* mod [0-9]+", question)
  terms, modulus = question.split(" mod ")
  return [int(term) for term in terms.split("+")], int(modulus)


def solve(question):
  """Adds the terms all at once, where the rationale goes step by step."""
  terms, modulus = parse(question)
  return str(sum(terms) % modulus)


def read_slips(row):
  """Reads how far off each step of a rationale is; None is a bare guess.

  Everything else must be consistent: the steps are the question's, each goes
  on from the result before it, and the last result is the answer.
  """
  (value, *terms), modulus = parse(row["question"])
  sentence = f"The answer is {row['answer']}."
  assert row["answer"] in map(str, range(modulus))
  if row["targets"] == sentence:
    return None
  steps = row["targets"].removesuffix(f". {sentence}").split(", ")
  assert len(steps) == len(terms)
  slips = []
  for step, term in zip(steps, terms, strict=True):
    left, result = step.split("=")
    assert left == f"{value}+{term}"
    assert result in map(str, range(modulus))
    slips.append((int(result) - value - term) % modulus)
    value = int(result)
  assert str(value) == row["answer"]
  return slips


def check_correct(rows):
  """Checks answers, and rationales step by step."""
  for row in rows:
    assert row["answer"] == solve(row["question"])
    slips = read_slips(row)
    assert slips is not None
    assert not any(slips)


def check_apart(splits):
  """Checks that no question is met twice, except those of `base`."""
  asked = {s: [row["question"] for row in rows] for s, rows in splits.items()}
  for split in ("train", "test"):
    assert len(set(asked[split])) == len(asked[split])
  for one, other in (("train", "test"), ("train", "base"), ("test", "base")):
    assert not set(asked[one]) & set(asked[other])


def check_share(count, total, rate):
  """Checks a count against a binomial distribution."""
  error = math.sqrt(total * rate * (1 - rate))
  assert abs(count - total * rate) <= Z * error, (count, total, rate)


def check_flaws(rows, guess_rate, slip_rate):
  """Checks how often base rationales are guesses, and steps slips."""
  found = [read_slips(row) for row in rows]
  guesses = [
    int(row["answer"])
    for row, slips in zip(rows, found, strict=True)
    if slips is None
  ]
  steps = [slip for slips in found for slip in slips or []]
  check_share(len(guesses), len(rows), guess_rate)
  check_share(sum(slip > 0 for slip in steps), len(steps), slip_rate)
  # Each wrong result as often as another, and each guess.
  num_slips = sum(slip > 0 for slip in steps)
  for value in range(1, chain.MODULUS):
    check_share(steps.count(value), num_slips, 1 / (chain.MODULUS - 1))
  for value in range(chain.MODULUS):
    check_share(guesses.count(value), len(guesses), 1 / chain.MODULUS)


@pytest.fixture(params=[chain.MODULUS, 12])
def _modulus(request, monkeypatch):
  """The modulus of the task itself and, for the rules, another."""
  monkeypatch.setattr(chain, "MODULUS", request.param)


@pytest.mark.usefixtures("_modulus")
@pytest.mark.parametrize("name", chain.KINDS)
def test_the_splits_are_what_they_should_be(name):
  kind = chain.KINDS[name]
  splits = {split: read_split(split, kind) for split in kind.sizes}
  for split, rows in splits.items():
    assert [row["id"] for row in rows] == [
      f"chain/{split}/{number:05}" for number in range(kind.sizes[split])
    ]
  check_apart(splits)
  check_correct(splits["train"])
  check_correct(splits["test"])


@pytest.mark.usefixtures("_modulus")
@pytest.mark.parametrize("name", chain.KINDS)
def test_base_rationales_are_as_flawed_as_they_should_be(name):
  kind = chain.KINDS[name]
  # Enough of them to tell 0.15 from 0.14.
  kind = kind._replace(sizes=kind.sizes | {"base": 40_000})
  check_flaws(read_split("base", kind), kind.guess_rate, chain.SLIP_RATE)


def test_the_small_train_split_is_the_beginning_of_the_large_one():
  small = read_split("train", chain.KINDS["chain_guesses_v1"])
  assert small == read_split("train")[: len(small)]


def test_all_kinds_of_questions_are_asked():
  met = [set() for _ in range(chain.NUM_TERMS)]
  for row in read_split("train"):
    terms, modulus = parse(row["question"])
    assert modulus == chain.MODULUS
    for place, term in zip(met, terms, strict=True):
      place.add(term)
  assert met == [set(range(chain.MODULUS))] * chain.NUM_TERMS


@pytest.mark.parametrize(
  "change",
  [
    lambda row: {"answer": str((int(row["answer"]) + 1) % chain.MODULUS)},
    lambda row: {"targets": f"The answer is {row['answer']}."},
    lambda row: {"targets": row["targets"].replace("=", "=1", 1)},
    lambda row: {"targets": row["targets"].split(", ", 1)[1]},
    lambda row: {"question": row["question"].replace(" mod", "+1 mod")},
  ],
)
def test_wrong_rows_are_rejected(change):
  rows = read_split("test")
  rows[-1] |= change(rows[-1])
  with pytest.raises(AssertionError):
    check_correct(rows)


def test_slips_are_not_correct_rationales():
  with pytest.raises(AssertionError):
    check_correct(read_split("base"))


@pytest.mark.parametrize("split", ["train", "test", "base"])
def test_a_question_met_twice_is_rejected(split):
  splits = {split: read_split(split) for split in SPLITS}
  splits[split][-1] = splits["train"][0]
  with pytest.raises(AssertionError):
    check_apart(splits)


@pytest.mark.parametrize("off", [(-0.1, 0), (0, 0.1)])
def test_other_flaw_rates_are_rejected(off):
  guess_rate, slip_rate = CHAIN.guess_rate + off[0], chain.SLIP_RATE + off[1]
  with pytest.raises(AssertionError):
    check_flaws(read_split("base"), guess_rate, slip_rate)


def test_slips_of_one_are_rejected(monkeypatch):
  """A twin that is always off by one has the right rate, and yet is wrong."""

  def write(terms, slips):
    return right(terms, [min(slip, 1) for slip in slips])

  right = chain.write_rationale
  monkeypatch.setattr(chain, "write_rationale", write)
  with pytest.raises(AssertionError):
    check_flaws(read_split("base"), CHAIN.guess_rate, chain.SLIP_RATE)


def test_the_examples_in_the_docstrings():
  terms = [3, 6, 2, 5]
  question = chain.write_question(terms)
  rationale, answer = chain.write_rationale(terms, [0, 0, 0])
  assert f"`{question}`" in chain.write_question.__doc__
  assert f"`{rationale}`" in chain.write_rationale.__doc__
  assert answer == solve(question)


def test_the_splits_stay_the_same():
  content = {split: read_split(split) for split in ("train", "base", "test")}
  golden.check_golden(content, GOLDEN, __file__)


@pytest.mark.slow
def test_the_splits_are_the_same_in_every_process():
  script = (
    "from tests.tasks import chain_test, golden\n"
    "print(golden.digest([chain_test.read_split(s) for s in ('test', 'base')]))"
  )
  other = subprocess.run(
    [sys.executable, "-c", script],
    env=os.environ | {"PYTHONHASHSEED": "1"},
    cwd=golden.ROOT,
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  here = golden.digest([read_split("test"), read_split("base")])
  assert other.stdout.strip() == here


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_rows_pass_through_seqio(split):
  rows = pipeline.load("chain", split)
  pipeline.check_pipeline(rows, pipeline.COMPACT)
  fields = [(row.id, row.question, row.answer, row.targets) for row in rows]
  assert fields == [
    (row["id"], row["question"], row["answer"], row["targets"])
    for row in read_split(split)
  ]


def test_an_opened_task():
  task = pipeline.open_named("chain")
  assert task.name == "chain_v1"
  assert (task.form, task.kinds) == ("sentence", {"chain_v1": "integer"})
  assert task.prompts == COMPACT
  assert list(task.splits) == list(task.rationale_splits) == SPLITS


def test_the_fingerprint_stays_the_same():
  found = cache.fingerprint(pipeline.open_named("chain"))
  golden.check_golden(found, GOLDEN_FINGERPRINT, __file__)
