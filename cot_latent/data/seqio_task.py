"""Tasks opened through SeqIO. Importing this starts TensorFlow."""

import contextlib
import functools
import hashlib
import importlib
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.examples import TokenizedSplit
from cot_latent.data.prompts import Prompts
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.errors import UserError
from cot_latent.models import vocabularies
from cot_latent.models.vocabularies import Vocabulary
from cot_latent.tasks import all as _  # noqa: F401  (registers them)
from cot_latent.tasks import common, prompting
from cot_latent.tasks.vocabularies import (
  HuggingFacePieces,
  HuggingFaceVocabulary,
)

_FIELDS = ("id", "question", "answer", "guide")
_READ = (
  *_FIELDS,
  *("prior", "prior_prefix", "guide_prefix", "targets_pretokenized"),
)
_NUM_AT_A_TIME = 256
_INT32 = functools.partial(np.asarray, dtype=np.int32)


class _Part(NamedTuple):
  """One SeqIO task; a mixture has several."""

  task: Any  # seqio.Task
  info: common.Info | None  # None if another library registered it


def open_registered(source: Source) -> Task:
  """Opens a registered SeqIO task or mixture.

  Args:
    source: The task's name and the form of its prompts.

  Raises:
    UserError: If no such task is registered, if it lacks a feature, or if the
      tasks of a mixture state their answers in different forms.
  """
  import seqio
  import tensorflow as tf

  # Keeps the GPU's memory for the model. Too late if TensorFlow has been used.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")
  import_module(source.module)
  name = common.resolve(source.task)
  provider = seqio.get_mixture_or_task(name)
  parts = [_make_part(t, source) for t in seqio.get_subtasks(provider)]
  _require_one_form(name, parts, source)
  first = parts[0]
  vocabulary = first.task.output_features["targets"].vocabulary
  wrapped = wrap_vocabulary(vocabulary)
  prompts = source.prompts or (first.info.prompts if first.info else Prompts())
  info = first.info
  lesson = ""
  if info is not None and info.lesson is not None:
    lesson = prompts.prefix("prior", [info.lesson])
  return Task(
    name=name,
    vocabulary=wrapped,
    prompts=prompts,
    form=info.form if info and info.extract is None else None,
    kinds={p.task.name: p.info.kind if p.info else "text" for p in parts},
    conventions={p.task.name: _conventions(p, source) for p in parts},
    splits=[
      s for s in first.task.splits if all(s in p.task.splits for p in parts)
    ],
    rationale_splits=[
      s
      for s in (info.rationale_splits if info else first.task.splits)
      if all(p.info is None or s in p.info.rationale_splits for p in parts)
    ],
    read=functools.cache(functools.partial(_read_split, parts, wrapped)),
    separator=_INT32(vocabulary.encode(prompts.separator)),
    lesson=_INT32(vocabulary.encode(lesson)),
  )


def import_module(module: str | None) -> None:
  """Imports a module that registers tasks, besides those of this package.

  Raises:
    UserError: If it cannot be imported.
  """
  try:
    if module is not None:
      importlib.import_module(module)
  except ImportError as error:
    raise UserError(
      f"TASK_MODULE = {module!r}: cannot import it ({error}); its folder must "
      "be on PYTHONPATH"
    ) from None


def wrap_vocabulary(vocabulary) -> Vocabulary:
  """Wraps a seqio.Vocabulary."""
  if isinstance(vocabulary, HuggingFaceVocabulary):
    return vocabulary.wrapped
  if isinstance(vocabulary, HuggingFacePieces):
    content = pathlib.Path(vocabulary.sentencepiece_model_file).read_bytes()
    parts = [f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"]
    if vocabulary.bos_id is not None:
      parts.append(f"BOS {vocabulary.bos_id}")
    return vocabularies.sentencepiece_vocabulary(
      f"HuggingFacePieces({', '.join(parts)})",
      vocabulary.sp_model,
      vocabulary.vocab_size,
      vocabulary.eos_id,
      vocabulary.bos_id,
    )
  kind = type(vocabulary).__name__
  if kind == "ByteVocabulary":
    return vocabularies.byte_vocabulary(vocabulary.extra_ids)
  if kind == "SentencePieceVocabulary":
    model = vocabulary.sp_model
    digest = hashlib.sha256(model).hexdigest()[:16]
    return vocabularies.sentencepiece_vocabulary(
      f"{kind}(sha256 {digest})",
      model,
      vocabulary.vocab_size,
      vocabulary.eos_id,
    )
  return Vocabulary(
    kind,
    vocabulary.vocab_size,
    vocabulary.eos_id,
    vocabulary.decode,
    lambda text: list(vocabulary.encode(text)),
  )


def _make_part(task, source: Source) -> _Part:
  info = common.INFO.get(task.name)
  if info is not None:
    built = common.build_variant(
      task.name,
      source.prompts,
      source.vocabulary,
      source.data_dir,
      source.bos,
    )
    return _Part(built, info)
  if source.prompts is not None:
    raise UserError(
      f"task {task.name!r} makes its own prompts: set PROMPTS = None"
    )
  for feature in ("inputs", "targets"):
    if feature not in task.output_features:
      raise UserError(f"task {task.name!r} has no output feature {feature!r}")
  if source.vocabulary is not None or source.bos is not None:
    raise UserError(
      f"task {task.name!r} has its own vocabulary: set VOCABULARY = None"
      + " and Source.bos = None" * (source.bos is not None)
    )
  return _Part(task, None)


def _require_one_form(
  name: str, parts: Sequence[_Part], source: Source
) -> None:
  """Checks that one function reads the answers of all tasks of a mixture."""
  forms = {
    p.task.name
    if p.info is None or p.info.extract
    else (p.info.form, (source.prompts or p.info.prompts).is_direct)
    for p in parts
  }
  if len(forms) > 1:
    raise UserError(
      f"mixture {name!r} has tasks whose answers are stated in different "
      "forms; train on them one by one"
    )


def _conventions(part: _Part, source: Source):
  task, info = part
  if info is None:
    own = functools.partial(task.postprocess_fn, example=None, is_target=False)
    return {"own": answer_forms.own("own", own)}
  if info.extract is not None:
    return {"own": answer_forms.own("own", info.extract)}
  is_direct = (source.prompts or info.prompts).is_direct
  return answer_forms.conventions(task.name, info.form, info.kind, is_direct)


def _read_split(
  parts: Sequence[_Part], vocabulary: Vocabulary, split: str
) -> TokenizedSplit:
  """Reads a split of all parts, sorted by id.

  Raises:
    UserError: If it is empty, if a field is missing, if an id comes twice, or
      if the vocabulary loses text.
  """
  rows = [
    row
    for part in parts
    for row in _read_rows(part.task, split, vocabulary.bos_id)
  ]
  rows.sort(key=lambda row: row["ids"])
  for one, other in itertools.pairwise(rows):
    if one["ids"] == other["ids"]:
      raise UserError(
        f"split {split!r} of task {other['tasks']!r} repeats the id "
        f"{other['ids']!r}"
      )
  if not vocabulary.name.startswith(vocabularies.BYTES):  # bytes lose nothing
    _check_vocabulary(parts, vocabulary, rows)
  return TokenizedSplit(
    *([row[name] for row in rows] for name in TokenizedSplit._fields)
  )


def _read_rows(task, split: str, bos_id: int | None) -> list[dict[str, Any]]:
  dataset = task.get_dataset(None, split, shuffle=False)
  encode = task.output_features["inputs"].vocabulary.encode
  # Many at a time: TensorFlow takes half a millisecond for each call.
  batches = dataset.map(_select).ragged_batch(_NUM_AT_A_TIME)
  with prompting.reading():
    rows = [
      _read_row(task, dict(zip(batch, row, strict=True)), encode, bos_id)
      for batch in batches
      for row in zip(*(x.numpy() for x in batch.values()), strict=True)
    ]
  if not rows:
    raise UserError(f"split {split!r} of task {task.name!r} has no examples")
  return rows


def _select(row: dict[str, Any]) -> dict[str, Any]:
  """Drops fields that are not read."""
  names = (*_READ, "inputs", "guide_ids", "targets")
  return {name: row[name] for name in names if name in row}


def _read_row(
  task,
  row: dict[str, Any],
  encode: Callable,
  bos_id: int | None,
) -> dict[str, Any]:
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
  text = {name: row[name].decode() for name in _FIELDS}
  return {
    "ids": text["id"],
    "tasks": task.name,
    "questions": text["question"],
    "answers": text["answer"],
    "prompts": _INT32(row["inputs"]),
    "guides": _INT32(_guide(row, encode, bos_id)),
    "targets": _INT32(row["targets"]),
    "texts": [
      row.get(name, b"").decode()
      for name in ("prior", "guide", "targets_pretokenized", "guide_prefix")
    ],
  }


def _guide(
  row: dict[str, Any], encode: Callable, bos_id: int | None
) -> Sequence[int]:
  """Returns the hinted prompt's tokens; other libraries' tasks have none."""
  if "guide_ids" in row:
    return row["guide_ids"]
  ids = encode((row.get("guide_prefix", b"") + row["guide"]).decode())
  # A guide begins like its prompt.
  begin = row["inputs"][:1].tolist()
  return [*begin, *ids] if begin == [bos_id] else ids


def _check_vocabulary(parts, vocabulary: Vocabulary, rows) -> None:
  seqio_vocabulary = parts[0].task.output_features["inputs"].vocabulary
  vocabularies.check_round_trip(
    seqio_vocabulary.encode,
    vocabulary.decode,
    [(row["ids"], text) for row in rows for text in row["texts"]],
    f"{vocabulary.name} on task {rows[0]['tasks']!r}",
  )
