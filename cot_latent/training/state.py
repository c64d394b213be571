"""What a run carries from step to step."""

from typing import Any, NamedTuple

from cot_latent.em.outer_loops import Pool
from cot_latent.inference.fitting import Fit
from cot_latent.training import tuning


class TrainState(NamedTuple):
  """All of it.

  Attributes:
    params: That are trained.
    opt_state: Optax's.
    memory: One chain a training question; None before it is made.
    step: How many steps were taken.
    pool: Of the present outer loop; None without such loops.
    base_params: What a loop begins from; None where none does.
    frozen: The model's other parameters, if any; no checkpoint holds them.
    fit: What is known of a fitted control variate; None without one.
  """

  params: Any
  opt_state: Any
  memory: Any  # MemoryState
  step: int
  pool: Pool | None = None
  base_params: Any = None
  frozen: Any = None
  fit: Fit | None = None

  def model_params(self) -> Any:
    """All parameters of the model."""
    return tuning.merge(self.params, self.frozen)
