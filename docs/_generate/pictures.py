"""Draws the pictures of docs/method.md and of a tutorial.

    python -m docs._generate.pictures

Needs matplotlib. The files are the same each time.
"""

import contextlib
import io
import pathlib
import re

import matplotlib

matplotlib.use("svg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from cot_latent.inference import estimators, transition

DOCS = pathlib.Path(__file__).resolve().parents[1]
GOOD, BAD, INK, QUIET = "#1b7f4d", "#b3382c", "#222222", "#8a8f98"
STYLE = {
  "font.family": "sans-serif",
  "font.size": 11,
  "svg.fonttype": "none",
  "svg.hashsalt": "cot-latent",
  "axes.spines.top": False,
  "axes.spines.right": False,
}


def main() -> None:
  """Draws all pictures."""
  with plt.rc_context(STYLE):
    for draw in (chain, memory, weights, ascends, toy_gradient):
      figure = draw()
      path = DOCS / "pictures" / f"{draw.__name__}.svg"
      figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
      plt.close(figure)


def _blank(width: float, height: float):
  """A figure without axes, whose units are about a character."""
  figure, axes = plt.subplots(figsize=(width, height))
  axes.set_axis_off()
  return figure, axes


def _box(axes, x, y, text, colour=INK, width=0.86, fill="white"):
  axes.add_patch(
    FancyBboxPatch(
      (x - width / 2, y - 0.26),
      width,
      0.52,
      boxstyle="round,pad=0,rounding_size=0.1",
      edgecolor=colour,
      facecolor=fill,
      linewidth=1.4,
    )
  )
  axes.text(x, y, text, ha="center", va="center", color=colour)


def _arrow(axes, start, end, colour=INK):
  axes.add_patch(
    FancyArrowPatch(
      start, end, arrowstyle="-|>", mutation_scale=12, color=colour
    )
  )


def chain():
  """A question's memory over ten steps."""
  correct = [False, True, False, False, True, False, True, True, False, True]
  figure, axes = _blank(9.5, 2.4)
  held = 0
  _box(axes, 0, 0, "$z_0$", GOOD)
  for step, is_correct in enumerate(correct, 1):
    colour = GOOD if is_correct else BAD
    _box(axes, step, 1.3, f"$z_{{{step}}}$", colour)
    axes.text(
      step,
      1.75,
      "correct" if is_correct else "incorrect",
      ha="center",
      color=colour,
      size=8,
    )
    if is_correct:
      held = step
      _arrow(axes, (step, 1.02), (step, 0.3), GOOD)
    else:
      axes.plot([step], [0.68], "x", color=BAD, markersize=7)
    _arrow(axes, (step - 0.56, 0), (step - 0.44, 0), QUIET)
    _box(axes, step, 0, f"$z_{{{held}}}$", GOOD)
  axes.text(-0.65, 1.3, "fresh draw", ha="right", va="center")
  axes.text(-0.65, 0, "memory", ha="right", va="center")
  axes.text(0, -0.6, "start", ha="center", color=QUIET, size=9)
  axes.text(5.5, -0.6, "steps 1 to 10", ha="center", color=QUIET, size=9)
  axes.set_xlim(-2.2, 10.6)
  axes.set_ylim(-0.8, 2)
  return figure


def memory():
  """Where the first memory comes from."""
  figure, axes = _blank(9.5, 2.6)
  rows = (
    (
      "guide",
      "Question …  The answer is 7. Let's think",
      "mostly correct; some restate the hint",
    ),
    ("prior", "Question …  Let's think", "correct with probability π"),
    ("empty", "", "no rationale until a draw is accepted"),
  )
  for number, (name, prompt, what) in enumerate(rows):
    y = 2 - number
    axes.text(-0.1, y, f"'{name}'", ha="right", va="center", weight="bold")
    if prompt:
      _box(axes, 2.6, y, prompt, INK, width=5.0)
      _arrow(axes, (5.15, y), (5.75, y))
    _box(axes, 6.3, y, "$z_0$" if prompt else "–", GOOD if prompt else QUIET)
    axes.text(6.9, y, what, va="center", size=10)
  axes.set_xlim(-0.9, 10.6)
  axes.set_ylim(-0.5, 2.5)
  return figure


def weights():
  """The control variate's weights for four questions, by the real estimator."""
  old = np.array([True, True, True, False])
  drawn = np.array([[True], [False], [True], [False]])
  tokens = np.zeros((4, 1), int)
  moved = transition.independence(tokens, old, tokens[:, None], drawn)
  found = estimators.merge_accepted(moved, estimators.control_variate()(moved))
  figure, axes = plt.subplots(figsize=(7.5, 2.8))
  labels = (
    "draw accepted",
    "draw incorrect",
    "draw accepted",
    "nothing correct yet",
  )
  place = np.arange(4)
  axes.bar(place - 0.18, found[:, 0], 0.34, color=GOOD, label="memory")
  axes.bar(place + 0.18, found[:, 1], 0.34, color=BAD, label="fresh draw")
  for x, row in zip(place, np.asarray(found), strict=True):
    for shift, value in zip((-0.18, 0.18), row, strict=True):
      axes.text(
        x + shift,
        value + 0.015 if value >= 0 else value - 0.05,
        f"{value:+.2f}" if value else "0",
        ha="center",
        size=9,
      )
  axes.axhline(0, color=INK, linewidth=0.8)
  axes.set_xticks(
    place, [f"question {i + 1}\n{t}" for i, t in enumerate(labels)]
  )
  axes.tick_params(axis="x", length=0)
  axes.spines["bottom"].set_visible(False)
  axes.set_ylabel("weight")
  axes.set_ylim(-0.42, 0.48)
  axes.legend(frameon=False, ncols=2, loc="upper right")
  return figure


def ascends():
  """Each method's weight on the gradient of log pi."""
  figure, axes = plt.subplots(figsize=(7.5, 3.4))
  pi, draws = np.linspace(1e-3, 1 - 1e-3, 400), 4
  right = np.arange(1, draws)
  spread = np.sqrt(right / draws * (1 - right / draws))
  ways = np.array([np.prod(range(draws - r + 1, draws + 1)) for r in right])
  ways = ways / np.array([np.prod(range(1, r + 1)) for r in right])
  chance = ways * pi[:, None] ** right * (1 - pi[:, None]) ** (draws - right)
  curves = {
    "TRICE": np.ones_like(pi),
    f"rejection sampling, K = {draws}": 1 - (1 - pi) ** draws,
    f"MaxRL, K = {draws}": 1 - (1 - pi) ** (draws - 1),
    "RLOO": pi,
    f"GRPO, K = {draws}": (chance * spread).sum(axis=1) / (1 - pi),
  }
  colours = (GOOD, "#2f6db3", "#7a4fb5", BAD, "#b07a1e")
  for (name, weight), colour in zip(curves.items(), colours, strict=True):
    axes.plot(pi, weight, color=colour, label=name, linewidth=1.8)
  axes.set_xlabel("π, the probability that a draw is correct")
  axes.set_ylabel("weight on ∇ log π")
  axes.set_xlim(0, 1)
  axes.set_ylim(0, 1.6)
  axes.legend(frameon=False, loc="upper left", ncols=2, fontsize=9)
  return figure


def toy_gradient():
  """The tutorial's own numbers: TRICE's mean gradient beside the exact one."""
  page = (DOCS / "tutorials/trice_on_a_page.md").read_text()
  blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
  scope: dict = {"__name__": "page"}
  for block in blocks:
    with contextlib.redirect_stdout(io.StringIO()):
      exec(compile(block, "trice_on_a_page.md", "exec"), scope)
    if "estimates(" in block:
      break
  exact, found = scope["exact"], scope["found"]
  error = 3 * found.std(axis=0) / np.sqrt(len(found))
  figure, axes = plt.subplots(figsize=(4.6, 4.2))
  reach = [exact.min() - 0.02, exact.max() + 0.02]
  axes.plot(reach, reach, color=QUIET, linewidth=1)
  axes.errorbar(
    exact,
    found.mean(axis=0),
    error,
    fmt="o",
    color=GOOD,
    markersize=4,
    linewidth=1,
  )
  axes.set_xlabel("exact gradient, 36 numbers")
  axes.set_ylabel("mean of TRICE's estimates ± 3 standard errors")
  return figure


if __name__ == "__main__":
  main()
