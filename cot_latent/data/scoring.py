"""Scores stored completions again, without a model."""

import collections
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cot_latent.data.answers import checkers
from cot_latent.data.answers.checkers import Convention
from cot_latent.data.task import Task
from cot_latent.errors import UserError
from cot_latent.runtime import text_files


class Verdict(NamedTuple):
  """The verdict on one question.

  Attributes:
    place: The example's id, or the line if there is no id.
    task: Name of its task.
    extracted: The answer that counts, or None.
    target: The known answer, in the form that the convention compares.
    correct: Whether they are equal.
  """

  place: str
  task: str
  extracted: str | None
  target: str
  correct: bool


def majority(answers: Sequence[str | None]) -> str | None:
  """Returns the most frequent answer; among equals, the one drawn first.

  Args:
    answers: One answer per sample; None (no answer) has no vote.

  Returns:
    The answer, or None if there is no vote.

  Example:

    >>> majority(["4", None, "5", "5"])
    '5'
  """
  votes = collections.Counter(a for a in answers if a is not None)
  return votes.most_common(1)[0][0] if votes else None


def score(
  task: Task, convention: str | None, path: pathlib.Path
) -> list[Verdict]:
  """Scores a file of completions.

  Args:
    task: The task of the questions.
    convention: A name of `task.conventions`; None uses that of training.
    path: Path of a file of JSON lines. Each has `completion`, or `completions`
      for a majority vote; `target`, the known answer in the form of the task's
      data, or the `id` of an example; and, if the convention reads it,
      `question` or `id`. `ended`: false means that a completion was cut at the
      length limit (for `completions`, a list). A mixture's lines have `task` or
      `id`. The files in a run's outputs/ have this form.

  Returns:
    One verdict per line.

  Raises:
    UserError: If a line cannot be scored; names the line.
  """
  known = _LazyRows(task)
  verdicts = []
  for place, line in text_files.read_jsonl(path):
    try:
      verdicts.append(_score_line(task, convention, known, place, line))
    except UserError as error:
      raise UserError(f"{path}, {place}: {error}") from None
  return verdicts


def num_repeated(verdicts: Iterable[Verdict]) -> int:
  """Counts the ids that several lines have."""
  places = collections.Counter((v.task, v.place) for v in verdicts)
  return sum(number > 1 for number in places.values())


def count_by_task(
  scored: Iterable[tuple[str, bool]],
) -> dict[str, tuple[int, int]]:
  """Counts (correct, total) of each task, sorted by name.

  Args:
    scored: Task and verdict of each question.
  """
  correct: collections.Counter[str] = collections.Counter()
  total: collections.Counter[str] = collections.Counter()
  for task, is_correct in scored:
    correct[task] += is_correct
    total[task] += 1
  return {task: (correct[task], total[task]) for task in sorted(total)}


class _LazyRows:
  """The task's examples by id, read when a line first needs them."""

  def __init__(self, task: Task):
    self._task = task
    self._rows: dict[str, tuple[str, str, str]] | None = None
    self._is_lacking = False

  def find(self, name: Any) -> tuple[str, str, str]:
    """Returns task, question and answer of an id."""
    rows = self._read()
    if name not in rows:
      raise UserError(f"task {self._task.name!r} has no example {name!r:.60}")
    return rows[name]

  def answer(self, name: Any) -> str | None:
    """Returns the answer of an id; None if the task has no such id.

    Also None if the data are not available: then only the file counts.
    """
    if not isinstance(name, str) or self._is_lacking:
      return None
    try:
      return self._read().get(name, (None, None, None))[2]
    except UserError:
      self._is_lacking = True
      return None

  def _read(self) -> dict[str, tuple[str, str, str]]:
    if self._rows is None:
      found: dict[str, tuple[str, str, str]] = {}
      for split in self._task.splits:
        rows = self._task.read(split)
        columns = (rows.tasks, rows.questions, rows.answers)
        found |= zip(rows.ids, zip(*columns, strict=True), strict=True)
      self._rows = found
    return self._rows


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
  target = _target(task, name, rule, known, line)
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
  if not isinstance(question, str):
    raise UserError(f"'question' must be a string, got {question!r:.60}")
  scored = score_completions(
    rule, {**line, "question": question, "target": target}
  )
  return Verdict(
    place=str(place if line.get("id") is None else line["id"]),
    task=name,
    extracted=scored.extracted,
    target=rule.normalize(target),
    correct=scored.is_correct,
  )


def _target(
  task: Task,
  name: str,
  rule: Convention,
  known: _LazyRows,
  line: Mapping[str, Any],
) -> str:
  """Finds the known answer: from the line, or from the data of its id."""
  target, example = line.get("target"), line.get("id")
  if target is None:
    if "id" not in line:
      raise UserError("there is neither 'id' nor 'target'")
    return known.find(_text(line, "id"))[2]
  target = _readable(task, name, _text(line, "target"))
  of_example = known.answer(example)
  if of_example is not None and (
    rule.normalize(of_example) != rule.normalize(target)
  ):
    raise UserError(
      f"the target is {target!r:.60}, and the answer of {example} is "
      f"{of_example!r:.60}: leave out 'target' or 'id'"
    )
  return target


def _readable(task: Task, name: str, target: str) -> str:
  """Returns the known answer as the task's data would have it.

  If the task's own rule never extracts such an answer, all completions would be
  incorrect. A task with a rule of its own may have any answer.
  """
  kind = task.kinds[name]
  if task.form == "tag":
    found, wanted = checkers.normalize_number(target), "a number"
  else:
    is_fine = task.form is None or checkers.admits(kind, target)
    found, wanted = target if is_fine else None, checkers.describe(kind)
  if found is None:
    raise UserError(
      f"the target {target!r:.60} is not {wanted}, as the answers of {name} "
      "are: write it so, or give 'id' alone"
    )
  return found


class Scored(NamedTuple):
  """The verdict on the completions of one question.

  Attributes:
    extracted: The answer that counts; None if none was found.
    is_correct: Whether it is the known answer.
    num_correct: Number of completions that are correct.
  """

  extracted: str | None
  is_correct: bool
  num_correct: int


def score_completions(rule: Convention, line: Mapping[str, Any]) -> Scored:
  """Scores the completions of one question.

  Args:
    rule: How an answer is extracted.
    line: Object with `completion` or `completions`, `question` and `target`,
      and perhaps `ended`.

  Raises:
    UserError: If the line is malformed.
  """
  answers = [
    rule.extract(completion, line["question"])
    if has_ended or rule.scores_cut
    else None
    for completion, has_ended in _completions(line)
  ]
  extracted, normal = majority(answers), rule.normalize(line["target"])
  return Scored(
    extracted,
    extracted is not None and extracted == normal,
    sum(answer is not None and answer == normal for answer in answers),
  )


def _find_convention(
  task: Task, name: Any, convention: str | None
) -> Convention:
  """Looks up a convention, for one of the task's parts."""
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
