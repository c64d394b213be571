"""What a run inside T5X will cost, before it starts."""

from typing import Any

import gin

from cot_latent.errors import UserError
from cot_latent.t5x.latent import Latent


def describe(train: Any) -> str:
  """Makes what the run is given, with all its checks, and counts.

  Args:
    train: T5X's train, as gin configures it.

  Returns:
    A few lines; where no rationales are drawn, that T5X trains by itself.
  """
  bound = gin.get_bindings(train, resolve_references=False)
  latent = _resolved(bound.get("get_dataset_fn"))
  _resolved(bound.get("model"))
  steps = _resolved(bound.get("total_steps"))
  if not isinstance(latent, Latent):
    return f"T5X's own training, to step {steps:,}; no rationales are drawn"
  method, size = latent.method, latent.batch_size
  num_sampled = 0 if method.loops else size * method.num_draws
  by_loop = method.drawn_by_loop(len(latent.examples))
  return (
    f"method {method.name} on {latent.task.name}, to step {steps:,}, the steps "
    "of the checkpoint included\n"
    f"{len(latent.examples):,} questions, "
    f"{latent.converter.prompt_length} prompt tokens, "
    f"{latent.converter.target_length} tokens of a rationale\n"
    f"a step samples {num_sampled:,} sequences and differentiates "
    f"{method.max_scored(size):,} at most"
    + (f"\nan outer loop samples {by_loop:,} at most" if by_loop else "")
  )


def _resolved(value: Any) -> Any:
  """The value that a binding stands for."""
  try:
    # Gin resolves a reference where it is copied.
    return value.__deepcopy__({}) if hasattr(value, "__deepcopy__") else value
  except UserError as error:
    raise UserError(str(error).partition("\n")[0]) from None
