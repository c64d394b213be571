"""The measurements of a step, for any trainer."""

from typing import Any, NamedTuple

import numpy as np

from cot_latent.inference.fitting import Fit
from cot_latent.reporting import metric_names as names


class Visits(NamedTuple):
  """How the draws and the memory of each of a step's M questions turned out.

  Attributes:
    question: [M] integers, which of the N training questions.
    num_draws: K.
    num_correct: [M] integers, how many of the K draws are correct.
    is_correct: [M] bool, whether the memory is correct after the step.
    log_prob: [M] nats of the memory after the step, by the step's parameters;
      NaN if it was not computed.
  """

  question: np.ndarray
  num_draws: int
  num_correct: np.ndarray
  is_correct: np.ndarray
  log_prob: np.ndarray

  def scored(self, place: np.ndarray, log_prob: np.ndarray) -> "Visits":
    """Adds the log-probabilities of memories that the M-step scored.

    Args:
      place: [S] integers, the question whose memory a row is; -1 for a draw.
      log_prob: [S] nats.
    """
    found, is_memory = self.log_prob.copy(), place >= 0
    found[place[is_memory]] = log_prob[is_memory]
    return self._replace(log_prob=found)

  def as_row(self) -> dict[str, Any]:
    """The values as the journal has them, to 1e-4 nats."""
    return {
      "question": self.question.tolist(),
      "num_draws": self.num_draws,
      "num_correct": self.num_correct.tolist(),
      "is_correct": self.is_correct.tolist(),
      "log_prob": [
        round(nats, 4) if np.isfinite(nats) else None
        for nats in self.log_prob.astype(float).tolist()
      ],
    }


class StepInfo(NamedTuple):
  """The measurements of an E-step.

  Attributes:
    accept_rate: Share of the fresh draws that are correct, 0 to 1. Within an
      outer loop, the share of its pool.
    memory_correct: Share of the N remembered rationales that are correct.
    memory_age: Mean number of steps since a correct memory was accepted.
    capped_fraction: Share of the draws that the length limit cut.
    unparseable_fraction: Share of the draws without an answer.
    num_weighted: Sequences that have weight.
    num_valid: Questions of the minibatch with a correct rationale; 0 means
      that there is no estimate, so that the step is skipped.
    scale: Mean scale of the control variate over the valid questions; None for
      an estimator without one.
    num_sampled: Sequences drawn in this step.
    num_tokens: Tokens drawn in this step.
    choices: Short hash of what was drawn and for which questions. Two runs that
      made the same random choices have the same hash.
    sampling_seconds: Time to draw.
    checking_seconds: Time to decode and compare.
    visits: For each question, how its draws and its memory turned out; None if
      the step drew nothing.
    log_likelihood: Mean over the questions of log (1/K) sum l, in nats, of the
      draws' likelihoods; None for a checker.
    seconds_before: The part of `sampling_seconds` that earlier processes took,
      for draws that were read.
  """

  accept_rate: float
  memory_correct: float
  memory_age: float
  capped_fraction: float
  unparseable_fraction: float
  num_weighted: int
  num_valid: int
  scale: float | None
  num_sampled: int
  num_tokens: int
  choices: str
  sampling_seconds: float = 0.0
  checking_seconds: float = 0.0
  visits: Visits | None = None
  log_likelihood: float | None = None
  seconds_before: float = 0.0

  def is_skipped(self) -> bool:
    """Whether no question has a correct rationale: there is no estimate."""
    return self.num_valid == 0

  def metrics(self) -> dict[str, Any]:
    """The values by the names that the journal has."""
    found = {
      names.ACCEPT_RATE: self.accept_rate,
      names.MEMORY_CORRECT: self.memory_correct,
      names.MEMORY_AGE: self.memory_age,
      names.CAPPED: self.capped_fraction,
      names.UNPARSEABLE: self.unparseable_fraction,
      names.NUM_WEIGHTED: self.num_weighted,
      names.NUM_VALID: self.num_valid,
      names.NUM_SAMPLED: self.num_sampled,
      names.NUM_TOKENS: self.num_tokens,
      names.CHOICES: self.choices,
      names.SAMPLING: self.sampling_seconds,
      names.CHECKING: self.checking_seconds,
    }
    if self.scale is not None:
      found[names.SCALE] = self.scale
    if self.log_likelihood is not None:
      found[names.LOG_LIKELIHOOD] = self.log_likelihood
    if self.visits is not None:
      found[names.VISITS] = self.visits.as_row()
    return found


class UpdateInfo(NamedTuple):
  """The measurements of the update of the parameters, after the E-step.

  Attributes:
    learning_rate: Learning rate of this step.
    is_finite: Whether loss and gradient are finite; if not, the parameters do
      not change.
    norm: Length of the gradient; 0 for a skipped step, None if it is not finite
      or not known.
    loss: Minus the weighted sum of log-probabilities, in nats; 0 and None as
      for `norm`.
    log_prob_gap: Largest difference between sampler and scorer on a fresh
      draw, in nats; None if there is no draw to compare. The control variate
      assumes that both are the same distribution.
    gradient_seconds: Time from the weighted rows to the new parameters.
    rest_seconds: Time of the step that nothing else counts.
    eta: Factor of a fitted control variate in this step; None without one.
    fit: Measurements from which that factor is fitted, after the step.
  """

  learning_rate: float
  is_finite: bool
  norm: float | None
  loss: float | None
  log_prob_gap: float | None
  gradient_seconds: float
  rest_seconds: float
  eta: float | None = None
  fit: Fit | None = None

  def metrics(self) -> dict[str, Any]:
    """The values by the names that the journal has."""
    return {
      names.LEARNING_RATE: self.learning_rate,
      names.IS_FINITE: int(self.is_finite),
      names.GRADIENT_NORM: self.norm,
      names.LOSS: self.loss,
      names.LOG_PROB_GAP: self.log_prob_gap,
      names.GRADIENT: self.gradient_seconds,
      names.REST: self.rest_seconds,
      **self._fit_metrics(),
    }

  def _fit_metrics(self) -> dict[str, float | None]:
    if self.fit is None:
      return {}
    return {
      names.ETA: self.eta,
      names.SCORE_RATIO: self.fit.score_ratio(),
      names.PAPER_RATIO: self.fit.paper_ratio(),
    }


def metrics(info: StepInfo, update: UpdateInfo) -> dict[str, Any]:
  """Makes the journal's row of a step.

  Args:
    info: Measurements of the E-step.
    update: Measurements of the update.
  """
  return {
    **info.metrics(),
    **update.metrics(),
    names.IS_SKIPPED: int(info.is_skipped()),
    names.NUM_SCORED: info.num_weighted,
  }
