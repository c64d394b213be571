"""Drawing completions and checking their answers.

N questions, R rows to draw, P prompt tokens, T target tokens.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em.drawn_parts import Phase
from cot_latent.errors import UserError
from cot_latent.inference import rng
from cot_latent.models.api import PAD_ID, Draws, Sampler


class Checked(NamedTuple):
  """Draws with their verdicts, on the host.

  Attributes:
    tokens: [R, T] int32, the completions.
    texts: R strings, the decoded completions.
    answers: R extracted answers; None if there is no answer.
    is_correct: [R] bool. A sequence cut at the length limit is incorrect.
    ended: [R] bool, whether the completion ended by itself.
    log_prob: [R] float32 in nats, by the sampler; None if it returns none.
    sampling_seconds: Time to draw.
    checking_seconds: Time to decode and compare.
  """

  tokens: np.ndarray
  texts: list[str]
  answers: list[str | None]
  is_correct: np.ndarray
  ended: np.ndarray
  log_prob: np.ndarray | None
  sampling_seconds: float
  checking_seconds: float

  def num_tokens(self) -> int:
    """Returns the number of tokens, EOS included."""
    return int((self.tokens != PAD_ID).sum())


def check(
  task: Task, tokens: np.ndarray, ended: np.ndarray, answers
) -> Checked:
  """Decodes completions and compares their answers, whoever wrote them.

  Args:
    task: Task that decodes and compares answers.
    tokens: [R, T] int32, the completions.
    ended: [R] bool, whether the completion ended by itself.
    answers: R known answers.

  Returns:
    The verdicts, with no time for sampling and without log-probabilities.
  """
  began = time.perf_counter()
  texts, _ = task.completions(tokens)
  extracted = [
    task.extract(text) if has_ended else None
    for text, has_ended in zip(texts, ended, strict=True)
  ]
  is_correct = np.array(list(map(task.is_correct, extracted, answers)), bool)
  return Checked(
    tokens=tokens,
    texts=texts,
    answers=extracted,
    is_correct=is_correct,
    ended=ended,
    log_prob=None,
    sampling_seconds=0.0,
    checking_seconds=time.perf_counter() - began,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Drawer:
  """Draws completions for a task's questions and checks their answers.

  Attributes:
    sampler: Anything with a method `sample` (models/api.py).
    task: Task that decodes and compares answers.
    examples: The N questions.
    batch_size: Rows that are decoded at once if there are many; a row that ends
      is replaced by the next.
    part_batches: Batches of rows that one call of the sampler draws; if the
      draws are kept on disk, each call is one part.
    max_length: Tokens T of a completion. Padding is added to narrower draws,
      and wider ones are an error. None is the width of the draws.
  """

  sampler: Sampler
  task: Task
  examples: Examples
  batch_size: int = 64
  part_batches: int = 64
  max_length: int | None = None

  def draw_and_check(
    self,
    params: Any,
    rows: np.ndarray,
    number: np.ndarray,
    rng_key: jax.Array,
    *,
    prompts: np.ndarray | None = None,
    temperature: float = 1.0,
    parts: Phase | None = None,
    report_done: Callable[..., None] | None = None,
    **settings: Any,
  ) -> Checked:
    """Draws one completion for each of R rows and checks its answer.

    Args:
      params: Parameters of the model.
      rows: [R] integers, the question of each row.
      number: [R] integers, index of the row among its question's draws.
      rng_key: Key of the purpose and step; each row's key is derived from it,
        the question's id and the draw's number.
      prompts: [N, P] int32, prompts of all questions; None is the question
        alone.
      temperature: 1 draws from the model itself, 0 is greedy.
      parts: Phase of which the rows are the next part; None stores nothing.
      report_done: As in `Sampler.sample`.
      **settings: Further arguments of `Sampler.sample`.

    Returns:
      The completions and their verdicts, in the order of the rows.

    Raises:
      UserError: If the sampler returns rows wider than `max_length`.
    """
    examples = self.examples
    given = examples.prompts if prompts is None else prompts
    prompts = given[rows]
    keys = rng.row_keys(rng_key, examples.words[rows], number)
    if report_done is not None:
      settings["report_done"] = report_done

    def sample():
      drawn = self.sampler.sample(
        params, prompts, keys, temperature, **settings
      )
      return self._with_width(Draws(*drawn))

    began = time.perf_counter()
    if parts is None:
      drawn = sample()
    else:
      num_slots = settings.get("num_slots")
      part = parts.draw(
        sample, prompts, keys, temperature=temperature, num_slots=num_slots
      )
      drawn = self._with_width(part.draws)  # of an earlier process
    tokens, ended, log_prob = drawn
    tokens, ended = np.asarray(tokens, np.int32), np.asarray(ended, bool)
    seconds = time.perf_counter() - began
    answers = [examples.answers[i] for i in rows]
    return check(self.task, tokens, ended, answers)._replace(
      log_prob=None if log_prob is None else np.asarray(log_prob).sum(axis=1),
      sampling_seconds=seconds,
    )

  def _with_width(self, drawn: Draws) -> Draws:
    """Pads draws [R, t] to [R, T]."""
    width = np.shape(drawn.tokens)[1]
    if self.max_length in (None, width):
      return drawn
    if width > self.max_length:
      raise UserError(
        f"the model's method sample returned rows of {width} tokens, padding "
        f"included, and max_length is {self.max_length}: cut them there, or "
        "set a larger max_length"
      )
    missing = (0, 0), (0, self.max_length - width)
    log_prob = drawn.log_prob
    return drawn._replace(
      tokens=np.pad(drawn.tokens, missing, constant_values=PAD_ID),
      log_prob=None if log_prob is None else np.pad(log_prob, missing),
    )

  def draw_batches(
    self,
    params: Any,
    rows: np.ndarray,
    number: np.ndarray,
    rng_key: jax.Array,
    *,
    report_done: Callable[..., None] | None = None,
    **settings: Any,
  ) -> Iterator[Checked]:
    """Draws for any number R > 0 of rows; yields them when there are many.

    Args:
      params: Parameters of the model.
      rows: [R] integers, the question of each row.
      number: [R] integers, index of the row among its question's draws.
      rng_key: Key of the purpose and step.
      report_done: As in `Sampler.sample`, for all R rows together.
      **settings: `prompts`, `temperature` and `parts`, as in `draw_and_check`.

    Yields:
      Completions and their verdicts, in the order of the rows.
    """
    size = self.part_batches * self.batch_size
    num_tokens = num_ended = 0
    for start in range(0, len(rows), size):
      part = slice(start, start + size)
      checked = self.draw_and_check(
        params,
        rows[part],
        number[part],
        rng_key,
        num_slots=self.batch_size,
        report_done=_add(report_done, start, num_tokens, num_ended),
        **settings,
      )
      num_tokens += checked.num_tokens()
      num_ended += int(checked.ended.sum())
      yield checked

  def draw_all(self, *arguments: Any, **settings: Any) -> Checked:
    """Draws as `draw_batches` does, and returns all R rows at once."""
    parts = list(self.draw_batches(*arguments, **settings))
    log_prob = [part.log_prob for part in parts if part.log_prob is not None]
    return Checked(
      tokens=np.concatenate([part.tokens for part in parts]),
      texts=list(itertools.chain(*(part.texts for part in parts))),
      answers=list(itertools.chain(*(part.answers for part in parts))),
      is_correct=np.concatenate([part.is_correct for part in parts]),
      ended=np.concatenate([part.ended for part in parts]),
      log_prob=np.concatenate(log_prob) if log_prob else None,
      sampling_seconds=sum(part.sampling_seconds for part in parts),
      checking_seconds=sum(part.checking_seconds for part in parts),
    )


def _add(report_done: Callable[..., None] | None, *before: int):
  """Adds earlier draws to the reported counts, if counts are reported."""
  if report_done is None:
    return None

  def report(*so_far):
    report_done(*map(sum, zip(before, so_far, strict=False)))

  return report
