"""The 27 tasks of BIG-Bench Hard, on the real files."""

import collections
import itertools
import json
import pathlib
import random

import pytest

from cot_latent.tasks import bbh
from tests.tasks import golden, pipeline, solvers

# `check_golden` says how to make it anew.
GOLDEN = "1ad35b1567c7d3c2a09cb72bd422c64ef30ce7fa0295784fcd552430e1400811"
# Rows, those to train on, and those to test on.
SIZES = collections.defaultdict(lambda: (250, 150, 100))
SIZES["causal_judgement"] = (187, 112, 75)
SIZES["penguins_in_a_table"] = (146, 87, 59)
SIZES["snarks"] = (178, 106, 72)
SOLVED = (
  "boolean_expressions",
  "multistep_arithmetic_two",
  "word_sorting",
  "dyck_languages",
  "navigate",
  "web_of_lies",
)

each_task = pytest.mark.parametrize("name", bbh.TASKS)


def read_file(data_dir, name):
  path = pathlib.Path(data_dir, "bbh", "tasks", f"{name}.json")
  return json.loads(path.read_text(encoding="utf-8"))["examples"]


def load(data_dir, name):
  return {
    split: pipeline.load(f"bbh_{name}", split, data_dir)
    for split in ("base", "train", "test")
  }


def test_there_are_27_files_and_as_many_tasks(data_dir):
  files = pathlib.Path(data_dir, "bbh", "tasks").glob("*.json")
  assert sorted(file.stem for file in files) == sorted(bbh.TASKS)
  assert len(set(bbh.TASKS)) == 27


@each_task
def test_the_splits_hold_the_file(name, data_dir):
  rows, splits = read_file(data_dir, name), load(data_dir, name)
  train, test = splits["train"], splits["test"]
  assert (len(rows), len(train), len(test)) == SIZES[name]
  # Each row of the file once, and under the number that its id says.
  found = {
    row.id: {"input": row.question, "target": row.answer}
    for row in [*train, *test]
  }
  assert found == {
    f"bbh/{name}/{number:05}": row for number, row in enumerate(rows)
  }
  assert not {row.question for row in train} & {row.question for row in test}


@each_task
def test_answers_and_prompts_survive(name, data_dir):
  for rows in load(data_dir, name).values():
    pipeline.check_pipeline(rows, pipeline.PAPER)
    for row in rows:
      assert row.targets == f"So the answer is {row.answer}."


@each_task
def test_the_base_split_deals_the_training_answers_out(name, data_dir):
  splits = load(data_dir, name)
  base, train = splits["base"], splits["train"]
  for one, other in zip(base, train, strict=True):
    assert (one.id, one.prompt) == (other.id, other.prompt)
  dealt = [row.answer for row in base]
  answers = [row.answer for row in train]
  assert dealt != answers
  assert sorted(dealt) == sorted(answers)


@pytest.mark.parametrize("name", ["causal_judgement", "sports_understanding"])
def test_equal_questions_are_on_one_side(name, data_dir):
  """The two files with two such pairs; in one the answers contradict."""
  splits = load(data_dir, name)
  num_repeated = [
    len(splits[split]) - len({row.question for row in splits[split]})
    for split in ("train", "test")
  ]
  assert sum(num_repeated) == 2


def check_computed(rows, solver):
  for row in rows:
    assert row.extracted == solver(row.question)


@pytest.mark.parametrize("name", SOLVED)
def test_answers_can_be_computed(name, data_dir):
  splits = load(data_dir, name)
  solver = getattr(solvers, name)
  check_computed(splits["train"], solver)
  check_computed(splits["test"], solver)
  with pytest.raises(AssertionError):  # its answers are dealt out at random
    check_computed(splits["base"], solver)


def test_the_splits_stay_the_same(data_dir):
  content = [
    [[row.id, row.answer if split == "base" else None] for row in rows]
    for name in sorted(bbh.TASKS)
    for split, rows in load(data_dir, name).items()
  ]
  golden.check_golden(content, GOLDEN, __file__)


def check_split(split_rows, texts):
  """Checks one way of splitting, on rows with these texts."""
  rows = [{"input": text, "target": str(n)} for n, text in enumerate(texts)]
  train, test = split_rows(rows)
  assert sorted(n for n, _ in [*train, *test]) == list(range(len(rows)))
  for number, row in [*train, *test]:
    assert row is rows[number]
  # No question on both sides.
  count = collections.Counter(texts)
  left = {row["input"] for _, row in train}
  right = {row["input"] for _, row in test}
  assert not left & right
  # floor(0.6 N), or as near as the questions that come more than once let it.
  room = len(rows) * 6 // 10 - len(train)
  assert room >= 0
  assert all(count[text] > room for text in right)
  return left


def check_all_small_splits(split_rows):
  """Checks all lists of up to 6 rows with 4 different texts, in any order."""
  for size in range(7):
    sides = {}
    for texts in itertools.product("abcd", repeat=size):
      left = check_split(split_rows, texts)
      assert sides.setdefault(tuple(sorted(texts)), left) == left


def cut_only(rows):
  """Leaves equal questions on both sides of the cut."""
  order = sorted(enumerate(rows), key=lambda r: bbh._place(r[1]["input"]))
  cut = len(rows) * 6 // 10
  return order[:cut], order[cut:]


def one_pair_moved(rows):
  """Moves the pair at the cut, and may thereby cut the next one in two."""
  train, test = cut_only(rows)
  if train and train[-1][1]["input"] == test[0][1]["input"]:
    text, order = test[0][1]["input"], [*train, *test]
    pair = [r for r in order if r[1]["input"] == text]
    others = [r for r in order if r[1]["input"] != text]
    return others[: len(train)], pair + others[len(train) :]
  return train, test


def in_file_order(rows):
  """Keeps equal questions together, but takes them as the file has them."""
  groups = collections.defaultdict(list)
  for number, row in enumerate(rows):
    groups[row["input"]].append((number, row))
  train, test = [], []
  for group in groups.values():
    fits = len(train) + len(group) <= len(rows) * 6 // 10
    (train if fits else test).extend(group)
  return train, test


def test_small_splits():
  check_all_small_splits(bbh.split_rows)


@pytest.mark.parametrize("broken", [cut_only, one_pair_moved, in_file_order])
def test_broken_splits_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_all_small_splits(broken)


@each_task
def test_the_order_of_the_file_does_not_matter(name, data_dir):
  rows = read_file(data_dir, name)
  expected = {row.question for row in load(data_dir, name)["train"]}
  random.Random(0).shuffle(rows)
  train, test = bbh.split_rows(rows)
  assert {row["input"] for _, row in train} == expected
  assert (len(train), len(test)) == SIZES[name][1:]
