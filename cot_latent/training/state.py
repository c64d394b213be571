"""The state that a run carries from step to step."""

from typing import Any, NamedTuple

from cot_latent.em.outer_loops import Pool
from cot_latent.inference.fitting import Fit
from cot_latent.training import tuning


class TrainState(NamedTuple):
  """The whole state.

  Attributes:
    params: Trained parameters.
    opt_state: State of Optax's optimizer.
    memory: One chain per training question; None before it is made.
    step: Number of steps taken.
    pool: Rationales of the current outer loop; None without such loops.
    base_params: Parameters from which each loop begins; None if not needed.
    frozen: The model's other parameters, if any; no checkpoint holds them.
    fit: State of a fitted control variate; None without one.
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
    """Returns all parameters of the model."""
    return tuning.merge(self.params, self.frozen)
