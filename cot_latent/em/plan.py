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

  Two functions with other settings are other runs, so nothing that a function
  holds is left out.

  Args:
    function: Any callable. Its settings are the arguments of a
      functools.partial (those without a name as `arguments`), the variables
      that a function takes from the function around it, and the fields or
      attributes of an object, also of a method's object. Wrappers such as
      jax.jit are ignored.

  Returns:
    Its qualified name as `name`, up to the function that made it, and the
    settings. A setting that is itself called `name` is `name_`.

  Example:
    >>> from cot_latent.inference import estimators
    >>> describe_callable(estimators.control_variate())
    ... # doctest: +NORMALIZE_WHITESPACE
    {'name': 'cot_latent.inference.estimators.control_variate',
     'correct_first_acceptance': False}
  """
  return _describe(function, ())


def _describe(function: Callable, around: tuple[int, ...]) -> dict[str, Any]:
  """Describes a function that the functions of these ids hold."""
  around = (*around, id(function))
  function = inspect.unwrap(function)
  settings: dict[str, Any] = {}
  while isinstance(function, functools.partial):
    if function.args:
      earlier = settings.get("arguments", ())
      settings["arguments"] = (*function.args, *earlier)
    settings = function.keywords | settings
    function = inspect.unwrap(function.func)
  settings = _held_by(function) | settings
  named = function if hasattr(function, "__qualname__") else type(function)
  name = f"{named.__module__}.{named.__qualname__.split('.<locals>')[0]}"
  return {"name": name} | {
    f"{key}_" if key == "name" else key: _setting(value, around)
    for key, value in settings.items()
  }


def _held_by(function: Any) -> dict[str, Any]:
  """Returns what a callable that is no partial holds, by name."""
  if isinstance(function, type):
    return {}
  if inspect.ismethod(function):
    return _held_by(function.__self__)
  if inspect.isfunction(function):
    cells = zip(
      function.__code__.co_freevars, function.__closure__ or (), strict=True
    )
    return {name: cell.cell_contents for name, cell in cells}
  if dataclasses.is_dataclass(function):
    return {
      field.name: getattr(function, field.name)
      for field in dataclasses.fields(function)
    }
  return dict(getattr(function, "__dict__", {}))


def _setting(value: Any, around: tuple[int, ...]) -> Any:
  """Returns a setting as JSON, or its type's name if JSON cannot hold it."""
  if callable(value):
    if id(value) in around:
      # A function that calls itself, or an object with a partial of a method.
      return getattr(value, "__qualname__", type(value).__qualname__)
    return _describe(value, around)
  if isinstance(value, np.generic | np.ndarray | jax.Array):
    return np.asarray(value).tolist()
  if isinstance(value, list | tuple):
    return [_setting(part, around) for part in value]
  if isinstance(value, dict):
    return {str(k): _setting(v, around) for k, v in value.items()}
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
