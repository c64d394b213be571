"""Charts as inline SVG: pure functions from numbers to markup, no script.

Nothing here names a colour. Every series is a group of class `s1`, `s2`, ...
and the page's style sheet gives the class its colour, so that one drawing
serves light and dark mode. Series differ in dash and marker as well.

Lengths are in user units of the view box, which are about CSS pixels on a wide
screen. The margins leave room for labels a quarter larger, because the style
sheet enlarges them where the chart is drawn small.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

NUM_STYLES = 4
WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 420, 14, 234  # the plot area

_INSET = 12  # keeps markers and interval bars at the ends inside the plot area
_DODGE = 6  # between the interval bars of two series at one step
_CAP = 3  # half the width of an interval bar's cap
_LABEL_GAP = 18  # between the baselines of two labels at the lines' ends
_MIN_TO_SMOOTH = 30  # with fewer points every one gets a marker
_LARGEST = 1e300  # rounding up from here to a round number cannot overflow
_NARROWEST_LABELLED = 0.12  # share of a bar that has room for its percentage


class Point(NamedTuple):
  """A finite value at a training step, with its interval where there is one."""

  step: float
  value: float
  low: float | None = None
  high: float | None = None


class Series(NamedTuple):
  """A named line; points in order of their steps."""

  name: str
  points: Sequence[Point]


class _Frame(NamedTuple):
  """Maps steps 0..last_step and values 0..top into the plot area."""

  last_step: float
  top: float
  show: Callable[[float], str]

  def x(self, step: float) -> float:
    left, right = LEFT + _INSET, RIGHT - _INSET
    x = left + (right - left) * (step / self.last_step)
    return min(max(x, left), right)

  def y(self, value: float) -> float:
    y = BOTTOM - (BOTTOM - TOP) * (value / self.top)
    return min(max(y, TOP), BOTTOM)


def line_chart(
  title: str,
  description: str,
  series: Sequence[Series],
  last_step: float,
  top: float | None = None,
  show: Callable[[float], str] = "{:.3g}".format,
) -> Markup:
  """Draws series over the training step.

  Series of few points get a marker and a tooltip for each; series of many get
  a faint line and, bold, its moving mean. The label at a line's end is the
  last value of the bold line.

  Args:
    title: Title of the chart, in a few words.
    description: Content in a sentence, for readers who cannot see it.
    series: Series with at least one point in all. Values outside the axis are
      drawn at its end.
    last_step: End of the x axis, which starts at 0.
    top: End of the y axis, which starts at 0. None is a round number above
      every value.
    show: Function that writes a value, for the y axis, labels and tooltips.

  Returns:
    An <svg> element.
  """
  if top is None:
    top = round_top(point.value for line in series for point in line.points)
  frame = _Frame(max(last_step, 1), top, show)
  drawn = [line for line in series if line.points]
  lines = [
    _line(frame, line, style_of(index), (index - (len(drawn) - 1) / 2) * _DODGE)
    for index, line in enumerate(drawn)
  ]
  parts = [_axes(frame), *lines, _end_labels(frame, drawn)]
  return Markup(
    '<svg class="chart" viewBox="0 0 {} {}" role="img">'
    "<title>{}</title><desc>{}</desc>{}</svg>"
  ).format(WIDTH, HEIGHT, title, description, Markup().join(parts))


def share_bar(
  title: str, description: str, shares: Sequence[tuple[str, float]]
) -> Markup:
  """Draws shares of a whole as one stacked bar, as wide as its container.

  Args:
    title: Title of the bar, in a few words.
    description: Content in a sentence, for readers who cannot see it.
    shares: Names and values >= 0 in any unit, with a positive sum.

  Returns:
    An <svg> element.
  """
  total = sum(value for _, value in shares)
  ends = itertools.accumulate(value / total for _, value in shares)
  segments = [
    _segment(name, end - value / total, value / total, style_of(index))
    for index, ((name, value), end) in enumerate(zip(shares, ends, strict=True))
  ]
  return Markup(
    '<svg class="share-bar" role="img"><title>{}</title><desc>{}</desc>{}</svg>'
  ).format(title, description, Markup().join(segments))


def histogram(
  title: str,
  description: str,
  edges: Sequence[float],
  counts: Sequence[float],
  axis: str,
) -> Markup:
  """Draws how often values fall between edges.

  Args:
    title: Title of the chart, in a few words.
    description: Content in a sentence, for readers who cannot see it.
    edges: Edges, one more than the counts, evenly spaced, rising.
    counts: Counts, at least one above 0.
    axis: Name of the values, in a word or two.

  Returns:
    An <svg> element.
  """
  top = round_top(counts)
  frame = _Frame(1, top, "{:,.0f}".format)
  width = (RIGHT - LEFT) / len(counts)
  bars = [
    Markup(
      "<g><title>{} to {}: {:,.0f}</title>"
      '<rect class="segment" x="{:.1f}" y="{:.1f}" width="{:.1f}" '
      'height="{:.1f}"/></g>'
    ).format(
      f"{edges[i]:.3g}",
      f"{edges[i + 1]:.3g}",
      count,
      LEFT + width * i + 1,
      frame.y(count),
      width - 2,
      BOTTOM - frame.y(count),
    )
    for i, count in enumerate(counts)
  ]
  labels = [
    Markup('<text class="tick x" x="{:.1f}" y="{}">{}</text>').format(
      LEFT + width * i, BOTTOM + 19, f"{edge:.3g}"
    )
    for i, edge in enumerate(edges)
    if i % 2 == 0
  ]
  name = Markup('<text class="axis" x="{}" y="{}">{}</text>').format(
    WIDTH - 2, BOTTOM + 19, axis
  )
  parts = [*_rows(frame, at_least=1), *labels, name]
  return Markup(
    '<svg class="chart" viewBox="0 0 {} {}" role="img">'
    '<title>{}</title><desc>{}</desc>{}<g class="s1">{}</g></svg>'
  ).format(
    WIDTH, HEIGHT, title, description, Markup().join(parts), Markup().join(bars)
  )


def key(index: int, is_line: bool = True) -> Markup:
  """Draws the sample of a series' style for a legend."""
  style = style_of(index)
  if is_line:
    sample = Markup('<path class="line" d="M1,6H27"/>') + _marker(14, 6, style)
  else:
    sample = Markup('<rect class="segment" x="8" width="12" height="12"/>')
  return Markup(
    '<svg class="key {}" viewBox="0 0 28 12" aria-hidden="true">{}</svg>'
  ).format(style, sample)


def style_of(index: int) -> str:
  """Names the class of the series at a place; the classes repeat."""
  return f"s{index % NUM_STYLES + 1}"


def ticks(top: float, at_least: float = 0) -> list[float]:
  """Places up to six ticks on an axis from 0.

  Args:
    top: End of the axis, above 0.
    at_least: Smallest distance of two ticks, 1 for whole numbers.

  Returns:
    The multiples, 0 included, of 1, 2 or 5 times a power of ten.
  """
  distance = max(round_up(top / 5), at_least)
  return [i * distance for i in range(math.floor(top / distance + 1e-9) + 1)]


def round_top(values: Iterable[float]) -> float:
  """Finds a round number that no value exceeds; 1 where none is positive."""
  largest = min(max(values, default=0), _LARGEST)
  if largest < 1 / _LARGEST:
    return 1
  distance = round_up(largest / 5)
  return distance * math.ceil(largest / distance - 1e-9)


def smoothing_window(num_points: int) -> int:
  """Chooses an odd number of steps to average; 1 where all get a marker."""
  return 1 if num_points < _MIN_TO_SMOOTH else 2 * (num_points // 40) + 3


def moving_mean(values: Sequence[float], window: int) -> list[float]:
  """Averages over a centred window, as much of it as there is at the ends."""
  half = window // 2
  around = [values[max(i - half, 0) : i + half + 1] for i in range(len(values))]
  return [sum(near) / len(near) for near in around]


def round_up(value: float) -> float:
  """Rounds up to 1, 2 or 5 times a power of ten."""
  exponent = math.floor(math.log10(value))
  # Through text, because 10.0**-1 * 2 and the like miss the nearest float.
  candidates = [float(f"{m}e{exponent}") for m in (1, 2, 5, 10)]
  return min(c for c in candidates if c >= value * (1 - 1e-9))


def _rows(frame: _Frame, at_least: float = 0) -> list[Markup]:
  """Draws the lines of the grid, with what they stand for."""
  return [
    Markup(
      '<path class="grid-line" d="M{},{:.1f}H{}"/>'
      '<text class="tick y" x="{}" y="{:.1f}">{}</text>'
    ).format(LEFT, frame.y(at), RIGHT, LEFT - 8, frame.y(at), frame.show(at))
    for at in ticks(frame.top, at_least)
  ]


def _axes(frame: _Frame) -> Markup:
  columns = [
    Markup('<text class="tick x" x="{:.1f}" y="{}">{:,.0f}</text>').format(
      frame.x(at), BOTTOM + 19, at
    )
    for at in ticks(frame.last_step, at_least=1)
  ]
  name = Markup('<text class="axis" x="{}" y="{}">step</text>').format(
    WIDTH - 2, BOTTOM + 19
  )
  return Markup().join([*_rows(frame), *columns, name])


def _line(frame: _Frame, line: Series, style: str, dodge: float) -> Markup:
  """Draws one series as a group of its style."""
  values = [point.value for point in line.points]
  xs = [frame.x(point.step) for point in line.points]
  window = smoothing_window(len(values))
  if window > 1:
    parts = [
      _path(frame, xs, values, "raw"),
      _path(frame, xs, moving_mean(values, window), "line"),
    ]
  else:
    if any(point.low is not None for point in line.points):
      xs = [min(max(x + dodge, LEFT), RIGHT) for x in xs]
    parts = [_path(frame, xs, values, "line")]
    for x, point in zip(xs, line.points, strict=True):
      parts.append(_interval_bar(frame, x, point))
      parts.append(_marked(frame, x, point, line.name, style))
  return Markup('<g class="{}">{}</g>').format(style, Markup().join(parts))


def _path(
  frame: _Frame, xs: Sequence[float], values: Sequence[float], kind: str
) -> Markup:
  corners = " ".join(
    f"{x:.1f},{frame.y(value):.1f}" for x, value in zip(xs, values, strict=True)
  )
  return Markup('<path class="{}" d="M{}"/>').format(kind, corners)


def _interval_bar(frame: _Frame, x: float, point: Point) -> Markup:
  if point.low is None or point.high is None:
    return Markup()
  path = Markup('<path class="interval" d="')
  for y in (frame.y(point.low), frame.y(point.high)):
    path += Markup("M{:.1f},{:.1f}H{:.1f}").format(x - _CAP, y, x + _CAP)
  return path + Markup('M{:.1f},{:.1f}V{:.1f}"/>').format(
    x, frame.y(point.low), frame.y(point.high)
  )


def _marked(
  frame: _Frame, x: float, point: Point, name: str, style: str
) -> Markup:
  tooltip = f"{name}, step {point.step:,.0f}: {frame.show(point.value)}"
  if point.low is not None and point.high is not None:
    tooltip += f" ({frame.show(point.low)} to {frame.show(point.high)})"
  return Markup("<g><title>{}</title>{}</g>").format(
    tooltip, _marker(x, frame.y(point.value), style)
  )


def _marker(x: float, y: float, style: str) -> Markup:
  if style in ("s1", "s3"):
    circle = Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="4"/>')
    return circle.format(x, y)
  square = '<rect class="mark" x="{:.1f}" y="{:.1f}" width="7" height="7"/>'
  return Markup(square).format(x - 3.5, y - 3.5)


def _end_labels(frame: _Frame, series: Sequence[Series]) -> Markup:
  """Writes the last values, moved apart where two would overlap."""
  labels = []
  for index, line in enumerate(series):
    values = [point.value for point in line.points]
    last = moving_mean(values, smoothing_window(len(values)))[-1]
    x = frame.x(line.points[-1].step) + _INSET + 5
    labels.append((frame.y(last), x, frame.show(last), style_of(index)))
  labels.sort()
  heights = _spread([label[0] for label in labels])
  return Markup().join(
    Markup('<text class="end {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
      style, x, height, text
    )
    for height, (_, x, text, style) in zip(heights, labels, strict=True)
  )


def _spread(heights: Sequence[float]) -> list[float]:
  """Moves sorted heights apart downwards, or upwards where that is too low."""
  spread: list[float] = []
  for height in heights:
    lowest = spread[-1] + _LABEL_GAP if spread else height
    spread.append(max(height, lowest))
  overshoot = max([0, *(height - BOTTOM for height in spread)])
  return [height - overshoot for height in spread]


def _segment(name: str, start: float, share: float, style: str) -> Markup:
  label = Markup()
  if share >= _NARROWEST_LABELLED:
    label = Markup('<text x="{:.2f}%" y="50%">{:.0%}</text>').format(
      100 * (start + share / 2), share
    )
  return Markup(
    '<g class="{}"><title>{}: {:.1%}</title><rect class="segment" x="{:.2f}%"'
    ' width="{:.2f}%" height="100%"/>{}</g>'
  ).format(style, name, share, 100 * start, 100 * share, label)
