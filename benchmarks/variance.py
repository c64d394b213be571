"""The exact variance of each method's gradient estimate, against the accuracy.

`python -m benchmarks.variance --output docs/variance` writes docs/variance.png
and docs/variance.svg; the same versions give the same bytes each time.

Nothing is sampled: means and covariances come from tests/exact/moments.py, for
the toy model of tests/toys.py, which lists every sequence. It has four
questions. Its accuracy is moved through the logits of its last token, as far
for each question as needed.

- Equal cost: every method samples 8 sequences per step, TRICE one for each of 8
  questions, its baselines four for each of 2. The number of sequences that are
  then differentiated differs, and is the second panel.
- The questions of a minibatch are copies of one. So the plot shows the noise of
  sampling alone, not that of choosing the questions of a minibatch. The result
  is averaged over the four. Of unlike questions, 8 are better than 2, and the
  control variate's scale, which comes from the other questions, fits less well.
- TRICE's memories are at stationarity: exact posterior draws. While a model
  learns they come from older parameters, and TRICE is then biased (not shown).
- Normalisation: a method's mean is w grad log pi, with its own w (see
  cot_latent/inference/baselines.py), and a small estimate has a small variance.
  So each is divided by its w first. All then have the mean grad log pi, and the
  variances show which method estimates it best; an optimizer such as Adam is
  insensitive to a constant factor. The unit is the variance of one score of an
  exact posterior draw, so that 1/8 is the value of eight such draws. The ratio
  to the squared norm of the mean would order the methods in the same way, but
  goes to infinity with the accuracy for each of them, because grad log pi goes
  to 0.
- Two ways to become accurate. In the first panel every correct rationale gains
  in proportion, so that correct rationales continue to differ (v+ stays), as in
  the paper's appendix B. In the second, one rationale of two takes all the
  mass, as on a task with a single way to the answer. There v+ goes to 0 in
  proportion to the mass of the other rationale, and the term that a control
  variate or a baseline subtracts is most of the remaining noise.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from cot_latent.inference import baselines, estimators
from cot_latent.reporting.tables import rendering
from tests import toys
from tests.exact import moments


class Method(NamedTuple):
  """A line of the plot.

  Attributes:
    estimator: The estimator.
    num_questions: Number of questions M.
    num_draws: Number of draws K.
    colour: Colour of Okabe and Ito's palette, distinct for the colour-blind.
    dash: Dash pattern, so that lines differ in more than colour.
    marker: Marker, for the same reason.
  """

  estimator: estimators.Estimator
  num_questions: int
  num_draws: int
  colour: str
  dash: str | tuple
  marker: str


METHODS = {
  "TRICE, control variate": Method(
    estimators.control_variate(), 8, 1, "#0072B2", "-", "o"
  ),
  "TRICE, control variate, K = 4": Method(
    estimators.control_variate(), 2, 4, "#56B4E9", "--", "s"
  ),
  "TRICE, basic": Method(estimators.basic(), 8, 1, "#000000", "-", "D"),
  "rejection sampling, per question": Method(
    baselines.rejection_sampling(), 2, 4, "#D55E00", "-", "^"
  ),
  "rejection sampling, pooled": Method(
    baselines.rejection_sampling(pooled=True), 2, 4, "#E69F00", "--", "v"
  ),
  "RLOO": Method(baselines.rloo(), 2, 4, "#009E73", "-", "P"),
  "GRPO": Method(baselines.grpo(), 2, 4, "#CC79A7", (0, (1, 1.5)), "X"),
  "MaxRL": Method(baselines.maxrl(), 2, 4, "#7A5195", (0, (5, 1, 1, 1)), "*"),
}
LOWEST, HIGHEST, NUM_POINTS = 0.02, 0.999, 45
LOWEST_OF_ONE = 0.4  # the other correct rationale keeps its share


class Curve(NamedTuple):
  """The plotted values of a method, at each accuracy.

  Attributes:
    accuracy: [A] accuracies pi.
    variance: [A] trace of the covariance of the estimate over w, in variances
      of one posterior score.
    num_scored: [A] mean number of sequences differentiated.
  """

  accuracy: np.ndarray
  variance: np.ndarray
  num_scored: np.ndarray


def accuracies(lowest: float = LOWEST) -> np.ndarray:
  """Returns [A] accuracies, evenly spaced in log-odds."""
  low, high = (np.log(pi / (1 - pi)) for pi in (lowest, HIGHEST))
  return 1 / (1 + np.exp(-np.linspace(low, high, NUM_POINTS)))


def toy_of_one() -> tuple[toys.Toy, np.ndarray]:
  """Makes a toy with two correct rationales per question; one of them gains.

  Returns:
    The toy, whose rationales are one of six tokens, and [X, Z] bool: the one
    that gains.
  """
  toy = toys.make_toy(vocabulary=6, length=1)
  gains = toy.is_correct
  return toy._replace(is_correct=gains | np.roll(gains, 1, axis=1)), gains


def at_accuracy(
  toy: toys.Toy, accuracy: float, gains: np.ndarray | None = None
) -> toys.Toy:
  """Moves each question of a toy to an accuracy, by bisection.

  Args:
    toy: The toy.
    accuracy: Accuracy pi of every question.
    gains: [X, Z] bool, rationales whose logits are moved; None is all correct
      rationales.
  """
  moves = toy.is_correct if gains is None else gains
  low = np.full((len(toy.is_correct), 1), -40.0)
  high = -low
  for _ in range(100):  # to the last bit
    middle = (low + high) / 2
    moved = toy._replace(lean=middle * moves)
    below = toys.accuracy(moved)[:, None] < accuracy
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return moved


def measure(method: Method, toy: toys.Toy) -> tuple[float, float]:
  """Computes a point of a curve.

  Args:
    method: The method.
    toy: Toy with questions of equal accuracy; the result is averaged over them.

  Returns:
    The variance of the estimate over w, in variances of one posterior score,
    and the mean number of sequences differentiated.
  """
  noise = unit = scored = 0.0
  questions = range(len(toy.is_correct))
  for question in questions:
    draws = moments.of_toy(toy, [question] * method.num_questions)
    memories = moments.at_stationarity(draws)
    found = moments.exact(method.estimator, draws, memories, method.num_draws)
    target = toys.gradient(toy, [question])
    # With copies of one question every mean is a multiple of the target.
    weight = found.mean @ target / (target @ target)
    noise += found.variance() / weight**2
    unit += np.trace(draws.covariance[0, 1])
    scored += found.num_scored / len(questions)
  return noise / unit, scored


def curves(
  at: Sequence[float] | np.ndarray, of_one: bool = False
) -> dict[str, Curve]:
  """Computes every method's curve at some accuracies.

  Args:
    at: [A] accuracies.
    of_one: Whether one rationale takes the mass, and not all correct ones.
  """
  toy, gains = toy_of_one() if of_one else (toys.make_toy(), None)
  # Making the toys takes the time, not the methods.
  moved = [at_accuracy(toy, accuracy, gains) for accuracy in at]
  found = {}
  for name, method in METHODS.items():
    points = np.array([measure(method, toy) for toy in moved])
    found[name] = Curve(np.asarray(at), *points.T)
  return found


STYLE: dict[Any, Any] = {
  "font.family": rendering.own_font(),
  "font.size": 10,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e3e3e3",
  "grid.linewidth": 0.7,
  "lines.linewidth": 1.9,
  "lines.markersize": 7,
  "svg.hashsalt": "cot-latent",  # ids are the same each time
}
NOTES = [  # accuracy, variance, text
  (0.075, 7, "baselines: mostly, no\ndraw is correct"),
  (0.022, 0.046, "TRICE: 8 correct sequences\nin its memory"),
  (0.91, 0.165, "no baseline: what is left is\nhow correct sequences differ"),
  (0.65, 0.0011, "control variate or baseline:\nall correct, nothing to weigh"),
]
NOTES_OF_ONE = [
  (
    0.86,
    0.55,
    "one way to the answer:\nwhat is subtracted\nis the larger noise",
  ),
]
TICKS = [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999]


def draw(
  found: Mapping[str, Curve], of_one: Mapping[str, Curve]
) -> matplotlib.figure.Figure:
  """Draws the curves; lines are labelled by their method.

  Args:
    found: Every method's curve if all correct rationales gain.
    of_one: Every method's curve if one rationale gains.
  """
  with matplotlib.rc_context(STYLE):
    figure = matplotlib.figure.Figure(figsize=(15, 6.4), layout="constrained")
    noise, second, scored = figure.subplots(1, 3, width_ratios=[1.45, 1.1, 1])
    for place, name in enumerate(found):
      method = METHODS[name]
      size = f"{method.num_questions} × {method.num_draws}"
      for axes, curve, values in [
        (noise, found[name], found[name].variance),
        (second, of_one[name], of_one[name].variance),
        (scored, found[name], found[name].num_scored),
      ]:
        axes.plot(
          curve.accuracy,
          values,
          color=method.colour,
          linestyle=method.dash,
          marker=method.marker,
          # Where lines overlap, their markers take turns.
          markevery=(place % 8, 8),
          markeredgecolor="white",
          markeredgewidth=0.5,
          label=f"{name} ({size})",
        )
    for axes, title, notes in [
      (noise, "Noise, scaled to one mean: all correct ones gain", NOTES),
      (second, "The same where one rationale gains", NOTES_OF_ONE),
    ]:
      axes.set_yscale("log")
      axes.set_title(title, loc="left", fontsize=11)
      axes.set_ylabel("variance (of one exact posterior score = 1)")
      for x, y, text in notes:
        axes.text(x, y, text, fontsize=9, color="#444444", linespacing=1.3)
    scored.set_title(
      "Sequences differentiated per step", loc="left", fontsize=11
    )
    scored.set_ylim(0, 16)
    scored.set_ylabel("mean number, of 8 sampled")
    for axes, lowest in (
      (noise, LOWEST),
      (second, LOWEST_OF_ONE),
      (scored, LOWEST),
    ):
      axes.set_xscale("logit")
      axes.set_xlim(lowest * 0.9, 1 - (1 - HIGHEST) * 0.9)
      axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(TICKS))
      axes.xaxis.set_major_formatter(
        matplotlib.ticker.FixedFormatter([f"{tick:g}" for tick in TICKS])
      )
      axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
      axes.set_xlabel("accuracy π (log-odds scale)")
    figure.legend(
      *noise.get_legend_handles_labels(),
      loc="outside lower center",
      ncols=3,
      frameon=False,
      title="Method (questions × draws per step: each samples 8 sequences). "
      "Equal questions; TRICE's memories are exact posterior draws.",
      handlelength=3.4,
    )
    return figure


def write(figure: matplotlib.figure.Figure, output: pathlib.Path) -> None:
  """Writes OUTPUT.png and OUTPUT.svg, without date or version."""
  output.parent.mkdir(parents=True, exist_ok=True)
  with matplotlib.rc_context(STYLE):
    for ending, content in rendering.render(figure).items():
      output.with_name(output.name + ending).write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes the plot."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="path of the two files without their endings, as docs/variance",
  )
  output = parser.parse_args(arguments).output
  jax.config.update("jax_enable_x64", True)
  of_one = curves(accuracies(LOWEST_OF_ONE), of_one=True)
  write(draw(curves(accuracies()), of_one), output)


if __name__ == "__main__":
  main()
