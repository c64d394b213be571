"""A task's examples as prompts and targets, in text and in tokens."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from cot_latent.data import chat
from cot_latent.data.chat import Chat
from cot_latent.data.prompts import Prompts
from cot_latent.errors import UserError
from cot_latent.tasks.vocabularies import (
  HuggingFacePieces,
  HuggingFaceVocabulary,
)

Row = Mapping[str, str]  # `id`, `question`, `answer`, `targets`

# Name of a prompt -> name of its tokens in an example.
_IDS = {"prior": "inputs", "guide": "guide_ids"}

_PROBE = {"question": "What is 1 + 1?", "answer": "2"}

# What templates refused in each `reading`. What is raised inside TensorFlow is
# printed with a traceback.
_refused: list[list[UserError]] = []


def add_prompts(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  prompts: Prompts,
  read: Callable[[], Sequence[Row]],
) -> tf.data.Dataset:
  """Adds prompts, the worked examples before them, and the tokens of both.

  `prior` and `guide` are made from the question (and the answer),
  `prior_prefix` and `guide_prefix` from the worked examples. Prefix and prompt
  are encoded as one text. BOS comes first if the vocabulary belongs to a
  checkpoint with BOS.

  Args:
    dataset: Examples with `question`, `answer` and `targets`.
    output_features: The task's features, with the vocabulary.
    prompts: How questions are put.
    read: Function that reads the worked examples.

  Raises:
    UserError: If the prompts need a chat template and there is none, or if it
      refuses them.
  """
  exemplars = read()
  vocabulary = output_features["inputs"].vocabulary
  if isinstance(prompts, Chat):
    return _add_chat(dataset, vocabulary, prompts, exemplars)
  begin: list[int] = []
  if isinstance(vocabulary, (HuggingFaceVocabulary, HuggingFacePieces)):
    begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]

  def fill(name: str, example):
    parts = prompts.split(name)
    return tf.strings.join(
      [example[part] if i % 2 else part for i, part in enumerate(parts)]
    )

  def add(example):
    added = {}
    for name, ids in _IDS.items():
      added[name] = fill(name, example)
      prefix = tf.constant(prompts.prefix(name, exemplars))
      added[f"{name}_prefix"] = prefix
      encoded = vocabulary.encode_tf(prefix + added[name])
      added[ids] = tf.concat([tf.constant(begin, tf.int32), encoded], axis=0)
    return _with_targets(example, prompts) | added

  return dataset.map(add)


def _add_chat(
  dataset: tf.data.Dataset,
  vocabulary: seqio.Vocabulary,
  prompts: Chat,
  exemplars: Sequence[Row],
) -> tf.data.Dataset:
  """Adds prompts as conversations, with the worked examples in them."""
  if not isinstance(vocabulary, HuggingFaceVocabulary):
    raise UserError(
      "gin/prompts/chat.gin needs a checkpoint with a tokenizer.json and a "
      "chat template: set VOCABULARY to its folder"
    )
  wrapped = vocabulary.wrapped

  def write(row: Row) -> list:
    written: list = []
    for name in _IDS:
      turns = prompts.messages(name, row, exemplars)
      text, ids = chat.write(wrapped, turns, prompts.arguments)
      written += [text.encode(), np.asarray(ids, np.int32)]
    return written

  def write_in_tensorflow(question: bytes, answer: bytes) -> list:
    try:
      return write({"question": question.decode(), "answer": answer.decode()})
    except UserError as error:
      if not _refused:
        raise
      _refused[-1].append(error)
      return [b"", np.zeros(0, np.int32)] * len(_IDS)

  write(_PROBE)  # a template that refuses all questions does so here

  def add(example):
    texts_and_ids = tf.numpy_function(
      write_in_tensorflow,
      [example["question"], example["answer"]],
      [tf.string, tf.int32] * len(_IDS),
    )
    added = {}
    for place, (name, ids) in enumerate(_IDS.items()):
      added[name] = tf.ensure_shape(texts_and_ids[2 * place], [])
      added[f"{name}_prefix"] = tf.constant("")
      added[ids] = tf.ensure_shape(texts_and_ids[2 * place + 1], [None])
    return _with_targets(example, prompts) | added

  return dataset.map(add)


@contextlib.contextmanager
def reading() -> Iterator[None]:
  """Reads examples of `add_prompts`.

  Raises:
    UserError: If a chat template refuses a question; without this TensorFlow
      raises an error of its own.
  """
  found: list[UserError] = []
  _refused.append(found)
  try:
    yield
  finally:
    _refused.pop()
  if found:
    raise found[0]


def _with_targets(example, prompts: Prompts):
  """Returns the example; its target is the answer alone for direct prompts."""
  return example | ({"targets": example["answer"]} if prompts.is_direct else {})


def tokenize(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Encodes `targets`, and keeps the texts."""
  vocabulary = output_features["targets"].vocabulary

  def add(example):
    return example | {
      "inputs_pretokenized": example["prior_prefix"] + example["prior"],
      "targets_pretokenized": example["targets"],
      "targets": vocabulary.encode_tf(example["targets"]),
    }

  return dataset.map(add)
