"""Tasks of a table: what is read of it, and every fault of it named."""

import csv
import io
import json

import hypothesis
import pytest
import seqio
from hypothesis import strategies as st

from cot_latent.data.open import open_task
from cot_latent.data.source import Source
from cot_latent.tasks import common, table
from tests.asserts import message_of
from tests.tasks import pipeline

ROOM = {"prompt_length": 500, "target_length": 500}
ROWS = [
  {"question": f"How many {n}?", "answer": str(n), "rationale": f"It is {n}."}
  for n in range(10)
]


@pytest.fixture
def register():
  """Registers throw-away tasks, and forgets them again."""
  names = []

  def add(path, **settings):
    name = f"toy_table_{len(names)}"
    table.register(name, path, **settings)
    names.append(name)
    return name

  yield add
  for name in names:
    seqio.TaskRegistry.remove(name)
    del common.INFO[name]


def open_table(name):
  return open_task(Source(name))


def load(name, split="train"):
  return open_table(name).load(split, **ROOM)


def to_jsonl(rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


def to_csv(rows):
  stream = io.StringIO(newline="")
  writer = csv.DictWriter(stream, list(rows[0]))
  writer.writeheader()
  writer.writerows(rows)
  return stream.getvalue()


WRITERS = {"jsonl": to_jsonl, "csv": to_csv}
each_format = pytest.mark.parametrize("suffix", WRITERS)


@pytest.fixture
def write(tmp_path):
  def write(content, suffix, name="rows"):
    path = tmp_path / f"{name}.{suffix}"
    if isinstance(content, str):
      content = content.encode()
    path.write_bytes(content)
    return path

  return write


def read_all(name):
  """All rows, both splits, by question."""
  task = open_table(name)
  rows = [row for split in task.splits for row in pipeline.decode(task, split)]
  return {row.question: row for row in rows}


@each_format
def test_a_table(suffix, register, write):
  path = write(WRITERS[suffix](ROWS), suffix)
  name = register(str(path), kind="integer")
  rows = read_all(name)
  assert set(rows) == {row["question"] for row in ROWS}
  for number, row in enumerate(ROWS):
    found = rows[row["question"]]
    assert found.id == f"{name}/{number:05}"
    assert (found.answer, found.extracted) == (row["answer"], row["answer"])
    assert found.targets == f"So the answer is {row['answer']}."
  pipeline.check_pipeline(list(rows.values()), pipeline.PAPER)
  task = open_table(name)
  assert task.kinds == {name: "integer"}
  assert (list(task.splits), task.rationale_splits) == (["train", "test"], [])
  assert common.INFO[name].sizes() == {"train": 6, "test": 4}


def test_both_formats_have_the_same_split(register, write):
  names = [
    register(str(write(to(ROWS), suffix))) for suffix, to in WRITERS.items()
  ]
  one, other = (load(name, "test").questions for name in names)
  assert sorted(one) == sorted(other)
  # By the text of a question, not by its place.
  moved = register(str(write(to_jsonl(ROWS[::-1]), "jsonl", "moved")))
  assert sorted(load(moved, "test").questions) == sorted(one)


def test_equal_questions_are_on_one_side(register, write):
  rows = [{"question": f"q{n // 2}", "answer": str(n)} for n in range(40)]
  name = register(str(write(to_jsonl(rows), "jsonl")))
  train, test = (
    set(load(name, split).questions) for split in ("train", "test")
  )
  assert not train & test
  assert len(train | test) == 20


@each_format
def test_a_file_a_split(suffix, register, write):
  paths = {
    split: str(write(WRITERS[suffix](rows), suffix, split))
    for split, rows in {
      "train": ROWS[:7],
      "test": ROWS[7:9],
      "base": ROWS[9:],
    }.items()
  }
  name = register(paths)
  assert list(open_table(name).splits) == ["train", "test", "base"]
  assert load(name, "base").ids == [f"{name}/base/00000"]
  assert load(name, "test").questions == [r["question"] for r in ROWS[7:9]]
  assert common.INFO[name].sizes() == {"train": 7, "test": 2, "base": 1}


@each_format
def test_columns_of_other_names(suffix, register, write):
  rows = [
    {"id": 7, "Q": row["question"], "A": row["answer"], "Why?": "Well."}
    for row in ROWS
  ]
  path = write(WRITERS[suffix](rows), suffix)
  name = register(str(path), question="Q", answer="A", rationale="Why?")
  for row in read_all(name).values():
    assert row.targets == f"Well. So the answer is {row.answer}."
    assert row.extracted == row.answer
  assert open_table(name).rationale_splits == ["train", "test"]


@each_format
def test_numbers_in_tags(suffix, register, write):
  rows = [row | {"answer": f"$1,{n}00.50"} for n, row in enumerate(ROWS)]
  path = write(WRITERS[suffix](rows), suffix)
  name = register(str(path), form="tag", rationale="rationale")
  found = read_all(name)
  for n, row in enumerate(ROWS):
    one, number = found[row["question"]], f"1{n}00.5"
    assert one.answer == one.extracted == number
    assert one.targets == f"It is {n}.\n<answer>\n{number}\n</answer>"
  assert open_table(name).form == "tag"


def test_numbers_of_json_are_texts(register, write):
  rows = [{"question": n, "answer": n / 2} for n in range(10)]
  rows[1]["answer"] = 10**30
  name = register(str(write(to_jsonl(rows), "jsonl")))
  found = {question: row.answer for question, row in read_all(name).items()}
  assert found["0"] == "0.0"
  assert found["1"] == str(10**30)
  assert found["3"] == "1.5"


@pytest.mark.parametrize(
  "change",
  [
    lambda text: "\ufeff" + text,  # as spreadsheets write it
    lambda text: text.replace("\r\n", "\n"),
    lambda text: text.removesuffix("\r\n"),
    lambda text: text + "\r\n\r\n",
  ],
)
def test_csv_of_other_programs(change, register, write):
  text = to_csv(ROWS)
  assert change(text) != text
  name = register(str(write(change(text), "csv")))
  assert set(read_all(name)) == {row["question"] for row in ROWS}


@pytest.mark.parametrize("suffix", WRITERS)
def test_any_text_survives(suffix, write):
  """Commas, quotes and new lines in a cell among them."""
  cells = st.text(
    'a\u00e9\u4e2d,"\n\r;\t{}\u2028\x85\\', min_size=1, max_size=9
  ).filter(str.strip)

  @hypothesis.given(st.lists(cells, min_size=1, max_size=4))
  def check(questions):
    rows = [{"question": text, "answer": "a"} for text in questions]
    path = write(WRITERS[suffix](rows), suffix)
    columns = ("question", "answer")
    found = table._make_rows("toy", "", path, columns, "text", "sentence")
    assert [row["question"] for row in found] == [
      text.strip() for text in questions
    ]

  check()


# Faults ------------------------------------------------------------------

GOOD = json.dumps({"question": "How many?", "answer": "2"}).encode()


# What follows the name of the file.
@pytest.mark.parametrize(
  ("lines", "said"),
  [
    ([b"{"], ", line 1: not valid JSON (Expecting property name"),
    ([GOOD, GOOD, GOOD[:-1]], ", line 3: not valid JSON (Expecting ',' delim"),
    ([GOOD, b"", GOOD], ", line 2: not valid JSON (Expecting value, column 1)"),
    ([GOOD, b"[" * 100_000], ", line 2: bad JSON (maximum recursion depth"),
    ([GOOD, b"7" * 5000], ", line 2: bad JSON (Exceeds the limit"),
    ([GOOD, b"[1, 2]"], ", line 2: expected an object, got [1, 2]"),
    ([b"null"], ", line 1: expected an object, got None"),
    ([b"7"], ", line 1: expected an object, got 7"),
    ([b"{}"], ", line 1: field 'question' must be a string"),
    ([GOOD, b'{"question": "a"}'], ", line 2: field 'answer' must be a string"),
    ([b'{"question": true, "answer": "7"}'], ", line 1: field 'question' "),
    ([b'{"question": " ", "answer": "7"}'], ", line 1: field 'question' "),
    (
      [b'{"question": "\\ud800", "answer": "a"}'],
      ", line 1: field 'question' ",
    ),
    ([b'{"question": "a", "answer": ["7"]}'], ", line 1: field 'answer' "),
    ([b'{"question": "a", "answer": null}'], ", line 1: field 'answer' "),
    ([b'{"question": "a", "answer": "7"}'], None),
    (
      [GOOD, b'{"question": "a", "answer": "seven"}'],
      ", line 2: the answer 'seven' is not an integer",
    ),
    (
      [GOOD, b'{"question": "a", "answer": 7.0}'],
      ", line 2: the answer '7.0' is not an integer",
    ),
    ([GOOD, b'{"question": "\xe9"}'], ", line 2: not UTF-8 (invalid"),
    (
      [(GOOD + b"\n").decode().encode("utf-16")],
      ", line 1: not UTF-8 (invalid",
    ),
    ([], " is empty"),
    ([b"", b""], " is empty"),
  ],
)
def test_faulty_lines_are_named(lines, said, register, write):
  path = write(b"\n".join(lines), "jsonl")
  name = register({"train": str(path)}, kind="integer")
  if said is None:
    assert len(load(name)) == 1
  else:
    assert message_of(load, name).startswith(f"{path}{said}")


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("question,answer\na,1\nb,\n", ", line 3: field 'answer' must be a string"),
    ("question,answer\n,1\n", ", line 2: field 'question' must be a string"),
    ("question,answer\na\n", ", line 2: field 'answer' must be a string"),
    (
      "question,answer\na,one\n",
      ", line 2: the answer 'one' is not an integer",
    ),
    ("question,answer\n\n\na,one\n", ", line 4: the answer 'one' is not"),
    ('question,answer\n"a\nb",one\n', ", line 3: the answer 'one' is not"),
    ("question,answer\na, b,1\n", ", line 2: more cells than the header has"),
    ('question,answer\n"a,1\n', ", line 2: not valid CSV (unexpected end"),
    ('question,answer\n"a"b,1\n', ", line 2: not valid CSV ("),
    ("question;answer\na;1\n", ": the header has no column 'answer', only qu"),
    ("answer\n1\n", ": the header has no column 'question', only answer"),
    ("\n", " is empty"),
    ("", " is empty"),
    (b"question,answer\na,\xff\n", ", line 2: not UTF-8 (invalid start byte)"),
    ("question,answer\n" + "a" * 200_000 + ",1\n", ", line 2: not valid CSV ("),
    ("question,answer\na,1\0\n", ", line 2: "),
  ],
)
def test_faulty_tables_are_named(text, said, register, write):
  path = write(text, "csv")
  name = register({"train": str(path)}, kind="integer")
  assert message_of(load, name).startswith(f"{path}{said}")


@each_format
def test_tags_need_numbers(suffix, register, write):
  rows = [ROWS[0], ROWS[1] | {"answer": "two"}]
  path = write(WRITERS[suffix](rows), suffix)
  name = register({"train": str(path)}, form="tag")
  line = {"jsonl": 2, "csv": 3}[suffix]
  assert message_of(load, name) == (
    f"{path}, line {line}: the answer 'two' is not a number, which form='tag' "
    "needs; register the task with form='sentence'"
  )


@each_format
def test_rationales_are_missing(suffix, register, write):
  rows = [ROWS[0], ROWS[1] | {"rationale": ""}]
  path = write(WRITERS[suffix](rows), suffix)
  name = register({"train": str(path)}, rationale="rationale")
  line = {"jsonl": 2, "csv": 3}[suffix]
  said = f"{path}, line {line}: field 'rationale' must be a string"
  assert message_of(load, name).startswith(said)


def test_other_files(register, write, tmp_path):
  for suffix in ("tsv", "json", "CSV"):
    path = write(to_csv(ROWS), suffix)
    assert message_of(load, register(str(path))) == (
      f"{path}: the file's name must end with .csv or .jsonl"
    )
  for path in (tmp_path / "none.csv", tmp_path / "none.jsonl"):
    said = f"cannot read {path} (No such file or directory)"
    assert message_of(load, register(str(path))) == said


def test_no_rows(register, write):
  for split in ("train", "test"):
    name = register(str(write("question,answer\n", "csv")))
    said = f"split '{split}' of task '{name}' has no examples"
    assert message_of(load, name, split) == said


def test_bad_arguments(write):
  path = str(write(to_csv(ROWS), "csv"))
  for settings, said in (
    ({"kind": "number"}, "unknown kind of answer 'number'"),
    ({"form": "tags"}, "unknown form 'tags'"),
  ):
    text = message_of(table.register, "toy_bad", path, **settings)
    assert text.startswith(said)
  assert "toy_bad" not in common.INFO
  assert message_of(table.register, "toy bad", path).startswith("task name")
