"""What an experiment is and costs, whichever trainer runs it."""

import dataclasses
import inspect

from cot_latent.em.method import Method


def as_dict(config) -> dict:
  """Writes an experiment as nested dicts of plain values.

  A function is written as its name and the values that it closes over: for an
  estimator, the settings that it was built with.
  """

  def plain(value):
    if dataclasses.is_dataclass(value):
      return {
        field.name: plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
      }
    if inspect.isfunction(value):
      settings = inspect.getclosurevars(value).nonlocals
      name = f"{value.__module__}.{value.__qualname__.split('.')[0]}"
      return {"name": name} | {k: plain(v) for k, v in settings.items()}
    return value

  return plain(config)


def plan_of(
  method: Method,
  *,
  steps: int,
  batch_size: int,
  num_train: int,
  num_answers: int,
  num_base: int = 0,
) -> dict:
  """Counts as `plan` does, whatever the trainer.

  Args:
    method: the E-step.
    steps: of the method.
    batch_size: M.
    num_train: N, training questions.
    num_answers: completions that all evaluations draw.
    num_base: sequences that the base model is fitted to.

  Returns:
    What `plan` gives.
  """
  sampled = {
    "memory_start": 0 if method.memory_start == "empty" else num_train,
    "steps": method.drawn_by_steps(steps, batch_size, num_train),
    "evaluation": num_answers,
  }
  scored = {"base": num_base, "steps": steps * method.max_scored(batch_size)}
  return {
    "steps": steps,
    "sequences_sampled": sum(sampled.values()),
    "sequences_scored": sum(scored.values()),
    "sampled_by_phase": sampled,
    "scored_by_phase": scored,
  }
