"""A SeqIO task as training sees it, whoever registered it."""

import itertools
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cot_latent.data import seqio_task
from cot_latent.data.open import open_task as open_source
from cot_latent.data.prompts import COMPACT, PAPER, Prompts
from cot_latent.data.source import Source
from cot_latent.tasks import common, vocabularies
from tests.asserts import message_of
from tests.data import task_test as examples_test
from tests.data.task_test import ROWS, check_rows
from tests.tasks import pipeline

ROOM = {"prompt_length": 100, "target_length": 100}
FEATURES = {
  "inputs": seqio.Feature(vocabularies.BYTES, add_eos=False),
  "targets": seqio.Feature(vocabularies.BYTES, add_eos=True),
}
FIELDS = ("id", "question", "answer", "guide", "inputs", "targets")


@pytest.fixture
def make_task():
  """Registers throw-away tasks of another library, and forgets them again."""
  names = (f"toy_{number}" for number in itertools.count())
  used = []

  def make(rows, splits=("train",), features=FEATURES, name=None, **changes):
    columns = {
      key: tf.constant([row[key] for row in rows])
      if rows
      else tf.constant([""])
      for key in (rows or ROWS)[0]
      if key != "task"
    }
    dataset = tf.data.Dataset.from_tensor_slices(columns).take(len(rows))
    settings = {
      "source": seqio.FunctionDataSource(
        lambda split, shuffle_files=False, seed=None: dataset, splits=splits
      ),
      "preprocessors": [
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
      ],
      "output_features": features,
      "postprocess_fn": lambda text, **_: text.removesuffix(".") or None,
      "metric_fns": [],
    }
    used.append(name or next(names))
    return seqio.TaskRegistry.add(used[-1], **settings | changes).name

  yield make
  for name in used:
    seqio.TaskRegistry.remove(name)


@pytest.fixture
def register():
  """Registers throw-away tasks of this package, and forgets them again."""
  used = []

  def add(name="toy", read=None, splits=("train",), **settings):
    rows = [
      {key: row[key] for key in ("id", "question", "answer", "targets")}
      for row in ROWS
    ]
    source = common.rows_source(read or (lambda split: rows), splits)
    common.register(name, source, lambda: {"train": len(rows)}, **settings)
    used.append(name)
    return name

  yield add
  for name in used:
    seqio.TaskRegistry.remove(name)
    del common.INFO[name]


@pytest.fixture
def mix():
  used = []

  def add(name, tasks):
    seqio.MixtureRegistry.add(name, [(task, 1.0) for task in tasks])
    used.append(name)
    return name

  yield add
  for name in used:
    seqio.MixtureRegistry.remove(name)


def without(row, *names):
  return {key: value for key, value in row.items() if key not in names}


def as_task(name):
  return [row | {"task": name} for row in ROWS]


def open_task(name, **settings):
  return open_source(Source(name, **settings))


def load(name, split="train"):
  return open_task(name).load(split, **ROOM)


def test_rows_become_arrays(make_task):
  name = make_task(ROWS)
  loaded = load(name)
  check_rows(loaded, as_task(name))
  rows = open_task(name).read("train")
  # What examples_test makes by hand is what comes out of SeqIO.
  wanted = examples_test.tokenize(as_task(name))
  assert rows.fingerprint() == wanted.fingerprint()
  for column in (rows.prompts, rows.guides, rows.targets):
    assert all(row.dtype == np.int32 for row in column)


def test_the_order_of_the_rows_does_not_matter(make_task):
  one, other = make_task(ROWS), make_task(ROWS[::-1])
  check_rows(load(one), as_task(one))
  check_rows(load(other), as_task(other))


def test_a_prefix_of_a_guide_is_encoded_by_itself(make_task):
  rows = [row | {"guide_prefix": "before "} for row in ROWS]
  name = make_task(rows)
  wanted = [row | {"guide": f"before {row['guide']}"} for row in as_task(name)]
  check_rows(load(name), wanted)


def test_empty_split(make_task):
  name = make_task([])
  assert message_of(load, name) == (
    f"split 'train' of task '{name}' has no examples"
  )


def test_repeated_id(make_task):
  rows = [ROWS[0], ROWS[1], ROWS[2] | {"id": ROWS[0]["id"]}]
  assert message_of(load, make_task(rows)) == (
    "split 'train' of task 'toy_0' repeats the id 'toy/aaa'"
  )


@pytest.mark.parametrize("name", ["id", "question", "answer", "guide"])
def test_missing_field(make_task, name):
  task = make_task([without(row, name) for row in ROWS])
  assert message_of(load, task) == (
    f"task 'toy_0' yields no field '{name}'; its preprocessors must keep id, "
    "question, answer, guide beside inputs and targets"
  )


@pytest.mark.parametrize("name", ["id", "question", "answer", "guide"])
def test_field_that_is_no_string(make_task, name):
  task = make_task([row | {name: 7} for row in ROWS])
  text = message_of(load, task)
  said = f"task 'toy_0' yields a field '{name}' that is not a string: "
  assert text.startswith(said)
  assert "7" in text


@pytest.mark.parametrize("name", ["inputs", "targets"])
def test_missing_feature(make_task, name):
  rows = [without(row, name) for row in ROWS]
  task = make_task(rows, features=without(FEATURES, name))
  said = f"task 'toy_0' has no output feature '{name}'"
  assert message_of(open_task, task) == said


def test_unknown_split(make_task):
  task = make_task(ROWS, splits=("train", "test"))
  said = f"task '{task}' has no split 'tst', only ['train', 'test']"
  assert message_of(load, task, "tst") == said


def test_unknown_task():
  assert message_of(open_task, "chian") == (
    "no task 'chian' is registered; did you mean chain? `t5x tasks` lists "
    "them, and TASK_MODULE names the module that registers your own"
  )
  assert "did you mean" not in message_of(open_task, "qqqqqqqq")
  # Close to a version that there is not.
  assert "did you mean chain?" in message_of(open_task, "chain_v99")


def test_the_newest_version_is_taken(make_task):
  for version in (2, 10, 9):
    make_task(ROWS, name=f"toy_versions_v{version}")
  assert open_task("toy_versions").name == "toy_versions_v10"
  assert open_task("toy_versions_v9").name == "toy_versions_v9"
  make_task(ROWS, name="toy_versions")
  assert open_task("toy_versions").name == "toy_versions"


MODULE = """
from cot_latent.tasks import common
rows = [{"id": "a", "question": "q", "answer": "a", "targets": "t"}]
common.register(
  "toy_module",
  common.rows_source(lambda split: rows, ["train"]),
  lambda: {"train": 1},
)
"""


def test_a_module_of_your_own(tmp_path, monkeypatch):
  (tmp_path / "toy_module.py").write_text(MODULE)
  said = message_of(open_task, "toy_module", module="toy_module")
  assert said == (
    "TASK_MODULE = 'toy_module': cannot import it (No module named "
    "'toy_module'); its folder must be on PYTHONPATH"
  )
  monkeypatch.syspath_prepend(tmp_path)
  try:
    for _ in range(2):  # again: it is imported once
      task = open_task("toy_module", module="toy_module")
      assert task.read("train").questions == ["q"]
  finally:
    seqio.TaskRegistry.remove("toy_module")
    del common.INFO["toy_module"]
    del sys.modules["toy_module"]


def test_a_task_is_opened_though_tensorflow_has_been_used(
  make_task, monkeypatch
):
  """TensorFlow then refuses to change its devices, where there is a GPU."""

  def refuse(devices, kind):
    raise RuntimeError("Visible devices cannot be modified")

  monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
  assert load(make_task(ROWS))


def test_a_task_of_another_library(make_task):
  name = make_task(ROWS)
  task = open_task(name)
  assert (task.name, task.form, task.kinds) == (name, None, {name: "text"})
  assert task.extract("a.") == "a"
  assert task.extract("") is None
  ((only,),) = task.conventions.values()
  assert only == "own"
  assert list(task.splits) == list(task.rationale_splits) == ["train"]
  vocabulary = task.vocabulary
  assert vocabulary.name == "ByteVocabulary"
  assert vocabulary.size == 256 + 3
  assert vocabulary.eos_id == examples_test.EOS
  assert load(name).targets.max() < vocabulary.size
  assert task.separator.tolist() == examples_test.spell("\n\n")
  assert task.lesson.tolist() == []


def test_a_task_of_another_library_has_its_own_form(make_task):
  name = make_task(ROWS)
  assert message_of(open_task, name, prompts=PAPER) == (
    f"task '{name}' makes its own prompts: set PROMPTS = None"
  )
  path = pipeline.sentencepiece_models()["whole"]
  assert message_of(open_task, name, vocabulary=path) == (
    f"task '{name}' has its own vocabulary: set VOCABULARY = None"
  )


LESSON = {"question": "1?", "answer": "1", "targets": "It is 1."}


def test_a_task_of_this_package(register):
  name = register(
    answer=("B", "AAA"),
    prompts=COMPACT,
    lesson=LESSON,
    rationale_splits=["train"],
  )
  task = open_task(name)
  assert task.form == "sentence"
  assert task.kinds == {name: ("B", "AAA")}
  assert task.prompts == COMPACT
  assert next(iter(task.conventions[name])) == "trice"
  assert task.rationale_splits == ["train"]
  assert task.lesson.tolist() == examples_test.spell("1??\nIt is 1.\n\n")
  # The requested form replaces the task's own.
  direct = Prompts(prior="{question}:", is_direct=True, separator="--")
  task = open_task(name, prompts=direct)
  assert task.prompts == direct
  assert next(iter(task.conventions[name])) == "direct"
  assert task.separator.tolist() == examples_test.spell("--")
  assert task.lesson.tolist() == examples_test.spell("1?:1--")
  rows = pipeline.decode(task, "train")
  assert [row.prompt for row in rows] == [f"{r['question']}:" for r in ROWS]
  assert [row.targets for row in rows] == [r["answer"] for r in ROWS]


def test_a_checker_of_your_own(register):
  task = open_task(register(extract=lambda text: text.removesuffix(".")))
  assert task.form is None
  assert task.extract("abc.") == "abc"
  assert list(task.conventions["toy"]) == ["own"]


def test_splits_without_rationales(register):
  assert open_task(register()).rationale_splits == []


def test_each_split_is_read_once(register):
  calls = []

  def read(split):
    calls.append(split)
    return [without(row, "task", "inputs", "guide") for row in ROWS]

  task = open_task(register(read=read))
  assert calls == []  # nor is any before it is asked for
  one, other = task.read("train"), task.read("train")
  assert one is other
  assert calls == ["train"]


# Mixtures ----------------------------------------------------------------


def read_prefixed(prefix):
  return lambda split: [
    without(row, "task", "inputs", "guide") | {"id": f"{prefix}/{row['id']}"}
    for row in ROWS
  ]


def test_a_mixture_is_read_whole(register, mix):
  parts = [register(name, read_prefixed(name)) for name in ("toy_b", "toy_a")]
  task = open_task(mix("toy_mix", parts))
  assert sorted(task.kinds) == sorted(task.conventions) == sorted(parts)
  rows = task.read("train")
  assert rows.ids == sorted(rows.ids)
  assert len(rows.ids) == 2 * len(ROWS)
  for part, name in zip(rows.tasks, rows.ids, strict=True):
    assert name.startswith(f"{part}/")
  assert rows.tasks == ["toy_a"] * len(ROWS) + ["toy_b"] * len(ROWS)


def test_a_mixture_has_the_splits_that_all_its_tasks_have(register, mix):
  parts = [
    register(
      name, read_prefixed(name), splits=splits, rationale_splits=rationales
    )
    for name, splits, rationales in (
      ("toy_a", ["base", "test", "train"], ["base", "train"]),
      ("toy_b", ["train", "test"], ["test", "train"]),
    )
  ]
  for tasks in (parts, parts[::-1]):
    task = open_task(mix(f"toy_mix_{tasks[0]}", tasks))
    assert sorted(task.splits) == ["test", "train"]
    assert task.rationale_splits == ["train"]


def test_a_mixture_repeats_no_id(register, mix):
  parts = [register(name) for name in ("toy_a", "toy_b")]
  task = open_task(mix("toy_mix", parts))
  text = message_of(task.read, "train")
  assert text == "split 'train' of task 'toy_b' repeats the id 'toy/aaa'"


@pytest.mark.parametrize(
  "others",
  [
    {"form": "tag", "answer": "integer"},
    {"extract": lambda text: text},
    {"prompts": Prompts(is_direct=True)},
  ],
)
def test_a_mixture_of_different_forms_is_refused(others, register, mix):
  one, other = register("toy_a"), register("toy_b", **others)
  for parts in ([one, other], [other, one]):
    name = mix(f"toy_mix_{parts[0]}", parts)
    assert message_of(open_task, name) == (
      f"mixture '{name}' has tasks whose answers are stated in different "
      "forms; train on them one by one"
    )


def test_a_mixture_with_prompts_of_your_own_has_one_form(register, mix):
  parts = [
    register("toy_a"),
    register("toy_b", prompts=Prompts(is_direct=True)),
  ]
  assert open_task(mix("toy_mix", parts), prompts=PAPER).form == "sentence"


def test_a_mixture_of_another_librarys_tasks_is_refused(make_task, mix):
  name = mix("toy_mix", [make_task(ROWS), make_task(ROWS)])
  assert "in different forms" in message_of(open_task, name)


# SentencePiece -----------------------------------------------------------


def test_other_vocabularies(register):
  task = open_task(
    register(), vocabulary=pipeline.sentencepiece_models()["whole"]
  )
  rows = pipeline.decode(task, "train")
  assert [row.question for row in rows] == [row["question"] for row in ROWS]
  pipeline.check_pipeline(
    [row._replace(extracted=row.answer) for row in rows], pipeline.PAPER
  )
  assert task.vocabulary.size == 450


# Two prompts of each row have new lines; `lacking` has no accents besides.
@pytest.mark.parametrize(("model", "count"), [("lacking", 9), ("folding", 8)])
def test_a_vocabulary_that_loses_text_is_refused(model, count, register):
  task = open_task(
    register(), vocabulary=pipeline.sentencepiece_models()[model]
  )
  text = message_of(task.read, "train")
  assert text.startswith("SentencePieceVocabulary(sha256 ")
  assert f" on task 'toy': encoding and decoding changes {count} " in text
  assert "'\\n'" in text


def test_a_loss_in_worked_examples_is_noticed(register):
  """`lacking` has no braces; nothing else here has them or a new line."""
  exemplars = [{"question": "{", "answer": "b", "targets": "c"}]
  made = Prompts(
    prior="{question}:", guide="{question} ({answer}):", separator=" "
  )
  path = pipeline.sentencepiece_models()["lacking"]
  rows = [without(row, "task", "inputs", "guide") for row in ROWS[:3]]
  name = register(read=lambda split: rows, exemplars=lambda folder: exemplars)
  assert open_task(name, prompts=made, vocabulary=path).read("train")
  few_shot = Prompts(
    prior=made.prior, guide=made.guide, separator=" ", exemplars="task"
  )
  task = open_task(name, prompts=few_shot, vocabulary=path)
  assert "it loses or changes '{';" in message_of(task.read, "train")


def test_the_vocabulary_of_another_librarys_task_is_checked_too(make_task):
  path = pipeline.sentencepiece_models()["lacking"]
  features = {
    name: seqio.Feature(
      seqio.SentencePieceVocabulary(path), add_eos=name == "targets"
    )
    for name in ("inputs", "targets")
  }
  rows = [row | {"guide": "a<b"} for row in ROWS[:3]]
  name = make_task(rows, features=features)
  text = message_of(load, name)
  said = "encoding and decoding changes 3"
  assert f"on task '{name}': {said}" in text
  assert "'<'" in text


def test_importing_nothing_is_no_mistake():
  seqio_task.import_module(None)
