"""Charts stay inside their axes, whatever the numbers."""

import itertools
import math
import re

import pytest

from cot_latent.reporting import charts


def chart(values, top=1.0, intervals=None, name="a"):
  ends = intervals or [(None, None)] * len(values)
  points = [
    charts.Point(step, value, *end)
    for step, (value, end) in enumerate(zip(values, ends, strict=True))
  ]
  series = [charts.Series(name, points)]
  return str(charts.line_chart("t", "d", series, len(values) - 1, top))


def drawn_points(svg):
  """All corners of data lines, and all centres of markers."""
  paths = re.findall(r'class="(?:raw|line)" d="M([^"]*)"', svg)
  corners = [pair.split(",") for path in paths for pair in path.split()]
  corners += re.findall(r'class="mark" cx="([^"]*)" cy="([^"]*)"', svg)
  return [(float(x), float(y)) for x, y in corners]


@pytest.mark.parametrize(
  "values",
  [
    [0.0],
    [0.0, 1.0],
    [i / 199 for i in range(200)],
    [-3.0, 0.5, 7.0],
    [1e-308, 5e-324, 0.0],
    [1e308, 1.0, -1e308] * 30,
  ],
)
@pytest.mark.parametrize("top", [1.0, None])
def test_every_value_is_drawn_inside_the_plot_area(values, top):
  points = drawn_points(chart(values, top))
  assert len(points) >= len(values)
  for x, y in points:
    assert charts.LEFT <= x <= charts.RIGHT
    assert charts.TOP <= y <= charts.BOTTOM


def test_values_are_drawn_at_their_height():
  ys = [y for _, y in drawn_points(chart([0.0, 0.25, 1.0]))[:3]]
  span = charts.BOTTOM - charts.TOP
  assert ys == pytest.approx(
    [charts.BOTTOM, charts.BOTTOM - span / 4, charts.TOP]
  )


def test_many_points_get_a_mean_and_few_get_tooltips():
  many, few = chart([0.5] * 200), chart([0.5] * 5)
  assert 'class="raw"' in many
  assert 'class="mark"' not in many
  assert 'class="raw"' not in few
  assert few.count("<title>a, step ") == 5


def test_interval_bars_reach_both_ends_and_stay_inside():
  svg = chart([0.0, 1.0], intervals=[(0.0, 0.2), (0.8, 1.0)])
  bars = re.findall(r'class="interval" d="([^"]*)"', svg)
  assert len(bars) == 2
  span = charts.BOTTOM - charts.TOP
  for bar, ends in zip(bars, [(0.0, 0.2), (0.8, 1.0)], strict=True):
    (bottom, top), ys = ends, re.findall(r"(?:,|V)([\d.]+)", bar)
    heights = [(charts.BOTTOM - float(y)) / span for y in ys]
    wanted = [bottom, top, bottom, top]  # two caps, and the bar between them
    assert heights == pytest.approx(wanted, abs=0.1 / span)
    xs = [float(x) for x in re.findall(r"[MH]([\d.]+)", bar)]
    assert min(xs) >= charts.LEFT
    assert max(xs) <= charts.RIGHT


@pytest.mark.parametrize(
  "top", [1e-9, 0.03, 0.7, 1, 1.5, 3, 7, 42, 200, 999, 12345, 1e12]
)
def test_ticks_are_round_and_few(top):
  ticks = charts.ticks(top)
  assert ticks[0] == 0
  assert 2 <= len(ticks) <= 6
  assert ticks[-1] <= top * (1 + 1e-6)
  mantissa = f"{ticks[1]:.6e}".split("e")[0]
  assert float(mantissa) in (1, 2, 5)


def test_ticks_of_steps_are_whole():
  assert charts.ticks(1, at_least=1) == [0, 1]
  assert charts.ticks(200, at_least=1) == [0, 50, 100, 150, 200]


@pytest.mark.parametrize("values", [[0.3], [3.7, 1], [99.9], [1e-12], [8e5]])
def test_top_is_round_and_not_far_above(values):
  top = charts.round_top(values)
  assert max(values) <= top <= 1.5 * max(values)
  assert charts.ticks(top)[-1] == pytest.approx(top)


def test_top_without_positive_values_is_one():
  assert charts.round_top([]) == 1
  assert charts.round_top([0.0, -2.0]) == 1


def test_moving_mean_keeps_length_and_constants():
  assert charts.moving_mean([2.0] * 7, 3) == [2.0] * 7
  assert charts.moving_mean([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]
  for num_points in (30, 200, 5000):
    assert charts.smoothing_window(num_points) % 2 == 1


def test_labels_of_equal_ends_do_not_overlap():
  series = [charts.Series(n, [charts.Point(1, 0.0)]) for n in "abcd"]
  svg = str(charts.line_chart("t", "d", series, 1, 1.0))
  heights = sorted(
    float(y)
    for y in re.findall(r'class="end [^"]*" x="[^"]*" y="([^"]*)"', svg)
  )
  gaps = [b - a for a, b in itertools.pairwise(heights)]
  assert min(gaps) >= 15
  assert heights[-1] <= charts.BOTTOM


def test_a_histogram_s_bars_are_as_high_as_their_counts():
  drawing = charts.histogram("t", "d", [0, 0.5, 1, 1.5], [1, 4, 0], "share")
  heights = [float(h) for h in re.findall(r' height="([\d.]+)"', drawing)]
  plot = charts.BOTTOM - charts.TOP
  assert heights == pytest.approx([plot * c / 4 for c in (1, 4, 0)], abs=0.1)
  assert "<title>0.5 to 1: 4</title>" in drawing


def test_share_bar_fills_its_width():
  svg = str(charts.share_bar("t", "d", [("a", 3.0), ("b", 0.0), ("c", 1.0)]))
  widths = [float(w) for w in re.findall(r'width="([\d.]+)%"', svg)]
  assert widths == pytest.approx([75, 0, 25])
  assert math.isclose(sum(widths), 100)
  assert ">75%</text>" in svg


def test_names_are_escaped():
  hostile = '"><img src=x onerror=alert(1)>'
  line = chart([0.5], name=hostile)
  bar = str(charts.share_bar(hostile, hostile, [(hostile, 1.0)]))
  assert "<img" not in line + bar
