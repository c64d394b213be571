"""The mixtures: BIG-Bench Hard, its two halves, and the synthetic tasks."""

import collections
import itertools
import json
import pathlib

import pytest
import seqio

from cot_latent.data.open import open_task
from cot_latent.data.prompts import DIRECT
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.tasks import bbh, common, synthetic, vocabularies
from tests.params import by_night
from tests.tasks import pipeline

# As the benchmark's authors count them (their Table 2): of these eleven kinds
# two have a file for three, five and seven objects each.
ALGORITHMIC_KINDS = {
  "boolean_expressions",
  "dyck_languages",
  "geometric_shapes",
  "logical_deduction",
  "multistep_arithmetic_two",
  "navigate",
  "object_counting",
  "temporal_sequences",
  "tracking_shuffled_objects",
  "web_of_lies",
  "word_sorting",
}
NLP = {
  "causal_judgement",
  "date_understanding",
  "disambiguation_qa",
  "formal_fallacies",
  "hyperbaton",
  "movie_recommendation",
  "penguins_in_a_table",
  "reasoning_about_colored_objects",
  "ruin_names",
  "salient_translation_error_detection",
  "snarks",
  "sports_understanding",
}
SIZES = {"bbh": 27, "bbh_algorithmic": 15, "bbh_nlp": 12, "synthetic": 8}


def parts_of(name):
  """The tasks of a mixture, without prefix and version."""
  parts = common.MIXTURES[f"{name}_v1"]
  prefix = "synthetic_" if name == "synthetic" else "bbh_"
  assert all(p.startswith(prefix) and p.endswith("_v1") for p in parts)
  return [part.removeprefix(prefix).removesuffix("_v1") for part in parts]


def without_count(task):
  for number in ("three", "five", "seven"):
    task = task.removesuffix(f"_{number}_objects")
  # The name of one kind ends that way itself.
  return {"tracking_shuffled": "tracking_shuffled_objects"}.get(task, task)


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes(name):
  parts = parts_of(name)
  assert len(parts) == len(set(parts)) == SIZES[name]


def test_the_tasks_of_each():
  algorithmic, nlp = parts_of("bbh_algorithmic"), parts_of("bbh_nlp")
  assert {task.replace("_objects", "") for task in ALGORITHMIC_KINDS} == {
    without_count(task).replace("_objects", "") for task in algorithmic
  }
  assert len(ALGORITHMIC_KINDS) == 11
  assert set(nlp) == NLP
  assert sorted(algorithmic + nlp) == sorted(parts_of("bbh"))
  assert sorted(parts_of("bbh")) == sorted(bbh.TASKS)
  sentences = {"inventory", "testimony"}
  for_pretrained = sentences | {"formula"}
  assert {*parts_of("synthetic")} == {*synthetic.KINDS} - for_pretrained
  assert common.MIXTURES["synthetic_sentences_v1"] == [
    f"synthetic_{kind}_long_v1" for kind in sorted(sentences)
  ]


@pytest.mark.parametrize("name", SIZES)
def test_seqio_has_them(name):
  mixture = seqio.MixtureRegistry.get(f"{name}_v1")
  names = [task.name for task in mixture.tasks]
  assert sorted(names) == sorted(common.MIXTURES[mixture.name])
  for task in mixture.tasks:
    # Each is drawn in proportion to its size.
    assert mixture.get_rate(task) == common.INFO[task.name].sizes()["train"]


def iterate(name, num_rows):
  """Reads a mixture as T5X does; no preparing from the network."""
  dataset = seqio.MixtureRegistry.get(name).get_dataset(
    {"inputs": 4096, "targets": 512},
    "train",
    shuffle=False,
    num_epochs=1,
    passthrough_features=["id", "question"],
  )
  return list(itertools.islice(dataset.as_numpy_iterator(), num_rows))


def test_plain_seqio_iterates_the_synthetic_ones():
  rows = iterate("synthetic_v1", 200)
  tasks = collections.Counter(row["id"].split(b"/")[1] for row in rows)
  assert len(tasks) == 8
  for row in rows:
    text = vocabularies.BYTES.decode(row["inputs"].tolist())
    assert row["question"].decode() in text
    assert row["targets"][-1] == 1


def test_plain_seqio_iterates_those_of_files(data_dir):
  """From a variant that knows the folder; the others would fetch the files."""
  names = []
  try:
    for task in ("bbh_navigate", "bbh_snarks"):
      names.append(common.variant(task, f"toy_{task}", data_dir=data_dir))
    rates = [
      (name, common.INFO[f"{name.removeprefix('toy_')}_v1"].sizes()["train"])
      for name in names
    ]
    seqio.MixtureRegistry.add("toy_mix", rates)
    rows = iterate("toy_mix", 10_000)
  finally:
    for name in names:
      seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove("toy_mix")
  found = [row["id"].decode() for row in rows]
  count = collections.Counter(name.split("/")[1] for name in found)
  # It ends with the first of them that does.
  assert count["snarks"] == 106 or count["navigate"] == 150
  assert 90 < count["snarks"] <= 106
  assert 120 < count["navigate"] <= 150
  assert len(set(found)) == len(found)


def read_ids(data_dir, task):
  path = pathlib.Path(data_dir, "bbh", "tasks", f"{task}.json")
  rows = json.loads(path.read_text(encoding="utf-8"))["examples"]
  return {f"bbh/{task}/{number:05}" for number in range(len(rows))}


def check_opened(rows_of, wanted):
  """Checks that a mixture has each example once, each with its task.

  Args:
    rows_of: Split -> its rows.
    wanted: Task -> the ids of its examples.
  """
  train, test = rows_of("train"), rows_of("test")
  tasks = collections.defaultdict(list)
  for rows in (train, test):
    assert rows.ids == sorted(rows.ids)
    for task, name in zip(rows.tasks, rows.ids, strict=True):
      tasks[task].append(name)
  assert {task: sorted(ids) for task, ids in tasks.items()} == {
    task: sorted(ids) for task, ids in wanted.items()
  }
  assert (len(train.ids), len(test.ids)) == (
    sum(len(ids) * 6 // 10 for ids in wanted.values()),
    sum(len(ids) - len(ids) * 6 // 10 for ids in wanted.values()),
  )


@pytest.mark.parametrize(
  "name",
  by_night("bbh_algorithmic", "bbh_nlp"),
)
def test_opened_ones_have_all_examples(name, data_dir):
  task = pipeline.open_named(name, data_dir)
  wanted = {f"bbh_{t}_v1": read_ids(data_dir, t) for t in parts_of(name)}
  assert task.name == f"{name}_v1"
  assert set(task.kinds) == set(task.conventions) == set(wanted)
  assert (task.form, list(task.splits)) == ("sentence", ["train", "test"])
  assert task.rationale_splits == []
  check_opened(task.read, wanted)

  def without_one(split):
    rows = task.read(split)
    return rows._replace(ids=rows.ids[1:], tasks=rows.tasks[1:])

  def with_the_task_of_the_next(split):
    rows = task.read(split)
    return rows._replace(tasks=[*rows.tasks[1:], rows.tasks[0]])

  for broken in (without_one, with_the_task_of_the_next):
    with pytest.raises(AssertionError):
      check_opened(broken, wanted)


def test_the_examples_are_those_of_the_task_itself(data_dir):
  mixture = pipeline.open_named("bbh_algorithmic", data_dir).read("test")
  alone = pipeline.open_named("bbh_navigate", data_dir).read("test")
  first = mixture.tasks.index("bbh_navigate_v1")
  last = first + len(alone.ids)
  part = [column[first:last] for column in mixture]
  assert type(alone)(*part).fingerprint() == alone.fingerprint()


@pytest.mark.slow
def test_the_whole_benchmark(data_dir):
  """Its rows are those of its halves: one split of it is read."""
  whole = pipeline.open_named("bbh", data_dir)
  halves = [
    pipeline.open_named(name, data_dir)
    for name in ("bbh_algorithmic", "bbh_nlp")
  ]
  assert whole.name == "bbh_v1"
  assert whole.kinds == halves[0].kinds | halves[1].kinds
  assert len(whole.kinds) == 27
  rows = whole.read("test")
  one, other = (half.read("test") for half in halves)
  for name in ("ids", "tasks", "questions", "answers"):
    pairs = zip(rows.ids, getattr(rows, name), strict=True)
    parts = [
      pair
      for half in (one, other)
      for pair in zip(half.ids, getattr(half, name), strict=True)
    ]
    assert sorted(pairs) == sorted(parts)


def test_a_form_is_for_all_its_tasks(data_dir):
  """Checked without reading a row of it."""
  task = open_task(Source("bbh", data_dir=data_dir, prompts=DIRECT))
  for ways in task.conventions.values():
    assert next(iter(ways)) == "direct"
  assert task.extract(" (B)\n") == "(B)"


def test_an_answer_is_read_in_the_same_way_everywhere(data_dir):
  task = pipeline.open_named("bbh", data_dir)
  for ways in task.conventions.values():
    for completion in ("So the answer is (B).", "It is so.", ""):
      convention = next(iter(ways.values()))
      assert convention.extract(completion, "") == task.extract(completion)


def test_a_mixture_of_different_forms_is_refused():
  seqio.MixtureRegistry.add("toy_mix", [("chain_v1", 1.0), ("gsm8k_v1", 1.0)])
  try:
    with pytest.raises(UserError) as error:
      open_task(Source("toy_mix"))
  finally:
    seqio.MixtureRegistry.remove("toy_mix")
  assert str(error.value) == (
    "mixture 'toy_mix' has tasks whose answers are stated in different forms; "
    "train on them one by one"
  )


def test_the_synthetic_mixture_opened():
  task = open_task(Source("synthetic"))
  assert task.name == "synthetic_v1"
  assert list(task.rationale_splits) == list(task.splits)
  rows = task.read("test")
  wanted = {
    f"synthetic_{kind}_v1": [
      row["id"] for row in synthetic.examples(kind, "test")
    ]
    for kind in parts_of("synthetic")
  }
  pairs = [(t, i) for t, ids in wanted.items() for i in ids]
  assert sorted(zip(rows.tasks, rows.ids, strict=True)) == sorted(pairs)
