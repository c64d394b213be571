"""A task: where its examples come from, and how completions are scored.

N questions, P prompt tokens, T target tokens.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cot_latent.data import in_memory, subsets
from cot_latent.data.answers.checkers import Convention, Kind
from cot_latent.data.answers.forms import Form
from cot_latent.data.examples import (
  Examples,
  TokenizedSplit,
  begins_with,
  pad_left,
  pad_right,
)
from cot_latent.data.prompts import PAPER, Prompts
from cot_latent.data.source import OverLong
from cot_latent.errors import UserError
from cot_latent.inference import rng
from cot_latent.models import stops, vocabularies
from cot_latent.models.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True)
class Task:
  """A task as training sees it: a SeqIO task, a mixture, or a cache.

  Attributes:
    name: The registered name, version included.
    vocabulary: Vocabulary of prompts and rationales.
    prompts: How questions are put.
    form: Form in which a target states its answer; None for a task with a
      checker of its own.
    kinds: Task -> kind of its answers.
    conventions: Task -> ways to score a completion, that of training first.
    splits: Names of the splits.
    rationale_splits: The splits whose targets hold rationales, and not answers
      alone.
    read: Split -> its rows.
    separator: The tokens that end a worked example.
    lesson: The tokens of a worked example that shows the form of an answer, for
      bootstrapping; may be empty.
    stop: Strings that end a completion, besides the vocabulary's end tokens.
    check: Compares a completion with the known answer, for a task whose answers
      are not extracted from completions; None compares extracted answers.
  """

  name: str
  vocabulary: Vocabulary
  prompts: Prompts
  form: Form | None
  kinds: Mapping[str, Kind]
  conventions: Mapping[str, Mapping[str, Convention]]
  splits: Sequence[str]
  rationale_splits: Sequence[str]
  read: Callable[[str], TokenizedSplit]
  separator: np.ndarray
  lesson: np.ndarray
  stop: tuple[str, ...] = ()
  check: Callable[[str, str], bool] | None = None

  @classmethod
  def from_rows(
    cls,
    questions: Sequence[str],
    answers: Sequence[str],
    *,
    check: Callable[[str, str], bool] | None = None,
    test: tuple[Sequence[str], Sequence[str]] | None = None,
    prompts: Prompts | None = None,
    vocabulary: Vocabulary | None = None,
    name: str = "rows",
  ) -> "Task":
    """Makes a task of questions and their answers; nothing is registered.

    Args:
      questions: Training questions, N strings.
      answers: Known answers, N strings.
      check: Function of a completion and the known answer that returns whether
        the completion is correct. None reads "So the answer is X." at the
        completion's end and compares X.
      test: Held-out questions and answers, which become the split "test".
      prompts: How questions are put; None is the paper's prompt.
      vocabulary: Tokenizer; None is bytes.
      name: Name for the report.

    Returns:
      A task with the split "train", and "test" if `test` is given.

    Raises:
      UserError: If there are no questions, or not one answer for each, or if no
        completion could state an answer.

    Example:

      >>> task = Task.from_rows(
      ...   ["What is 2 + 3?", "What is 4 + 4?"],
      ...   ["5", "8"],
      ...   check=lambda completion, answer: completion.split()[-1] == answer,
      ... )
      >>> train = task.load("train")
      >>> train.answers
      ['5', '8']
      >>> extracted = task.extract("Two and three make 5")
      >>> task.is_correct(extracted, train.answers[0])
      True
    """
    splits = {"train": (questions, answers)}
    if test is not None:
      splits["test"] = test
    prompts = prompts or PAPER
    vocabulary = vocabulary or vocabularies.byte_vocabulary()
    in_memory.check(name, splits, prompts)
    has_form = check is None
    if has_form:
      in_memory.check_answers(name, splits)
    return cls(
      name=name,
      vocabulary=vocabulary,
      prompts=prompts,
      form="sentence" if has_form else None,
      kinds={name: "text"},
      conventions={name: in_memory.conventions(name, prompts, has_form)},
      splits=list(splits),
      rationale_splits=[],
      read=functools.cache(
        functools.partial(in_memory.tokenize, name, splits, prompts, vocabulary)
      ),
      separator=np.asarray(vocabulary.encode(prompts.separator), np.int32),
      lesson=np.zeros(0, np.int32),
      check=check,
    )

  @functools.cached_property
  def ending(self) -> stops.Ending:
    """Returns what ends a completion.

    Raises:
      UserError: If the vocabulary cannot write a stop string.
    """
    ids = (self.vocabulary.eos_id, *self.vocabulary.end_ids)
    return stops.compile_stop(self.vocabulary, ids, self.stop)

  def ending_at(self, stop: tuple[str, ...] | None) -> "Task":
    """Returns the task with other stop strings; None uses the prompts'."""
    if stop is None:
      stop = self.prompts.stop
    return dataclasses.replace(self, stop=stop)

  def completions(self, tokens: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Decodes completions.

    Args:
      tokens: [B, T] int32.

    Returns:
      B texts, each up to the stop string or EOS; and [B] bool, whether the
      completion has ended and was not cut at the limit.
    """
    return self.ending.completions(self.vocabulary.decode, tokens)

  def extract(self, completion: str) -> str | None:
    """Extracts the answer from a completion, as training does.

    With a checker of the task's own, that is the completion itself.
    """
    # All its tasks agree on this: see `require_one_form`.
    convention = next(iter(next(iter(self.conventions.values())).values()))
    return convention.extract(completion, "")

  def is_correct(self, extracted: str | None, answer: str) -> bool:
    """Whether an answer from `extract` is the known answer."""
    if extracted is None or self.check is None:
      return extracted == answer
    return bool(self.check(extracted, answer))

  def rows(self, split: str) -> TokenizedSplit:
    """Reads a split, or a slice of one.

    Args:
      split: Name of a split, such as `train`, or a slice of it in keyed order,
        such as `train[:500]`; see `cot_latent.data.subsets`.

    Returns:
      The rows, sorted by id.

    Raises:
      UserError: If there is no such split or slice.
    """
    subset = subsets.parse(split)
    if subset.split not in self.splits:
      raise UserError(
        f"task {self.name!r} has no split {subset.split!r}, only "
        f"{list(self.splits)}"
      )
    rows = self.read(subset.split)
    if subset.is_whole:
      return rows
    try:
      places = subset.places(len(rows.ids))
    except UserError as error:
      raise UserError(
        f"split {split!r} of task {self.name!r}: {error}"
      ) from None
    kept = subsets.select(rows.ids, *places)
    return TokenizedSplit._make([column[i] for i in kept] for column in rows)

  def load(
    self,
    split: str,
    *,
    prompt_length: int | None = None,
    target_length: int | None = None,
    over_long: OverLong = "error",
  ) -> Examples:
    """Loads a split, or a slice of one.

    Args:
      split: Name of a split, or a slice of it such as `train[:500]` (`rows`).
      prompt_length: Maximum length of prompt and guide; None sets no limit.
      target_length: Target length T; None leaves the targets out.
      over_long: "error"; "leave_out" removes examples that do not fit;
        "truncate" shortens them: a prompt loses its beginning, except BOS, and
        a target its end. Both are counted.

    Raises:
      UserError: If the split is unknown or empty, if data are missing or
        malformed, or if an example is too long and must not be.
    """
    rows = self.rows(split)
    if prompt_length is None:
      prompt_length = max(map(len, (*rows.prompts, *rows.guides)))
    limits = {"prompts": prompt_length, "guides": prompt_length}
    if target_length is not None:
      limits["targets"] = target_length
    fits = _fits(rows, limits)
    num_over = len(fits) - sum(fits)
    can_leave_out = over_long == "leave_out" and any(fits)
    if num_over and not can_leave_out and over_long != "truncate":
      text = _say_too_long(f"task {self.name!r}, split {split!r}", rows, limits)
      others = "'leave_out' or 'truncate'" if any(fits) else "'truncate'"
      raise UserError(f"{text}, or OVER_LONG = {others}")
    if over_long == "leave_out":
      rows = TokenizedSplit._make(
        list(itertools.compress(column, fits)) for column in rows
      )
    width, bos_id = target_length or 0, self.vocabulary.bos_id

    def cut(row: np.ndarray) -> np.ndarray:
      num_over = max(len(row) - prompt_length, 0)
      kept = begins_with(row, bos_id)
      return np.concatenate([row[:kept], row[kept + num_over :]])

    return Examples(
      ids=rows.ids,
      tasks=rows.tasks,
      questions=rows.questions,
      answers=rows.answers,
      prompts=pad_left([cut(row) for row in rows.prompts]),
      guides=pad_left([cut(row) for row in rows.guides]),
      targets=pad_right([row[:width] for row in rows.targets], width),
      words=rng.id_words(rows.ids),
      num_left_out=num_over if over_long == "leave_out" else 0,
      num_truncated=num_over if over_long == "truncate" else 0,
      bos_id=bos_id,
    )


def _fits(rows: TokenizedSplit, limits: Mapping[str, int]) -> list[bool]:
  columns = [
    [len(row) <= limit for row in getattr(rows, name)]
    for name, limit in limits.items()
  ]
  return [all(row) for row in zip(*columns, strict=True)]


def _say_too_long(
  what: str, rows: TokenizedSplit, limits: Mapping[str, int]
) -> str:
  """Names the longest example and the setting that would admit it."""
  over, field, name = max(
    (len(row) - limit, field, name)
    for field, limit in limits.items()
    for name, row in zip(rows.ids, getattr(rows, field), strict=True)
  )
  num = _fits(rows, limits).count(False)
  label, setting = (
    ("rationale", "MAX_LENGTH")
    if field == "targets"
    else ("prompt", "PROMPT_LENGTH")
  )
  return (
    f"{what}: {num} of {len(rows.ids)} examples are too long; the longest "
    f"{label}, of {name}, has {limits[field] + over} tokens: set {setting} to "
    "at least that"
  )
