"""Any callable is an estimator, and a report names it with its settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.em.method import Method
from cot_latent.em.plan import as_dict, describe_callable
from cot_latent.errors import UserError
from cot_latent.inference import baselines, estimators


def on_draws(taken, share=1.0):
  """Equal weights on the draws."""
  shape = taken.draw_is_correct.shape
  weights = jnp.full(shape, share / taken.draw_is_correct.size)
  return jnp.pad(weights, ((0, 0), (1, 0)))


@dataclasses.dataclass(frozen=True)
class Shared:
  share: float = 0.5

  def __call__(self, taken):
    return on_draws(taken, self.share)


def second(numbers, share, taken):
  return on_draws(taken, share)


def closed(share, shift=0):
  """An estimator that takes its setting from the function around it."""

  def weigh(taken):
    return on_draws(taken, share - shift)

  return weigh


class Plain:
  def __call__(self, taken):
    return on_draws(taken)

  def weigh(self, taken):
    return on_draws(taken)


class Held(Plain):
  def __init__(self, share):
    self.share = share


class Unhashable(Plain):
  __hash__ = None


ESTIMATORS, HERE = "cot_latent.inference.estimators", __name__
BASELINES = "cot_latent.inference.baselines"


@pytest.mark.parametrize(
  ("estimator", "name", "settings"),
  [
    (estimators.basic(), f"{ESTIMATORS}.basic", {}),
    (
      estimators.control_variate(),
      f"{ESTIMATORS}.control_variate",
      {"correct_first_acceptance": False},
    ),
    (
      baselines.rejection_sampling(pooled=True),
      f"{BASELINES}.rejection_sampling",
      {"pooled": True},
    ),
    (baselines.rloo(), f"{BASELINES}.rloo", {}),
    (baselines.grpo(), f"{BASELINES}.grpo", {}),
    (baselines.maxrl(), f"{BASELINES}.maxrl", {}),
    (on_draws, f"{HERE}.on_draws", {}),
    (lambda taken: on_draws(taken), f"{HERE}.<lambda>", {}),
    (
      functools.partial(on_draws, share=0.25),
      f"{HERE}.on_draws",
      {"share": 0.25},
    ),
    (
      functools.partial(functools.partial(on_draws, share=1.0), share=0.75),
      f"{HERE}.on_draws",
      {"share": 0.75},
    ),
    (
      functools.partial(on_draws, share=np.float32(0.5)),
      f"{HERE}.on_draws",
      {"share": 0.5},
    ),
    (closed(0.5), f"{HERE}.closed", {"share": 0.5, "shift": 0}),
    (
      functools.partial(functools.partial(second, np.array([1, 2])), 3),
      f"{HERE}.second",
      {"arguments": [[1, 2], 3]},
    ),
    (Shared(), f"{HERE}.Shared", {"share": 0.5}),
    (Held(0.25), f"{HERE}.Held", {"share": 0.25}),
    (Held(0.25).weigh, f"{HERE}.Plain.weigh", {"share": 0.25}),
    (jax.jit(closed(0.1)), f"{HERE}.closed", {"share": 0.1, "shift": 0}),
    (Plain(), f"{HERE}.Plain", {}),
    (Plain().weigh, f"{HERE}.Plain.weigh", {}),
    (jax.jit(on_draws), f"{HERE}.on_draws", {}),
    (jax.jit(Shared(0.1)), f"{HERE}.Shared", {"share": 0.1}),
    (
      jax.jit(functools.partial(on_draws, share=2.0)),
      f"{HERE}.on_draws",
      {"share": 2.0},
    ),
  ],
)
def test_a_report_names_the_estimator_and_its_settings(
  estimator, name, settings
):
  method = Method("x", estimator, num_draws=2)
  assert as_dict(method)["estimator"] == {"name": name, **settings}


def test_an_estimator_that_cannot_be_kept_is_refused():
  with pytest.raises(UserError, match="unhashable type: 'Unhashable'") as error:
    Method("x", Unhashable())
  assert "\n" not in str(error.value)


def test_estimators_of_the_same_settings_are_compiled_once():
  assert Shared() == Shared(0.5)
  traced = []

  @functools.partial(jax.jit, static_argnames="estimator")
  def weigh(taken, *, estimator):
    traced.append(estimator)
    return taken

  for share in (0.5, 0.5, 0.25):
    weigh(1.0, estimator=Shared(share))
  assert len(traced) == 2


def test_a_setting_called_name_does_not_replace_the_name():
  named = functools.partial(on_draws, name="x")
  assert describe_callable(named) == {"name": f"{HERE}.on_draws", "name_": "x"}


def test_other_settings_are_another_run():
  one, other = (as_dict(Method("x", closed(share))) for share in (0.5, 0.25))
  assert one != other


def test_a_function_may_hold_functions_and_itself():
  def again(taken):
    return on_draws(taken) if taken else again(inner(taken))

  inner = closed(0.5)
  name = f"{HERE}.test_a_function_may_hold_functions_and_itself"
  assert describe_callable(again) == {
    "name": name,
    "again": again.__qualname__,
    "inner": {"name": f"{HERE}.closed", "share": 0.5, "shift": 0},
  }


class Halving:
  """Holds a part of itself."""

  def __init__(self):
    self.weigh = functools.partial(self.shared, share=0.5)

  def shared(self, taken, share):
    return on_draws(taken) * share

  def __call__(self, taken):
    return self.weigh(taken)


def test_an_object_may_hold_a_part_of_itself():
  assert describe_callable(Halving()) == {
    "name": f"{HERE}.Halving",
    "weigh": {
      "name": f"{HERE}.Halving.shared",
      "share": 0.5,
      "weigh": "partial",
    },
  }
