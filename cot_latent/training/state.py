"""What a run carries from step to step."""

from typing import Any, NamedTuple

import jax

from cot_latent.training import tuning


class Pool(NamedTuple):
  """The rationales that the steps of an outer loop learn from.

  N training questions, K rationales each, T tokens.

  Attributes:
    tokens: [N, K, T] int32.
    is_correct: [N, K] bool.
    capped_fraction: scalar, of the draws, those cut by T.
    unparseable_fraction: scalar, those without an answer.
    loop: scalar int32, the loop's number, from 0.
    ends_at: scalar int32, the step after which the next one begins.
  """

  tokens: jax.Array
  is_correct: jax.Array
  capped_fraction: jax.Array
  unparseable_fraction: jax.Array
  loop: jax.Array
  ends_at: jax.Array


class TrainState(NamedTuple):
  """All of it.

  Attributes:
    params: that are trained.
    opt_state: Optax's.
    memory: one chain a training question; None before it is made.
    step: how many steps were taken.
    pool: of the present outer loop; None without such loops.
    base_params: what a loop begins from; None where none does.
    frozen: the model's other parameters, if any; no checkpoint holds them.
  """

  params: Any
  opt_state: Any
  memory: Any  # MemoryState
  step: int
  pool: Pool | None = None
  base_params: Any = None
  frozen: Any = None

  def model_params(self) -> Any:
    """All parameters of the model."""
    return tuning.merge(self.params, self.frozen)
