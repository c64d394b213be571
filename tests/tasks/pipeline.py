"""Tasks opened once for all tests, and what every one of them must do."""

import atexit
import functools
import io
import pathlib
import random
import shutil
import string
import tempfile
import time
from typing import NamedTuple

import numpy as np
import sentencepiece

from cot_latent.data import cache
from cot_latent.data.open import open_task as open_source
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.tasks import bbh

# In bytes; nothing is as long.
ROOM = {"prompt_length": 1 << 16, "target_length": 2048}

PAPER = (
  "Question: {}\nAnswer: Let's think step by step.\n",
  "Question: {}\nAnswer: The answer is {}. Let's think step by step.\n",
)
COMPACT = ("{}?\n", "{}? ({})\n")


class Row(NamedTuple):
  """One example, its tokens decoded again."""

  id: str
  task: str
  question: str
  answer: str
  prompt: str
  guide: str
  targets: str
  extracted: str | None


@functools.cache
def open_task(source: Source) -> Task:
  """Opens a task once a process; its splits are read once too."""
  return open_source(source)


def open_named(name: str, data_dir: str | None = None, **settings):
  """Opens a task of this package; see `open_task`."""
  return open_task(Source(name, data_dir=data_dir, **settings))


@functools.cache
def open_bbh(data_dir: str) -> tuple[dict[str, Task], float]:
  """Opens and reads all 27 tasks of BIG-Bench Hard.

  Returns:
    The tasks by name, and the seconds of this process's time that it took with
    their fingerprints.
  """
  open_named("chain").read("test")  # TensorFlow starts outside the time
  start = time.process_time()
  tasks = {}
  for name in bbh.TASKS:
    # Not by `open_task`, which may have it already.
    source = Source(f"bbh_{name}", data_dir=data_dir)
    tasks[name] = open_task(source)
    cache.fingerprint(tasks[name])
  return tasks, time.process_time() - start


@functools.cache
def load(name: str, split: str, data_dir: str | None = None) -> list[Row]:
  """Loads a split through SeqIO as the trainer does, and decodes it."""
  return decode(open_named(name, data_dir), split)


def decode(task: Task, split: str) -> list[Row]:
  """Loads a split of an open task, and decodes it."""
  loaded = task.load(split, **ROOM)

  def join(array: np.ndarray) -> list[str]:
    return [task.vocabulary.decode(row[row != 0].tolist()) for row in array]

  targets = task.vocabulary.decode_rows(loaded.targets)
  columns = (
    *(loaded.ids, loaded.tasks, loaded.questions, loaded.answers),
    *(join(loaded.prompts), join(loaded.guides), targets),
    [task.extract(text) for text in targets],
  )
  return [Row(*row) for row in zip(*columns, strict=True)]


def check_pipeline(rows: list[Row], templates: tuple[str, str]) -> None:
  """Checks that answers are read back and that no byte of a prompt is lost."""
  prior, guide = templates
  for row in rows:
    assert row.extracted == row.answer
    assert row.prompt == prior.format(row.question)
    assert row.guide == guide.format(row.question, row.answer)


def train_sentencepiece(lacking: str = "", **settings) -> bytes:
  """Fits a small SentencePiece model to made text, in a moment.

  Args:
    lacking: Printable characters that its text is without.
    **settings: Of the trainer, in place of those here.
  """
  rng = random.Random(0)
  letters = string.ascii_lowercase[:8]
  words = [
    "".join(rng.choice(letters) for _ in range(rng.randrange(1, 5)))
    for _ in range(60)
  ]
  lines = [" ".join(rng.choices(words, k=8)) for _ in range(200)]
  printable = " ".join(c for c in string.printable[:95] if c not in lacking)
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([*lines, *[printable] * 20]),
    model_writer=model,
    **{
      "model_type": "bpe",
      "vocab_size": 450,
      "hard_vocab_limit": False,
      "character_coverage": 1.0,
      "byte_fallback": True,
      "normalization_rule_name": "identity",
      "remove_extra_whitespaces": False,
      "pad_id": 0,
      "eos_id": 1,
      "unk_id": 2,
      "bos_id": -1,
      "minloglevel": 2,
      "num_threads": 1,
    }
    | settings,
  )
  return model.getvalue()


@functools.cache
def sentencepiece_models() -> dict[str, str]:
  """Paths of small models: one is whole, one lacks letters, one folds them."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix="pieces-"))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  models = {
    "whole": train_sentencepiece(),
    "lacking": train_sentencepiece("{}<>", byte_fallback=False),
    "folding": train_sentencepiece(
      normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True
    ),
  }
  paths = {}
  for name, model in models.items():
    path = folder / f"{name}.model"
    path.write_bytes(model)
    paths[name] = str(path)
  return paths
