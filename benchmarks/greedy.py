"""Greedy answers of transformers, on this package's token ids.

Rows of one length are answered together, so that none is padded. What all
prompts begin with is computed once (transformers' prefix caching).

T tokens of an answer.
"""

import collections
import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import transformers

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em import evaluation
from cot_latent.em.evaluation import Output
from cot_latent.models.api import PAD_ID
from cot_latent.runtime.progress import Progress

_ROWS_AT_ONCE = 8


class Answer(NamedTuple):
  """A greedy answer.

  Attributes:
    output: Text, end and verdict, as a run judges them.
    tokens: [T] int32, up to and with the end; all of them if it was cut.
    second: [T] int32, the second most likely token at each step.
    gaps: [T], by how much its logit is below that of the token.
  """

  output: Output
  tokens: np.ndarray
  second: np.ndarray
  gaps: np.ndarray


class Difference(NamedTuple):
  """Where two greedy answers part.

  Attributes:
    step: Number of the token, from 0.
    gap: By how much the logits of the two tokens differ; None if the other
      answer's token was not transformers' second choice.
  """

  step: int
  gap: float | None


def answer(
  model, task: Task, examples: Examples, max_length: int
) -> list[Answer]:
  """Answers all questions with a model of transformers.

  Args:
    model: A causal language model.
    task: Its vocabulary and ends are those of the answers.
    examples: The questions.
    max_length: Maximum number of tokens of an answer.
  """
  padding = task.vocabulary.padding_id
  prompts = [_swapped(row[row != PAD_ID], padding) for row in examples.prompts]
  shared = _prefill(model, prompts[0][: _num_common(prompts)])
  found: dict[int, Answer] = {}
  progress = Progress("transformers", len(prompts))
  for places in _batches([len(ids) for ids in prompts]):
    ids = np.stack([prompts[place] for place in places])
    rows = zip(*_generate(model, task, ids, max_length, shared), strict=True)
    for place, row in zip(places, rows, strict=True):
      found[place] = judged(task, examples, place, *row)
    progress(len(found))
  return [found[place] for place in range(len(prompts))]


def judged(
  task: Task,
  examples: Examples,
  place: int,
  drawn: np.ndarray,
  second: np.ndarray,
  gaps: np.ndarray,
) -> Answer:
  """Judges what was drawn for a question as a run does.

  Args:
    task: The task.
    examples: The questions.
    place: Index of the question.
    drawn: [T] int32; tokens after an end do not count.
    second: [T] int32, the second choices.
    gaps: [T], by how much their logits are smaller.
  """
  (length,), _ = task.ending.lengths(drawn[None])
  output = evaluation.judge(task, examples, place, drawn)
  return Answer(output, drawn[:length], second[:length], gaps[:length])


def end_of(task: Task, tokens: np.ndarray) -> str:
  """Names what ended an answer of [T] tokens: "eos", "stop" or "cut"."""
  (length,), (has_ended,) = task.ending.lengths(tokens[None])
  if not has_ended:
    return "cut"
  return "eos" if tokens[length - 1] in task.ending.ids else "stop"


def difference_of_tokens(ours: np.ndarray, theirs: Answer) -> Difference | None:
  """Finds the first token that differs from [T] others; None if none does."""
  for step, token in enumerate(theirs.tokens):
    if step < len(ours) and ours[step] == token:
      continue
    is_second = step < len(ours) and ours[step] == theirs.second[step]
    return Difference(step, float(theirs.gaps[step]) if is_second else None)
  return None


def difference_of_text(task: Task, text: str, theirs: Answer) -> Difference:
  """Finds where an answer of which only the text is known went another way.

  One token may be the beginning of another, so that the texts may part later
  than the tokens. So it is the last step, up to the first letter that differs,
  at which the second choice continues the text as well.

  Args:
    task: Vocabulary and ends.
    text: The other answer, up to its end.
    theirs: The answer of transformers.
  """

  def continues(tokens: Sequence[int]) -> bool:
    (written,), (has_ended,) = task.completions(np.array([tokens], np.int32))
    if has_ended:
      return written == text
    return text.startswith(written.rstrip("\N{REPLACEMENT CHARACTER}"))

  drawn = theirs.tokens.tolist()
  first = 0
  while first + 1 < len(drawn) and continues(drawn[: first + 1]):
    first += 1
  for step in range(first, -1, -1):
    if continues([*drawn[:step], int(theirs.second[step])]):
      return Difference(step, float(theirs.gaps[step]))
  return Difference(first, None)


def _swapped(ids: np.ndarray, padding: int) -> np.ndarray:
  """Converts ids between a checkpoint and its vocabulary, both ways."""
  swapped = np.where(ids == padding, 0, np.where(ids == 0, padding, ids))
  return swapped.astype(np.int64)


def _num_common(prompts: Sequence[np.ndarray]) -> int:
  """Counts the tokens that all prompts begin with, and none ends with."""
  shortest = min(map(len, prompts))
  stacked = np.stack([ids[:shortest] for ids in prompts])
  is_common = (stacked == stacked[0]).all(axis=0)
  return min(int(np.cumprod(is_common).sum()), shortest - 1)


def _prefill(model, ids: np.ndarray) -> transformers.DynamicCache | None:
  """Reads a beginning once; None if it is empty."""
  if not len(ids):
    return None
  cache = transformers.DynamicCache(config=model.config)
  with torch.no_grad():
    model(torch.tensor(ids[None]), cache=cache, logits_to_keep=1)
  return cache


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
  """Yields the places of rows of one length, a few at a time."""
  by_length = collections.defaultdict(list)
  for place, length in enumerate(lengths):
    by_length[length].append(place)
  for places in by_length.values():
    for first in range(0, len(places), _ROWS_AT_ONCE):
      yield places[first : first + _ROWS_AT_ONCE]


def _generate(
  model,
  task: Task,
  prompts: np.ndarray,
  max_length: int,
  shared: transformers.DynamicCache | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Answers prompts of one length: tokens, second choices and gaps, [B, T]."""
  padding, start = task.vocabulary.padding_id, prompts.shape[1]
  ends = _swapped(np.array(task.ending.ids), padding).tolist()
  if shared is not None:
    shared = copy.deepcopy(shared)
    shared.batch_repeat_interleave(len(prompts))
  with torch.no_grad():
    found = model.generate(
      torch.tensor(prompts),
      attention_mask=torch.ones(prompts.shape, dtype=torch.int64),
      cache=shared,
      generation_config=transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=max_length,
        eos_token_id=ends,
        pad_token_id=ends[0],
        return_dict_in_generate=True,
        output_logits=True,
      ),
      stopping_criteria=[_Stop(task, start)],
    )
  top = [torch.topk(step.float(), 2) for step in found.logits]
  second = np.stack([step.indices[:, 1].numpy() for step in top], 1)
  values = np.stack([step.values.numpy() for step in top], 1)
  return (
    _swapped(found.sequences[:, start:].numpy(), padding).astype(np.int32),
    _swapped(second, padding).astype(np.int32),
    values[..., 0] - values[..., 1],
  )


class _Stop(transformers.StoppingCriteria):
  """Ends a row once its decoded text contains a stop string."""

  def __init__(self, task: Task, start: int):
    self.task, self.start = task, start

  def __call__(self, input_ids, scores, **kwargs):
    del scores, kwargs
    vocabulary = self.task.vocabulary
    drawn = _swapped(input_ids[:, self.start :].numpy(), vocabulary.padding_id)
    texts = [vocabulary.decode(row.tolist()) for row in drawn]
    return torch.tensor(
      [any(stop in text for stop in self.task.stop) for text in texts]
    )
