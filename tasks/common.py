"""What every task shares: features, prompts, postprocessor and metric."""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

import seqio
import tensorflow as tf

from cot_latent.data import prompts
from cot_latent.errors import UserError

VOCABULARY = seqio.ByteVocabulary(extra_ids=0)
FEATURES = {
  "inputs": seqio.Feature(VOCABULARY, add_eos=False),
  "targets": seqio.Feature(VOCABULARY, add_eos=True),
}

_SURROGATE = re.compile("[\ud800-\udfff]")

# Set by whoever loads a task, as SeqIO does for TFDS's data directory.
_data_dir: str | None = None


def set_data_dir(path: str | None) -> None:
  """Sets the folder that holds the files of tasks with real data."""
  global _data_dir
  _data_dir = path


def read_file(*parts: str) -> tuple[pathlib.Path, str]:
  """Reads a file of a task under the data directory.

  Returns:
    The path, for messages about the content, and the text.

  Raises:
    UserError: if no directory is set, or if the file cannot be read, is not
      UTF-8 or is empty.
  """
  if _data_dir is None:
    raise UserError(
      f"this task reads {'/'.join(parts)}: say where it is with "
      "--gin.DATA_DIR=\"'...'\""
    )
  path = pathlib.Path(_data_dir, *parts)
  try:
    content = path.read_bytes()
    text = content.decode()
  except OSError as error:
    raise UserError(
      f"cannot read {path} ({error.strerror}): is DATA_DIR = {_data_dir!r} "
      "right?"
    ) from None
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise UserError(
      f"{path}, line {line}: not UTF-8 ({error.reason})"
    ) from None
  if not text.strip():
    raise UserError(f"{path} is empty")
  return path, text


def parse_json(path: pathlib.Path, text: str, line: int | None = None):
  """Parses JSON of a data file.

  Raises:
    UserError: naming the file and the line of the fault.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    at = line if line is not None else error.lineno
    raise UserError(
      f"{path}, line {at}: not valid JSON ({error.msg}, column {error.colno})"
    ) from None
  except (ValueError, RecursionError) as error:  # an endless number, nesting
    raise UserError(f"{path}, line {line or 1}: bad JSON ({error})") from None


def require_strings(path: pathlib.Path, place: str, row, names) -> None:
  """Checks that a row of a data file holds the named, non-empty strings.

  JSON can escape half a surrogate pair, which no encoding can write.

  Raises:
    UserError: naming the file, the row and the field.
  """
  if not isinstance(row, dict):
    raise UserError(f"{path}, {place}: expected an object, got {row!r:.60}")
  for name in names:
    value = row.get(name)
    if (
      not isinstance(value, str)
      or not value.strip()
      or _SURROGATE.search(value)
    ):
      raise UserError(
        f"{path}, {place}: field {name!r} must be a string of Unicode text "
        f"that is not empty, got {value!r:.60}"
      )


def add_prompts(
  dataset: tf.data.Dataset, template: prompts.Template
) -> tf.data.Dataset:
  """Adds `inputs` and `guide`, made of the question and the answer."""

  def fill(text: str, example):
    """Replaces each {field} by the example's, as str.format does."""
    parts = re.split(r"\{(question|answer)\}", text)
    return tf.strings.join(
      [example[part] if i % 2 else part for i, part in enumerate(parts)]
    )

  def add(example):
    return example | {
      "inputs": fill(template.prior, example),
      "guide": fill(template.guide, example),
    }

  return dataset.map(add)


def register(
  name: str,
  read: Callable[[str], Iterable[dict[str, str]]],
  splits: Sequence[str],
  extract: Callable[[str], str | None],
  template: prompts.Template = prompts.PAPER,
) -> None:
  """Registers a SeqIO task.

  Args:
    name: the task's name.
    read: split -> examples with `id`, `question`, `answer` and `targets`.
    splits: the splits that `read` knows.
    extract: completion -> answer or None.
    template: of the prompts.
  """

  def dataset_fn(split, shuffle_files=False, seed=None):
    del shuffle_files, seed  # the order is the file's
    # All at once: TensorFlow would wrap what a generator of its own raises.
    rows = list(read(split))
    columns = ("id", "question", "answer", "targets")
    return tf.data.Dataset.from_tensor_slices(
      {
        key: tf.constant([row[key] for row in rows], tf.string)
        for key in columns
      }
    )

  def postprocess(completion, example=None, is_target=False):
    if is_target:
      return example["answer"].decode()
    return extract(completion)

  def accuracy(targets, predictions):
    right = [
      prediction is not None and prediction == target
      for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {"accuracy": sum(right) / len(right)}

  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(dataset_fn, splits=splits),
    preprocessors=[
      functools.partial(add_prompts, template=template),
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features=FEATURES,
    postprocess_fn=postprocess,
    metric_fns=[accuracy],
  )
