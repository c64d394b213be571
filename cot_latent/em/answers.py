"""Where a rationale ends and its answer begins, as tokens.

A rationale z ends with words such as "answer is". The known answer's tokens y,
EOS included, are appended to it. N questions, R rows, T tokens of a
rationale, A of an answer.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em.likelihood import AnswerGivenRationale
from cot_latent.errors import UserError
from cot_latent.models import stops
from cot_latent.models.stops import Ending

# By a task's form. "The answer is" ends so, and "So the answer is" too; the
# space belongs to the answer's first token.
_STATED = {
  "sentence": ("answer is", " {answer}."),
  "tag": ("<answer>\n", "{answer}\n</answer>"),
}


class Joined(NamedTuple):
  """Rationales with their answers.

  Attributes:
    targets: [R, T + A] int32.
    is_rationale: [R, T + A] bool, the rationale's tokens.
    is_answer: [R, T + A] bool, the answer's; none where there is none.
  """

  targets: np.ndarray
  is_rationale: np.ndarray
  is_answer: np.ndarray

  def has_answer(self) -> np.ndarray:
    """[R] bool."""
    return np.asarray(self.is_answer.any(axis=1))


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
  """The answers of some questions, and how a rationale reaches one.

  Attributes:
    task: Vocabulary.
    prefix: Words that end a rationale.
    ending: What ends a rationale: EOS, the task's stop strings, the prefix.
    tokens: [N, A] int32, the known answers, each with its EOS.
  """

  task: Task
  prefix: str
  ending: Ending
  tokens: np.ndarray

  def reaches(self, rationales: np.ndarray) -> np.ndarray:
    """Tells whether rationales reach an answer.

    Args:
      rationales: [R, T] int32.

    Returns:
      [R] bool, whether the text ends with the prefix. A token that completes
      the prefix and contains more text does not count.
    """
    lengths, ended = self.ending.lengths(rationales)
    decode = self.task.vocabulary.decode
    return np.array(
      [
        has_ended and decode(row[:length]).endswith(self.prefix)
        for row, length, has_ended in zip(
          rationales.tolist(), lengths.tolist(), ended.tolist(), strict=True
        )
      ],
      bool,
    )

  def join(self, rationales: np.ndarray, question: np.ndarray) -> Joined:
    """Appends the known answers to the rationales that reach one.

    Args:
      rationales: [R, T] int32.
      question: [R] integers, whose rationale each is.
    """
    lengths, _ = self.ending.lengths(rationales)
    has_answer = self.reaches(rationales)
    num_answer = np.where(
      has_answer, (self.tokens != 0).sum(axis=1)[question], 0
    )
    width = rationales.shape[1] + self.tokens.shape[1]
    column = np.arange(width)
    is_rationale = column < lengths[:, None]
    is_answer = ~is_rationale & (column < (lengths + num_answer)[:, None])
    targets = np.zeros((len(rationales), width), np.int32)
    targets[:, : rationales.shape[1]] = rationales
    targets[~is_rationale] = 0
    place = np.clip(column - lengths[:, None], 0, self.tokens.shape[1] - 1)
    known = np.take_along_axis(self.tokens[question], place, axis=1)
    return Joined(np.where(is_answer, known, targets), is_rationale, is_answer)


def build_answers(
  likelihood: AnswerGivenRationale, task: Task, examples: Examples
) -> Answers:
  """Writes the answers of some questions.

  Args:
    likelihood: Says how they are stated.
    task: The task, whose own form is the default.
    examples: The N questions.

  Raises:
    UserError: If neither the task nor the likelihood tells how an answer is
      stated, or if the vocabulary cannot write one.
  """
  prefix, template = stated(likelihood, task)
  vocabulary = task.vocabulary
  rows = []
  for name, answer in zip(examples.ids, examples.answers, strict=True):
    text = template.replace("{answer}", answer)
    row = vocabulary.encode(text)
    whole = vocabulary.decode([*vocabulary.encode(prefix), *row])
    if whole != prefix + text:
      raise UserError(
        f"answer_given_rationale: {vocabulary.name} writes the answer of "
        f"{name} as {whole!r:.60} and not as {prefix + text!r:.60}: set "
        "ANSWER_PREFIX and ANSWER to words that it can write"
      )
    rows.append([*row, vocabulary.eos_id])
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for place, row in enumerate(rows):
    tokens[place, : len(row)] = row
  ids = (vocabulary.eos_id, *vocabulary.end_ids)
  stop = (*(one for one in task.stop if one != prefix), prefix)
  ending = stops.compile_stop(vocabulary, ids, stop)
  return Answers(task, prefix, ending, tokens)


def stated(likelihood: AnswerGivenRationale, task: Task) -> tuple[str, str]:
  """How a task states its answers: what precedes one, and the template.

  Raises:
    UserError: If nothing says it, or if there is no rationale.
  """
  if task.prompts.is_direct:
    raise UserError(
      "answer_given_rationale: the prompts ask for answers without rationales; "
      "use other PROMPTS"
    )
  if likelihood.prefix is not None:
    return likelihood.prefix, likelihood.answer or " {answer}."
  if task.form is None:
    raise UserError(
      f"task {task.name!r} does not say how an answer is stated: set "
      "ANSWER_PREFIX, such as 'answer is'"
    )
  prefix, answer = _STATED[task.form]
  return prefix, likelihood.answer or answer


def unstopped(ending: Ending) -> Ending:
  """What ends a rationale and its answer: tokens alone, no words."""
  return Ending(ending.ids)
