"""GSM8K, on the real files."""

import json
import pathlib
import re

import pytest

from cot_latent.data import cache
from cot_latent.tasks import common
from cot_latent.tasks.datasets import gsm8k
from tests.tasks import golden, pipeline

# `check_golden` says how to make it again.
GOLDEN = "4191b07b77f85e05e514136f80a3f225d80716e65eacaa1722e4a121459c896c"

# Rows; and how many of them have thousands commas or negative answers.
SPLITS = {"train": (7473, 79, 3), "test": (1319, 14, 2)}

each_split = pytest.mark.parametrize("split", SPLITS)


def read_file(data_dir, split):
  path = pathlib.Path(data_dir, "gsm8k", f"{split}.jsonl")
  text = path.read_text(encoding="utf-8")
  return [json.loads(line) for line in text.split("\n") if line]


def official_answer(answer):
  """The authors' rule: the first match, commas removed."""
  return re.search(r"#### (\-?[0-9\.\,]+)", answer)[1].replace(",", "")


@each_split
def test_the_split_holds_the_file(split, data_dir):
  rows = pipeline.load("gsm8k", split, data_dir)
  raw = read_file(data_dir, split)
  assert len(rows) == len(raw) == SPLITS[split][0]
  for number, (row, one) in enumerate(zip(rows, raw, strict=True)):
    assert row.id == f"gsm8k/{split}/{number:05}"
    assert row.question == one["question"]
    assert row.answer == official_answer(one["answer"])
    rationale = one["answer"].split("\n#### ")[0]
    assert row.targets == f"{rationale}\n<answer>\n{row.answer}\n</answer>"
  assert len({row.id for row in rows}) == len(rows)


@each_split
def test_answers_are_integers_written_in_one_way(split, data_dir):
  answers = [row.answer for row in pipeline.load("gsm8k", split, data_dir)]
  assert all(answer == str(int(answer)) for answer in answers)
  golds = [
    row["answer"].split("#### ")[1] for row in read_file(data_dir, split)
  ]
  assert (
    len(answers),
    sum("," in gold for gold in golds),
    sum(answer.startswith("-") for answer in answers),
  ) == SPLITS[split]


@each_split
def test_answers_and_prompts_survive(split, data_dir):
  rows = pipeline.load("gsm8k", split, data_dir)
  pipeline.check_pipeline(rows, pipeline.PAPER)


def test_no_question_is_in_both_splits(data_dir):
  asked = [
    row.question
    for split in SPLITS
    for row in pipeline.load("gsm8k", split, data_dir)
  ]
  assert len(set(asked)) == len(asked) == 7473 + 1319


def test_the_same_rows_in_another_spelling(data_dir, tmp_path):
  """A reader does not mind escapes, line ends and the last newline.

  Unescaped, a question of `train` holds U+2028, which str.splitlines takes
  for the end of a line.
  """
  lines = [
    json.dumps(row, ensure_ascii=False) for row in read_file(data_dir, "train")
  ]
  assert any("\u2028" in line for line in lines)
  path = tmp_path / "train.jsonl"
  path.write_bytes("\r\n".join(lines).encode())
  published = pathlib.Path(data_dir, "gsm8k", "train.jsonl")
  assert path.read_bytes() != published.read_bytes()
  assert gsm8k.read_rows(path) == gsm8k.read_rows(published)


def test_an_opened_task(data_dir):
  task = pipeline.open_named("gsm8k", data_dir)
  assert task.name == "gsm8k_v1"
  assert (task.form, task.kinds) == ("tag", {"gsm8k_v1": "integer"})
  assert list(task.splits) == list(task.rationale_splits) == ["train", "test"]
  assert list(task.conventions["gsm8k_v1"])[:2] == ["trice", "openai"]
  sizes = {split: rows for split, (rows, _, _) in SPLITS.items()}
  assert dict(common.INFO["gsm8k_v1"].sizes()) == sizes


def test_the_lesson_shows_the_tags(data_dir):
  task = pipeline.open_named("gsm8k", data_dir)
  text = task.vocabulary.decode(task.lesson.tolist())
  prior, _ = pipeline.PAPER
  question, _, completion = text.partition("\nAnswer: ")
  assert text.startswith(prior.format(question.removeprefix("Question: ")))
  assert completion.endswith("\n<answer>\n2\n</answer>\n\n")
  assert task.extract(completion) == "2"


def test_the_fingerprint_stays_the_same(data_dir):
  found = cache.fingerprint(pipeline.open_named("gsm8k", data_dir))
  golden.check_golden(found, GOLDEN, __file__)
