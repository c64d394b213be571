"""Runs with a fitted control variate: what eta is made of, and where it is."""

import dataclasses
import itertools

import pytest

from cot_latent.em.method import Method, OuterLoops
from cot_latent.errors import UserError
from cot_latent.inference import estimators, fitting
from cot_latent.training import start
from cot_latent.training.run import Run
from tests.training import toy
from tests.training.kills import (
  assert_same_run,
  last_state,
  run_or_be_killed,
)

pytestmark = pytest.mark.usefixtures("compile_once")
PERIOD = 2
ESTIMATOR = estimators.control_variate(
  correct_first_acceptance=True, scale="fitted", fit_period=PERIOD
)
METHOD = Method("trice_fitted", ESTIMATOR, num_draws=2, num_scored=9)


def make(folder):
  return toy.make_experiment(folder, method=METHOD)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing disturbs, and what each step measured."""
  config = make(tmp_path_factory.mktemp("fitted") / "run")
  fits = [fitting.begin()]
  step = Run.step

  def watched(self, state):
    state, metrics = step(self, state)
    fits.append(state.fit)
    return state, metrics

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Run, "step", watched)
    return config, toy.run(config), fits


def test_eta_is_that_of_earlier_steps(whole):
  _, report, fits = whole
  rows = report["metrics"]
  assert [row["estimator/eta"] for row in rows] == [
    fit.eta() for fit in fits[:-1]
  ]
  for row, fit in zip(rows, fits[1:], strict=True):
    assert row["estimator/score_ratio"] == fit.score_ratio()
    assert row["estimator/paper_ratio"] == fit.paper_ratio()
  assert rows[0]["estimator/eta"] == 0
  assert len({row["estimator/eta"] for row in rows}) > 2


def test_it_is_fitted_every_second_step(whole):
  _, _, fits = whole
  moved = [one != other for one, other in itertools.pairwise(fits)]
  assert moved == [step % PERIOD == 0 for step in range(len(moved))]


def test_no_more_is_differentiated_than_is_allowed(whole):
  config, report, _ = whole
  limit = config.method.num_scored
  assert max(row["num_scored"] for row in report["metrics"]) <= limit


def test_the_report_sums_it_up(whole):
  _, report, fits = whole
  live = report["diagnostics"]
  assert live["eta"]["last"] == fits[-2].eta()
  assert live["score_ratio"]["last"] == fits[-1].score_ratio()
  assert live["paper_ratio"]["last"] == fits[-1].paper_ratio()


@pytest.mark.parametrize("place", [("after_e_step", 4), ("after_save", 2)])
def test_a_killed_run_resumes_with_what_it_knew(whole, place, tmp_path):
  config, report, _ = whole
  resumed = dataclasses.replace(config, model_dir=str(tmp_path / "run"))
  assert run_or_be_killed(resumed, place) is None
  assert_same_run((resumed, toy.run(resumed)), (config, report))
  assert last_state(resumed).fit.eta() == whole[2][-1].eta()


def test_a_run_that_forgets_its_fit_would_be_seen(whole, tmp_path):
  config, report, _ = whole
  forgetful = dataclasses.replace(config, model_dir=str(tmp_path / "run"))
  assert run_or_be_killed(forgetful, ("after_e_step", 4)) is None
  resume = start.resume

  def forget(*arguments):
    data, state = resume(*arguments)
    return data, state._replace(fit=fitting.begin())

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(start, "resume", forget)
    with pytest.raises(AssertionError):
      assert_same_run((forgetful, toy.run(forgetful)), (config, report))


def test_a_method_without_it_reports_none_of_it(tmp_path):
  report = toy.run(toy.make_experiment(tmp_path / "run", steps=1))
  assert (
    not {"eta", "score_ratio", "paper_ratio"} & report["diagnostics"].keys()
  )
  assert "estimator/eta" not in report["metrics"][0]


def test_outer_loops_have_nothing_to_fit_to():
  loops = OuterLoops("sample", first_steps=3)
  with pytest.raises(UserError, match="set loops = None"):
    Method("x", ESTIMATOR, "empty", loops=loops)


def test_a_scale_or_a_period_that_does_not_exist():
  with pytest.raises(ValueError, match="'paper' or 'fitted', not 'best'"):
    estimators.control_variate(scale="best")
  with pytest.raises(ValueError, match="1 or more, not 0"):
    estimators.control_variate(scale="fitted", fit_period=0)
  with pytest.raises(ValueError, match="no effect with scale = 'paper'"):
    estimators.control_variate(fit_period=2)
