"""The variance of TRICE's gradient estimates on the quickstart's own model.

`benchmarks.variance` lists every outcome of a toy. This file follows a real
run. At some of its steps, sequences are drawn and differentiated one by one,
and the real estimators get many minibatches of them. It prints the trace of the
variance of each estimate, and its ratio to that of the basic estimator.

  python -m benchmarks.variance_real --seeds 3 --output variance_real.json

The procedure uses M questions with at least one correct sequence among R that
are drawn from the current model (the bank):

- A minibatch has all M questions. Each memory is one of the question's correct
  sequences in the bank and each draw is any of the R, at random. So the chains
  are at stationarity, and the variance is over the sampling alone.
- A question's scores are centred, because the mean of a score is 0. Otherwise
  the bank's own mean would count as a part of the fitted term.
- An estimate is a weighted sum of scores, so that its squared norm is w' G w
  with the Gram matrix G of the bank's scores: replicates need no gradients.
- The factor of the fitted control variate comes from the first half of the
  replicates, and all variances from the second half.
- Intervals (95%) are bootstrap intervals over questions and over each
question's
  sequences; that of the mean ratio is also over the seeds.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from cot_latent.configuration import parsing
from cot_latent.em.drawing import Drawer
from cot_latent.inference import estimators, rng, transition
from cot_latent.models.language_model import LanguageModel
from cot_latent.reporting.runlog import RunLog
from cot_latent.training import setup, start, train
from cot_latent.training.run import Run

BASIC = estimators.basic()
FITTED = estimators.FittedControlVariate(correct_first_acceptance=True)
ROWS_AT_ONCE = 16
LEVEL = (2.5, 97.5)  # percentiles of an interval


class Bank(NamedTuple):
  """R sequences for each of M questions, and the products of their scores.

  Attributes:
    is_correct: [M, R] bool; every question has a correct one.
    gram: [M R, M R] float64, scalar products of the scores.
    acceptance: Share of correct sequences, among all questions drawn for.
  """

  is_correct: np.ndarray
  gram: np.ndarray
  acceptance: float


class Point(NamedTuple):
  """The measurements at one step of one run.

  Attributes:
    acceptance: Share of correct draws.
    basic: Trace of the variance of the basic estimate.
    paper: Trace of the variance with the paper's control variate.
    fitted: Trace of the variance with the fitted control variate.
    eta: Factor of the fitted control variate.
    score_ratio: The factor before it is clipped to [0, 1]; about v+ / v.
  """

  acceptance: float
  basic: float
  paper: float
  fitted: float
  eta: float
  score_ratio: float


def follow(seed: int, steps: Sequence[int], folder: pathlib.Path):
  """Takes the quickstart's steps.

  Args:
    seed: The run's seed.
    steps: Steps at which to stop, in order.
    folder: Folder for the run's files.

  Yields:
    At each of these steps: the step, the run, and the model's parameters.
  """
  config, record = parsing.parse(
    ["gin/runs/quickstart.gin"],
    [f"SEED = {seed}", f"MODEL_DIR = '{folder}'", "NUM_VOTES = 0"],
    [],
  )
  prepared = train.prepare(config, record)
  built = setup.build_setup(config, folder, prepared.data.task)
  folder.mkdir(parents=True)
  log = RunLog(folder, prepared.header, None, compiled=dict)
  data, state = start.begin(built, prepared.data, log)
  run = Run(built, data, log, None)  # type: ignore[arg-type]  # none is saved
  for step in steps:
    while state.step < step:
      state, _ = run.step(state)
    yield step, run, state.model_params()
  log.close()


def make_bank(
  run: Run, params: Any, seed: int, num_questions: int, num_sequences: int
) -> Bank:
  """Draws sequences and differentiates each of them.

  Args:
    run: Run with the model and the training questions.
    params: Parameters of the model.
    seed: The run's seed.
    num_questions: Number of questions to draw for; those without a correct
      sequence are left out.
    num_sequences: Number R of sequences per question.
  """
  examples = run.data.train
  index = np.arange(num_questions)
  drawer = Drawer(run.model, run.task, examples, run.config.batch_size)
  drawn = drawer.draw_all(
    params,
    np.repeat(index, num_sequences),
    np.tile(np.arange(num_sequences), num_questions),
    rng.purpose_key(seed, "variance_real/bank"),
  )
  is_correct = drawn.is_correct.reshape(num_questions, -1)
  solved = is_correct.any(axis=1)
  rows = np.repeat(solved, num_sequences)
  prompts = np.repeat(examples.prompts[index], num_sequences, axis=0)[rows]
  scores = _scores(run.model, params, prompts, drawn.tokens[rows])
  # A score's mean is 0 in the model, and is made 0 in the bank.
  by_question = scores.reshape(-1, num_sequences, scores.shape[1])
  by_question -= by_question.mean(axis=1, keepdims=True)
  gram = scores @ scores.T
  return Bank(is_correct[solved], gram, float(is_correct.mean()))


def _scores(
  model: LanguageModel, params: Any, prompts: np.ndarray, targets: np.ndarray
) -> np.ndarray:
  """Returns [S, D] float64, the gradient of each sequence's log-probability."""

  @jax.jit
  @jax.vmap
  def score(prompt, target):
    def log_prob(params):
      return model.log_prob(params, prompt[None], target[None]).sum()

    return ravel_pytree(jax.grad(log_prob)(params))[0]

  found = []
  for begin in range(0, len(targets), ROWS_AT_ONCE):
    part = slice(begin, begin + ROWS_AT_ONCE)
    missing = ROWS_AT_ONCE - len(targets[part])
    more = ((0, missing), (0, 0))
    rows = score(np.pad(prompts[part], more), np.pad(targets[part], more))
    found.append(np.asarray(rows)[: ROWS_AT_ONCE - missing].astype(float))
  return np.concatenate(found)


@jax.jit
@jax.vmap
def _weigh(draw_is_correct):
  """Returns weights [3, M, 2] of A, of B and of the basic estimate."""
  num = len(draw_is_correct)
  moved = transition.independence(
    jnp.zeros((num, 1), int),
    jnp.ones(num, bool),
    jnp.zeros((num, 1, 1), int),
    draw_is_correct,
  )
  both = FITTED.terms(moved)
  return jnp.concatenate([both, BASIC(moved)[None]])


def measure(
  bank: Bank, replicates: int, generator: np.random.Generator
) -> Point:
  """Measures the variances of estimates from minibatches of a bank.

  Args:
    bank: The sequences.
    replicates: Number of minibatches.
    generator: Generator that picks from the bank.
  """
  num_questions, size = bank.is_correct.shape
  shape = (replicates, num_questions)
  drawn = generator.integers(size, size=shape)
  # Any of a question's correct sequences, with equal probability.
  place = generator.random((*shape, size)) * bank.is_correct
  old = place.argmax(axis=2)
  verdicts = bank.is_correct[np.arange(num_questions), drawn]
  weights = np.asarray(_weigh(verdicts[..., None]), float)
  memory = np.where(verdicts, drawn, old)
  first = np.arange(num_questions) * size

  def spread(by_place):
    """Returns [replicates, M R], the weights of the bank's sequences."""
    found = np.zeros((replicates, num_questions * size))
    row = np.arange(replicates)[:, None]
    np.add.at(found, (row, first + memory), by_place[..., 0])
    np.add.at(found, (row, first + drawn), by_place[..., 1])
    return found

  kept, subtracted, basic = (spread(weights[:, i]) for i in range(3))
  half = replicates // 2

  def product(one, other):
    return ((one @ bank.gram) * other).sum(axis=1)

  ratio = product(kept[:half], subtracted[:half]).mean() / max(
    product(subtracted[:half], subtracted[:half]).mean(), 1e-30
  )
  eta = min(max(ratio, 0.0), 1.0)

  def variance(rows):
    rows = rows[half:] - rows[half:].mean(axis=0)
    return float(product(rows, rows).sum() / (len(rows) - 1))

  return Point(
    bank.acceptance,
    variance(basic),
    variance(kept - subtracted),
    variance(kept - eta * subtracted),
    float(eta),
    float(ratio),
  )


def resampled(bank: Bank, generator: np.random.Generator) -> Bank:
  """Draws a bank of as many questions and sequences from this one."""
  num_questions, size = bank.is_correct.shape
  questions = generator.integers(num_questions, size=num_questions)
  sequences = generator.integers(size, size=(num_questions, size))
  # A question keeps a correct sequence, because it must have one.
  verdicts = bank.is_correct[questions]
  none = ~np.take_along_axis(verdicts, sequences, axis=1).any(axis=1)
  sequences[none, 0] = verdicts[none].argmax(axis=1)
  flat = (questions[:, None] * size + sequences).ravel()
  return Bank(
    bank.is_correct.ravel()[flat].reshape(num_questions, size),
    bank.gram[np.ix_(flat, flat)],
    bank.acceptance,
  )


def ratios(point: Point) -> np.ndarray:
  """Returns [2], the paper's and the fitted variance over the basic one."""
  least = max(point.basic, 1e-30)
  return np.array([point.paper / least, point.fitted / least])


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
  """Follows every seed's run; returns one row per seed and step."""
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for seed in range(options.seeds):
      place = pathlib.Path(folder) / str(seed)
      for step, run, params in follow(seed, options.steps, place):
        bank = make_bank(
          run, params, seed, options.questions, options.sequences
        )
        generator = np.random.default_rng([seed, step])
        point = measure(bank, options.replicates, generator)
        spread = [
          ratios(
            measure(resampled(bank, generator), options.replicates, generator)
          )
          for _ in range(options.bootstrap)
        ]
        rows.append(
          {
            "seed": seed,
            "step": step,
            "questions": len(bank.is_correct),
            **point._asdict(),
            "bootstrap": np.array(spread).tolist(),
          }
        )
        print(
          json.dumps({k: v for k, v in rows[-1].items() if k != "bootstrap"})
        )
  return rows


def over_seeds(rows: Sequence[dict[str, Any]], which: int) -> str:
  """Returns the geometric mean of a ratio over the seeds, with its interval.

  Args:
    rows: Rows of one step.
    which: 0 is the paper's ratio, 1 the fitted one.
  """
  logs = [np.log(ratios(_point(row))[which]) for row in rows]
  generator = np.random.default_rng(0)
  means = []
  for _ in range(2000):
    chosen = generator.integers(len(rows), size=len(rows))
    means.append(
      np.mean(
        [
          np.log(generator.choice(np.array(rows[i]["bootstrap"])[:, which]))
          for i in chosen
        ]
      )
    )
  low, high = np.exp(np.percentile(means, LEVEL))
  return f"{np.exp(np.mean(logs)):.3g} [{low:.3g}, {high:.3g}]"


def _point(row: dict[str, Any]) -> Point:
  return Point(**{name: row[name] for name in Point._fields})


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Makes the table of EXPERIMENTS.md: a row per step, means over the seeds."""
  lines = [
    "| step | acceptance | v+/v | eta | paper / basic | fitted / basic |",
    "|---|---|---|---|---|---|",
  ]
  for step in sorted({row["step"] for row in rows}):
    own = [row for row in rows if row["step"] == step]
    mean = {
      name: np.mean([row[name] for row in own])
      for name in ("acceptance", "score_ratio", "eta")
    }
    lines.append(
      f"| {step} | {mean['acceptance']:.2f} | {mean['score_ratio']:.2f} | "
      f"{mean['eta']:.2f} | {over_seeds(own, 0)} | {over_seeds(own, 1)} |"
    )
  return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=3, help="0 to SEEDS - 1")
  parser.add_argument(
    "--steps", type=int, nargs="+", default=[0, 5, 20, 60], help="of the run"
  )
  parser.add_argument("--questions", type=int, default=32)
  parser.add_argument("--sequences", type=int, default=32, help="a question")
  parser.add_argument("--replicates", type=int, default=4000)
  parser.add_argument("--bootstrap", type=int, default=100)
  parser.add_argument("--output", type=pathlib.Path, help="all of it, as JSON")
  options = parser.parse_args(arguments)
  rows = run_all(options)
  print(table(rows))
  if options.output:
    options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
  main()
