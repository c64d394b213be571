"""Parts of every task: features, prompts, postprocessor and metric.

A task is registered once, with SeqIO and in `INFO`. From there it can be made
in other forms: with other prompts, another vocabulary or another data folder.
"""

import dataclasses
import difflib
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, get_args

import seqio
import tensorflow as tf

from cot_latent.data import subsets
from cot_latent.data.answers import checkers
from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.answers.checkers import Kind
from cot_latent.data.prompts import PAPER, Prompts
from cot_latent.errors import UserError
from cot_latent.runtime import text_files
from cot_latent.tasks import prompting, slices, vocabularies
from cot_latent.tasks.prompting import Row

_VERSION = re.compile(r"_v(\d+)$")


class Info(NamedTuple):
  """Settings of a registered task that SeqIO does not know.

  Attributes:
    source: Data folder or None -> source of the examples.
    sizes: () -> number of examples of each split.
    kind: Kind of the answers.
    form: Form in which a target states its answer.
    prompts: How questions are put, unless a run sets other prompts.
    rationale_splits: The splits whose targets hold rationales, and not answers
      alone.
    exemplars: Data folder or None -> worked examples, with `question`,
      `answer` and `targets`; may be empty.
    lesson: A worked example that shows how an answer is stated, for
      bootstrapping.
    extract: Completion -> answer or None, in place of the form's own rule.
  """

  source: Callable[[str | None], seqio.DataSource]
  sizes: Callable[[], Mapping[str, int]]
  kind: Kind
  form: answer_forms.Form
  prompts: Prompts
  rationale_splits: Sequence[str]
  exemplars: Callable[[str | None], Sequence[Row]]
  lesson: Row | None
  extract: Callable[[str], str | None] | None


INFO: dict[str, Info] = {}
MIXTURES: dict[str, list[str]] = {}
_VARIANTS: dict[str, tuple] = {}
# Names without a version, which SeqIO knows as mixtures of the newest one.
_NEWEST: dict[str, str] = {}


def register(
  name: str,
  source: Callable[[str | None], seqio.DataSource],
  sizes: Callable[[], Mapping[str, int]],
  *,
  answer: Kind = "text",
  form: answer_forms.Form = "sentence",
  prompts: Prompts = PAPER,
  rationale_splits: Sequence[str] = (),
  exemplars: Callable[[str | None], Sequence[Row]] = lambda data_dir: (),
  lesson: Row | None = None,
  extract: Callable[[str], str | None] | None = None,
) -> None:
  """Registers a SeqIO task.

  Args:
    name: The task's name. A name that ends with a version, such as `_v1`, can
      be used without the version.
    source: See `Info`; `rows_source` makes one of a function.
    sizes: See `Info`.
    answer: See `Info.kind` and `checkers.Kind`.
    form: See `Info`.
    prompts: See `Info`.
    rationale_splits: See `Info`.
    exemplars: See `Info`.
    lesson: See `Info`.
    extract: See `Info`.

  Raises:
    UserError: If the name is taken or bad, or if the kind or form is unknown.
  """
  checkers.check_kind(answer)
  if form not in get_args(answer_forms.Form):
    raise UserError(
      f"unknown form {form!r:.60}: give one of "
      f"{', '.join(get_args(answer_forms.Form))}"
    )
  _check_name(name)
  info = Info(
    source=source,
    sizes=sizes,
    kind=answer,
    form=form,
    prompts=prompts,
    rationale_splits=rationale_splits,
    exemplars=exemplars,
    lesson=lesson,
    extract=extract,
  )
  seqio.TaskRegistry.add_provider(
    name, _build_seqio_task(name, info, is_sliced=True)
  )
  INFO[name] = info
  _add_short_name(name)


def register_mixture(name: str, tasks: Sequence[str]) -> None:
  """Registers a mixture; each task is drawn in proportion to its size.

  Args:
    name: The mixture's name.
    tasks: Full names of tasks of `INFO`.

  Raises:
    UserError: If the name is taken or bad, or if a task is unknown.
  """
  _check_name(name)
  for task in tasks:
    if task not in INFO:
      raise UserError(f"mixture {name!r}: no task {task!r} is registered")
  rates = [(task, float(INFO[task].sizes()["train"])) for task in tasks]
  seqio.MixtureRegistry.add(name, rates)
  MIXTURES[name] = list(tasks)
  _add_short_name(name)


def variant(
  task: str,
  name: str,
  prompts: Prompts | None = None,
  vocabulary: str | None = None,
  data_dir: str | None = None,
  bos: bool | None = None,
) -> str:
  """Registers a task again in another form, for SeqIO and T5X.

  Args:
    task: A task of `INFO`, with or without its version.
    name: The new task's name.
    prompts: How questions are put; None uses the task's own prompts.
    vocabulary: Path as for `vocabularies.load`; None is bytes.
    data_dir: Folder with the task's files; None downloads them.
    bos: Whether prompts begin with BOS; None follows the checkpoint's files.

  Returns:
    The new name, so that gin can use the call in place of a task's name. The
    same call again changes nothing.

  Raises:
    UserError: If the name is taken or bad, if the task is unknown, or if the
      vocabulary cannot be used.
  """
  settings = (resolve(task), prompts, vocabulary, data_dir, bos)
  is_there = name in seqio.TaskRegistry.names()
  if is_there and _VARIANTS.get(name) == settings:
    return name
  _check_name(name)
  if settings[0] not in INFO:
    raise UserError(
      f"{task!r} is not a single task that was registered with this package"
    )
  info = INFO[settings[0]]
  loaded = vocabularies.load(vocabulary, bos)
  built = _build_seqio_task(
    name, info, prompts, loaded, data_dir, is_sliced=True
  )
  seqio.TaskRegistry.add_provider(name, built)
  _VARIANTS[name] = settings
  return name


def build_variant(
  name: str,
  prompts: Prompts | None = None,
  vocabulary: str | None = None,
  data_dir: str | None = None,
  bos: bool | None = None,
) -> seqio.Task:
  """Makes a registered task in another form; see `variant`."""
  loaded = vocabularies.load(vocabulary, bos)
  return _build_seqio_task(name, INFO[name], prompts, loaded, data_dir)


def resolve(name: str) -> str:
  """Finds a registered task or mixture; without a version, the newest.

  Raises:
    UserError: If there is no such task.
  """
  names = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
  names -= _NEWEST.keys()
  if name in names:
    return name
  versions = [n for n in names if _VERSION.sub("", n) == name]
  if versions:
    return max(versions, key=lambda n: int(_VERSION.search(n)[1]))  # type: ignore[index]
  known = sorted({_VERSION.sub("", n) for n in names})
  close = difflib.get_close_matches(name, known, n=1)
  hint = f"did you mean {close[0]}? " if close else ""
  raise UserError(
    f"no task {name!r} is registered; {hint}`t5x tasks` lists them, and "
    "TASK_MODULE names the module that registers your own"
  )


def rows_source(
  read: Callable[[str], Iterable[Row]], splits: Sequence[str]
) -> Callable[[str | None], seqio.DataSource]:
  """Makes a task's source from a function, split -> rows."""

  def dataset_fn(split, shuffle_files=False, seed=None):
    del shuffle_files, seed  # the order is the file's
    # All at once: TensorFlow would wrap an exception of a generator.
    rows = list(read(split))
    return tf.data.Dataset.from_tensor_slices(
      {
        key: tf.constant([row[key] for row in rows], tf.string)
        for key in ("id", "question", "answer", "targets")
      }
    )

  def source(data_dir: str | None) -> seqio.DataSource:
    del data_dir
    return seqio.FunctionDataSource(dataset_fn, splits=splits)

  return source


def read_exemplars(
  name: str, info: Info, prompts: Prompts, data_dir: str | None
) -> Sequence[Row]:
  """Reads the worked examples that prompts ask for.

  Returns:
    Rows with `question`, `answer` and `targets`; no rows if a run is still to
    draw them itself.

  Raises:
    UserError: If there are no worked examples, or if the file is malformed.
  """
  if prompts.exemplars in ("none", "bootstrapped"):
    return ()
  if prompts.exemplars == "task":
    rows = info.exemplars(data_dir)
    if not rows:
      raise UserError(
        f"task {name!r} has no worked examples of its own: use "
        "gin/prompts/bootstrapped.gin, or Prompts.exemplars = a JSONL file"
      )
    return rows
  if prompts.exemplars == "train":
    return _training_rows(info.source(data_dir), prompts.num_exemplars)
  path = pathlib.Path(prompts.exemplars)
  rows = []
  for place, row in text_files.read_jsonl(path):
    text_files.require_strings(path, place, row, ("question", "answer"))
    text_files.require_strings(path, place, row, ("completion",))
    rows.append(row | {"targets": row["completion"]})
  return rows


def worked_rationales(
  name: str, prompts: Prompts | None, data_dir: str | None
) -> list[str]:
  """Returns the rationales of worked examples of a task or mixture.

  Args:
    name: Name of the task or mixture.
    prompts: Prompts with worked examples; None uses each task's own prompts.
      If a run draws the examples itself, or there are none, those of the task
      are used instead, and if it has none, training questions.
    data_dir: Folder of the task's files.

  Raises:
    UserError: If a task was not registered with this package.
  """
  found: list[str] = []
  for one in MIXTURES.get(name := resolve(name), [name]):
    if one not in INFO:
      raise UserError(
        f"{one!r} was not registered with cot_latent.tasks.common.register, so "
        "its worked examples are not known: set LENGTH_FACTOR = None"
      )
    info = INFO[one]
    asked = prompts or info.prompts
    if asked.exemplars in ("none", "bootstrapped"):
      kind = "task" if info.exemplars(data_dir) else "train"
      asked = dataclasses.replace(asked, exemplars=kind)
    rows = read_exemplars(one, info, asked, data_dir)
    found += [row["targets"] for row in rows[: asked.num_exemplars]]
  return found


def _training_rows(source: seqio.DataSource, number: int) -> list[Row]:
  """Reads the questions of `train[:number]`, with their rationales, if any.

  Raises:
    UserError: If there is no such split.
  """
  if "train" not in source.splits:
    raise UserError(
      f"Prompts.exemplars = 'train': there is no such split, only "
      f"{sorted(source.splits)}"
    )
  fields = "id", "question", "answer", "targets"
  found = [
    {name: row[name].decode() for name in fields}
    for row in source.get_dataset("train", shuffle=False).as_numpy_iterator()
  ]
  chosen = subsets.select([row["id"] for row in found], 0, number)
  return [found[place] for place in chosen]


def _check_name(name: str) -> None:
  if not re.fullmatch(r"\w+", name):
    raise UserError(f"task name {name!r}: use letters, digits and _ only")
  if name in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
    raise UserError(f"a task named {name!r} is registered already")


def _add_short_name(name: str) -> None:
  """Makes SeqIO know the name without its version, unless it is taken."""
  short = _VERSION.sub("", name)
  if short == name:
    return
  if _NEWEST.pop(short, None):
    seqio.MixtureRegistry.remove(short)
  if short not in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
    newest = resolve(short)
    seqio.MixtureRegistry.add(short, [(newest, 1.0)])
    _NEWEST[short] = newest


def _build_seqio_task(
  name: str,
  info: Info,
  prompts: Prompts | None = None,
  vocabulary: seqio.Vocabulary = vocabularies.BYTES,
  data_dir: str | None = None,
  is_sliced: bool = False,
) -> seqio.Task:
  prompts = prompts or info.prompts
  if info.extract is None:
    ways = answer_forms.conventions(
      name, info.form, info.kind, prompts.is_direct
    )
    convention = next(iter(ways.values()))
  else:
    convention = answer_forms.own("own", info.extract)

  def postprocess(completion, example=None, is_target=False):
    if is_target:
      return example["answer"].decode()
    return convention.extract(completion, "")

  source = info.source(data_dir)
  return seqio.Task(
    name,
    source=slices.SlicedSource(source) if is_sliced else source,
    preprocessors=[
      functools.partial(
        prompting.add_prompts,
        prompts=prompts,
        read=lambda: read_exemplars(name, info, prompts, data_dir),
      ),
      prompting.tokenize,
      seqio.CacheDatasetPlaceholder(),  # for seqio_cache_tasks
      seqio.preprocessors.append_eos,
    ],
    output_features={
      "inputs": seqio.Feature(vocabulary, add_eos=False),
      "targets": seqio.Feature(vocabulary, add_eos=True),
    },
    postprocess_fn=postprocess,
    metric_fns=[_accuracy],
  )


def _accuracy(targets, predictions) -> dict[str, float]:
  """Returns the share of correct predictions; None is never correct."""
  correct = [
    prediction is not None and prediction == target
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {"accuracy": sum(correct) / len(correct)}
