"""Accuracy against cost: a point a method, with its interval."""

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.reporting.table_cells import Table

COST = "sequences_sampled"
# Okabe and Ito's colours, which the colour-blind can tell apart; where they
# begin anew, the markers go on.
_COLOURS = (
  *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
  "#000000",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
_STYLE: dict[str, Any] = {
  "font.family": "DejaVu Sans",  # matplotlib brings it along
  "font.size": 10,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e3e3e3",
  "grid.linewidth": 0.7,
  "svg.hashsalt": "cot-latent",  # ids are the same each time
  "text.parse_math": False,  # a dollar in a label is a dollar
}
_LABEL_HEIGHT = 0.055  # of the axes' height, between two labels
_DODGE = 6  # points between methods whose cost is the same to the eye
_SAME_COST = 1.03


class Point(NamedTuple):
  """A method in the plot.

  Attributes:
    label: its name.
    cost: the mean number of sequences sampled, 1 at least.
    accuracy: in percent.
    low: lower end of the interval, within 0 and 100; None where there is none.
    high: upper end.
  """

  label: str
  cost: float
  accuracy: float
  low: float | None
  high: float | None


def points(table: Table) -> list[Point]:
  """Takes what is plotted, in the order of the rows."""
  found = []
  for row in table.spec.rows:
    cell = table.cells.get((row.method, table.spec.plot or ""))
    if cell is None:
      continue
    own = cell.estimate
    runs = table.runs[row.method]
    cost = sum(run.cost[COST] for run in runs) / len(runs)
    low, high = (
      None if end is None else 100 * min(max(end, 0.0), 1.0)
      for end in (own.low, own.high)
    )
    found.append(Point(row.label, max(cost, 1), 100 * own.mean, low, high))
  return found


def render(table: Table) -> dict[str, bytes]:
  """Draws the plot, without date or version.

  Args:
    table: with one method that ran, at least.

  Returns:
    File ending -> content, of .png and .svg.

  Raises:
    UserError: if matplotlib is not installed.
  """
  try:
    import matplotlib.style
  except ImportError:
    raise UserError(
      "t5x tables draws with matplotlib, which is not installed: "
      "pip install matplotlib"
    ) from None
  # A user's own settings would change the picture.
  with matplotlib.style.context(_STYLE, after_reset=True):
    figure = draw(points(table), table)
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
  return {".png": png.getvalue(), ".svg": svg.getvalue()}


def draw(drawn: Sequence[Point], table: Table):
  """Draws points; each has its label at the right, joined by a thin line.

  Returns:
    A matplotlib figure, with a container of error bars a method.
  """
  import matplotlib.figure
  import matplotlib.ticker
  import matplotlib.transforms

  figure = matplotlib.figure.Figure(figsize=(7.2, 4.4), layout="constrained")
  axes = figure.subplots()
  bottom, top = _limits(drawn)
  axes.set_xscale("log")
  axes.set_xlim(
    min(point.cost for point in drawn) / 1.5,
    max(point.cost for point in drawn) * 1.5,
  )
  axes.set_ylim(bottom, top)
  shares = [(p.accuracy - bottom) / (top - bottom) for p in drawn]
  offsets = _dodges(drawn)
  for place, (point, height, offset) in enumerate(
    zip(drawn, _spread(shares), offsets, strict=True)
  ):
    colour = _COLOURS[place % len(_COLOURS)]
    moved = axes.transData + matplotlib.transforms.ScaledTranslation(
      offset / 72, 0, figure.dpi_scale_trans
    )
    low, high = (
      point.accuracy if end is None else end for end in (point.low, point.high)
    )
    axes.errorbar(
      point.cost,
      point.accuracy,
      yerr=[[point.accuracy - low], [high - point.accuracy]],
      fmt=_MARKERS[place % len(_MARKERS)],
      color=colour,
      markersize=6,
      markeredgecolor="white",
      elinewidth=1.4,
      capsize=3,
      transform=moved,
      label=point.label,
    )
    axes.annotate(
      point.label,
      xy=(point.cost, point.accuracy),
      xycoords=moved,
      xytext=(1.03, height),
      textcoords="axes fraction",
      color=colour,
      va="center",
      arrowprops={
        "arrowstyle": "-",
        "color": colour,
        "linewidth": 0.6,
        "alpha": 0.5,
        "shrinkB": 5,
      },
    )
  axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(
    matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}")
  )
  axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
  axes.set_xlabel("sequences sampled (log scale; equal costs side by side)")
  axes.set_ylabel(f"{table.spec.plot}, %")
  axes.set_title(table.spec.title, loc="left", fontsize=11)
  return figure


def _limits(drawn: Sequence[Point]) -> tuple[float, float]:
  """Chooses the ends of the y axis, around all intervals."""
  ends = [
    end
    for point in drawn
    for end in (point.low, point.accuracy, point.high)
    if end is not None
  ]
  margin = max(0.08 * (max(ends) - min(ends)), 1.0)
  return min(ends) - margin, max(ends) + margin


def _spread(heights: Sequence[float]) -> list[float]:
  """Moves labels apart, in shares of the axes, keeping their order."""
  order = sorted(range(len(heights)), key=lambda place: heights[place])
  moved = list(heights)
  lowest = -math.inf
  for place in order:
    moved[place] = max(moved[place], lowest)
    lowest = moved[place] + _LABEL_HEIGHT
  highest = 1.0
  for place in reversed(order):
    moved[place] = min(moved[place], highest)
    highest = moved[place] - _LABEL_HEIGHT
  return moved


def _dodges(drawn: Sequence[Point]) -> list[float]:
  """Points to the right by which methods of about one cost are moved."""
  offsets = [0.0] * len(drawn)
  groups: list[list[int]] = []
  for place in sorted(range(len(drawn)), key=lambda i: drawn[i].cost):
    if groups and drawn[place].cost < _SAME_COST * drawn[groups[-1][-1]].cost:
      groups[-1].append(place)
    else:
      groups.append([place])
  for group in groups:
    for position, place in enumerate(sorted(group)):
      offsets[place] = _DODGE * (position - (len(group) - 1) / 2)
  return offsets
