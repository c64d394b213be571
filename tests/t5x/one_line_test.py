"""Where T5X's train.py is run by itself, a mistake is one line as well."""

import sys

import pytest

import cot_latent
from cot_latent.errors import RunError, UserError
from cot_latent.t5x import one_line
from tests.t5x import runs


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--gin.DROPOUT_RATE=0.1", "DROPOUT_RATE = 0.1"),
    ("--gin.TRAIN_STEP=9", "did you mean TRAIN_STEPS?"),
    ("--gin.latent.Latent.sed=3", "no parameter sed"),  # which gin refuses
  ],
)
def test_a_mistake_is_one_line_of_t5x_train(flag, message, tmp_path):
  done = runs.run(tmp_path / "run", flag)
  assert done.returncode == 2
  said = [x for x in done.stderr.splitlines() if x.startswith("t5x: error: ")]
  assert len(said) == 1
  assert message in said[0]
  assert "Traceback" not in done.stderr


def test_files_are_found_from_another_folder(tmp_path):
  (package,) = cot_latent.__path__
  done = runs.run(
    tmp_path / "run",
    f"--gin_search_paths={package},{package}/..",  # as docs/t5x.md has it
    "--gin.INITIAL_CHECKPOINT_PATH='/nowhere'",
    gin_file="gin/t5x/trice_chain.gin",
    cwd=tmp_path,
  )
  assert done.returncode == 2
  assert "'/nowhere' does not exist" in done.stderr


def test_devices_that_do_not_divide_the_heads_are_one_line(tmp_path):
  done = runs.run(tmp_path / "run", num_devices=8, by_t5x=False)
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  last = done.stderr.splitlines()[-1]
  assert last.startswith(
    "t5x: error: an array's axis of 2 cannot be sharded into 8 parts"
  )


def test_chips_that_t5x_does_not_know_are_one_line():
  error = ValueError(
    "No default mesh for this configuration: specify X. \nPlatform: tpu\n"
    "Device kind: TPU v6 lite\nNum partitions: 4\n"
  )
  expected = (
    "T5X cannot place NUM_PARTITIONS on TPU v6 lite: set NUM_PARTITIONS = None "
    "and MODEL_PARALLEL_SUBMESH to the chips"
  )
  with pytest.raises(UserError, match=expected):
    one_line.explain(error)


@pytest.fixture
def hook(monkeypatch):
  """What was shown as before."""
  shown = []
  monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
  one_line.install()
  one_line.install()  # the second time there is nothing to do
  return shown


@pytest.mark.parametrize(("kind", "status"), [(UserError, 2), (RunError, 1)])
def test_our_errors_lose_what_gin_appends(kind, status, hook, capsys):
  error = kind("set SEED\n  In call to configurable 'Latent'")
  with pytest.raises(SystemExit) as ended:
    sys.excepthook(kind, error, None)
  assert ended.value.code == status
  assert capsys.readouterr().err == "t5x: error: set SEED\n"
  assert not hook


def test_others_are_shown_as_before(hook, capsys):
  error = ValueError("of somebody else")
  sys.excepthook(ValueError, error, None)
  assert hook == [(ValueError, error, None)]
  assert not capsys.readouterr().err
