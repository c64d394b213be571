"""The figures of a report's page, each with what a reader needs to read it.

A report may lack anything and may hold anything; what is no finite number is
left out.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from cot_latent.reporting import charts
from cot_latent.reporting import metric_names as names

NO_VALUE = "–"
_PARTS = ("sampling", "checking", "gradient", "rest")


class Figure(NamedTuple):
  """A chart with what a reader needs to read it.

  Attributes:
    title: Title, in a few words.
    note: Meaning of each quantity.
    drawing: An <svg> element.
    legend: (sample of the style, name, value or "") of each series.
    left_out: Number of values that are not finite.
  """

  title: str
  note: str
  drawing: Markup
  legend: list[tuple[Markup, str, str]]
  left_out: int = 0


_Row = Mapping[str, Any]


def over_steps(
  metrics: Sequence[_Row],
  curves: Mapping[str, list[_Row]],
  training: Sequence[_Row],
) -> list[Figure]:
  """Draws the curves that have values, over one x axis of steps.

  Args:
    metrics: A row a step.
    curves: Held-out results by decoder.
    training: What the diagnostics have of the training questions' objective.
  """
  rows = [row for curve in curves.values() for row in curve]
  last_step = max([1, *steps(metrics), *steps(rows)])
  figures = [
    _accuracy_figure(curves, last_step),
    _objective_figure(curves, training, last_step),
    _metrics_figure(
      "Acceptance and memory",
      "Acceptance: share of fresh draws whose answer is correct; this is the "
      "model’s accuracy on training questions at temperature 1. Memory: share "
      "of remembered rationales whose answer is correct.",
      {"Acceptance": names.ACCEPT_RATE, "Memory": names.MEMORY_CORRECT},
      metrics,
      last_step,
    ),
    _metrics_figure(
      "Control-variate scale",
      "How much of a fresh draw’s score the estimator subtracts, averaged "
      "over questions; 0 is the estimator without control variate. It is the "
      "acceptance among the batch’s other questions that have a correct "
      "rationale, so it should follow acceptance.",
      {"Scale": names.SCALE},
      metrics,
      last_step,
      is_share=False,
    ),
    _metrics_figure(
      "Fitted control variate",
      "η: the factor of the control variate, fitted to the steps before. "
      "v₊/v: the same before it is clipped to [0, 1]; it estimates the "
      "variance of the score among correct rationales over its mean square "
      "among all. "
      "Above ½ the paper’s control variate (η = 1) lowers the variance, below "
      "it raises it.",
      {"η": names.ETA, "v₊/v": names.SCORE_RATIO},
      metrics,
      last_step,
      top=None,
      is_share=False,
    ),
    _metrics_figure(
      "Basic to paper",
      "Mean squared norm of the estimate without control variate, over that "
      "with the paper’s. Above 1 the paper’s pays. The ratio of the variances "
      "is further from 1, on the same side.",
      {"Ratio": names.PAPER_RATIO},
      metrics,
      last_step,
      top=None,
      is_share=False,
    ),
    _metrics_figure(
      "Gradient norm",
      "Euclidean norm of the gradient estimate.",
      {"Norm": names.GRADIENT_NORM},
      metrics,
      last_step,
      top=None,
      is_share=False,
    ),
  ]
  return [figure for figure in figures if figure]


def _accuracy_figure(
  curves: Mapping[str, list[_Row]], last_step: float
) -> Figure | None:
  """Draws held-out accuracy; None without results."""
  series = [
    charts.Series(name, _points(rows, "accuracy"))
    for name, rows in curves.items()
  ]
  return _figure(
    "Held-out accuracy",
    "Share of held-out questions answered correctly. Greedy: the likeliest "
    "token each time. Self-consistency (n): the commonest answer "
    "of n sampled rationales. Bars are 95% Wilson intervals.",
    series,
    last_step,
  )


def _objective_figure(
  curves: Mapping[str, list[_Row]],
  training: Sequence[_Row],
  last_step: float,
) -> Figure | None:
  """Draws minus the log-likelihood; None if it was not measured."""
  series = []
  held_out = [row for rows in curves.values() for row in rows]
  scored = [
    {"step": row.get("step"), **found}
    for row in held_out
    if isinstance(found := row.get("answer_likelihood"), Mapping)
  ]
  for draws, name, rows in (
    ("num_samples", "Held-out", [r for r in held_out if "objective" in r]),
    ("num_samples", "Held-out, scored", scored),
    ("num_draws", "Training", training),
  ):
    points = [
      point for row in rows if (point := _objective_point(row)) is not None
    ]
    if points:
      (number,) = finite(rows[-1], draws)
      label = name if number is None else f"{name} ({number:,.0f} draws)"
      series.append(charts.Series(label, points))
  return _figure(
    "Negative log-likelihood",
    "−log p(answer | question) in nats, the mean over questions, its series "
    "cut at the number of draws: what training lowers. Training: from each "
    "question’s last draws, during which the parameters moved. Scored: the "
    "answer’s probability after each draw’s rationale, an upper bound. Bars "
    "are 95% intervals by bootstrap over questions.",
    series,
    last_step,
    top=None,
    is_share=False,
  )


def _objective_point(row: _Row) -> charts.Point | None:
  """The negative log-likelihood of a result, or of the training questions."""
  part = row.get("objective", row)
  found = part.get("log_likelihood") if isinstance(part, Mapping) else None
  if not isinstance(found, Mapping):
    return None
  step, value = *finite(row, "step"), *finite(found, "value")
  if step is None or value is None:
    return None
  low, high = interval(found)
  if low is None or high is None:
    return charts.Point(step, 0 - value)
  return charts.Point(step, 0 - value, 0 - high, 0 - low)


_OF_CHAINS = {
  "acceptance": (
    "Acceptance by question",
    "Training questions by the share of their visits in which a correct draw "
    "replaced the memory. At 0 nothing was ever accepted.",
    "share",
  ),
  "age": (
    "Age of the memories",
    "Steps since each rationale that was accepted in a step was accepted, at "
    "the end. An old one was drawn from parameters that many steps old.",
    "steps",
  ),
  "autocorrelation_time": (
    "Autocorrelation time",
    "Visits of a question that are worth one independent draw from its "
    "posterior: (2 − a) / a at acceptance a, of questions that moved.",
    "visits",
  ),
  "log_prob_drift": (
    "Drift of log p(memory) since acceptance",
    "Log-probability of each memory when it was last scored, minus its "
    "log-probability when it was accepted. Far above 0, the model is "
    "memorising rationales; far below 0, it no longer writes them.",
    "nats",
  ),
}


def of_chains(chains: _Row) -> list[Figure]:
  """Draws how the chains of the questions differ.

  Args:
    chains: What the diagnostics have of them.
  """
  found = []
  for key, (title, note, axis) in _OF_CHAINS.items():
    part = chains.get(key)
    part = part if isinstance(part, Mapping) else {}
    edges, counts = (_numbers(part.get(name)) for name in ("edges", "counts"))
    if len(edges) == len(counts) + 1 and max(counts, default=0) > 0:
      (median,) = finite(part, "median")
      text = NO_VALUE if median is None else f"{median:.3g}".replace("-", "−")
      drawing = charts.histogram(title, note, edges, counts, axis)
      legend = [(charts.key(0, is_line=False), "questions", f"median {text}")]
      found.append(Figure(title, note, drawing, legend))
  return found


def _numbers(value: Any) -> list[float]:
  """A list of finite numbers; none where there is anything else."""
  if not isinstance(value, Sequence) or isinstance(value, str):
    return []
  found = [number(each) for each in value]
  return [] if None in found else [each for each in found if each is not None]


def _metrics_figure(
  title: str,
  note: str,
  keys: Mapping[str, str],
  metrics: Sequence[_Row],
  last_step: float,
  top: float | None = 1,
  is_share: bool = True,
) -> Figure | None:
  """Draws metrics, given by name and key; None without a finite value."""
  series = [
    charts.Series(name, _points(metrics, key)) for name, key in keys.items()
  ]
  found = sum(key in row for row in metrics for key in keys.values())
  left_out = found - sum(len(line.points) for line in series)
  return _figure(title, note, series, last_step, top, is_share, left_out)


def _figure(
  title: str,
  note: str,
  series: Sequence[charts.Series],
  last_step: float,
  top: float | None = 1,
  is_share: bool = True,
  left_out: int = 0,
) -> Figure | None:
  """Draws series with their legend; None where they have no points."""
  series = [line for line in series if line.points]
  if not series:
    return None
  window = charts.smoothing_window(max(len(line.points) for line in series))
  if window > 1:
    note += f" Faint: each step; bold: mean over {window} steps."
  show = _short_percent if is_share else "{:.3g}".format
  drawing = charts.line_chart(title, note, series, last_step, top, show)
  legend = [(charts.key(i), line.name, "") for i, line in enumerate(series)]
  return Figure(title, note, drawing, legend, left_out)


def time_figure(seconds: Mapping[str, Any]) -> Figure | None:
  """Draws how the steps' time divides; None where none was measured."""
  shares = [
    (part.capitalize(), value)
    for part, value in zip(_PARTS, finite(seconds, *_PARTS), strict=True)
    if value is not None and value >= 0
  ]
  total = sum(value for _, value in shares)
  if not 0 < total < math.inf:
    return None
  note = (
    "Time of all steps together. Sampling: drawing rationales. Checking: "
    "reading their answers. Gradient: scoring, differentiating, updating."
  )
  legend = [
    (charts.key(i, is_line=False), part, f"{v / total:.1%} · {duration(v)}")
    for i, (part, v) in enumerate(shares)
  ]
  drawing = charts.share_bar("Step time", note, shares)
  return Figure("Step time", note, drawing, legend)


def _points(rows: Sequence[_Row], key: str) -> list[charts.Point]:
  """Takes the rows that have a finite value, with their intervals."""
  points = []
  for row in rows:
    step, value = finite(row, "step", key)
    if step is not None and value is not None:
      points.append(charts.Point(step, value, *interval(row)))
  return points


def interval(row: _Row) -> tuple[float | None, float | None]:
  """Looks up the ends of an interval, None and None where there is none."""
  ends = row.get("interval")
  if not isinstance(ends, Sequence) or len(ends) != 2:
    return None, None
  low, high = (number(end) for end in ends)
  return low, high


def finite(row: _Row, *keys: str) -> list[float | None]:
  """Looks up finite numbers, None for what is missing or none."""
  return [number(row.get(key)) for key in keys]


def number(value: Any) -> float | None:
  """Makes a finite float of any kind of real number, None of the rest."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return None
  try:
    number = float(value)
  except OverflowError:
    return None
  return number if math.isfinite(number) else None


def _short_percent(value: float) -> str:
  return f"{value:.1%}".replace(".0%", "%")


def duration(value: Any) -> str:
  """Writes seconds in the units that a reader would choose."""
  seconds = number(value)
  if seconds is None:
    return NO_VALUE
  if seconds < 120:
    return f"{seconds:.3g} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 120:
    return f"{minutes} min {rest} s"
  return f"{minutes // 60:,} h {minutes % 60} min"


def steps(rows: Sequence[_Row]) -> list[float]:
  """The steps of rows, as far as they have one."""
  return [s for s in (finite(row, "step")[0] for row in rows) if s is not None]
