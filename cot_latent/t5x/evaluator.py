"""T5X's inference evaluation, whose answers go into the report as well."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import seqio

from cot_latent.em import evaluation
from cot_latent.em.evaluation import Output
from cot_latent.runtime import terminal
from cot_latent.t5x import checks
from cot_latent.t5x.report import Report

_PREDICTIONS = seqio.metrics.ModelOutputType.PREDICTION


class Evaluator:
  """A SeqIO evaluator that shows what it was answered to a report."""

  def __init__(
    self,
    make: Callable[..., seqio.Evaluator],
    report: Report | None,
    **settings: Any,
  ):
    """Makes the evaluator.

    Args:
      make: SeqIO's, with gin's settings.
      report: where answers are noted; None notes none.
      **settings: that T5X gives it.
    """
    self._made = make(**settings)
    self._report = report
    if report is not None and not checks.evaluates_greedily():
      # A report's results are greedy ones, or majorities of samples.
      terminal.say(
        "the evaluation draws samples (decoding.temperature_sample), so that "
        "the report leaves it out: set topk = 1",
        is_error=True,
      )
      self._report = None
    self._ids: dict[str, list[str]] = {}

  def __getattr__(self, name: str) -> Any:
    """All else is SeqIO's."""
    return getattr(self._made, name)

  def evaluate(self, *, step: int | None = None, **settings: Any) -> Any:
    """Evaluates; see `seqio.Evaluator.evaluate`."""
    if self._report is None:
      return self._made.evaluate(step=step, **settings)
    with self._report.guarded():
      began = time.perf_counter()
      metrics, outputs = self._made.evaluate(step=step, **settings)
      answers = self._answers(self._report, outputs)
      seconds = time.perf_counter() - began
      self._report.evaluated(int(step or 0), answers, seconds)
    return metrics, outputs

  def _answers(self, report: Report, outputs: Any) -> list[Output]:
    """Reads the completions of the report's questions, in their order."""
    tokens: dict[str, Any] = {}
    for task in self._made.eval_tasks:
      if _PREDICTIONS in outputs[task.name]:
        ids = self._ids_of(task.name)
        tokens |= zip(ids, outputs[task.name][_PREDICTIONS], strict=True)
    test = report.test
    return [
      evaluation.judge(
        report.task, test, place, np.asarray(tokens[name], np.int32).ravel()
      )
      for place, name in enumerate(test.ids)
      if name in tokens
    ]

  def _ids_of(self, task: str) -> list[str]:
    if task not in self._ids:
      rows = self._made.cached_task_datasets[task].as_numpy_iterator()
      self._ids[task] = [row["id"].decode() for row in rows]
    return self._ids[task]
