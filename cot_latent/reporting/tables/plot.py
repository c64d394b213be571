"""Accuracy and cost side by side: one line per method, with its interval.

Each method has a line of its own, because methods of equal budget would overlap
if accuracy were drawn against cost.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting.tables import rendering
from cot_latent.reporting.tables.cells import Table

COST = "sequences_sampled"
_COLOUR, _BASELINE = "#0072B2", "#D55E00"  # distinct for the colour-blind
_STYLE: dict[str, Any] = {
  "font.size": 10,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e3e3e3",
  "grid.linewidth": 0.7,
  "svg.hashsalt": "cot-latent",  # ids are the same each time
  "text.parse_math": False,  # a dollar in a label is a dollar
}
_LINE_HEIGHT, _FRAME_HEIGHT = 0.27, 1.2  # inches


class Point(NamedTuple):
  """A method in the plot.

  Attributes:
    label: Name of the method.
    cost: Mean number of sequences sampled, at least 1.
    accuracy: Accuracy in percent.
    low: Lower end of the interval, between 0 and 100, with the questions' error
      if that is known; None if there is no interval.
    high: Upper end.
  """

  label: str
  cost: float
  accuracy: float
  low: float | None
  high: float | None


def points(table: Table) -> list[Point]:
  """Returns the points of the plot, in the order of the rows."""
  found = []
  for row in table.spec.rows:
    cell = table.cells.get((row.method, table.spec.plot or ""))
    if cell is None:
      continue
    own = cell.estimate
    interval = own.with_questions or (own.low, own.high)
    runs = table.runs[row.method]
    cost = sum(run.cost[COST] for run in runs) / len(runs)
    low, high = (
      None if end is None else 100 * min(max(end, 0.0), 1.0) for end in interval
    )
    found.append(Point(row.label, max(cost, 1), 100 * own.mean, low, high))
  return found


def render(table: Table) -> dict[str, bytes]:
  """Draws the plot, without date or version.

  Args:
    table: Table with at least one method that ran.

  Returns:
    File ending -> content, of .png and .svg.

  Raises:
    UserError: If matplotlib is not installed.
  """
  try:
    import matplotlib.style
  except ImportError:
    raise UserError(
      "t5x tables draws with matplotlib, which is not installed: "
      "pip install matplotlib"
    ) from None
  # A user's own settings would change the picture.
  style = _STYLE | {"font.family": rendering.own_font()}
  with matplotlib.style.context(style, after_reset=True):
    return rendering.render(draw(points(table), table))


def draw(drawn: Sequence[Point], table: Table):
  """Draws a line for each point, in order, from the top.

  Returns:
    A matplotlib figure. Its first axes have a container of error bars per
    method, its second axes the costs.
  """
  import matplotlib.figure
  import matplotlib.ticker

  height = _FRAME_HEIGHT + _LINE_HEIGHT * len(drawn)
  figure = matplotlib.figure.Figure(figsize=(7.2, height), layout="constrained")
  left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 2))
  labels = {row.method: row.label for row in table.spec.rows}
  baseline = labels[table.spec.baseline]
  for line, point in enumerate(drawn):
    colour = _BASELINE if point.label == baseline else _COLOUR
    low, high = (
      point.accuracy if end is None else end for end in (point.low, point.high)
    )
    left.errorbar(
      point.accuracy,
      line,
      xerr=[[point.accuracy - low], [high - point.accuracy]],
      fmt="o",
      color=colour,
      markersize=6,
      markeredgecolor="white",
      elinewidth=1.4,
      capsize=3,
      label=point.label,
    )
    right.plot(point.cost, line, "o", color=colour, markersize=5)
  left.set_xlim(*_limits(drawn))
  left.set_ylim(len(drawn) - 0.5, -0.5)
  left.set_yticks(range(len(drawn)), [point.label for point in drawn])
  left.tick_params(axis="y", length=0)
  left.set_xlabel(f"{table.spec.plot}, %")
  left.set_title(table.spec.title, loc="left", fontsize=11)
  right.set_xscale("log")
  right.set_xlim(
    min(point.cost for point in drawn) / 1.5,
    max(point.cost for point in drawn) * 1.5,
  )
  right.xaxis.set_major_locator(
    matplotlib.ticker.LogLocator(subs=(1, 2, 5), numticks=5)
  )
  right.xaxis.set_major_formatter(
    matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}")
  )
  right.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
  right.tick_params(axis="y", length=0)
  right.set_xlabel("sequences sampled\nin the whole run")
  return figure


def _limits(drawn: Sequence[Point]) -> tuple[float, float]:
  """Chooses the ends of the axis of accuracies, around all intervals."""
  ends = [
    end
    for point in drawn
    for end in (point.low, point.accuracy, point.high)
    if end is not None
  ]
  margin = max(0.08 * (max(ends) - min(ends)), 1.0)
  return min(ends) - margin, max(ends) + margin
