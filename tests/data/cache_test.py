"""A stored task is the same task, and what is not one is refused."""

import dataclasses
import functools
import io
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import seqio

from cot_latent.data import cache
from cot_latent.data.open import open_task
from cot_latent.data.prompts import COMPACT, DIRECT, Prompts
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.tasks import common, table, vocabularies
from tests.asserts import message_of
from tests.data.task_test import spell
from tests.tasks import golden, pipeline

PROTO = seqio.vocabularies.sentencepiece_model_pb2

ROWS = {
  "train": [
    {"id": "t/0", "question": "a?", "answer": "1", "targets": "One."},
    {"id": "t/1", "question": "b\u00e9?", "answer": "-2", "targets": "x"},
    {"id": "t/2", "question": "c {}<>\n?", "answer": "3", "targets": "y"},
  ],
  "test": [{"id": "s/0", "question": "d?", "answer": "1", "targets": "z"}],
}
LESSON = {"question": "1?", "answer": "1", "targets": "It is 1."}
EXEMPLARS = [{"question": "e?", "answer": "5", "targets": "Five."}]
TOY = {
  "answer": "integer",
  "form": "tag",
  "prompts": COMPACT,
  "rationale_splits": ["train"],
  "lesson": LESSON,
  "exemplars": lambda data_dir: EXEMPLARS,
}
FEW_SHOT = Prompts(exemplars="task", num_exemplars=2, separator="\n---\n")
COMPLETIONS = [
  *("", "So the answer is (B).", "the answer is (B). Q: more", "7", " Yes\n"),
  *("<answer>\n$1,800.\n</answer>", "#### 18.0", "It tells the truth.", "] )"),
  *("So the answer is ] ) >.", "The answer is 5", "(B)", "eggs, 18 of them"),
]


def open_toy(name="toy", rows=None, source=None, **settings):
  """Opens a task that is registered for this moment alone."""
  rows = rows or ROWS
  common.register(
    name,
    common.rows_source(rows.__getitem__, list(rows)),
    lambda: {split: len(found) for split, found in rows.items()},
    **TOY | settings,
  )
  try:
    task = open_task(source or Source(name))
    for split in task.splits:
      task.read(split)
    return task
  finally:
    seqio.TaskRegistry.remove(name)
    del common.INFO[name]


def open_mixture():
  names = []
  try:
    for name, kind in (("toy_a", "integer"), ("toy_b", ("1", "-2", "3"))):
      rows = {
        split: [row | {"id": f"{name}/{row['id']}"} for row in found]
        for split, found in ROWS.items()
      }
      common.register(
        name,
        common.rows_source(rows.__getitem__, list(rows)),
        lambda: {split: len(found) for split, found in ROWS.items()},
        answer=kind,
      )
      names.append(name)
    common.register_mixture("toy_mix", names)
    task = open_task(Source("toy_mix"))
    for split in task.splits:
      task.read(split)
    return task
  finally:
    for name in names:
      seqio.TaskRegistry.remove(name)
      del common.INFO[name]
    seqio.MixtureRegistry.remove("toy_mix")
    del common.MIXTURES["toy_mix"]


def whole_pieces():
  return pipeline.sentencepiece_models()["whole"]


MADE = {
  "chain": lambda data_dir: pipeline.open_named("chain"),
  "tag": lambda data_dir: open_toy(),
  "direct": lambda data_dir: open_toy(source=Source("toy", prompts=DIRECT)),
  "pieces": lambda data_dir: open_toy(
    source=Source("toy", vocabulary=whole_pieces())
  ),
  "mixture": lambda data_dir: open_mixture(),
  "few_shot": lambda data_dir: pipeline.open_named(
    "bbh_dyck_languages", data_dir, prompts=FEW_SHOT
  ),
  "wordings": lambda data_dir: pipeline.open_named("bbh_web_of_lies", data_dir),
}


def store(task, path):
  content, _ = cache.to_bytes(task)
  path.write_bytes(content)
  return path


def reopen(opened, path, **settings):
  settings = {"task": opened.name, "cache": str(path)} | settings
  return open_task(Source(**settings))


def check_arrays(one, other):
  """Compares two splits, or two loaded ones, to the last bit."""
  names = getattr(one, "_fields", None) or [
    field.name for field in dataclasses.fields(one)
  ]
  for name in names:
    left, right = getattr(one, name), getattr(other, name)
    if name in ("prompts", "guides", "targets", "words"):
      assert len(left) == len(right)
      for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    else:
      assert left == right
      assert type(left) is type(right)


def check_same(one, other):
  """Compares all that training and scoring can see of two tasks."""
  for name in ("name", "prompts", "form", "kinds"):
    assert getattr(one, name) == getattr(other, name)
  for name in ("splits", "rationale_splits"):
    assert list(getattr(one, name)) == list(getattr(other, name))
  for name in ("separator", "lesson"):
    left, right = getattr(one, name), getattr(other, name)
    np.testing.assert_array_equal(left, right)
    assert left.dtype == right.dtype == np.int32
  for name in ("name", "size", "eos_id", "model", "bos_id", "padding_id"):
    assert getattr(one.vocabulary, name) == getattr(other.vocabulary, name)
  for text in COMPLETIONS:
    assert one.vocabulary.encode(text) == other.vocabulary.encode(text)
  ids = np.random.default_rng(0).integers(0, one.vocabulary.size, (20, 30))
  assert one.vocabulary.decode_rows(ids) == other.vocabulary.decode_rows(ids)
  for split in one.splits:
    check_arrays(one.read(split), other.read(split))
    for settings in (
      {"prompt_length": 1 << 16},
      {"prompt_length": 1 << 16, "target_length": 1 << 12},
      {"prompt_length": 40, "target_length": 9, "over_long": "truncate"},
    ):
      loaded = one.load(split, **settings), other.load(split, **settings)
      check_arrays(*loaded)
      assert loaded[0].fingerprint() == loaded[1].fingerprint()
  check_same_conventions(one, other)


def check_same_conventions(one, other):
  assert list(one.conventions) == list(other.conventions)
  for part, ways in one.conventions.items():
    assert list(ways) == list(other.conventions[part])
    for name, way in ways.items():
      twin = other.conventions[part][name]
      for fields in ("name", "needs_question", "scores_cut"):
        assert getattr(way, fields) == getattr(twin, fields)
      for text in COMPLETIONS:
        question = "Which?\n(A) one\n(B) two List: b a"
        assert way.extract(text, question) == twin.extract(text, question)
        assert way.normalize(text) == twin.normalize(text)
  for text in COMPLETIONS:
    assert one.extract(text) == other.extract(text)


@pytest.mark.parametrize("kind", MADE)
def test_a_task_through_a_cache_is_the_same(kind, tmp_path, data_dir):
  task = MADE[kind](data_dir)
  content, digest = cache.to_bytes(task)
  path = tmp_path / "task.npz"
  path.write_bytes(content)
  found = reopen(task, path)
  check_same(task, found)
  assert digest == cache.fingerprint(task) == cache.fingerprint(found)
  # The same bytes, also of what was stored once.
  assert cache.to_bytes(task) == cache.to_bytes(found) == (content, digest)


@pytest.fixture(scope="module")
def toy():
  return open_toy()


def without_rows(task):
  rows = task.read("train")
  rows = rows._replace(answers=rows.answers[::-1])
  return {"read": lambda split: rows if split == "train" else task.read(split)}


@pytest.mark.parametrize(
  "change",
  [
    without_rows,
    lambda task: {"form": "sentence"},
    lambda task: {"prompts": DIRECT},
    lambda task: {"lesson": task.lesson[:-1]},
    lambda task: {"separator": task.separator.astype(np.int64)},
    lambda task: {"kinds": {task.name: "text"}},
    lambda task: {"splits": ["train"]},
    lambda task: {"rationale_splits": ["test"]},
    lambda task: {"vocabulary": dataclasses.replace(task.vocabulary, size=260)},
    lambda task: {"vocabulary": dataclasses.replace(task.vocabulary, eos_id=2)},
    lambda task: {
      "conventions": {
        task.name: {
          name: way._replace(extract=lambda text, question: "18")
          for name, way in task.conventions[task.name].items()
        }
      }
    },
  ],
)
def test_tasks_that_differ_are_told_apart(change, toy):
  check_same(toy, dataclasses.replace(toy))
  with pytest.raises(AssertionError):
    check_same(toy, dataclasses.replace(toy, **change(toy)))


def test_lessons_and_separators_are_stored(toy, tmp_path):
  found = reopen(toy, store(toy, tmp_path / "a.npz"))
  assert found.lesson.tolist() == spell("1??\nIt is 1.\n\n")
  assert found.separator.tolist() == spell("\n\n")


def test_there_is_no_pickle(toy, tmp_path):
  path = store(toy, tmp_path / "a.npz")
  with np.load(path, allow_pickle=False) as stored:
    assert {array.dtype.kind for array in stored.values()} == {"i", "u"}


OTHER_PROCESS = """
import json, sys
from cot_latent.data import cache
from cot_latent.data.open import open_task
from cot_latent.data.source import Source
task = open_task(Source(**json.loads(sys.argv[1])))
if sys.argv[2]:
  open(sys.argv[2], "wb").write(cache.to_bytes(task)[0])
print(cache.fingerprint(task), "tensorflow" in sys.modules)
"""


def ask_another_process(source, path=""):
  result = subprocess.run(
    [sys.executable, "-c", OTHER_PROCESS, json.dumps(source), str(path)],
    env=os.environ | {"PYTHONHASHSEED": "1"},
    cwd=golden.ROOT,
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  fingerprint, has_tensorflow = result.stdout.split()
  return fingerprint, has_tensorflow == "True"


@pytest.mark.slow
def test_another_process_makes_the_same_bytes(tmp_path, data_dir):
  task = pipeline.open_named("bbh_web_of_lies", data_dir)
  content, digest = cache.to_bytes(task)
  path = tmp_path / "a.npz"
  source = {"task": task.name, "data_dir": data_dir}
  assert ask_another_process(source, path) == (digest, True)
  assert path.read_bytes() == content


def test_a_cache_is_opened_without_tensorflow(toy, tmp_path):
  path = store(toy, tmp_path / "a.npz")
  source = {"task": toy.name, "cache": str(path), "data_dir": "nowhere"}
  assert ask_another_process(source) == (cache.fingerprint(toy), False)


# What cannot be stored ---------------------------------------------------


def test_a_checker_of_your_own_cannot_be_stored():
  task = open_toy(extract=lambda text: text)
  assert message_of(cache.to_bytes, task) == (
    "task 'toy' reads answers by a function of its own, which no file can "
    "hold; register it with a form (see docs/new_task.md)"
  )


def test_a_vocabulary_of_another_kind_cannot_be_stored(toy):
  other = dataclasses.replace(toy.vocabulary, name="PassThroughVocabulary")
  task = dataclasses.replace(toy, vocabulary=other)
  assert message_of(cache.to_bytes, task) == (
    "task 'toy' has a PassThroughVocabulary, which cannot be stored; bytes, "
    "SentencePiece and tokenizer.json can"
  )


# Files that are refused --------------------------------------------------


def read_arrays(path):
  with np.load(path, allow_pickle=False) as stored:
    return dict(stored)


def edit_json(array, change):
  content = json.loads(array.tobytes())
  changed = change(content)
  content = content if changed is None else changed
  return np.frombuffer(json.dumps(content).encode(), np.uint8)


@pytest.fixture
def stored(toy, tmp_path):
  """A good cache of the toy task."""
  return store(toy, tmp_path / "toy.npz")


def test_a_file_that_does_not_exist(toy, tmp_path):
  path = tmp_path / "none.npz"
  assert message_of(reopen, toy, path) == (
    f"CACHE: there is no file {path}; make it with `t5x cache --task=toy "
    f"--output={path}`"
  )


def as_npz(**arrays):
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  return stream.getvalue()


def as_npy(array):
  stream = io.BytesIO()
  np.save(stream, array)
  return stream.getvalue()


def as_zip(name, content):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    archive.writestr(name, content)
  return stream.getvalue()


# It claims ten million million numbers and has one.
TERABYTES = as_npy(np.zeros(1)).replace(
  b"(1,), }            ", b"(9999999999999,), }"
)


class Harm:
  """What a pickle may do when it is read."""

  def __reduce__(self):
    return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"garbage",
    b"PK\x03\x04 garbage",
    b"PK\x05\x06" + bytes(18),  # an empty archive
    as_npz(x=np.zeros(3)),
    as_npz(task=np.zeros(3)),
    as_npz(task=np.frombuffer(b"{}", np.uint8)),
    as_npz(task=np.frombuffer(b"[]", np.uint8)),
    as_npz(task=np.frombuffer(b'"a"', np.uint8)),
    as_npz(task=np.frombuffer(b"\xff\xff", np.uint8)),
    as_npz(task=np.frombuffer(b'{"format": 1, "splits": {}}', np.uint8)),
    as_npz(task=np.array(Harm(), object)),
    as_npy(np.zeros(3)),
    as_npy(np.array(Harm(), object)),
    pickle.dumps(Harm()),
    as_zip("task.npy", b"not an array"),
    as_zip("task.npy", TERABYTES),
    as_zip("task", b'{"format": 1}'),
  ],
)
def test_a_file_that_is_no_such_file(content, toy, tmp_path):
  path = tmp_path / "bad.npz"
  path.write_bytes(content)
  text = message_of(reopen, toy, path)
  said = f"{path} is not a file that `t5x cache` made, or is damaged ("
  assert text.startswith(said)


def test_a_folder_is_no_file(toy, tmp_path):
  said = f"{tmp_path} is not a file that `t5x cache` made"
  assert message_of(reopen, toy, tmp_path).startswith(said)


def test_a_file_that_was_cut(stored, toy):
  content = stored.read_bytes()
  for length in range(0, len(content), 61):
    stored.write_bytes(content[:length])
    assert "made, or is damaged (" in message_of(reopen, toy, stored)


def test_a_damaged_byte_changes_nothing_or_is_noticed(stored, toy):
  """Among them those that make an archive look encrypted, or too new."""
  content = stored.read_bytes()
  num_noticed = 0
  for place in range(0, len(content), 7):
    for mask in (0x01, 0x80):
      damaged = bytearray(content)
      damaged[place] ^= mask
      stored.write_bytes(damaged)
      message = try_to_open(toy, stored)
      num_noticed += message is not None
      assert len((message or "a date, say").splitlines()) == 1
  assert num_noticed > len(content) / 7


def try_to_open(toy, path):
  """Opens a cache, which holds the toy task if it does open."""
  try:
    found = reopen(toy, path)
  except UserError as error:
    return str(error)
  assert cache.to_bytes(found) == cache.to_bytes(toy)
  return None


# What a damaged header looks like: the flag of encryption, and a method of
# compression that there is not.
@pytest.mark.parametrize(("offset", "said"), [(8, "encrypted"), (10, "method")])
def test_an_archive_that_looks_like_another(offset, said, stored, toy):
  content = bytearray(stored.read_bytes())
  content[content.index(b"PK\x01\x02") + offset] ^= 0x01
  stored.write_bytes(content)
  assert said in message_of(reopen, toy, stored)


ARRAYS = ["vocabulary", "separator", "lesson"] + [
  f"{split}/{name}{lengths}"
  for split in ROWS
  for name in ("prompts", "guides", "targets")
  for lengths in ("", "_lengths")
]


def check_edits(open_cached, toy, path):
  """Checks that an edit of each array of numbers is noticed."""
  arrays = read_arrays(path)
  texts = {f"{split}/texts" for split in ROWS}
  assert set(arrays) == {*ARRAYS, *texts, "task"}
  for name in ARRAYS:
    array = arrays[name]
    edits = [np.append(array[:0], np.ones(1, array.dtype)), array[:0]]
    if name.endswith("_lengths") and len(array) > 1:
      edits = [array[::-1], array + 1]
    elif array.size:
      changed = array.copy()
      changed[0] += 1
      edits = [changed, array[:-1], np.append(array, array[-1:])]
    else:
      edits = edits[:1]
    for edit in edits:
      if name.endswith("_lengths") and len(array) == 1:
        continue  # see test_the_last_length_is_not_needed
      content = as_npz(**arrays | {name: edit})
      path.write_bytes(content)
      message_of(open_cached, toy, path)


def test_an_edited_array_is_noticed(stored, toy, monkeypatch):
  check_edits(reopen, toy, stored)
  # Without the fingerprint it would not be.
  store(toy, stored)
  digest = cache.fingerprint(toy)
  monkeypatch.setattr(cache, "fingerprint", lambda task: digest)
  with pytest.raises(pytest.fail.Exception):
    check_edits(reopen, toy, stored)


def test_what_is_known_of_bytes_is_not_read(stored, toy):
  arrays = read_arrays(stored)
  other = {"vocabulary": ["Bytes", 259, 2]}
  edited = edit_json(arrays["task"], lambda content: content | other)
  stored.write_bytes(as_npz(**arrays | {"task": edited}))
  check_same(toy, reopen(toy, stored))


def test_the_last_length_is_not_needed(stored, toy):
  """It is what the others leave; whatever stands there, the task is correct."""
  arrays = read_arrays(stored)
  name = "train/targets_lengths"
  changed = arrays[name].copy()
  changed[-1] += 1
  stored.write_bytes(as_npz(**arrays | {name: changed}))
  check_same(toy, reopen(toy, stored))


@pytest.mark.parametrize("column", ["ids", "tasks", "questions", "answers"])
@pytest.mark.parametrize("split", ROWS)
def test_an_edited_text_is_noticed(split, column, stored, toy):
  arrays = read_arrays(stored)

  def change(texts):
    texts[column][0] += "x"

  name = f"{split}/texts"
  edited = edit_json(arrays[name], change)
  stored.write_bytes(as_npz(**arrays | {name: edited}))
  assert message_of(reopen, toy, stored) == (
    f"{stored} is damaged or was changed: its fingerprint does not match; make "
    "it again with `t5x cache`"
  )


@pytest.mark.parametrize(
  "change",
  [
    {"name": "toy_other"},
    {"form": "sentence"},
    {"kinds": {"toy": "text"}},
    {"kinds": {}},
    {"kinds": []},
    {"kinds": {"toy": "no such kind"}},
    {"rationale_splits": []},
    {"vocabulary": []},
    {"splits": {"train": ""}},
    {"splits": []},
    {"fingerprint": "0"},
    {"prompts": {"prior": "no field"}},
    {"prompts": {"no_such_field": 7}},
    {"prompts": dataclasses.asdict(DIRECT)},
    {"prompts": None},
  ],
)
def test_an_edited_description_is_noticed(change, stored, toy):
  arrays = read_arrays(stored)
  edited = edit_json(arrays["task"], lambda content: content | change)
  stored.write_bytes(as_npz(**arrays | {"task": edited}))
  message_of(reopen, toy, stored)


@pytest.mark.parametrize("name", [*ARRAYS, "task", "train/texts"])
def test_an_array_that_is_not_there_is_noticed(name, stored, toy):
  arrays = read_arrays(stored)
  del arrays[name]
  stored.write_bytes(as_npz(**arrays))
  assert "made, or is damaged (" in message_of(reopen, toy, stored)


def test_an_older_format(stored, toy):
  arrays = read_arrays(stored)
  older = edit_json(arrays["task"], lambda content: content | {"format": 0})
  stored.write_bytes(as_npz(**arrays | {"task": older}))
  assert message_of(reopen, toy, stored) == (
    f"{stored} is in format 0, and this version reads {cache._FORMAT}: make it "
    "again with `t5x cache`"
  )


def test_another_task(tmp_path):
  task = pipeline.open_named("chain")
  path = store(task, tmp_path / "a.npz")
  for name in ("chain", "chain_v1"):  # with or without its version
    assert reopen(task, path, task=name).name == "chain_v1"
  for name in ("chain_v2", "chai", "toy", "chain_v1_v1"):
    assert message_of(reopen, task, path, task=name) == (
      f"CACHE: {path} holds task 'chain_v1', not {name!r}; make another with "
      "`t5x cache`"
    )


def test_other_prompts(stored, toy):
  same = Prompts(**dataclasses.asdict(COMPACT))
  assert reopen(toy, stored, prompts=same).prompts == COMPACT
  said = "prompts that differ from PROMPTS"
  for other in (
    DIRECT,
    dataclasses.replace(COMPACT, num_exemplars=4),
    dataclasses.replace(COMPACT, exemplars="bootstrapped"),
  ):
    assert message_of(reopen, toy, stored, prompts=other) == (
      f"CACHE: {stored} holds {said}; make another with `t5x cache`"
    )


def test_another_vocabulary(stored, toy, tmp_path):
  path = whole_pieces()
  assert message_of(reopen, toy, stored, vocabulary=path) == (
    f"CACHE: {stored} holds bytes, not the pieces of VOCABULARY; make another "
    "with `t5x cache`"
  )
  pieces = MADE["pieces"](None)
  stored = store(pieces, tmp_path / "pieces.npz")
  found = reopen(pieces, stored, vocabulary=path)
  content = pathlib.Path(path).read_bytes()
  assert found.vocabulary.model == content
  # The same in another order of fields.
  whole = PROTO.ModelProto.FromString(content)
  first = PROTO.ModelProto()
  first.normalizer_spec.CopyFrom(whole.normalizer_spec)
  whole.ClearField("normalizer_spec")
  other = tmp_path / "other.model"
  head = first.SerializePartialToString()
  other.write_bytes(head + whole.SerializeToString())
  assert other.read_bytes() != content
  assert reopen(pieces, stored, vocabulary=str(other))
  # Two pieces changed places, so that the size is the same.
  one, two = (whole.pieces[-i].piece for i in (1, 2))
  whole.pieces[-1].piece, whole.pieces[-2].piece = two, one
  said = (
    f"CACHE: {stored} holds tokens of a {found.vocabulary.name}, not those of "
    "VOCABULARY; make another with `t5x cache`"
  )
  for wrong in (head + whole.SerializeToString(), b"no model"):
    other.write_bytes(wrong)
    assert message_of(reopen, pieces, stored, vocabulary=str(other)) == said
  # A file that is not on this machine is not compared.
  elsewhere = reopen(pieces, stored, vocabulary=str(tmp_path / "none.model"))
  assert elsewhere.vocabulary.model == content


# Fingerprints ------------------------------------------------------------


def change_row(name, add):
  row = ROWS["train"][1]
  changed = row | {name: row[name] + add}
  return {"rows": ROWS | {"train": [ROWS["train"][0], changed]}}


def ask(**changes):
  return {
    "source": Source("toy", prompts=dataclasses.replace(COMPACT, **changes))
  }


CHANGES = {
  "id": lambda: change_row("id", "x"),
  "question": lambda: change_row("question", "x"),
  "answer": lambda: change_row("answer", "1"),
  "target": lambda: change_row("targets", "x"),
  "row": lambda: {"rows": ROWS | {"train": ROWS["train"][:2]}},
  "splits": lambda: {"rows": {"train": ROWS["train"], "tst": ROWS["test"]}},
  "one split": lambda: {"rows": {"train": ROWS["train"]}},
  "name": lambda: {"name": "toy_2"},
  "form": lambda: {"form": "sentence"},
  "kind": lambda: {"answer": "text"},
  "members": lambda: {"answer": ("1", "-2", "3")},
  "more members": lambda: {"answer": ("1", "-2", "3", "4")},
  "rationales": lambda: {"rationale_splits": ["train", "test"]},
  "lesson": lambda: {"lesson": LESSON | {"targets": "It is 1!"}},
  "no lesson": lambda: {"lesson": None},
  "prior": lambda: ask(prior="{question}!\n"),
  "guide": lambda: ask(guide="{question}? ({answer})"),
  "separator": lambda: ask(separator="\n"),
  "direct": lambda: ask(is_direct=True),
  "exemplars": lambda: ask(exemplars="task"),
  "an exemplar": lambda: (
    ask(exemplars="task")
    | {"exemplars": lambda data_dir: [EXEMPLARS[0] | {"targets": "5"}]}
  ),
  "pieces": lambda: {"source": Source("toy", vocabulary=whole_pieces())},
}


@functools.cache
def open_changed(name):
  return open_toy(**CHANGES[name]())


def check_changes(fingerprint):
  """Checks that each change of a task changes the fingerprint."""
  seen = {"nothing": fingerprint(open_toy())}
  assert fingerprint(open_toy()) == seen["nothing"]
  for name in CHANGES:
    found = fingerprint(open_changed(name))
    assert found not in seen.values(), name
    seen[name] = found


def of_the_splits_alone(task):
  return tuple(task.read(split).fingerprint() for split in task.splits)


def of_the_first_split(task):
  return task.read("train").fingerprint() + str(cache._describe(task))


def test_each_change_changes_the_fingerprint():
  check_changes(cache.fingerprint)


@pytest.mark.parametrize("broken", [of_the_splits_alone, of_the_first_split])
def test_broken_fingerprints_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_changes(broken)


def test_another_model_of_pieces_is_another_vocabulary(tmp_path):
  """Even if it makes the same tokens."""
  path = tmp_path / "other.model"
  path.write_bytes(
    pathlib.Path(whole_pieces()).read_bytes() + b"\x2a\x02\x08\x01"
  )
  one, other = (
    open_toy(source=Source("toy", vocabulary=str(model)))
    for model in (whole_pieces(), path)
  )
  assert one.read("train").fingerprint() == other.read("train").fingerprint()
  assert cache.fingerprint(one) != cache.fingerprint(other)


def test_another_preprocessor_changes_the_fingerprint():
  built = []
  for preprocess in (None, lambda row: row | {"targets": row["targets"] + "."}):
    steps = [seqio.map_over_dataset(preprocess)] if preprocess else []
    source = common.rows_source(ROWS.__getitem__, list(ROWS))(None)

    def add_guide(row):
      return row | {"guide": row["question"], "inputs": row["question"]}

    name = "toy_foreign"
    seqio.TaskRegistry.add(
      name,
      source=source,
      preprocessors=[
        *steps,
        seqio.map_over_dataset(add_guide),
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
      ],
      output_features={
        "inputs": seqio.Feature(vocabularies.BYTES, add_eos=False),
        "targets": seqio.Feature(vocabularies.BYTES, add_eos=True),
      },
      postprocess_fn=lambda text, **_: text,
      metric_fns=[],
    )
    try:
      built.append(cache.fingerprint(open_task(Source(name))))
    finally:
      seqio.TaskRegistry.remove(name)
  assert len(set(built)) == 2


def test_no_path_changes_the_fingerprint(tmp_path):
  found = set()
  for folder in (tmp_path / "a", tmp_path / "b" / "longer"):
    folder.mkdir(parents=True)
    rows = [{"question": f"{n}?", "answer": str(n)} for n in range(5)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    worked = {"question": "e?", "answer": "5", "completion": "Five."}
    (folder / "worked.jsonl").write_text(json.dumps(worked))
    model = shutil.copy(whole_pieces(), folder / f"{folder.name}.model")
    table.register("toy_table", str(folder / "rows.jsonl"), kind="integer")
    prompts = Prompts(exemplars=str(folder / "worked.jsonl"))
    try:
      task = open_task(
        Source("toy_table", prompts=prompts, vocabulary=str(model))
      )
      found.add(cache.fingerprint(task))
    finally:
      seqio.TaskRegistry.remove("toy_table")
      del common.INFO["toy_table"]
  assert len(found) == 1


def test_the_folder_of_the_data_does_not_change_the_fingerprint(
  data_dir, tmp_path
):
  for name in ("tasks/navigate.json", "cot-prompts/navigate.txt"):
    path = tmp_path / "bbh" / name
    path.parent.mkdir(parents=True)
    shutil.copy(pathlib.Path(data_dir, "bbh", name), path)
  one, other = (
    cache.fingerprint(pipeline.open_named("bbh_navigate", folder))
    for folder in (data_dir, str(tmp_path))
  )
  assert one == other


def test_the_fingerprint_stays_the_same():
  # Golden: with a change here no earlier cache can be compared any more.
  assert cache.fingerprint(open_toy()).startswith("b046df5d6a13769c")
