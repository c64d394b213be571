"""Questions and answers in a program's memory, as the parts of a task."""

from collections.abc import Mapping, Sequence

import numpy as np

from cot_latent.data.answers import checkers
from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.answers.checkers import Convention
from cot_latent.data.chat import Chat
from cot_latent.data.examples import TokenizedSplit
from cot_latent.data.prompts import Prompts
from cot_latent.errors import UserError
from cot_latent.models.vocabularies import Vocabulary

Rows = tuple[Sequence[str], Sequence[str]]


def check(name: str, splits: Mapping[str, Rows], prompts: Prompts) -> None:
  """Checks that questions have answers, and that prompts need no others.

  Args:
    name: The task's name, for errors.
    splits: Questions and answers by the split's name.
    prompts: How questions are put.

  Raises:
    UserError: If a split has no questions or not one answer for each, if one is
      not a string, or if the prompts need worked examples or a chat template.
  """
  if isinstance(prompts, Chat):
    raise UserError(
      "a task made of rows has no chat: give Prompts, with the template's text "
      "in Prompts.prior and guide"
    )
  if prompts.exemplars != "none":
    raise UserError(
      f"Prompts.exemplars = {prompts.exemplars!r}: a task made of rows has no "
      "worked examples; put them into the text of Prompts.prior and guide"
    )
  for split, (questions, answers) in splits.items():
    if len(questions) != len(answers) or not len(questions):
      raise UserError(
        f"task {name!r}, split {split!r}: {len(questions)} questions and "
        f"{len(answers)} answers; give one answer for each question"
      )
    for place, row in enumerate(zip(questions, answers, strict=True)):
      for text in row:
        if not isinstance(text, str):
          raise UserError(
            f"task {name!r}, split {split!r}, row {place}: {text!r:.60} is not "
            "a string"
          )


def check_answers(name: str, splits: Mapping[str, Rows]) -> None:
  """Checks that a completion can state each known answer in a sentence.

  Args:
    name: The task's name, for errors.
    splits: Questions and answers by the split's name.

  Raises:
    UserError: If no completion could equal an answer; names the first one.
  """
  for split, (_, answers) in splits.items():
    for place, answer in enumerate(answers):
      if not checkers.admits("text", answer):
        raise UserError(
          f"task {name!r}, split {split!r}, row {place}: the answer "
          f"{answer!r:.60} is not {checkers.describe('text')}; fix it, or give "
          "a check of your own"
        )


def conventions(
  name: str, prompts: Prompts, has_form: bool
) -> Mapping[str, Convention]:
  """Returns the ways to score a completion.

  Args:
    name: The task's name.
    prompts: How questions are put.
    has_form: Whether completions state answers in a sentence; otherwise a
      checker of the task's own reads whole completions.
  """
  if has_form:
    return answer_forms.conventions(name, "sentence", "text", prompts.is_direct)
  own = answer_forms.own("own", _whole)
  return {own.name: own}


def _whole(completion: str) -> str | None:
  return completion.strip() or None


def tokenize(
  name: str,
  splits: Mapping[str, Rows],
  prompts: Prompts,
  vocabulary: Vocabulary,
  split: str,
) -> TokenizedSplit:
  """Makes prompts and targets of a split's questions and answers.

  Args:
    name: The task's name, with which ids begin.
    splits: Questions and answers by the split's name.
    prompts: How questions are put.
    vocabulary: Tokenizer.
    split: Name of the split.
  """
  bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
  rows = [
    {"question": question, "answer": answer}
    for question, answer in zip(*splits[split], strict=True)
  ]

  def encode(template: str) -> list[np.ndarray]:
    texts = (prompts.fill(template, row) for row in rows)
    return [np.array(bos + vocabulary.encode(t), np.int32) for t in texts]

  return TokenizedSplit(
    ids=[f"{name}/{split}/{place:08}" for place in range(len(rows))],
    tasks=[name] * len(rows),
    questions=[row["question"] for row in rows],
    answers=[row["answer"] for row in rows],
    prompts=encode("prior"),
    guides=encode("guide"),
    targets=[
      np.array([*vocabulary.encode(row["answer"]), vocabulary.eos_id], np.int32)
      for row in rows
    ],
  )
