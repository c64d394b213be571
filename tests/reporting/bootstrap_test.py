"""Intervals contain the truth as often as they say, questions' error too."""

import numpy as np
import pytest

from cot_latent.reporting import bootstrap, comparison, objective
from cot_latent.reporting.bootstrap import Stratum

NUM_TRIALS, NUM_SEEDS, NUM_QUESTIONS, NUM_VOTES = 150, 5, 60, 20


def test_votes_of_a_question_stay_together():
  """Each question is all right or all wrong: votes add nothing."""
  votes = [0] * 50 + [NUM_VOTES] * 50
  found = objective.summarise(votes, NUM_VOTES)["pass_at"]["1"]
  low, high = found["interval"]
  assert found["value"] == 0.5
  # Of 100 questions; of 2,000 independent votes it would be 0.478 to 0.522.
  assert (low, high) == pytest.approx((0.402, 0.598), abs=0.011)


def test_equal_questions_give_zero_width():
  found = objective.summarise([NUM_VOTES] * 9, NUM_VOTES)
  assert found["log_likelihood"] == {"value": 0.0, "interval": [0.0, 0.0]}


def trials(hard_share=0.5, spread=0.15):
  """Verdicts of seeds on the same questions, which are easy or hard."""
  rng = np.random.default_rng(0)
  for _ in range(NUM_TRIALS):
    is_hard = rng.random(NUM_QUESTIONS) < hard_share
    pi = np.where(is_hard, 0.1, 0.9) + rng.normal(0, spread, (NUM_SEEDS, 1))
    yield (rng.random((NUM_SEEDS, NUM_QUESTIONS)) < pi).astype(float)


def check_coverage(interval, truth=0.5):
  hits = 0
  for values in trials():
    low, high = interval(values)
    hits += low <= truth <= high
  # 95% is 142.5 of 150, with a standard deviation of 2.7; a little more is
  # fine, for deviations of single answers count twice.
  assert 134 <= hits <= NUM_TRIALS


def crossed(values):
  return bootstrap.over_seeds_and_questions([Stratum(1.0, values)])


def over_seeds(values):
  found = comparison.estimate(values.mean(axis=1).tolist())
  return found.low, found.high


def apart(values):
  """Takes each seed's questions for others."""
  rng = np.random.default_rng(1)
  means = [
    np.mean([rng.choice(row, row.size) for row in values]) for _ in range(200)
  ]
  return tuple(np.quantile(means, [0.025, 0.975]))


def test_the_interval_contains_the_truth(monkeypatch):
  monkeypatch.setattr(bootstrap, "NUM_REPLICATES", 1000)
  bootstrap._weights.cache_clear()
  check_coverage(crossed)
  bootstrap._weights.cache_clear()


@pytest.mark.parametrize("broken", [over_seeds, apart])
def test_intervals_without_the_questions_error_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_coverage(broken)


def test_without_the_questions_error_it_is_about_students():
  """All questions are alike, and seeds differ."""
  rates = np.array([0.2, 0.3, 0.5, 0.6])
  values = np.repeat(rates[:, None], 10, axis=1)
  low, high = crossed(values)
  student = comparison.estimate(rates.tolist())
  half = (student.high - student.low) / 2
  assert (high - low) / 2 == pytest.approx(half, rel=0.2)


def test_strata_are_weighted_means():
  one, other = np.eye(2)[:, :1] * 0 + 1, np.zeros((2, 3))
  strata = [Stratum(0.25, one), Stratum(0.75, other)]
  assert bootstrap.over_seeds_and_questions(strata) == (0.25, 0.25)


def test_one_seed_has_the_questions_error_alone():
  values = np.array([[1.0] * 50 + [0.0] * 50])
  assert crossed(values) == pytest.approx((0.4, 0.6), abs=0.01)
