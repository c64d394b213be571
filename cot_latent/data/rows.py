"""A task made of questions and answers in a program's memory."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.prompts import PAPER, Prompts
from cot_latent.data.task import Task, TokenizedSplit
from cot_latent.errors import UserError
from cot_latent.models import vocabularies
from cot_latent.models.vocabularies import Vocabulary

Rows = tuple[Sequence[str], Sequence[str]]


def make_task(
  name: str,
  splits: Mapping[str, Rows],
  check: Callable[[str, str], bool] | None = None,
  prompts: Prompts | None = None,
  vocabulary: Vocabulary | None = None,
) -> Task:
  """Makes a task; see `Task.from_rows`.

  Args:
    name: Name for the report.
    splits: Questions and answers by the split's name.
    check: Compares a completion with the known answer; None reads a sentence.
    prompts: How questions are put; None is the paper's prompt.
    vocabulary: Tokenizer; None is bytes.

  Raises:
    UserError: If a split has no questions or not one answer for each, or if the
      prompts need worked examples.
  """
  prompts = prompts or PAPER
  vocabulary = vocabulary or vocabularies.byte_vocabulary()
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
  if check is None:
    conventions = answer_forms.conventions(
      name, "sentence", "text", prompts.is_direct
    )
  else:
    convention = answer_forms.own("own", _whole)
    conventions = {convention.name: convention}
  return Task(
    name=name,
    vocabulary=vocabulary,
    prompts=prompts,
    form="sentence" if check is None else None,
    kinds={name: "text"},
    conventions={name: conventions},
    splits=list(splits),
    rationale_splits=[],
    read=functools.cache(
      functools.partial(_read, name, dict(splits), prompts, vocabulary)
    ),
    separator=np.asarray(vocabulary.encode(prompts.separator), np.int32),
    lesson=np.zeros(0, np.int32),
    check=check,
  )


def _whole(completion: str) -> str | None:
  return completion.strip() or None


def _read(
  name: str,
  splits: Mapping[str, Rows],
  prompts: Prompts,
  vocabulary: Vocabulary,
  split: str,
) -> TokenizedSplit:
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
