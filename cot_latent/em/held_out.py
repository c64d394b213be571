"""The objective on held-out questions, where the model computes likelihoods."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cot_latent.em.drawing import Drawer
from cot_latent.em.drawn_parts import Phase
from cot_latent.em.scored_step import AnswerScorer, log_mean
from cot_latent.inference import rng
from cot_latent.reporting import bootstrap, stats

EVALUATE = "likelihood/evaluate"  # the purpose of the rationales drawn here


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """Measures log p(y|x) of N questions by S rationales each.

  Attributes:
    drawer: Draws rationales, up to the words that an answer follows.
    scorer: Scores the known answers after them.
    num_samples: Number S of rationales per question.
  """

  drawer: Drawer
  scorer: AnswerScorer
  num_samples: int

  def log_likelihood(
    self,
    params: Any,
    seed: int,
    step: int,
    parts: Phase | None = None,
    report_done: Callable[..., None] | None = None,
  ) -> np.ndarray:
    """Computes the likelihoods of fresh rationales.

    Args:
      params: Parameters of the model.
      seed: The run's seed.
      step: The training step, so that each evaluation has draws of its own.
      parts: Phase whose parts are kept; None keeps nothing.
      report_done: As in `Sampler.sample`, for all rationales together.

    Returns:
      [N, S] nats; -inf if a rationale reaches no answer.
    """
    num = len(self.drawer.examples)
    which = np.repeat(np.arange(num), self.num_samples)
    drawn = self.drawer.draw_all(
      params,
      which,
      np.tile(np.arange(self.num_samples), num),
      rng.purpose_key(seed, EVALUATE, step),
      parts=parts,
      report_done=report_done,
    )
    nats, _ = self.scorer.score(params, drawn.tokens, which)
    return nats.answer.reshape(num, self.num_samples)

  def add_to(
    self, rows: Sequence[dict[str, Any]], nats: np.ndarray
  ) -> list[dict[str, Any]]:
    """Adds the log-likelihood to an evaluation's rows of results.

    Args:
      rows: Rows of a task; a mixture's own row comes first.
      nats: [N, S] as `log_likelihood` returns them.
    """
    tasks = np.array(self.drawer.examples.tasks)
    added = []
    for row in rows:
      own = tasks == row["task"]
      own = own if own.any() else np.ones_like(own)
      added.append({**row, "answer_likelihood": summarise(nats[own])})
    return added


def summarise(nats: np.ndarray) -> dict[str, Any]:
  """Sums up questions' likelihoods, as a report has them.

  Args:
    nats: [N, S] log-likelihoods.

  Returns:
    The mean over questions of log (1/S) sum l, with its 95% interval by
    bootstrap over questions; S; and the number of questions of which no
    rationale reaches an answer.
  """
  by_question = log_mean(nats)
  stratum = bootstrap.Stratum(1.0, by_question[None])
  return {
    "log_likelihood": {
      "value": stats.rounded(float(by_question.mean())),
      "interval": list(bootstrap.over_seeds_and_questions([stratum])),
    },
    "num_samples": nats.shape[1],
    "num_without": int(np.isneginf(nats).all(axis=1).sum()),
  }
