"""Held-out accuracy, greedily and by self-consistency."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cot_latent.data import scoring
from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em.drawing import Drawer
from cot_latent.em.drawn_parts import Phase
from cot_latent.inference import rng


class Output(NamedTuple):
  """The answer to one question.

  Attributes:
    id: Id of the example.
    task: Task of the example.
    question: Text of the question.
    target: The known answer.
    completions: Texts that the model wrote, one or several.
    ended: For each completion, whether it ended by itself and was not cut.
    extracted: The answer that counts; None if none was found.
    is_correct: Whether it is the known answer.
    num_correct: Number of completions that are correct.
  """

  id: str
  task: str
  question: str
  target: str
  completions: list[str]
  ended: list[bool]
  extracted: str | None
  is_correct: bool
  num_correct: int

  def as_line(self) -> dict[str, Any]:
    """What is stored: one `completion`, or several `completions`.

    For a single completion `is_correct` is enough.
    """
    line = self._asdict()
    if len(self.completions) == 1:
      del line["num_correct"]
      (line["completion"],) = line.pop("completions")
      (line["ended"],) = self.ended
    return line


def evaluate(
  drawer: Drawer,
  params: Any,
  *,
  num_samples: int | None,
  seed: int,
  step: int,
  report_done: Callable[..., None] | None = None,
  parts: Phase | None = None,
) -> list[Output]:
  """Answers every question.

  Args:
    drawer: Drawer for the N held-out questions.
    params: Parameters of the model.
    num_samples: None decodes greedily; otherwise samples per question, drawn at
      temperature 1. The majority answer counts.
    seed: The run's seed.
    step: The training step, so that each evaluation has draws of its own.
    report_done: As in `Sampler.sample`, for all completions together.
    parts: Phase whose parts are stored; None stores nothing.

  Returns:
    N outputs, in the order of the examples.

  Reference: Phan et al. 2023, section 5; Wang et al. 2022 (self-consistency).
  """
  examples, repeats = drawer.examples, num_samples or 1
  which = np.repeat(np.arange(len(examples)), repeats)
  draw = np.tile(np.arange(repeats), len(examples))
  drawn = drawer.draw_all(
    params,
    which,
    draw,
    rng.purpose_key(seed, "evaluate", step),
    temperature=0.0 if num_samples is None else 1.0,
    report_done=report_done,
    parts=parts,
  )
  outputs = []
  for i in range(len(examples)):
    own = slice(i * repeats, (i + 1) * repeats)
    outputs.append(
      _output(
        drawer.task,
        examples,
        i,
        drawn.texts[own],
        drawn.ended[own].tolist(),
        scoring.majority(drawn.answers[own]),
        drawn.is_correct[own],
      )
    )
  return outputs


def judge(
  task: Task, examples: Examples, place: int, tokens: np.ndarray
) -> Output:
  """Judges one completion, whoever drew it.

  Args:
    task: Task that decodes and compares answers.
    examples: The questions.
    place: Index of the answered question.
    tokens: [T] int32; without an end they were cut, and have no answer.
  """
  (text,), ended = task.completions(tokens[None])
  has_ended = bool(ended[0])
  extracted = task.extract(text) if has_ended else None
  is_correct = task.is_correct(extracted, examples.answers[place])
  return _output(
    task,
    examples,
    place,
    [text],
    [has_ended],
    extracted,
    np.array([is_correct]),
  )


def _output(
  task: Task,
  examples: Examples,
  place: int,
  completions: list[str],
  ended: list[bool],
  extracted: str | None,
  is_correct: np.ndarray,
) -> Output:
  return Output(
    id=examples.ids[place],
    task=examples.tasks[place],
    question=examples.questions[place],
    target=examples.answers[place],
    completions=completions,
    ended=ended,
    extracted=extracted,
    is_correct=task.is_correct(extracted, examples.answers[place]),
    num_correct=int(is_correct.sum()),
  )
