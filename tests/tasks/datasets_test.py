"""GSM8K and BIG-Bench Hard prepared by TFDS, and all that can go wrong."""

import contextlib
import functools
import http.server
import json
import logging
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import hypothesis
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.utils import tqdm_utils

from cot_latent.tasks.datasets import bbh, checked, gsm8k, source
from tests import processes
from tests.asserts import message_of
from tests.params import by_night
from tests.tasks import golden

# `check_golden` says how to make it again; what is published changes then, so
# VERSION must change too.
GOLDEN = "a4bcfabbe510648478b7c47de1c78358a716a50c4db517100ec622425ec83d4c"
GSM8K, NAVIGATE = gsm8k.Gsm8k.name, f"{bbh.Bbh.name}/navigate"
NAMES = [GSM8K, *(f"{bbh.Bbh.name}/{task}" for task in bbh.TASKS)]
ROWS_FILE = "bbh/tasks/navigate.json"
EXEMPLARS_FILE = "bbh/cot-prompts/navigate.txt"
SPLITS = {"bbh": ("train", "test", "exemplars"), "gsm8k": ("train", "test")}
ENDS = dict.fromkeys(bbh.TASKS, "\n") | {"sports_understanding": " "}

each_task = pytest.mark.parametrize("task", bbh.TASKS)


@contextlib.contextmanager
def tfds_folder(path):
  """Lets SeqIO read and write prepared datasets there."""
  seqio.set_tfds_data_dir_override(str(path))
  try:
    yield path
  finally:
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture
def root(tmp_path):
  """Where this test's prepared datasets are stored."""
  with tfds_folder(tmp_path / "tfds") as path:
    yield path


@pytest.fixture(scope="module")
def everything(tmp_path_factory, data_dir):
  """All datasets: (name, split) -> rows sorted by id."""
  with tfds_folder(tmp_path_factory.mktemp("tfds")) as path:
    start = time.perf_counter()
    for name in NAMES:
      source.make_source(name, ["train"], data_dir).num_input_examples("train")
    took = time.perf_counter() - start
    rows = {
      (name, split): read_records(path / name / "1.0.0", split)
      for name in NAMES
      for split in splits_of(name)
    }
  return took, rows


def read_records(copy, split):
  """Reads a split without TFDS, which takes long to start reading."""
  (path,) = copy.glob(f"*-{split}.tfrecord-00000-of-00001")
  rows = []
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    features = tf.train.Example.FromString(record).features.feature
    rows.append(
      {
        key: value.bytes_list.value[0].decode()
        for key, value in features.items()
      }
    )
  return sorted(rows, key=lambda row: row["id"])


def splits_of(name):
  return SPLITS["gsm8k" if name == GSM8K else "bbh"]


def read_text(folder, name):
  return pathlib.Path(folder, name).read_bytes().decode()


@pytest.fixture
def folder(tmp_path, data_dir):
  """A folder of the user with the files of one task."""
  for name in (ROWS_FILE, EXEMPLARS_FILE):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    shutil.copy(pathlib.Path(data_dir, name), path)
  return tmp_path / "mine"


class Handler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    del args


@contextlib.contextmanager
def serve(path, monkeypatch):
  """Serves a folder in place of the repositories."""
  handler = functools.partial(Handler, directory=str(path))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    use_address(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    try:
      yield
    finally:
      server.shutdown()
      thread.join()


def use_address(address, monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  table = {
    name: file._replace(url=f"{address}/{name}") for name, file in TABLE.items()
  }
  monkeypatch.setattr(checked, "read_table", lambda: table)


TABLE = checked.read_table()


# The files and what is made of them.


def test_the_table_has_each_file_at_a_fixed_commit(data_dir):
  builders = [
    gsm8k.Gsm8k,
    *(functools.partial(bbh.Bbh, config=t) for t in bbh.TASKS),
  ]
  read = [name for b in builders for name in b(data_dir="none").parsers()]
  assert sorted(read) == sorted(TABLE)
  assert len(set(read)) == len(read) == 2 + 2 * 27
  for name, file in TABLE.items():
    assert re.fullmatch(
      r"https://raw\.githubusercontent\.com/\w+/[\w-]+/[0-9a-f]{40}/.+",
      file.url,
    )
    assert file.url.endswith("/" + name.split("/")[-1])
    checked.check_file(pathlib.Path(data_dir, name), file, pytest.fail)
  assert len({file.url for file in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("builder", [bbh.Bbh, gsm8k.Gsm8k])
def test_the_builders_are_registered_under_their_own_names(builder):
  assert tfds.builder_cls(builder.name) is builder
  assert builder.name.startswith("cot_latent_")  # TFDS has a gsm8k
  assert str(builder.VERSION) in builder.RELEASE_NOTES
  assert [c.name for c in builder.BUILDER_CONFIGS] == (
    list(bbh.TASKS) if builder is bbh.Bbh else []
  )
  info = builder(data_dir="none").info
  assert set(info.features) == {"id", "question", "answer", "targets"}
  assert info.citation
  assert info.description
  assert info.homepage


def test_preparing_all_is_quick(everything):
  took, _ = everything
  assert took < 30  # 3 s on two cores that have nothing else to do


def check_rows(rows, raw, task):
  """Checks that two splits together hold a file, each row once."""
  found = {
    row["id"]: {"input": row["question"], "target": row["answer"]}
    for row in rows
  }
  assert len(found) == len(rows)
  assert found == {
    f"bbh/{task}/{number:05}": {
      "input": row["input"],
      "target": row["target"].strip(),
    }
    for number, row in enumerate(raw)
  }
  for row in rows:
    assert row["targets"] == f"So the answer is {row['answer']}."


@each_task
def test_the_splits_hold_the_file(task, everything, data_dir):
  _, rows = everything
  raw = json.loads(read_text(data_dir, f"bbh/tasks/{task}.json"))["examples"]
  train, test = (rows[f"{bbh.Bbh.name}/{task}", s] for s in ("train", "test"))
  check_rows([*train, *test], raw, task)
  assert len(raw) == bbh.TASKS[task]
  assert len(train) == len(raw) * 6 // 10
  assert not {r["question"] for r in train} & {r["question"] for r in test}
  with pytest.raises(AssertionError):
    check_rows([*train, *test[:-1]], raw, task)
  with pytest.raises(AssertionError):
    check_rows([*train, *test[:-1], train[0]], raw, task)


def check_exemplars(rows, text, task):
  """Checks that a file can be put together again from its examples."""
  blocks = [
    f"Q: {row['question']}\nA: Let's think step by step.{ENDS[task]}"
    f"{row['targets']}"
    for row in rows
  ]
  head = text[: text.index("\n\nQ: ")]
  assert "canary" in head.split("\n-----\n")[0]
  assert "\n\n".join([head, *blocks]) == text
  for number, row in enumerate(rows):
    assert row["id"] == f"bbh/{task}/exemplar-{number}"
    assert row["targets"].endswith(f" So the answer is {row['answer']}.")
    assert "\n" not in row["answer"]
    for value in row.values():
      assert value == value.strip()


@each_task
def test_the_exemplars_hold_the_file(task, everything, data_dir):
  rows = everything[1][f"{bbh.Bbh.name}/{task}", "exemplars"]
  text = read_text(data_dir, f"bbh/cot-prompts/{task}.txt")
  assert len(rows) == 3
  check_exemplars(rows, text, task)
  for broken in (
    rows[:2],
    rows[::-1],
    [rows[0] | {"targets": rows[0]["targets"][1:]}, *rows[1:]],
    [rows[0] | {"answer": rows[0]["answer"] + "."}, *rows[1:]],
    [rows[0] | {"answer": "the answer"}, *rows[1:]],
  ):
    with pytest.raises(AssertionError):
      check_exemplars(broken, text, task)


def test_no_exemplar_is_a_question_of_its_task(everything):
  _, rows = everything
  for task in bbh.TASKS:
    name = f"{bbh.Bbh.name}/{task}"
    shown = {row["question"] for row in rows[name, "exemplars"]}
    for split in ("train", "test"):
      assert not shown & {row["question"] for row in rows[name, split]}


@pytest.mark.parametrize("split", SPLITS["gsm8k"])
def test_gsm8k_holds_the_file(split, everything, data_dir):
  rows = everything[1][GSM8K, split]
  text = read_text(data_dir, f"gsm8k/{split}.jsonl")
  raw = [json.loads(line) for line in text.split("\n") if line]
  assert len(rows) == len(raw) == gsm8k.SPLITS[split]
  for number, (row, one) in enumerate(zip(rows, raw, strict=True)):
    rationale, gold = one["answer"].split("\n#### ")
    answer = gold.replace(",", "")
    assert row == {
      "id": f"gsm8k/{split}/{number:05}",
      "question": one["question"],
      "answer": answer,
      "targets": f"{rationale}\n<answer>\n{answer}\n</answer>",
    }


def test_the_datasets_stay_the_same(everything):
  content = [
    [name, split, [sorted(row.items()) for row in rows]]
    for (name, split), rows in sorted(everything[1].items())
  ]
  golden.check_golden(content, GOLDEN, __file__)


# Text that cannot be mistaken for the end of a part.
texts = st.text("ab: QA(){}<>.\u2028é\n", max_size=30).map(
  lambda text: f"x{text.replace(chr(10) * 2, chr(10))}y"
)


@hypothesis.given(
  st.lists(
    st.tuples(texts, texts, st.sampled_from(" \n")), min_size=3, max_size=3
  )
)
def test_worked_examples_are_read_back(tmp_path_factory, blocks):
  path = tmp_path_factory.getbasetemp() / "prompt.txt"
  text = "canary\n-----\nWhat to do.\n\nIn two parts."
  wanted = []
  for question, rationale, between in blocks:
    targets = f"{rationale} So the answer is (B)."
    wanted.append({"question": question, "answer": "(B)", "targets": targets})
    text += f"\n\nQ: {question}\nA: Let's think step by step.{between}{targets}"
  path.write_bytes(text.encode())
  assert bbh.read_exemplars(path) == wanted
  path.write_bytes(text.encode() + b"\n")
  assert bbh.read_exemplars(path) == wanted


GOOD_BLOCK = "\n\nQ: a\nA: Let's think step by step.\nb So the answer is c."


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("no dashes" + 3 * GOOD_BLOCK, ": 0 worked examples instead of 3"),
    ("x\n-----\ny" + 2 * GOOD_BLOCK, ": 2 worked examples instead of 3"),
    ("x\n-----\ny" + 4 * GOOD_BLOCK, ": 4 worked examples instead of 3"),
    (
      "x\n-----\ny" + GOOD_BLOCK + GOOD_BLOCK[:-2] + GOOD_BLOCK,
      ', example 2 of 3: it must continue with "A: Let\'s think step by step."',
    ),
    ("x\n-----\ny\n\nQ: a\nA: 7", ", example 1 of 1: it must continue with "),
    (
      "x\n-----\ny" + GOOD_BLOCK.replace(".\nb", ".b"),
      ", example 1 of 1: it must continue with ",
    ),
    (" \n", " is empty"),
  ],
)
def test_malformed_worked_examples(text, said, tmp_path):
  path = tmp_path / "prompt.txt"
  path.write_text(text)
  assert message_of(bbh.read_exemplars, path).startswith(f"{path}{said}")


# SeqIO.


def make_task(name, data_dir):
  made = source.make_source(name, splits_of(name), data_dir)
  return seqio.Task("any", source=made, preprocessors=[], output_features={})


def read_ids(dataset):
  return [row["id"].decode() for row in dataset.as_numpy_iterator()]


@pytest.mark.usefixtures("root")
def test_seqio_can_read_it(everything, data_dir):
  task = make_task(NAVIGATE, data_dir)
  for split in task.splits:
    rows = everything[1][NAVIGATE, split]
    assert source.read_rows(NAVIGATE, split, data_dir) == rows
    assert task.num_input_examples(split) == len(rows)
  ids = sorted(row["id"] for row in everything[1][NAVIGATE, "test"])
  read = functools.partial(task.get_dataset, None, "test")
  assert sorted(read_ids(read(shuffle=True, seed=1))) == ids
  parts = [
    read_ids(read(shuffle=False, shard_info=seqio.ShardInfo(i, 2)))
    for i in range(2)
  ]
  assert sorted(parts[0] + parts[1]) == ids


@pytest.mark.usefixtures("root")
def test_seqio_can_read_gsm8k(everything, data_dir):
  task = make_task(GSM8K, data_dir)
  assert task.num_input_examples("train") == 7473
  rows = source.read_rows(GSM8K, "test", data_dir)
  assert rows == everything[1][GSM8K, "test"]


def test_nothing_is_prepared_before_it_is_read(root, data_dir):
  task = make_task(NAVIGATE, data_dir)
  assert list(task.splits) == ["train", "test", "exemplars"]
  assert "cot_latent_bbh/navigate:1.0.0" in str(task.source)
  assert repr(task.source) == str(task.source)
  assert not root.exists()
  task.num_input_examples("train")
  assert (root / NAVIGATE / "1.0.0").is_dir()


def test_without_settings_it_is_in_the_folder_of_tfds(
  tmp_path, monkeypatch, data_dir
):
  monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "own"))
  assert len(source.read_rows(NAVIGATE, "train", data_dir)) == 150
  assert (tmp_path / "own" / NAVIGATE / "1.0.0").is_dir()


def test_the_folder_is_asked_for_when_it_is_read(root, data_dir, tmp_path):
  folders = [str(tmp_path)]
  made = source.PreparedTfdsSource(NAVIGATE, ["test"], lambda: folders[-1])
  assert "cannot read" in message_of(made.num_input_examples, "test")
  folders.append(data_dir)
  assert made.num_input_examples("test") == 100
  folders.append(str(tmp_path))
  assert "cannot read" in message_of(made.num_input_examples, "test")
  assert root.is_dir()


# Files that are not what they must be.


def in_the_middle(content):
  return content.replace(b'"target": "', b'"target": 7, "was": "', 1)


def one_letter(content):
  at = content.rindex(b"Take")
  return content[:at] + b"Make" + content[at + 4 :]


# File, change, what follows the file's name, and whether sizes are named.
CHANGES = [
  (ROWS_FILE, in_the_middle, ", examples[0]: field 'target' must be", True),
  (ROWS_FILE, lambda c: c[:9000], ", line ", True),
  (ROWS_FILE, lambda c: b"", " is empty; the file has 0 bytes", True),
  (ROWS_FILE, lambda c: c[:900] + b"\xff" + c[901:], ", line 1", False),
  (ROWS_FILE, one_letter, " is not the published file (sha256 ", False),
  (ROWS_FILE, lambda c: c + b"\n", " is not the published file (", True),
  (
    ROWS_FILE,
    lambda c: json.dumps(json.loads(c), indent=1).encode(),
    " is not the published file (",
    True,
  ),
  (
    EXEMPLARS_FILE,
    lambda c: c.replace(b"\n", b"\r\n"),
    " has other line ends (",
    True,
  ),
  (
    EXEMPLARS_FILE,
    lambda c: c[:-9],
    ", example 3 of 3: it must continue",
    True,
  ),
]


def spoil(folder, name, change):
  path = folder / name
  content = change(path.read_bytes())
  path.write_bytes(content)
  return f"{len(content):,} bytes instead of {TABLE[name].size:,}"


@pytest.mark.parametrize(("name", "change", "said", "has_size"), CHANGES)
def test_a_file_of_the_folder_is_not_the_published_one(
  name, change, said, has_size, folder, root
):
  source.read_rows(NAVIGATE, "test", str(folder))
  shutil.rmtree(root)
  sizes = spoil(folder, name, change)
  text = message_of(source.read_rows, NAVIGATE, "test", str(folder))
  assert text.startswith(f"{folder / name}{said}")
  assert (sizes in text) == has_size
  assert text.endswith(f"; get it from {TABLE[name].url}")
  assert not list(root.rglob("*.tfrecord*"))


@pytest.mark.parametrize(("name", "change", "said", "has_size"), CHANGES)
def test_a_fetched_file_is_not_the_published_one(
  name, change, said, has_size, folder, root, monkeypatch
):
  good = (folder / name).read_bytes()
  sizes = spoil(folder, name, change)
  with serve(folder, monkeypatch):
    text = message_of(source.read_rows, NAVIGATE, "test", None)
    assert text.startswith(f"{checked.read_table()[name].url}{said}")
    assert (sizes in text) == has_size
    assert text.endswith("give a folder with the files (--data_dir)")
    # It is not kept, so the next try can go well.
    kept = [p for p in (root / "downloads").rglob("*") if p.is_file()]
    assert (folder / name).read_bytes() not in [p.read_bytes() for p in kept]
    (folder / name).write_bytes(good)
    assert len(source.read_rows(NAVIGATE, "test", None)) == 100


def test_a_cut_file_that_can_be_read_is_called_cut(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"abc")
  wanted = checked.File("", 9, "0" * 64)
  text = message_of(checked.check_file, path, wanted, lambda path: None)
  assert text.endswith("(3 bytes instead of 9: was it cut short?)")


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b'{"question": "a", "answer": "b"}', ", line 1: no number after '#### '"),
    (b'{"question": "a"}', ", line 1: field 'answer' must be a string"),
    (b'{"question": "a", "answer": "b\\n#### 7"}\n{', ", line 2: not valid"),
  ],
)
def test_a_line_of_gsm8k_is_malformed(content, said, folder, root):
  del root
  path = folder / "gsm8k" / "train.jsonl"
  path.parent.mkdir()
  path.write_bytes(content)
  text = message_of(source.read_rows, GSM8K, "test", str(folder))
  assert text.startswith(f"{path}{said}")


def test_a_file_is_missing(folder, root):
  del root
  (folder / EXEMPLARS_FILE).unlink()
  text = message_of(source.read_rows, NAVIGATE, "test", str(folder))
  assert text.startswith(
    f"cannot read {folder / EXEMPLARS_FILE} (No such file or directory): does "
    f"DATA_DIR (--data_dir), '{folder}', have bbh/"
  )


def test_a_wrong_folder_is_noticed_though_there_is_a_copy(
  folder, root, tmp_path
):
  del root
  assert source.read_rows(NAVIGATE, "test", str(folder))
  assert source.read_rows(NAVIGATE, "test", None)  # nothing is fetched
  text = message_of(source.read_rows, NAVIGATE, "test", str(tmp_path))
  assert text.startswith(f"cannot read {tmp_path / ROWS_FILE} (No such file")
  spoil(folder, ROWS_FILE, one_letter)
  text = message_of(source.read_rows, NAVIGATE, "test", str(folder))
  assert "not the published file" in text


def test_tfds_itself_says_the_same(folder, root, data_dir, monkeypatch):
  """Its own ways to prepare a dataset leave a UserError as it is."""
  text = {}
  for name in (ROWS_FILE, EXEMPLARS_FILE):
    spoil(folder, name, lambda content: content[:-9])
    text[name] = message_of(source.read_rows, NAVIGATE, "test", str(folder))
    config = tfds.download.DownloadConfig(manual_dir=str(folder))
    load = functools.partial(
      tfds.load,
      NAVIGATE,
      data_dir=str(root),
      download_and_prepare_kwargs={"download_config": config},
    )
    assert message_of(load) == text[name]
    shutil.copy(pathlib.Path(data_dir, name), folder / name)
  assert set(load()) == {"train", "test", "exemplars"}
  # Where no folder is given, none is taken: TFDS has one by default.
  (root / "downloads" / "manual").mkdir(parents=True)
  shutil.copytree(folder, root / "downloads" / "manual", dirs_exist_ok=True)
  use_address("http://127.0.0.1:1", monkeypatch)
  builder = bbh.Bbh(config="snarks", data_dir=str(root))
  assert "cannot fetch" in message_of(builder.download_and_prepare)


# The network.


def test_both_ways_give_the_same(data_dir, tmp_path, monkeypatch):
  with serve(data_dir, monkeypatch):
    for way, given in (("folder", data_dir), ("network", None)):
      with tfds_folder(tmp_path / way):
        for name in (GSM8K, NAVIGATE):
          source.make_source(name, ["test"], given).num_input_examples("test")
  files = {
    way: {
      path.name: path.read_bytes()
      for path in (tmp_path / way).rglob("*.tfrecord*")
    }
    for way in ("folder", "network")
  }
  assert len(files["folder"]) == 5
  assert files["folder"] == files["network"]


def test_what_was_fetched_is_not_fetched_again(root, data_dir, monkeypatch):
  with serve(data_dir, monkeypatch):
    rows = source.read_rows(NAVIGATE, "test", None)
  shutil.rmtree(root / NAVIGATE)
  assert source.read_rows(NAVIGATE, "test", None) == rows


@pytest.mark.usefixtures("root")
def test_without_a_network(monkeypatch):
  retries = downloader.MAX_RETRIES
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))  # and nobody listens
    port = taken.getsockname()[1]
    use_address(f"http://127.0.0.1:{port}", monkeypatch)
    start = time.perf_counter()
    text = message_of(source.read_rows, NAVIGATE, "test", None)
  assert time.perf_counter() - start < 10
  assert text == (
    f"cannot fetch http://127.0.0.1:{port}/{ROWS_FILE} (Connection refused): "
    "without a network give a folder with the files (--data_dir)"
  )
  assert retries == downloader.MAX_RETRIES


@pytest.mark.usefixtures("root")
def test_the_file_is_not_there(tmp_path, monkeypatch):
  with serve(tmp_path, monkeypatch):
    text = message_of(source.read_rows, NAVIGATE, "test", None)
  assert re.match(
    rf"cannot fetch http://127\S+/{ROWS_FILE} \(.*HTTP code: 404", text
  )


# The prepared copy.


def largest_record(copy):
  return max(copy.glob("*.tfrecord*"), key=lambda path: path.stat().st_size)


def cut(copy):
  path = largest_record(copy)
  path.write_bytes(path.read_bytes()[:-9])


def cut_between_rows(copy):
  path = largest_record(copy)
  content = path.read_bytes()
  length = int.from_bytes(content[:8], "little")
  path.write_bytes(content[: 8 + 4 + length + 4])


def flip(copy):
  path = largest_record(copy)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def prepare_in_part(copy):
  """As TFDS does where it is told to."""
  shutil.rmtree(copy)
  config = tfds.download.DownloadConfig(
    manual_dir=str(copy.parents[3] / "mine"), max_examples_per_split=2
  )
  builder = bbh.Bbh(config="navigate", data_dir=str(copy.parents[2]))
  builder.download_and_prepare(download_config=config)


def forget_a_split(copy):
  path = copy / "dataset_info.json"
  info = json.loads(path.read_text())
  info["splits"] = [s for s in info["splits"] if s["name"] != "exemplars"]
  path.write_text(json.dumps(info))


DAMAGES = [
  prepare_in_part,
  forget_a_split,
  cut,
  cut_between_rows,
  flip,
  lambda copy: largest_record(copy).unlink(),
  lambda copy: largest_record(copy).write_bytes(b""),
  lambda copy: (copy / "dataset_info.json").unlink(),
  lambda copy: (copy / "dataset_info.json").write_text("{"),
  lambda copy: (copy / "dataset_info.json").write_text("{}"),
  lambda copy: (copy / "features.json").unlink(),
  lambda copy: [path.unlink() for path in copy.iterdir()],
]


@pytest.mark.parametrize("damage", [*DAMAGES[:3], *by_night(*DAMAGES[3:])])
def test_a_damaged_copy_is_named(damage, root, folder):
  data_dir = str(folder)
  rows = source.read_rows(NAVIGATE, "test", data_dir)
  copy = root / NAVIGATE / "1.0.0"
  damage(copy)
  text = message_of(source.read_rows, NAVIGATE, "train", data_dir)
  assert text.startswith(f"the prepared dataset in {copy} is damaged (")
  assert text.endswith("): delete that folder, and it is made again")
  shutil.rmtree(copy)
  assert source.read_rows(NAVIGATE, "test", data_dir) == rows


def check_unwritable(root, data_dir, why):
  text = message_of(source.prepare, f"{NAVIGATE}:1.0.0", data_dir, str(root))
  assert text.startswith(f"cannot write the prepared dataset to {root} (")
  assert why in text
  assert "TFDS_DATA_DIR" in text


def test_the_place_of_copies_is_a_file(tmp_path, data_dir):
  (tmp_path / "file").touch()
  check_unwritable(tmp_path / "file", data_dir, "Not a directory")
  check_unwritable(tmp_path / "file" / "below", data_dir, "Not a directory")


@pytest.fixture
def others_can_read():
  """A folder that is not below one of root's own, as pytest's are."""
  with tempfile.TemporaryDirectory() as path:
    os.chmod(path, 0o755)
    yield pathlib.Path(path)


def test_the_place_of_copies_is_read_only(folder, others_can_read):
  data_dir, closed = others_can_read / "data", others_can_read / "closed"
  shutil.copytree(folder, data_dir)
  source.prepare(f"{NAVIGATE}:1.0.0", str(data_dir), str(others_can_read))
  closed.mkdir(mode=0o555)
  is_root = os.geteuid() == 0  # whom no mode stops
  try:
    if is_root:
      os.seteuid(65534)
    check_unwritable(closed, str(data_dir), "Permission denied")
    check_unwritable(closed / "below", str(data_dir), "Permission denied")
    # What is there can be read by anyone.
    source.prepare(f"{NAVIGATE}:1.0.0", str(data_dir), str(others_can_read))
  finally:
    if is_root:
      os.seteuid(0)


def test_the_disk_is_full(tmp_path, data_dir):
  """As good as: no file can be larger than 10,000 bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
  try:
    check_unwritable(tmp_path, data_dir, "File too large")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  # And with room again, it works.
  source.prepare(f"{NAVIGATE}:1.0.0", data_dir, str(tmp_path))


# Several processes.

SCRIPT = """
import sys
import cot_latent.tasks  # first, because it starts TensorFlow without notices
from tests.tasks import datasets_test

name, data_dir, *markers = sys.argv[1:]
datasets_test.wait_for_each_other(*markers)
print(len(datasets_test.source.read_rows(name, "test", data_dir)))
"""


def wait_for_each_other(own, other, patch=setattr):
  """Lets a process write only when another is about to."""
  make_splits = bbh.Bbh.make_splits

  def wait(self, paths):
    pathlib.Path(own).touch()
    end = time.monotonic() + 120
    while not pathlib.Path(other).exists():
      assert time.monotonic() < end
      time.sleep(0.01)
    return make_splits(self, paths)

  patch(bbh.Bbh, "make_splits", wait)


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(
  root, tmp_path, data_dir, monkeypatch
):
  own, other = str(tmp_path / "1"), str(tmp_path / "2")
  process = processes.start(
    [sys.executable, "-c", SCRIPT, NAVIGATE, data_dir, other, own],
    env=os.environ | {"TFDS_DATA_DIR": str(root)},
    cwd=golden.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  wait_for_each_other(own, other, monkeypatch.setattr)
  assert len(source.read_rows(NAVIGATE, "test", data_dir)) == 100
  assert process.communicate(timeout=processes.LIMIT) == ("100\n", "")
  # Only one of the two could put its copy in place.
  assert [path.name for path in (root / NAVIGATE).iterdir()] == ["1.0.0"]


def test_an_interrupted_preparation_does_no_harm(root, data_dir, monkeypatch):
  """What a killed process leaves is like its folder at that time."""
  kept = []

  def interrupted(self, paths):
    rows = make_splits(self, paths)["train"]
    del rows[50:]

    def killed():
      yield from rows
      (folder,) = (root / NAVIGATE).iterdir()
      kept.append(shutil.copytree(folder, root / "kept"))
      kept.append(folder)
      raise KeyboardInterrupt

    return {"train": rows, "test": killed()}

  make_splits = bbh.Bbh.make_splits
  with monkeypatch.context() as patched:
    patched.setattr(bbh.Bbh, "make_splits", interrupted)
    with pytest.raises(KeyboardInterrupt):
      source.prepare(f"{NAVIGATE}:1.0.0", data_dir, str(root))
  assert list((root / NAVIGATE).iterdir()) == []
  shutil.move(*kept)
  assert list(kept[1].glob("*train.tfrecord*"))
  assert len(source.read_rows(NAVIGATE, "train", data_dir)) == 150


def test_the_slower_process_takes_the_copy_of_the_faster(
  root, data_dir, monkeypatch
):
  """The same without chance: the copy appears while the builder writes."""
  make_splits = bbh.Bbh.make_splits

  def overtaken(self, paths):
    monkeypatch.undo()
    source.prepare(f"{NAVIGATE}:1.0.0", data_dir, str(root))
    return make_splits(self, paths)

  monkeypatch.setattr(bbh.Bbh, "make_splits", overtaken)
  assert len(source.read_rows(NAVIGATE, "test", data_dir)) == 100
  assert [path.name for path in (root / NAVIGATE).iterdir()] == ["1.0.0"]


# The terminal.


@pytest.mark.usefixtures("root")
def test_nothing_is_written_to_the_terminal(
  data_dir, folder, capfd, monkeypatch
):
  levels = {n: logging.getLogger(n).level for n in ("absl", "urllib3")}
  with serve(data_dir, monkeypatch):
    source.read_rows(NAVIGATE, "test", None)
  spoil(folder, ROWS_FILE, one_letter)
  message_of(source.read_rows, NAVIGATE, "test", str(folder))
  assert capfd.readouterr() == ("", "")
  # All is as it was before, and a bar of the user's own can be seen.
  assert levels == {n: logging.getLogger(n).level for n in levels}
  assert tqdm_utils._active
  config = tfds.download.DownloadConfig(manual_dir=data_dir)
  builder = bbh.Bbh(config="snarks", data_dir=str(folder))
  builder.download_and_prepare(download_config=config)
  out, err = capfd.readouterr()
  assert "Downloading and preparing dataset" in out
  assert "Generating" in err


def test_bars_that_were_off_stay_off(root, data_dir, monkeypatch):
  monkeypatch.setattr(tqdm_utils, "_active", False)
  source.prepare(f"{NAVIGATE}:1.0.0", data_dir, str(root))
  assert not tqdm_utils._active
