"""Data files are read whole, and each fault is named with its place."""

import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies as st

from cot_latent.data.answers import checkers
from cot_latent.errors import UserError
from cot_latent.runtime import text_files
from tests.asserts import message_of


@pytest.fixture
def write(tmp_path):
  def write(content: bytes) -> pathlib.Path:
    path = tmp_path / "file"
    path.write_bytes(content)
    return path

  return write


def test_text_is_read_as_it_is(write):
  text = "a\u00e9\u4e2d\U0001f600\r\n\tb\u2028c\n"
  assert text_files.read_text(write(text.encode())) == text


def test_a_byte_order_mark_is_no_part_of_the_text(write):
  path = write(b'\xef\xbb\xbf{"a": 1}\n')
  assert text_files.read_text(path) == '{"a": 1}\n'
  assert list(text_files.read_jsonl(path)) == [("line 1", {"a": 1})]
  assert text_files.read_object(path) == {"a": 1}


def test_json_that_is_no_object(write):
  path = write(b"[1]")
  said = f"{path}: expected an object, got [1]"
  assert message_of(text_files.read_object, path) == said


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n \n", "\n\t"])
def test_empty_lines_at_the_end_are_ignored(write, end):
  path = write(f'{{"a": 1}}{end}'.encode())
  assert list(text_files.read_jsonl(path)) == [("line 1", {"a": 1})]


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"", " is empty"),
    (b"\xef\xbb\xbf", " is empty"),
    (b" \n\r\n\t", " is empty"),
    (b"a\nb\n\xff", ", line 3: not UTF-8 (invalid start byte)"),
    (b"\xc3", ", line 1: not UTF-8 (unexpected end of data)"),
    ("a".encode("utf-16"), ", line 1: not UTF-8 (invalid start byte)"),
  ],
)
def test_text_that_cannot_be_read(content, said, write):
  path = write(content)
  assert message_of(text_files.read_text, path) == f"{path}{said}"


def test_a_file_that_does_not_exist(tmp_path):
  (tmp_path / "file").write_text("a")
  for path, reason in (
    (tmp_path / "none", "No such file or directory"),
    (tmp_path, "Is a directory"),
    (tmp_path / "file" / "none", "Not a directory"),
  ):
    assert (
      message_of(text_files.read_text, path) == f"cannot read {path} ({reason})"
    )


PATH = pathlib.Path("folder/file")


@pytest.mark.parametrize(
  ("text", "line", "said"),
  [
    ("{", None, "line 1: not valid JSON (Expecting property name"),
    ('{\n\n"a" 1}', None, "line 3: not valid JSON (Expecting ':' delimiter"),
    ('{"a" 1}', 7, "line 7: not valid JSON (Expecting ':' delimiter"),
    ("", 7, "line 7: not valid JSON (Expecting value, column 1)"),
    ("[" * 100_000, 7, "line 7: bad JSON (maximum recursion depth"),
    ("[" * 100_000, None, "line 1: bad JSON (maximum recursion depth"),
    ("7" * 5000, 7, "line 7: bad JSON (Exceeds the limit"),
  ],
)
def test_bad_json(text, line, said):
  found = message_of(text_files.parse_json, PATH, text, line)
  assert found.startswith(f"{PATH}, {said}")


def test_good_json():
  content = {"a": ["\u2028", 1, None, True]}
  assert text_files.parse_json(PATH, json.dumps(content)) == content


def check_require(require):
  require(PATH, "line 3", {"a": "x", "b": " y ", "c": 7}, ("a", "b"))
  for row, said in (
    ([1], "expected an object, got [1]"),
    (None, "expected an object, got None"),
    ({"a": "x"}, "field 'b' must be a string"),
    ({"a": 7, "b": "y"}, "field 'a' must be a string"),
    ({"a": ["x"], "b": "y"}, "field 'a' must be a string"),
    ({"a": "x", "b": " \n"}, "field 'b' must be a string"),
    ({"a": "x", "b": "y\udfff"}, "field 'b' must be a string"),
    ({"a": "x" * 999, "b": None}, "field 'b' must be a string"),
    ({"a": "x", "b": list(range(999))}, "field 'b' must be a string"),
  ):
    found = message_of(require, PATH, "line 3", row, ("a", "b"))
    assert found.startswith(f"{PATH}, line 3: {said}")


def test_rows_must_hold_strings():
  check_require(text_files.require_strings)

  def by_presence(path, place, row, names):
    for name in names:
      if not row.get(name):
        raise UserError(f"{path}, {place}: field {name!r} must be a string")

  with pytest.raises((AssertionError, AttributeError)):
    check_require(by_presence)


def check_jsonl(read):
  @hypothesis.given(
    st.lists(
      st.dictionaries(
        st.text("a\u2028\x85\n", max_size=3),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        max_size=2,
      ),
      min_size=1,
      max_size=4,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
  )
  def check(rows, end, ends):
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = end.join(lines) + end * ends
    found = list(read(content.encode()))
    assert found == [(f"line {n}", row) for n, row in enumerate(rows, 1)]

  check()


def test_lines_of_json(write):
  check_jsonl(lambda content: text_files.read_jsonl(write(content)))

  def with_splitlines(content):
    for number, line in enumerate(content.decode().splitlines(), start=1):
      yield f"line {number}", json.loads(line)

  # It also cuts at U+2028 and U+0085, inside a string.
  with pytest.raises(json.JSONDecodeError):
    check_jsonl(with_splitlines)


def test_a_bad_line_is_named_after_the_good_ones(write):
  path = write(b'{"a": 1}\n\n{"a": 2}')
  rows = text_files.read_jsonl(path)
  assert next(rows) == ("line 1", {"a": 1})
  assert message_of(next, rows).startswith(f"{path}, line 2: not valid JSON")


def test_answers_of_another_kind_are_named():
  rows = [("line 1", "Yes"), ("line 2", "maybe"), ("line 3", "perhaps")]
  assert message_of(checkers.check_answers, PATH, rows, ("Yes", "No")) == (
    f"{PATH}, line 2: the answer 'maybe' is not Yes or No; fix the row, or "
    "register the task with another kind of answer"
  )
  checkers.check_answers(PATH, rows, "text")
  checkers.check_answers(PATH, rows[:1], ("Yes", "No"))
  assert "is not an integer" in message_of(
    checkers.check_answers, PATH, rows, "integer"
  )
