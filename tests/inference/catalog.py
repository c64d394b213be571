"""Every estimator there is, found in the package and not listed by hand."""

import functools
import importlib
import inspect
import itertools
import pkgutil
from typing import NamedTuple

import jax
import numpy as np

import cot_latent.inference
from cot_latent.inference import estimators, transition

SEVERAL = {"rloo", "grpo", "maxrl"}  # those that need more than one draw
# The values of options that are not True or False.
VALUES = {"scale": ["paper", "fitted"], "fit_period": [1]}


class Case(NamedTuple):
  """An estimator with its settings.

  Attributes:
    name: The function that builds it.
    settings: What it is given.
    weigh: The estimator.
  """

  name: str
  settings: dict[str, object]
  weigh: estimators.Estimator

  def __str__(self):
    settings = (f"{key}={value}" for key, value in self.settings.items())
    return f"{self.name}({', '.join(settings)})"


def builders(package=cot_latent.inference):
  """The public functions of a package that return an estimator."""
  for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
    module = importlib.import_module(found.name)
    for name, function in inspect.getmembers(module, inspect.isfunction):
      if name.startswith("_") or function.__module__ != module.__name__:
        continue
      if inspect.signature(function).return_annotation == estimators.Estimator:
        yield function


def cases():
  """Builds every estimator with every setting."""
  for build in builders():
    options = inspect.signature(build).parameters.values()
    for option in options:
      if option.annotation is not bool and option.name not in VALUES:
        raise NotImplementedError(
          f"{build.__name__}({option}): say here which values to test"
        )
    names = [option.name for option in options]
    choices = [VALUES.get(name, [False, True]) for name in names]
    for values in itertools.product(*choices):
      settings = dict(zip(names, values, strict=True))
      yield Case(build.__name__, settings, build(**settings))


CASES = list(cases())


def with_draws(*numbers):
  """Pairs every estimator with each number of draws that it takes."""
  return [
    (case, number)
    for case in CASES
    for number in numbers
    if number > 1 or case.name not in SEVERAL
  ]


def label(value):
  """Names a parameter of a test."""
  return str(value)


def take(old, draws) -> transition.Transition:
  """A transition with these verdicts, [M] and [M, K]; tokens are all 0."""
  tokens = jax.numpy.zeros((*draws.shape, 1), np.int32)
  return transition.independence(tokens[:, 0], old, tokens, draws)


def weights(weigh, old, draws) -> np.ndarray:
  """[S, M, 1 + K] weights for verdicts [S, M] and [S, M, K]."""
  return np.asarray(_compiled(weigh)(np.asarray(old), np.asarray(draws)))


def accepted(draws) -> np.ndarray:
  """[S, M, K] the last correct draw of each question, by plain numpy."""
  later = np.cumsum(draws[..., ::-1], axis=-1)[..., ::-1]
  return draws & (later == 1)


def on_sequences(by_place, draws) -> np.ndarray:
  """Gives the weight on a memory that was just drawn back to that draw.

  Args:
    by_place: [S, M, 1 + K] weights.
    draws: [S, M, K] their verdicts.

  Returns:
    [S, M, 1 + K]; column 0 is the old memory's.
  """
  taken = accepted(draws)
  held = taken.any(axis=-1)
  on_memory = np.where(held, 0, by_place[..., 0])
  on_draws = by_place[..., 1:] + taken * by_place[..., :1]
  return np.concatenate([on_memory[..., None], on_draws], axis=-1)


@functools.cache
def _compiled(weigh):
  return jax.jit(jax.vmap(lambda old, draws: weigh(take(old, draws))))
