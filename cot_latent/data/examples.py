"""A split of a SeqIO task as arrays: questions, answers, prompts.

N questions, P prompt tokens, T target tokens.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cot_latent.errors import UserError
from cot_latent.inference import rng
from cot_latent.models.language_model import PAD_ID

_FIELDS = ("id", "question", "answer", "guide")


@dataclasses.dataclass(frozen=True)
class Examples:
  """N examples, sorted by id.

  Attributes:
    ids: N stable strings, all different.
    questions: N strings.
    answers: N strings, in the form in which the task extracts answers.
    prompts: [N, P] int32, the question alone, padded on the left to the next
      multiple of 8 from the longest of them.
    guides: [N, P'] int32, the question with its answer as a hint.
    targets: [N, T] int32, rationale and answer, padded on the right; [N, 0]
      where targets were not asked for.
    words: [N, 2] uint32, the ids as words that random keys are derived from.
    num_left_out: examples of the split that are not here, being too long.
  """

  ids: Sequence[str]
  questions: Sequence[str]
  answers: Sequence[str]
  prompts: np.ndarray
  guides: np.ndarray
  targets: np.ndarray
  words: np.ndarray
  num_left_out: int

  def __len__(self) -> int:
    return len(self.ids)

  def fingerprint(self) -> str:
    """The sha256 over all that a run can see of the examples."""
    digest = hashlib.sha256()
    for column in (self.ids, self.questions, self.answers):
      digest.update(json.dumps(list(column)).encode())
    for array in (self.prompts, self.guides, self.targets):
      digest.update(str(array.shape).encode() + array.astype("<i4").tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What training needs of a tokenizer.

  Attributes:
    name: what it is, for the report.
    size: V.
    eos_id: the token that ends a sequence.
    decode: token ids -> text; ids that stand for no text are dropped.
  """

  name: str
  size: int
  eos_id: int
  decode: Callable[[Sequence[int]], str]

  def decode_rows(self, tokens: np.ndarray) -> list[str]:
    """Decodes [B, T] int32, each row up to its first EOS."""
    return [self.decode(_until_eos(row, self.eos_id)) for row in tokens]


@dataclasses.dataclass(frozen=True)
class Task:
  """A SeqIO task as training sees it.

  Attributes:
    name: the registered name.
    vocabulary: of prompts and rationales.
    extract: completion -> answer, or None where there is none.
    load: see `load_split`.
  """

  name: str
  vocabulary: Vocabulary
  extract: Callable[[str], str | None]
  load: Callable[..., Examples]


def open_task(name: str, data_dir: str | None) -> Task:
  """Looks a registered SeqIO task up.

  Args:
    name: a task; the gin file must import the module that registers it.
    data_dir: the folder with the task's files, if it reads any.

  Raises:
    UserError: if no such task is registered, or if it lacks a feature.
  """
  import seqio
  import tensorflow as tf

  from cot_latent.tasks import common

  # A GPU's memory is for the model. Too late if TensorFlow has been used.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")
  common.set_data_dir(data_dir)
  try:
    task = seqio.TaskRegistry.get(name)
  except ValueError:
    known = ", ".join(sorted(seqio.TaskRegistry.names())) or "none"
    raise UserError(
      f"no task {name!r} is registered; registered are: {known:.400}. "
      "A gin file under gin/tasks/ imports the module that registers it."
    ) from None
  lacking = {"inputs", "targets"} - set(task.output_features)
  if lacking:
    raise UserError(f"task {name!r} has no output feature {min(lacking)!r}")

  def load(split: str, **settings) -> Examples:
    common.set_data_dir(data_dir)  # another task may have been opened since
    return load_split(task, split, **settings)

  return Task(
    name=name,
    vocabulary=_vocabulary(task.output_features["targets"].vocabulary),
    extract=lambda completion: task.postprocess_fn(
      completion, example=None, is_target=False
    ),
    load=load,
  )


def load_split(
  task: Any,
  split: str,
  *,
  prompt_length: int,
  target_length: int | None = None,
  over_long: str = "error",
) -> Examples:
  """Loads a split of a SeqIO task.

  Args:
    task: a seqio.Task.
    split: its split.
    prompt_length: what prompt and guide must fit into.
    target_length: T; None leaves the targets out.
    over_long: "error", or "leave_out" what does not fit and count it.

  Raises:
    UserError: if the split is unknown or empty, if a field is missing, or if
      an example is too long and may not be left out.
  """
  if split not in task.splits:
    raise UserError(
      f"task {task.name!r} has no split {split!r}, only {list(task.splits)}"
    )
  dataset = task.get_dataset(None, split, shuffle=False)
  rows = [_read_row(task, row) for row in dataset.as_numpy_iterator()]
  if not rows:
    raise UserError(f"split {split!r} of task {task.name!r} has no examples")
  rows.sort(key=lambda row: row["id"])
  ids = [row["id"] for row in rows]
  if len(set(ids)) < len(ids):
    raise UserError(f"split {split!r} of task {task.name!r} repeats an id")

  limits = {"inputs": prompt_length, "guide_tokens": prompt_length}
  if target_length is not None:
    limits["targets"] = target_length
  kept = [row for row in rows if _fits(row, limits)]
  if len(kept) < len(rows) and (over_long == "error" or not kept):
    text = _say_too_long(task.name, split, rows, limits)
    raise UserError(text + (", or OVER_LONG = 'leave_out'" if kept else ""))
  length = target_length or 0
  return Examples(
    ids=[row["id"] for row in kept],
    questions=[row["question"] for row in kept],
    answers=[row["answer"] for row in kept],
    prompts=_pad_left([row["inputs"] for row in kept]),
    guides=_pad_left([row["guide_tokens"] for row in kept]),
    targets=_pad_right([row["targets"][:length] for row in kept], length),
    words=rng.id_words([row["id"] for row in kept]),
    num_left_out=len(rows) - len(kept),
  )


def _read_row(task, row: dict[str, Any]) -> dict[str, Any]:
  """Checks and decodes one example of the task's data set."""
  missing = [name for name in _FIELDS if name not in row]
  if missing:
    raise UserError(
      f"task {task.name!r} yields no field {missing[0]!r}; its preprocessors "
      f"must keep {', '.join(_FIELDS)} beside inputs and targets"
    )
  for name in _FIELDS:
    if not isinstance(row[name], bytes):
      raise UserError(
        f"task {task.name!r} yields a field {name!r} that is not a string: "
        f"{row[name]!r:.60}"
      )
  read = {name: row[name].decode() for name in _FIELDS}
  encode = task.output_features["inputs"].vocabulary.encode
  return read | {
    "inputs": row["inputs"],
    "targets": row["targets"],
    "guide_tokens": encode(read["guide"]),
  }


def _fits(row: dict[str, Any], limits: dict[str, int]) -> bool:
  return all(len(row[name]) <= limit for name, limit in limits.items())


def _say_too_long(name: str, split: str, rows, limits: dict[str, int]) -> str:
  """Names the longest example and the setting that would admit it."""
  over, field, row = max(
    (
      (len(row[field]) - limit, field, row)
      for row in rows
      for field, limit in limits.items()
    ),
    key=lambda found: found[0],
  )
  num = sum(not _fits(row, limits) for row in rows)
  what, setting = (
    ("rationale", "MAX_LENGTH")
    if field == "targets"
    else ("prompt", "PROMPT_LENGTH")
  )
  return (
    f"task {name!r}, split {split!r}: {num} of {len(rows)} examples are too "
    f"long; the longest {what}, of {row['id']}, has {limits[field] + over} "
    f"tokens: set {setting} to at least that"
  )


def _pad_left(rows) -> np.ndarray:
  """Pads to the longest row, up to the next multiple of 8."""
  length = -(-max(map(len, rows)) // 8) * 8
  padded = np.full((len(rows), length), PAD_ID, np.int32)
  for place, row in enumerate(rows):
    padded[place, length - len(row) :] = row
  return padded


def _pad_right(rows, length: int) -> np.ndarray:
  padded = np.full((len(rows), length), PAD_ID, np.int32)
  for place, row in enumerate(rows):
    padded[place, : len(row)] = row
  return padded


def _until_eos(row: np.ndarray, eos_id: int) -> list[int]:
  tokens = row.tolist()
  return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens


def _vocabulary(vocabulary) -> Vocabulary:
  """Wraps a seqio.Vocabulary."""
  kind = type(vocabulary).__name__
  path = getattr(vocabulary, "sentencepiece_model_file", None)
  return Vocabulary(
    name=f"{kind}({path})" if path else kind,
    size=vocabulary.vocab_size,
    eos_id=vocabulary.eos_id,
    decode=vocabulary.decode,
  )
