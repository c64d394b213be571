"""A task stored as arrays, which opens without SeqIO and TensorFlow."""

import dataclasses
import hashlib
import io
import json
import re
from typing import Any

import numpy as np

from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.chat import Chat
from cot_latent.data.examples import TokenizedSplit
from cot_latent.data.prompts import Prompts
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.errors import UserError
from cot_latent.models import vocabularies
from cot_latent.models.hf import gguf_files, packaged, tokenizer_files
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.runtime import arrays as stored_arrays
from cot_latent.runtime import text_files

_FORMAT = 1
_TEXTS = ("ids", "tasks", "questions", "answers")
_TOKENS = ("prompts", "guides", "targets")


def fingerprint(task: Task) -> str:
  """Hashes all that training can see of a task: every split, and the rest.

  The hash is equal on every machine. A different byte of data, prompt, answer
  form or vocabulary changes it.
  """
  return _fingerprint(task, _split_fingerprints(task))


def to_bytes(task: Task) -> tuple[bytes, str]:
  """Writes a task as the content of an .npz file.

  Args:
    task: A task opened from SeqIO.

  Returns:
    The content, the same for the same task, and the task's fingerprint.

  Raises:
    UserError: If the task or its vocabulary cannot be stored.
  """
  if task.form is None:
    raise UserError(
      f"task {task.name!r} reads answers by a function of its own, which no "
      "file can hold; register it with a form (see docs/new_task.md)"
    )
  is_bytes = task.vocabulary.name.startswith(vocabularies.BYTES)
  if not task.vocabulary.model and not is_bytes:
    raise UserError(
      f"task {task.name!r} has a {task.vocabulary.name}, which cannot be "
      "stored; bytes, SentencePiece and tokenizer.json can"
    )
  arrays = {
    "vocabulary": np.frombuffer(task.vocabulary.model, np.uint8),
    "separator": task.separator,
    "lesson": task.lesson,
  }
  for split in task.splits:
    rows = task.read(split)
    arrays[f"{split}/texts"] = _to_array({n: getattr(rows, n) for n in _TEXTS})
    for name in _TOKENS:
      column = getattr(rows, name)
      arrays[f"{split}/{name}"] = np.concatenate(column).astype("<i4")
      lengths = np.array([len(row) for row in column], "<i4")
      arrays[f"{split}/{name}_lengths"] = lengths
  splits = _split_fingerprints(task)
  digest = _fingerprint(task, splits)
  arrays["task"] = _to_array(
    _describe(task) | {"splits": splits, "fingerprint": digest}
  )
  stream = io.BytesIO()
  np.savez_compressed(stream, allow_pickle=False, **arrays)
  return stream.getvalue(), digest


def open_cached(source: Source) -> Task:
  """Opens a task from a file that holds the content of `to_bytes`.

  Raises:
    UserError: If the file cannot be read, is damaged, or holds another task or
      another form of it than the one asked for.
  """
  path = source.cache
  assert path is not None
  try:
    with (
      open(path, "rb") as file,
      stored_arrays.open_archive(file, is_compressed=True) as stored,
    ):
      arrays = dict(stored)
    described = _from_array(arrays["task"])
    if described["format"] != _FORMAT:
      raise UserError(
        f"{path} is in format {described['format']}, and this version reads "
        f"{_FORMAT}: make it again with `t5x cache`"
      )
    splits = {split: _split(arrays, split) for split in described.pop("splits")}
    task = _make_task(arrays, described, splits)
    is_whole = fingerprint(task) == described["fingerprint"]
  except FileNotFoundError:
    raise UserError(
      f"CACHE: there is no file {path}; make it with "
      f"`t5x cache --task={source.task} --output={path}`"
    ) from None
  except (
    *(AttributeError, ArithmeticError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError),
  ) as error:
    raise UserError(
      f"{path} is not a file that `t5x cache` made, or is damaged "
      f"({error!s:.160})"
    ) from None
  if not is_whole:
    raise UserError(
      f"{path} is damaged or was changed: its fingerprint does not match; make "
      "it again with `t5x cache`"
    )
  _check_asked_for(path, source, task)
  return task


def _describe(task: Task) -> dict[str, Any]:
  """Returns what is hashed of a task besides splits and vocabulary model."""
  return {
    "format": _FORMAT,
    "name": task.name,
    "form": task.form,
    "prompts": _describe_prompts(task.prompts),
    "kinds": {
      name: kind if isinstance(kind, str) else list(kind)
      for name, kind in task.kinds.items()
    },
    "conventions": {
      name: list(ways) for name, ways in task.conventions.items()
    },
    "rationale_splits": list(task.rationale_splits),
    "vocabulary": _describe_vocabulary(task.vocabulary),
    "separator": task.separator.tolist(),
    "lesson": task.lesson.tolist(),
  }


def _describe_vocabulary(vocabulary: vocabularies.Vocabulary) -> list:
  """Describes the vocabulary without its model; bytes have three fields."""
  described = [vocabulary.name, vocabulary.size, vocabulary.eos_id]
  if vocabulary.name.startswith(hf_tokenizer.KIND):
    ends = [list(vocabulary.end_ids)] if vocabulary.end_ids else []
    return [*described, vocabulary.bos_id, vocabulary.padding_id, *ends]
  if vocabulary.bos_id is not None:
    return [*described, vocabulary.bos_id]
  return described


def _make_vocabulary(
  name: str, size: int, eos_id: int, *more, model: bytes
) -> vocabularies.Vocabulary:
  """Inverts `_describe_vocabulary`."""
  if not model:
    return vocabularies.byte_vocabulary(size - vocabularies.NUM_BYTES)
  make = (
    hf_tokenizer.make_vocabulary
    if name.startswith(hf_tokenizer.KIND)
    else vocabularies.sentencepiece_vocabulary
  )
  return make(name, model, size, eos_id, *more)


def _describe_prompts(prompts: Prompts) -> dict[str, Any]:
  """Describes the prompts without paths: the tokens hold a file's content."""
  described = dataclasses.asdict(prompts)
  if prompts.exemplars not in ("none", "task", "train", "bootstrapped"):
    described["exemplars"] = "a file"
  return described


def _split_fingerprints(task: Task) -> dict[str, str]:
  return {split: task.read(split).fingerprint() for split in task.splits}


def _fingerprint(task: Task, splits: dict[str, str]) -> str:
  text = json.dumps([_describe(task), splits], sort_keys=True)
  return hashlib.sha256(text.encode() + task.vocabulary.model).hexdigest()


def _split(arrays: dict[str, np.ndarray], split: str) -> TokenizedSplit:
  columns = _from_array(arrays[f"{split}/texts"])
  for name in _TOKENS:
    tokens, lengths = (arrays[f"{split}/{name}{s}"] for s in ("", "_lengths"))
    if not {tokens.dtype.kind, lengths.dtype.kind} <= {"i", "u"}:
      raise TypeError(f"{split}/{name} are not whole numbers")
    columns[name] = np.split(tokens, np.cumsum(lengths)[:-1])
  return TokenizedSplit(**columns)


def _make_task(arrays, described, splits) -> Task:
  vocabulary = _make_vocabulary(
    *described["vocabulary"], model=arrays["vocabulary"].tobytes()
  )
  form, settings = described["form"], described["prompts"]
  prompts = Chat(**settings) if "system" in settings else Prompts(**settings)
  kinds = {
    task: kind if isinstance(kind, str) else tuple(kind)
    for task, kind in described["kinds"].items()
  }
  return Task(
    name=described["name"],
    vocabulary=vocabulary,
    prompts=prompts,
    form=form,
    kinds=kinds,
    conventions={
      task: answer_forms.conventions(task, form, kind, prompts.is_direct)
      for task, kind in kinds.items()
    },
    splits=list(splits),
    rationale_splits=described["rationale_splits"],
    read=splits.__getitem__,
    separator=arrays["separator"],
    lesson=arrays["lesson"],
  )


def _check_asked_for(path: str, source: Source, task: Task) -> None:
  """Raises if a cache does not hold what is asked for."""
  what = None
  if source.task not in (task.name, re.sub(r"_v\d+$", "", task.name)):
    what = f"task {task.name!r}, not {source.task!r}"
  elif source.prompts is not None and (
    _describe_prompts(source.prompts) != _describe_prompts(task.prompts)
  ):
    what = "prompts that differ from PROMPTS"
  elif (
    source.vocabulary is not None and task.vocabulary.name == vocabularies.BYTES
  ):
    what = "bytes, not the pieces of VOCABULARY"
  elif not _has_vocabulary(task, source.vocabulary):
    what = f"tokens of a {task.vocabulary.name}, not those of VOCABULARY"
  elif source.bos not in (None, task.vocabulary.bos_id is not None):
    what = f"prompts with{'out' * source.bos} BOS"
  if what:
    raise UserError(
      f"CACHE: {path} holds {what}; make another with `t5x cache`"
    )


def _has_vocabulary(task: Task, asked: str | None) -> bool:
  """Whether a task's tokens are those of a file, if that is here.

  Raises:
    UserError: If the file cannot be read.
  """
  path = None if asked is None else packaged.locate(asked)
  if path is None or not path.exists():
    return True
  own = task.vocabulary
  if not (path.is_dir() or path.suffix in (".json", gguf_files.SUFFIX)):
    return vocabularies.are_same_pieces(text_files.read_bytes(path), own.model)
  extra_ids = tokenizer_files.byte_extra_ids(path)
  if extra_ids is not None:
    return own.name == vocabularies.byte_vocabulary(extra_ids).name
  if not tokenizer_files.has_tokenizer(path):
    return True  # a folder of weights, which a cache completes
  found = tokenizer_files.read_files(path)
  if found.pieces is not None:
    kind, content = "HuggingFacePieces", text_files.read_bytes(found.pieces)
  else:
    kind, content = hf_tokenizer.KIND, found.tokenizer or b""
  digest = hashlib.sha256(content).hexdigest()
  if not own.name.startswith(f"{kind}(sha256 {digest[:16]}"):
    return False
  # Other files say which tokens end a sequence.
  return found.pieces is not None or own.name == (
    hf_tokenizer.read_vocabulary(found, own.bos_id is not None).name
  )


def _to_array(content) -> np.ndarray:
  return np.frombuffer(json.dumps(content).encode(), np.uint8)


def _from_array(array: np.ndarray):
  return json.loads(array.tobytes())
