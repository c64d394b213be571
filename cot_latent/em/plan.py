"""What an experiment is and what it costs, for any trainer."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cot_latent.em.method import Method
from cot_latent.em.watching import UNRECORDED


def as_dict(config) -> dict:
  """Writes an experiment as nested dicts of plain values.

  A function is written as in `describe_callable`. A field that is marked as
  `watching.UNRECORDED` is left out.
  """

  def plain(value):
    if callable(value):
      return describe_callable(value)
    if dataclasses.is_dataclass(value):
      return {
        field.name: plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.metadata != UNRECORDED
      }
    return value

  return plain(config)


def describe_callable(function: Callable) -> dict[str, Any]:
  """Names a function for the report, with its settings.

  Args:
    function: Any callable. The settings of a functools.partial are its keywords
      and those of a dataclass its fields; other callables have none. Wrappers
      such as jax.jit are ignored.

  Returns:
    Its qualified name as `name`, up to the function that made it, and the
    settings.

  Example:
    >>> from cot_latent.inference import estimators
    >>> describe_callable(estimators.control_variate())["name"]
    'cot_latent.inference.estimators.control_variate'
  """
  function = inspect.unwrap(function)
  settings: dict[str, Any] = {}
  while isinstance(function, functools.partial):
    settings = function.keywords | settings
    function = inspect.unwrap(function.func)
  if dataclasses.is_dataclass(function) and not isinstance(function, type):
    settings = {
      field.name: getattr(function, field.name)
      for field in dataclasses.fields(function)
    } | settings
  named = function if hasattr(function, "__qualname__") else type(function)
  name = f"{named.__module__}.{named.__qualname__.split('.<locals>')[0]}"
  return {"name": name} | {k: _setting(v) for k, v in settings.items()}


def _setting(value: Any) -> Any:
  """Returns a setting as JSON, or its type's name if JSON cannot hold it."""
  if callable(value):
    return describe_callable(value)
  if isinstance(value, np.generic | np.ndarray | jax.Array):
    return np.asarray(value).tolist()
  if isinstance(value, list | tuple):
    return [_setting(part) for part in value]
  if value is None or isinstance(value, bool | int | float | str):
    return value
  return f"{type(value).__module__}.{type(value).__qualname__}"


def plan_of(
  method: Method,
  *,
  steps: int,
  batch_size: int,
  num_train: int,
  num_answers: int,
  num_base: int = 0,
) -> dict:
  """Counts the cost of a run, for any trainer.

  Args:
    method: The method of the E-step.
    steps: Training steps of the method.
    batch_size: Questions M in a minibatch.
    num_train: Training questions N.
    num_answers: Completions that all evaluations draw.
    num_base: Sequences to which the base model is fitted.

  Returns:
    The same counts as `plan`.
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
