"""The chain task improves inside T5X as it does in the embedded trainer."""

import json

import pytest

from cot_latent.models import t5
from cot_latent.t5x import weights
from tests.t5x import folders, runs

pytestmark = pytest.mark.slow

# A base model of 800 steps has not learnt the sums, and nothing improves it.
BASE_STEPS, STEPS = 1500, 40
# Of gin/t5x/chain_model.gin.
SIZES = t5.T5Config(
  num_encoder_layers=2,
  num_decoder_layers=2,
  embed_dim=64,
  num_heads=4,
  head_dim=16,
  mlp_dim=128,
)
VOCABULARY = 264
RISE = 0.2
PERIODS = (f"--gin.EVAL_PERIOD={STEPS}", f"--gin.CHECKPOINT_PERIOD={STEPS}")


def train_base(directory, kind="chain"):
  # Killed at its last checkpoint: `python -m t5x.train` ends up to a minute
  # after it.
  runs.run_until(
    directory,
    BASE_STEPS,
    f"--gin.TRAIN_STEPS={BASE_STEPS}",
    gin_file=f"gin/t5x/{kind}_base.gin",
  )
  return directory / f"checkpoint_{BASE_STEPS}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return train_base(tmp_path_factory.mktemp("base") / "run")


def rise_in_t5x(directory, base, *flags, kind="chain"):
  """Accuracies before and after."""
  runs.run_well(
    directory,
    f"--gin.INITIAL_CHECKPOINT_PATH='{base}'",
    f"--gin.TRAIN_STEPS={BASE_STEPS + STEPS}",
    *(*PERIODS, *flags),
    gin_file=f"gin/t5x/trice_{kind}.gin",
  )
  lines = directory / "inference_eval" / "chain_v1-metrics.jsonl"
  first, last = map(json.loads, lines.read_text().splitlines())
  assert (first["step"], last["step"]) == (BASE_STEPS, BASE_STEPS + STEPS)
  return first["accuracy"], last["accuracy"]


def test_it_improves(base, tmp_path):
  before, after = rise_in_t5x(tmp_path / "run", base)
  assert after > before + RISE


def test_a_twin_that_learns_nothing_does_not_improve(base, tmp_path):
  before, after = rise_in_t5x(tmp_path / "run", base, "--gin.LEARNING_RATE=0.0")
  assert after == before


def test_it_improves_in_the_embedded_trainer(base, tmp_path):
  source, folder = tmp_path / "source", tmp_path / "folder"
  source.mkdir()
  folders.write(source, SIZES, VOCABULARY, tokenizer_class="ByT5Tokenizer")
  weights.to_folder(str(base), str(source), str(folder))
  runs.run_well(
    tmp_path / "run",
    f"--gin.CHECKPOINT='{folder}'",
    f"--gin.TRAIN_STEPS={STEPS}",
    *PERIODS,
    gin_file="tests/t5x/chain_embedded.gin",
    by_t5x=False,
  )
  report = json.loads((tmp_path / "run" / "report.json").read_text())
  before, after = (part["accuracy"] for part in report["results"])
  assert after > before + RISE


def test_a_decoder_only_model_improves(tmp_path):
  base = train_base(tmp_path / "base", "chain_decoder")
  before, after = rise_in_t5x(tmp_path / "run", base, kind="chain_decoder")
  assert after > before + RISE
