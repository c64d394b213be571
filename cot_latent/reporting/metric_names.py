"""What the numbers of a step are called in the journal and in TensorBoard.

A name with a slash is drawn by TensorBoard, in the section before the slash.
The values and their meaning are documented in `cot_latent.em.step_info`.
"""

from collections.abc import Mapping
from typing import Any

ACCEPT_RATE = "chain/accept_rate"
MEMORY_CORRECT = "memory/correct_fraction"
MEMORY_AGE = "memory/age"
CAPPED = "draws/capped_fraction"
UNPARSEABLE = "draws/unparseable_fraction"
NUM_WEIGHTED = "estimator/num_weighted"
NUM_VALID = "estimator/num_valid"
SCALE = "estimator/scale"
ETA = "estimator/eta"
SCORE_RATIO = "estimator/score_ratio"
PAPER_RATIO = "estimator/paper_ratio"
LOG_LIKELIHOOD = "draws/log_likelihood"
IS_SKIPPED = "estimator/is_skipped"
IS_FINITE = "grad/is_finite"
GRADIENT_NORM = "grad/norm"
LOSS = "grad/loss"
LOG_PROB_GAP = "sampler/log_prob_gap"
LEARNING_RATE = "optimizer/learning_rate"

TIMES = "time/"  # before what took the time
SAMPLING, CHECKING = f"{TIMES}sampling", f"{TIMES}checking"
GRADIENT, REST = f"{TIMES}gradient", f"{TIMES}rest"

NUM_SAMPLED = "num_sampled"
NUM_TOKENS = "num_tokens"
NUM_SCORED = "num_scored"
CHOICES = "choices"
VISITS = "visits"  # of the step's questions, by name a list each


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  """Takes from a step's metrics those that TensorBoard draws."""
  return {
    name: value
    for name, value in metrics.items()
    if "/" in name and value is not None
  }
