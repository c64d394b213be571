"""A step's numbers go into the journal once each, under today's names."""

import numpy as np

from cot_latent.em import step_info
from cot_latent.em.step_info import StepInfo, UpdateInfo, Visits
from cot_latent.reporting import metric_names

INFO = StepInfo(0.5, 0.75, 2.0, 0.1, 0.2, 7, 5, 0.4, 8, 99, "abc", 1.0, 2.0)
UPDATE = UpdateInfo(1e-3, True, 3.0, None, 0.0, 4.0, 5.0)


def test_a_row_of_the_journal():
  assert step_info.metrics(INFO, UPDATE) == {
    "chain/accept_rate": 0.5,
    "memory/correct_fraction": 0.75,
    "memory/age": 2.0,
    "draws/capped_fraction": 0.1,
    "draws/unparseable_fraction": 0.2,
    "estimator/num_weighted": 7,
    "estimator/num_valid": 5,
    "estimator/scale": 0.4,
    "estimator/is_skipped": 0,
    "num_sampled": 8,
    "num_tokens": 99,
    "num_scored": 7,
    "choices": "abc",
    "time/sampling": 1.0,
    "time/checking": 2.0,
    "time/gradient": 4.0,
    "time/rest": 5.0,
    "grad/is_finite": 1,
    "grad/norm": 3.0,
    "grad/loss": None,
    "sampler/log_prob_gap": 0.0,
    "optimizer/learning_rate": 1e-3,
  }


def test_an_estimator_without_a_scale_reports_none():
  row = step_info.metrics(INFO._replace(scale=None), UPDATE)
  assert "estimator/scale" not in row


def test_the_visits_of_questions_have_the_memories_log_probabilities():
  nan = np.nan
  visits = Visits(
    np.array([4, 2, 7]),
    2,
    np.array([1, 0, 0]),
    np.array([True, True, False]),
    np.array([-1.00004, nan, nan]),
  )
  # The second row is no memory; the third is that of question 2.
  scored = visits.scored(np.array([-1, 1]), np.array([-9.0, -2.5]))
  row = step_info.metrics(INFO._replace(visits=scored), UPDATE)["visits"]
  assert row == {
    "question": [4, 2, 7],
    "num_draws": 2,
    "num_correct": [1, 0, 0],
    "is_correct": [True, True, False],
    "log_prob": [-1.0, -2.5, None],
  }


def test_a_step_without_a_correct_rationale_is_skipped():
  row = step_info.metrics(INFO._replace(num_valid=0), UPDATE)
  assert row["estimator/is_skipped"] == 1


def test_tensorboard_has_the_numbers_that_there_are():
  shown = metric_names.scalars(step_info.metrics(INFO, UPDATE))
  assert "grad/loss" not in shown  # None
  assert not {"choices", "num_sampled", "num_tokens", "num_scored"} & set(shown)
  assert len(shown) == 17
  assert all(isinstance(value, int | float) for value in shown.values())
