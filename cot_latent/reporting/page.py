"""The report as one HTML page that asks nothing of the network.

Everything in a report is untrusted text: a completion is whatever the model
wrote. The template escapes it; before, `_clean` makes visible the characters
that escaping leaves alone and that would hide or reorder what stands there.
"""

import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from cot_latent.reporting import charts
from cot_latent.reporting import metric_names as names

_STATUS_MARKS = {
  "complete": "✓",
  "suspect": "!",
  "running": "●",
  "failed": "✗",
  "interrupted": "■",
}
_DECODERS = {"greedy": "Greedy", "self_consistency": "Self-consistency"}
_SECTIONS = (
  "identity",
  "code",
  "configuration",
  "data",
  "model",
  "randomness",
  "environment",
  "t5x",
  "plan",
  "cost",
  "diagnostics",
  "continuity",
)
_PARTS = ("sampling", "checking", "gradient", "rest")
_NO_VALUE = "–"

# Control characters but tab and line ends, bidirectional overrides and
# isolates, and halves of surrogate pairs, which no file could hold.
_INVISIBLE = re.compile(
  r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Figure(NamedTuple):
  """A chart with what a reader needs to read it.

  Attributes:
    title: in a few words.
    note: what each quantity is.
    drawing: an <svg> element.
    legend: (sample of the style, name, value or "") of each series.
    left_out: the number of values that are not finite.
  """

  title: str
  note: str
  drawing: Markup
  legend: list[tuple[Markup, str, str]]
  left_out: int = 0


_Row = Mapping[str, Any]


def render(report: Mapping[str, Any]) -> str:
  """Renders a report.

  Args:
    report: with the metrics and samples beside it; any section may be missing
      or empty.

  Returns:
    A whole HTML document.
  """
  report = _clean(report)
  sections = {name: _mapping(report.get(name)) for name in _SECTIONS}
  metrics = _rows(report.get("metrics"))
  results = _rows(report.get("results"))
  curves = _held_out(results, sections["identity"].get("task"))
  status = str(report.get("status") or "unknown")
  return _ENVIRONMENT.get_template("report.html.j2").render(
    sections,
    status=status,
    status_mark=_STATUS_MARKS.get(status, "?"),
    error=report.get("error"),
    suspect=report.get("suspect"),
    headline=[_headline(name, rows) for name, rows in curves.items()],
    steps_done=max(_steps(metrics), default=0),
    figures=_figures(metrics, curves),
    time_figure=_time_figure(_mapping(sections["cost"].get("step_seconds"))),
    groups=_groups(results),
    samples=_rows(report.get("samples")),
    resumes=_rows(sections["continuity"].get("resumes")),
    replication=_rows(report.get("replication")),
  )


def _figures(
  metrics: Sequence[_Row], curves: Mapping[str, list[_Row]]
) -> list[Figure]:
  """Draws what there is to draw over the step; all share one x axis."""
  rows = [row for curve in curves.values() for row in curve]
  last_step = max([1, *_steps(metrics), *_steps(rows)])
  figures = [
    _accuracy_figure(curves, last_step),
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


def _time_figure(seconds: Mapping[str, Any]) -> Figure | None:
  """Draws how the steps' time divides; None where none was measured."""
  shares = [
    (part.capitalize(), value)
    for part, value in zip(_PARTS, _finite(seconds, *_PARTS), strict=True)
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
    (charts.key(i, is_line=False), part, f"{v / total:.1%} · {_duration(v)}")
    for i, (part, v) in enumerate(shares)
  ]
  drawing = charts.share_bar("Step time", note, shares)
  return Figure("Step time", note, drawing, legend)


def _points(rows: Sequence[_Row], key: str) -> list[charts.Point]:
  """Takes the rows that have a finite value, with their intervals."""
  points = []
  for row in rows:
    step, value = _finite(row, "step", key)
    if step is not None and value is not None:
      points.append(charts.Point(step, value, *_interval(row)))
  return points


def _held_out(
  results: Sequence[_Row], task: str | None
) -> dict[str, list[_Row]]:
  """Picks the run's own test questions, or else whatever comes first.

  Returns:
    The results of each decoder, by step.
  """
  places = [(row.get("task"), row.get("split")) for row in results]
  place = (task, "test") if (task, "test") in places else [*places, None][0]
  curves: dict[str, list[_Row]] = {}
  for row, at in sorted(
    zip(results, places, strict=True),
    key=lambda pair: (_decoder(pair[0]), _finite(pair[0], "step")[0] or 0),
  ):
    if at == place:
      curves.setdefault(_decoder(row), []).append(row)
  return curves


def _headline(name: str, rows: list[_Row]) -> dict[str, Any]:
  """Compares a decoder's last result with its first."""
  before, after = (_finite(row, "accuracy")[0] for row in (rows[0], rows[-1]))
  change = None
  if len(rows) > 1 and before is not None and after is not None:
    change = f"{100 * (after - before):+.1f} points".replace("-", "−")
  return {"name": name, "first": rows[0], "last": rows[-1], "change": change}


def _groups(
  results: Sequence[_Row],
) -> dict[str, list[_Row]]:
  """Groups results by their questions, in the order in which they come."""
  groups: dict[str, list[_Row]] = {}
  for row in results:
    name = " · ".join(str(row.get(k, _NO_VALUE)) for k in ("task", "split"))
    groups.setdefault(name, []).append({**row, "decoder": _decoder(row)})
  return groups


def _averaged(rows: Sequence[_Row]) -> list[_Row]:
  """Picks the results of a mixture that have averages over its tasks."""
  return [row for row in rows if _mapping(row.get("averages"))]


def _decoder(row: _Row) -> str:
  name = str(row.get("decoder", _NO_VALUE))
  name = _DECODERS.get(name, name)
  (samples,) = _finite(row, "num_samples")
  return name if samples in (None, 1) else f"{name} ({samples:,.0f})"


def _steps(rows: Iterable[_Row]) -> list[float]:
  return [s for s in (_finite(row, "step")[0] for row in rows) if s is not None]


def _interval(row: _Row) -> tuple[float | None, float | None]:
  ends = row.get("interval")
  if not isinstance(ends, Sequence) or len(ends) != 2:
    return None, None
  low, high = (_number(end) for end in ends)
  return low, high


def _finite(row: _Row, *keys: str) -> list[float | None]:
  """Looks up finite numbers, None for what is missing or none."""
  return [_number(row.get(key)) for key in keys]


def _number(value: Any) -> float | None:
  """Makes a finite float of any kind of real number, None of the rest."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return None
  try:
    number = float(value)
  except OverflowError:
    return None
  return number if math.isfinite(number) else None


def _mapping(value: Any) -> Mapping[str, Any]:
  return value if isinstance(value, Mapping) else {}


def _rows(value: Any) -> list[_Row]:
  rows = value if isinstance(value, Sequence) else []
  return [row for row in rows if isinstance(row, Mapping)]


def _clean(value: Any) -> Any:
  """Copies a tree, with its invisible characters made visible."""
  if isinstance(value, str):
    return _INVISIBLE.sub(_picture, value)
  if isinstance(value, Mapping):
    return {_clean(str(key)): _clean(inner) for key, inner in value.items()}
  if isinstance(value, (list, tuple)):
    return [_clean(inner) for inner in value]
  return value


def _picture(match: re.Match[str]) -> str:
  """Gives ␛ for escape and the like, and [U+202E] where there is no symbol."""
  code = ord(match.group())
  return chr(0x2400 + code) if code < 0x20 else f"[U+{code:04X}]"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
  """Flattens nested mappings to dotted names."""
  if not isinstance(tree, Mapping):
    return {name: tree}
  leaves: dict[str, Any] = {}
  for key, inner in tree.items():
    leaves |= _flat(inner, f"{name}.{key}" if name else key)
  return leaves


def _percent(value: Any) -> str:
  number = _number(value)
  return _NO_VALUE if number is None else f"{number:.1%}"


def _short_percent(value: float) -> str:
  return f"{value:.1%}".replace(".0%", "%")


def _range(row: _Row) -> str:
  low, high = _interval(row)
  if low is None or high is None:
    return ""
  return f"{100 * low:.1f}–{high:.1%}"


def _duration(value: Any) -> str:
  """Writes seconds in the units that a reader would choose."""
  seconds = _number(value)
  if seconds is None:
    return _NO_VALUE
  if seconds < 120:
    return f"{seconds:.3g} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 120:
    return f"{minutes} min {rest} s"
  return f"{minutes // 60:,} h {minutes % 60} min"


def _plain(value: Any) -> Any:
  """Writes any leaf for reading; whole numbers with thousands separators."""
  if value is None or isinstance(value, jinja2.Undefined):
    return _NO_VALUE
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, (list, tuple)):
    return ", ".join(str(_plain(inner)) for inner in value) or _NO_VALUE
  if isinstance(value, numbers.Integral):
    return f"{value:,}"
  return f"{value:.4g}" if isinstance(value, numbers.Real) else value


_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.PackageLoader("cot_latent.reporting", ""),
  autoescape=True,
  trim_blocks=True,
  lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
  "averaged": _averaged,
  "duration": _duration,
  "flat": _flat,
  "interval": _range,
  "percent": _percent,
  "plain": _plain,
}
