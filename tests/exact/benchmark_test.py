"""What benchmarks/variance.py draws is what it says."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from benchmarks import variance
from tests import toys
from tests.asserts import assert_close
from tests.exact import enumeration

ACCURACIES = [0.1, 0.6, 0.95]


ACCURATE = [0.5, 0.9, 0.99]


@pytest.fixture
def curves():
  return variance.curves(ACCURACIES)


@pytest.fixture
def of_one():
  return variance.curves(ACCURATE, of_one=True)


def lines(figure, panel):
  """The points of each line of a panel, by label."""
  axes = figure.axes[panel]
  return {
    line.get_label(): np.array(line.get_xydata()) for line in axes.get_lines()
  }


def label(name):
  method = variance.METHODS[name]
  return f"{name} ({method.num_questions} × {method.num_draws})"


@pytest.mark.parametrize("accuracy", [0.02, 0.5, 0.999])
def test_every_question_gets_the_accuracy(accuracy):
  moved = variance.at_accuracy(toys.make_toy(), accuracy)
  assert_close(toys.accuracy(moved), np.full(4, accuracy))


def test_accuracies_cover_the_range():
  at = variance.accuracies()
  assert at[0] == pytest.approx(variance.LOWEST)
  assert at[-1] == pytest.approx(variance.HIGHEST)
  odds = np.diff(np.log(at / (1 - at)))
  np.testing.assert_allclose(odds, odds[0])


def test_costs_are_equal():
  sampled = {m.num_questions * m.num_draws for m in variance.METHODS.values()}
  assert sampled == {8}


def test_the_plotted_data_are_the_curves(curves, of_one):
  figure = variance.draw(curves, of_one)
  for panel, (drawn, field) in enumerate(
    [(curves, "variance"), (of_one, "variance"), (curves, "num_scored")]
  ):
    plotted = lines(figure, panel)
    assert plotted.keys() == {label(name) for name in variance.METHODS}
    for name, curve in drawn.items():
      expected = np.stack([curve.accuracy, getattr(curve, field)], axis=1)
      np.testing.assert_array_equal(plotted[label(name)], expected)


def check_unit(curve):
  """Checks that eight posterior draws are an eighth of the unit."""
  assert_close(curve.variance, np.full(len(ACCURACIES), 1 / 8))


def test_known_points(curves):
  """Those of which the formulas are short."""
  check_unit(curves["TRICE, basic"])
  with pytest.raises(AssertionError):
    check_unit(curves["TRICE, control variate"])
  for place, pi in enumerate(ACCURACIES):
    assert_close(curves["TRICE, basic"].num_scored[place], np.float64(8))
    rejection = curves["rejection sampling, pooled"]
    assert_close(rejection.num_scored[place], np.float64(8 * pi))
    # A question has weight with a baseline unless all its draws are alike.
    mixed = 8 * (1 - pi**4 - (1 - pi) ** 4)
    for name in ["RLOO", "GRPO", "MaxRL"]:
      assert_close(curves[name].num_scored[place], np.float64(mixed))


def test_the_control_variate_pays_where_correct_rationales_differ(of_one):
  """The second panel, and that the first is another regime."""
  basic, control = "TRICE, basic", "TRICE, control variate"
  ratio = of_one[control].variance / of_one[basic].variance
  assert (np.diff(ratio) > 0).all()
  assert ratio[-1] > 5
  all_gain = variance.curves(ACCURATE)
  ratio = all_gain[control].variance / all_gain[basic].variance
  assert (np.diff(ratio) < 0).all()
  assert ratio[-1] < 1 / 5


def by_enumeration(method, toy):
  """A point of a curve, by listing every memory and every draw."""
  noise = unit = 0.0
  for question in range(len(toy.is_correct)):
    questions = [question] * method.num_questions
    cases = enumeration.at_stationarity(toy, questions, method.num_draws)
    values = enumeration.estimates(toy, questions, cases, method.estimator)
    mean = cases.probability @ values
    target = toys.gradient(toy, [question])
    weight = np.linalg.norm(mean) / np.linalg.norm(target)
    total = (cases.probability @ (values - mean) ** 2).sum()
    noise += total / weight**2
    p, scores = toys.posterior(toy)[question], toys.scores(toy)[question]
    unit += (p @ (scores - p @ scores) ** 2).sum()
  return noise / unit


@pytest.mark.parametrize("name", variance.METHODS)
def test_a_point_equals_enumeration(name):
  """For two questions and draws, or three and one, of a smaller toy."""
  size = (3, 1) if variance.METHODS[name].num_draws == 1 else (2, 2)
  method = variance.METHODS[name]._replace(
    num_questions=size[0], num_draws=size[1]
  )
  toy = variance.at_accuracy(toys.make_toy(vocabulary=2, length=2), 0.7)
  expected = np.float64(by_enumeration(method, toy))
  found, _ = variance.measure(method, toy)
  assert_close(np.float64(found), expected)
  fewer = method._replace(num_questions=1)
  with pytest.raises(AssertionError):
    assert_close(np.float64(variance.measure(fewer, toy)[0]), expected)


def files(output):
  """The bytes of both files."""
  return [
    output.with_name(f"variance.{ending}").read_bytes()
    for ending in ["png", "svg"]
  ]


def test_files_are_the_same_each_time(curves, of_one, tmp_path, monkeypatch):
  monkeypatch.setattr(
    variance, "accuracies", lambda *lowest: ACCURATE if lowest else ACCURACIES
  )
  first, second = (tmp_path / name / "variance" for name in ("one", "two"))
  variance.main(["--output", str(first)])
  variance.write(variance.draw(curves, of_one), second)
  for one, other in zip(files(first), files(second), strict=True):
    assert one == other
    assert b"<dc:date>" not in one
    assert b"tIME" not in one
  moved = {
    name: curve._replace(variance=1.1 * curve.variance)
    for name, curve in curves.items()
  }
  variance.write(variance.draw(moved, of_one), second)
  for one, other in zip(files(first), files(second), strict=True):
    assert one != other
