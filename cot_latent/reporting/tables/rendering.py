"""A matplotlib figure as files that are the same each time."""

import functools
import io
import pathlib
from typing import Any


@functools.cache
def own_font() -> str:
  """Returns the family of the font that is part of matplotlib.

  The system may have another version of DejaVu Sans, and which of the two
  matplotlib takes differs between machines.
  """
  import matplotlib
  from matplotlib import font_manager

  name = "DejaVu Sans of matplotlib"
  file = pathlib.Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
  entry = font_manager.FontEntry(fname=str(file), name=name)
  font_manager.fontManager.ttflist.append(entry)
  return name


def fix_layout(figure: Any) -> None:
  """Lays a figure out once, and rounds the positions of its axes.

  Matplotlib's constrained layout is the solution of equations whose order
  depends on addresses in memory, so its last digits differ from one figure to
  the next. The identifiers of an SVG are hashes of those digits.

  Args:
    figure: Matplotlib figure with a layout engine.
  """
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  for axes in figure.axes:
    bounds = axes.get_position().bounds
    axes.set_position([round(float(bound), 4) for bound in bounds])


def render(figure: Any) -> dict[str, bytes]:
  """Renders a figure, without date or version.

  Args:
    figure: Matplotlib figure. The style at the time of the call applies, and
      needs a `svg.hashsalt`.

  Returns:
    File ending -> content, of .png and .svg.
  """
  fix_layout(figure)
  png, svg = io.BytesIO(), io.BytesIO()
  figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
  figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
  return {".png": png.getvalue(), ".svg": svg.getvalue()}
