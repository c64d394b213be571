"""Stored completions scored again, without a model."""

import collections
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cot_latent.data.answers.checkers import Convention
from cot_latent.data.task import Task
from cot_latent.errors import UserError
from cot_latent.runtime import text_files


class Verdict(NamedTuple):
  """What became of one question.

  Attributes:
    place: the example's id, or the line where there is none.
    task: its task.
    extracted: the answer counted, or None.
    target: the known answer, in the form that the convention compares.
    correct: whether they are equal.
  """

  place: str
  task: str
  extracted: str | None
  target: str
  correct: bool


def majority(answers: Sequence[str | None]) -> str | None:
  """Picks the most frequent answer; among equals, the one drawn first.

  Args:
    answers: one a sample; None, no answer, has no vote.

  Returns:
    The answer, or None if there is no vote at all.
  """
  votes = collections.Counter(a for a in answers if a is not None)
  return votes.most_common(1)[0][0] if votes else None


def score(
  task: Task, convention: str | None, path: pathlib.Path
) -> list[Verdict]:
  """Scores a file of completions.

  Args:
    task: what was asked.
    convention: a name of `task.conventions`; None takes that of training.
    path: a file of JSON lines. Each has `completion`, or `completions` for a
      majority vote; `target`, the known answer, or the `id` of an example; and,
      if the convention reads it, `question` or `id`. `ended`: false says that a
      completion was cut at the length limit (a list of such for several). A
      mixture's lines have `task` or `id`. A run's outputs/ are such files.

  Returns:
    A verdict a line.

  Raises:
    UserError: naming the line that cannot be scored.
  """
  known = _LazyRows(task)
  verdicts = []
  for place, line in text_files.read_jsonl(path):
    try:
      verdicts.append(_score_line(task, convention, known, place, line))
    except UserError as error:
      raise UserError(f"{path}, {place}: {error}") from None
  return verdicts


def count_by_task(
  scored: Iterable[tuple[str, bool]],
) -> dict[str, tuple[int, int]]:
  """Counts (correct, total) of each task, in the order of their names.

  Args:
    scored: task and verdict of each question.
  """
  right: collections.Counter[str] = collections.Counter()
  total: collections.Counter[str] = collections.Counter()
  for task, is_correct in scored:
    right[task] += is_correct
    total[task] += 1
  return {task: (right[task], total[task]) for task in sorted(total)}


class _LazyRows:
  """The task's examples by id, read when a line first needs them."""

  def __init__(self, task: Task):
    self._task = task
    self._rows: dict[str, tuple[str, str, str]] | None = None

  def find(self, name: Any) -> tuple[str, str, str]:
    """Looks task, question and answer of an id up."""
    if self._rows is None:
      self._rows = {}
      for split in self._task.splits:
        rows = self._task.read(split)
        columns = (rows.tasks, rows.questions, rows.answers)
        self._rows |= zip(rows.ids, zip(*columns, strict=True), strict=True)
    if name not in self._rows:
      raise UserError(f"task {self._task.name!r} has no example {name!r:.60}")
    return self._rows[name]


def _score_line(
  task: Task,
  convention: str | None,
  known: _LazyRows,
  place: str,
  line: Any,
) -> Verdict:
  if not isinstance(line, dict):
    raise UserError(f"expected an object, got {line!r:.60}")
  name = line.get("task")
  if name is None and len(task.conventions) == 1:
    (name,) = task.conventions
  if name is None:
    name, _, _ = known.find(_text(line, "id"))
  rule = _find_convention(task, name, convention)
  target = line.get("target")
  if target is None:
    if "id" not in line:
      raise UserError("there is neither 'id' nor 'target'")
    _, _, target = known.find(_text(line, "id"))
  question: Any = ""
  if rule.needs_question:
    question = line.get("question")
    if question is None:
      if "id" not in line:
        raise UserError(
          f"convention {rule.name!r} reads the question: give 'question' or "
          "'id'"
        )
      _, question, _ = known.find(_text(line, "id"))
  for label, value in (("target", target), ("question", question)):
    if not isinstance(value, str):
      raise UserError(f"{label!r} must be a string, got {value!r:.60}")
  extracted, is_correct = score_completions(
    rule, {**line, "question": question, "target": target}
  )
  return Verdict(
    place=str(place if line.get("id") is None else line["id"]),
    task=name,
    extracted=extracted,
    target=rule.normalize(target),
    correct=is_correct,
  )


def score_completions(
  rule: Convention, line: Mapping[str, Any]
) -> tuple[str | None, bool]:
  """Scores the completions of one question.

  Args:
    rule: how an answer is read.
    line: with `completion` or `completions`, `question` and `target`, and
      perhaps `ended`.

  Returns:
    The answer counted, and whether it is the known one.

  Raises:
    UserError: if the line is malformed.
  """
  extracted = majority(
    [
      rule.extract(completion, line["question"])
      if has_ended or rule.scores_cut
      else None
      for completion, has_ended in _completions(line)
    ]
  )
  normal = rule.normalize(line["target"])
  return extracted, extracted is not None and extracted == normal


def _find_convention(
  task: Task, name: Any, convention: str | None
) -> Convention:
  """Looks a convention up, for one of the task's parts."""
  if not isinstance(name, str) or name not in task.conventions:
    raise UserError(f"task {task.name!r} has no part {name!r:.60}")
  ways = task.conventions[name]
  if convention is None:
    return next(iter(ways.values()))
  if convention not in ways:
    raise UserError(
      f"task {name!r} has no convention {convention!r}, only {', '.join(ways)}"
    )
  return ways[convention]


def _completions(line: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
  """Yields completions and whether each ended by itself."""
  if ("completion" in line) == ("completions" in line):
    raise UserError("a line has either 'completion' or 'completions'")
  if "completion" in line:
    texts, ended = [line["completion"]], [line.get("ended", True)]
  else:
    texts = line["completions"]
    if not isinstance(texts, list) or not texts:
      raise UserError(f"'completions' must be a list, got {texts!r:.60}")
    ended = line.get("ended", [True] * len(texts))
  is_list = isinstance(ended, list) and len(ended) == len(texts)
  if not is_list or not all(isinstance(end, bool) for end in ended):
    raise UserError("'ended' must be true or false, one for each completion")
  for text in texts:
    if not isinstance(text, str):
      raise UserError(f"a completion must be a string, got {text!r:.60}")
  yield from zip(texts, ended, strict=True)


def _text(line: Mapping[str, Any], name: str) -> str:
  value = line.get(name)
  if not isinstance(value, str):
    raise UserError(f"{name!r} must be a string, got {value!r:.60}")
  return value
