"""Where T5X's train.py is run by itself, a mistake is one line as well."""

import sys

import pytest

from cot_latent.errors import RunError, UserError
from cot_latent.t5x import one_line
from tests.t5x import runs


def test_a_mistake_is_one_line_of_t5x_train(tmp_path):
  done = runs.run(tmp_path / "run", "--gin.DROPOUT_RATE=0.1")
  assert done.returncode != 0
  said = [x for x in done.stderr.splitlines() if x.startswith("t5x: error: ")]
  assert len(said) == 1
  assert "DROPOUT_RATE = 0.1" in said[0]
  assert "Traceback" not in done.stderr


@pytest.fixture
def hook(monkeypatch):
  """What was shown as before."""
  shown = []
  monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
  one_line.install()
  one_line.install()  # the second time there is nothing to do
  return shown


@pytest.mark.parametrize("kind", [UserError, RunError])
def test_our_errors_lose_what_gin_appends(kind, hook, capsys):
  error = kind("set SEED\n  In call to configurable 'Latent'")
  sys.excepthook(kind, error, None)
  assert capsys.readouterr().err == "t5x: error: set SEED\n"
  assert not hook


def test_others_are_shown_as_before(hook, capsys):
  error = ValueError("of somebody else")
  sys.excepthook(ValueError, error, None)
  assert hook == [(ValueError, error, None)]
  assert not capsys.readouterr().err
