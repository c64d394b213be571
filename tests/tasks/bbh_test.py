"""The 27 tasks of BIG-Bench Hard, on the real files."""

import collections
import functools
import itertools
import json
import pathlib
import random
import re

import pytest

from cot_latent.data import cache
from cot_latent.data.answers import checkers
from cot_latent.data.prompts import PAPER, Prompts
from cot_latent.tasks import bbh, common
from cot_latent.tasks.datasets.bbh import _place, split_rows
from tests.tasks import golden, pipeline, solvers

# `check_golden` says how to make them again.
GOLDEN = "6a5a0802e76de5eccb959db099d760eed51aeef7911b29513c51836bab9a8253"
GOLDEN_FINGERPRINTS = (
  "c9da962590b22aeab1c8d68c12bafc29abd5c4808bd6fb22be19ce85a668fdcb"
)
FEW_SHOT = Prompts(exemplars="task")
SECONDS = 20  # to open, tokenize and fingerprint all 27 tasks
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


@functools.cache
def load(data_dir, name):
  tasks, _ = pipeline.open_bbh(data_dir)
  return {
    split: pipeline.decode(tasks[name], split) for split in ("train", "test")
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
  """Computes answers from the text that the pipeline delivers."""
  prior, _ = pipeline.PAPER
  begin, end = prior.split("{}")
  for row in rows:
    question = row.prompt.removeprefix(begin).removesuffix(end)
    assert row.extracted == solver(question)
  return len(rows)


def test_answers_can_be_computed(data_dir):
  num_computed = 0
  for name in SOLVED:
    rows = [row for part in load(data_dir, name).values() for row in part]
    solver = getattr(solvers, name)
    num_computed += check_computed(rows, solver)
    answers = [row.extracted for row in rows]
    shifted = [
      row._replace(extracted=answer)
      for row, answer in zip(rows, answers[1:] + answers[:1], strict=True)
    ]
    with pytest.raises(AssertionError):
      check_computed(shifted, solver)
  assert num_computed == 1500


def test_the_splits_stay_the_same(data_dir):
  content = [
    [row.id for row in rows]
    for name in sorted(bbh.TASKS)
    for rows in load(data_dir, name).values()
  ]
  golden.check_golden(content, GOLDEN, __file__)


@each_task
def test_an_opened_task(name, data_dir):
  task = pipeline.open_bbh(data_dir)[0][name]
  info = common.INFO[f"bbh_{name}_v1"]
  assert task.name == f"bbh_{name}_v1"
  assert (task.form, list(task.splits)) == ("sentence", ["train", "test"])
  assert task.kinds == {task.name: bbh.TASKS[name].kind}
  assert (task.rationale_splits, len(task.lesson)) == ([], 0)
  assert task.prompts == PAPER
  assert info.sizes() == dict(
    zip(("train", "test"), SIZES[name][1:], strict=True)
  )
  rows = [row for part in load(data_dir, name).values() for row in part]
  assert {row.task for row in rows} == {task.name}
  assert all(checkers.admits(info.kind, row.answer) for row in rows)


def test_every_member_of_a_closed_set_is_an_answer(data_dir):
  """Or a set would be too wide to find a wrong row."""
  for name, task in bbh.TASKS.items():
    if isinstance(task.kind, tuple):
      answers = {row.answer for row in load(data_dir, name)["train"]}
      assert answers == set(task.kind)


def test_free_text_is_where_it_is_known_to_be(data_dir):
  """Three rows of two tasks; the other choices are letters."""
  found = collections.Counter(
    name
    for name, task in bbh.TASKS.items()
    if task.kind in ("choice", "choice_or_text")
    for rows in load(data_dir, name).values()
    for row in rows
    if not checkers.admits("choice", row.answer)
  )
  assert found == {"movie_recommendation": 1, "ruin_names": 2}


# Time and fingerprints ---------------------------------------------------


def check_time(measure):
  """Compares a time of this process alone, the best of a few.

  Other tests may run beside this one and share memory and caches with it.
  """
  times = []
  while len(times) < 3 and (not times or min(times) > SECONDS):
    times.append(measure())
  assert min(times) <= SECONDS


@pytest.mark.slow
def test_all_27_are_opened_in_a_moment(data_dir):
  took = []

  def measure():
    if took:  # what another test opened serves for the first time
      pipeline.open_bbh.cache_clear()
    _, seconds = pipeline.open_bbh(data_dir)
    took.append(seconds)
    return seconds

  check_time(measure)
  assert took[0] > 0.1  # it was no copy
  with pytest.raises(AssertionError):
    check_time(lambda: took[0] + SECONDS)


def test_the_fingerprints_stay_the_same(data_dir):
  tasks, _ = pipeline.open_bbh(data_dir)
  content = {name: cache.fingerprint(tasks[name]) for name in sorted(tasks)}
  assert len(set(content.values())) == 27
  golden.check_golden(content, GOLDEN_FINGERPRINTS, __file__)


# Worked examples ---------------------------------------------------------


def rewrite(text, is_hinted):
  """Puts the authors' file into the paper's template, as text.

  Nothing is parsed: the canary and the description are cut off, and the marks
  of questions and answers are replaced.
  """
  _, _, body = text.partition("\n-----\n")
  body = body[body.index("\n\nQ: ") :].removesuffix("\n") + "\n\n"
  trigger = "Let's think step by step."
  blocks = []
  for block in body.split("\n\nQ: ")[1:]:
    answer = re.search(r"So the answer is (.*)\.\s*$", block)[1]
    begin = f"\nAnswer: The answer is {answer}. " if is_hinted else "\nAnswer: "
    parts = re.split(rf"\nA: {trigger}[ \n]", block.removesuffix("\n\n"))
    block = f"{begin}{trigger}\n".join(parts)
    blocks.append(f"Question: {block}\n\n")
  return "".join(blocks)


@functools.cache
def few_shot_row(data_dir, name):
  """The first test question of a task, with worked examples before it."""
  task = common.build_variant(f"bbh_{name}_v1", FEW_SHOT, data_dir=data_dir)
  dataset = task.get_dataset(None, "test", shuffle=False)
  (row,) = dataset.take(1).as_numpy_iterator()
  text = task.output_features["inputs"].vocabulary.decode(
    row["inputs"].tolist()
  )
  return {
    "prompt": text,
    "prior": row["prior"].decode(),
    "guide_prefix": row["guide_prefix"].decode(),
  }


def check_few_shot(row, text):
  """Checks the worked examples before a question against the authors' file."""
  prefix = rewrite(text, is_hinted=False)
  assert row["prompt"] == prefix + row["prior"]
  assert row["guide_prefix"] == rewrite(text, is_hinted=True)
  assert prefix.count("Question: ") >= 3
  assert prefix.count("\nAnswer: Let's think step by step.\n") == 3
  canary, _, body = text.partition("\n-----\n")
  description = body.partition("\n\nQ: ")[0]
  for foreign in (canary, description, "BIG-bench", "canary", "-----"):
    assert foreign
    assert foreign not in row["prompt"]
  assert not re.search(r"(^|\n)[QA]:", row["prompt"])


@each_task
def test_worked_examples_are_those_of_the_authors(name, data_dir):
  path = pathlib.Path(data_dir, "bbh", "cot-prompts", f"{name}.txt")
  text = path.read_text(encoding="utf-8")
  row = few_shot_row(data_dir, name)
  check_few_shot(row, text)
  for broken in (
    {"prompt": row["prompt"].replace("\nAnswer: ", "\nA: ", 1)},
    {"prompt": text + "\n\n" + row["prior"]},
    {"prompt": row["prior"]},
    {"prompt": row["prompt"].replace("So the answer", "The answer", 1)},
    {"guide_prefix": rewrite(text, is_hinted=False)},
  ):
    with pytest.raises(AssertionError):
      check_few_shot(row | broken, text)


def test_a_rationale_on_the_triggers_line(data_dir):
  """Only this task's file has it there; a target begins in a new line."""
  prompt = few_shot_row(data_dir, "sports_understanding")["prompt"]
  assert "step by step. " not in prompt
  assert "\nAnswer: Let's think step by step.\nBam Adebayo is" in prompt


@pytest.mark.parametrize(
  "settings", [{"num_exemplars": 2}, {"num_exemplars": 9}, {"is_direct": True}]
)
def test_other_worked_examples(settings, data_dir):
  """Fewer, no more than there are, and without rationales."""
  prompts = Prompts(exemplars="task", **settings)
  rows = pipeline.decode(
    pipeline.open_named("bbh_navigate", data_dir, prompts=prompts), "test"
  )
  prefix = PAPER.prefix("prior", [])
  text = pathlib.Path(data_dir, "bbh", "cot-prompts", "navigate.txt").read_text(
    encoding="utf-8"
  )
  blocks = rewrite(text, is_hinted=False).split("Question: ")[1:]
  blocks = blocks[: settings.get("num_exemplars")]
  if "is_direct" in settings:
    trigger = "Let's think step by step.\n"
    cut = [block.partition(trigger) for block in blocks]
    answers = [re.search(r"answer is (\w+)\.\n", c[2])[1] for c in cut]
    blocks = [
      f"{c[0]}{trigger}{answer}\n\n"
      for c, answer in zip(cut, answers, strict=True)
    ]
  prefix += "".join(f"Question: {block}" for block in blocks)
  prior, _ = pipeline.PAPER
  for row in rows:
    assert row.prompt == prefix + prior.format(row.question)
    assert row.extracted == row.answer


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
  order = sorted(enumerate(rows), key=lambda r: _place(r[1]["input"]))
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
  check_all_small_splits(split_rows)


@pytest.mark.parametrize("broken", [cut_only, one_pair_moved, in_file_order])
def test_broken_splits_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_all_small_splits(broken)


@each_task
def test_the_order_of_the_file_does_not_matter(name, data_dir):
  rows = read_file(data_dir, name)
  expected = {row.question for row in load(data_dir, name)["train"]}
  random.Random(0).shuffle(rows)
  train, test = split_rows(rows)
  assert {row["input"] for _, row in train} == expected
  assert (len(train), len(test)) == SIZES[name][1:]
