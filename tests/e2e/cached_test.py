"""A task stored with `t5x cache` trains without TensorFlow, to the same end."""

import json
import subprocess
import sys

import pytest

from cot_latent import cli
from cot_latent.reporting import record
from cot_latent.training import run
from tests import processes
from tests.training.kills import Killed

pytestmark = pytest.mark.usefixtures("compile_once", "read_once")

SMALL = [
  "--gin_file=gin/runs/quickstart.gin",
  "--gin.BASE_STEPS=60",
  "--gin.TRAIN_STEPS=3",
  "--gin.BATCH_SIZE=8",
  "--gin.EVAL_PERIOD=3",
  "--gin.NUM_VOTES=2",
  "--gin.TRAIN_SPLIT='train[:100]'",
]
HEAVY = ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text")
AFTERWARDS = f"""
import sys
from cot_latent import cli
status = cli.main(sys.argv[1:])
print("loaded:", *(name for name in {HEAVY} if sys.modules.get(name)))
sys.exit(status)
"""
# As on a machine that has none of them.
WITHOUT = f"""
import importlib.util
import sys
find_spec = importlib.util.find_spec
def without(name, package=None):
  return None if name.split(".")[0] in {HEAVY} else find_spec(name, package)
importlib.util.find_spec = without
sys.modules.update(dict.fromkeys({HEAVY}))
"""


def train(program, *arguments):
  """Runs `t5x train` in a process of its own; gives what is loaded then."""
  done = subprocess.run(
    [sys.executable, "-c", program, "train", *arguments],
    capture_output=True,
    text=True,
    timeout=processes.LIMIT,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  (line,) = [x for x in done.stdout.splitlines() if x.startswith("loaded:")]
  return line.split()[1:]


def read_report(directory):
  report = record.read_whole(directory)
  assert report["status"] in record.FINISHED
  return report


@pytest.fixture(scope="module")
def through_seqio(tmp_path_factory):
  """A run whose data come from SeqIO, in this process: its folder."""
  directory = tmp_path_factory.mktemp("runs") / "seqio"
  assert cli.main(["train", *SMALL, f"--gin.MODEL_DIR='{directory}'"]) == 0
  # Where they are loaded, they are found.
  assert all(sys.modules.get(name) for name in HEAVY)
  return directory


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  path = tmp_path_factory.mktemp("cache") / "chain.npz"
  assert cli.main(["cache", "--task=chain", f"--output={path}"]) == 0
  return path


def assert_same_numbers(one, other):
  """Checks that two reports agree in all that was measured, to the bit."""
  for section in ("results", "samples", "data", "plan"):
    assert one[section] == other[section]
  for mine, others in zip(one["metrics"], other["metrics"], strict=True):
    assert mine.keys() == others.keys()
    for key in mine:
      assert key.startswith("time/") or mine[key] == others[key]


@pytest.mark.parametrize(
  "before",
  [
    pytest.param("", id="installed", marks=pytest.mark.slow),
    pytest.param(WITHOUT, id="lacking", marks=pytest.mark.slow),
  ],
)
def test_a_cache_trains_without_tensorflow(
  through_seqio, cache, tmp_path, before
):
  directory = tmp_path / "run"
  flags = [f"--gin.CACHE='{cache}'", f"--gin.MODEL_DIR='{directory}'"]
  assert train(before + AFTERWARDS, *SMALL, *flags) == []
  one, other = read_report(through_seqio), read_report(directory)
  assert one["identity"]["run_id"] == other["identity"]["run_id"]
  assert_same_numbers(one, other)
  assert len(one["metrics"]) == 3
  # TensorBoard's file still exists.
  assert list((directory / "tensorboard").glob("events*"))
  assert not any(
    (directory / "outputs" / path.name).read_bytes() != path.read_bytes()
    for path in (through_seqio / "outputs").iterdir()
  )


def test_a_cached_run_s_outputs_are_scored_again(through_seqio, cache, capsys):
  report = read_report(through_seqio)
  for row in report["results"]:
    name = f"{row['step']:06}-test-{row['decoder']}.jsonl"
    path = through_seqio / "outputs" / name
    for flags in ([], [f"--gin.CACHE='{cache}'"]):
      assert cli.main(["score", str(path), "--task=chain", *flags]) == 0
      assert json.loads(capsys.readouterr().out) == {
        "correct": row["correct"],
        "total": row["total"],
        "accuracy": row["accuracy"],
        "unparseable": row["num_unparseable"],
      }
  # Some were correct, some cut, some neither: the numbers say something.
  assert any(row["correct"] for row in report["results"])
  assert any(row["num_cut"] for row in report["results"])


def test_a_run_may_resume_from_a_cache(
  through_seqio, cache, tmp_path, monkeypatch, capsys
):
  folder = f"--gin.MODEL_DIR='{tmp_path / 'run'}'"
  begun = ["train", *SMALL, folder, "--gin.CHECKPOINT_PERIOD=1"]
  step = run.Run.step

  def dies(self, state):
    if state.step == 2:
      raise Killed
    return step(self, state)

  with monkeypatch.context() as patch:
    patch.setattr(run.Run, "step", dies)
    with pytest.raises(Killed):
      cli.main(begun)
  again = [*begun, f"--gin.CACHE='{cache}'"]
  assert cli.main(again) == 0
  report = read_report(tmp_path / "run")
  assert [row["step"] for row in report["continuity"]["resumes"]] == [2]
  assert report["digest"] == read_report(through_seqio)["digest"]
  capsys.readouterr()
  assert cli.main(again) == 0
  assert "is complete already, so nothing is run" in capsys.readouterr().out
