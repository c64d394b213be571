"""A model moves from T5X to the embedded trainer and back."""

import jax
import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.models import language_model
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import weights as hf_weights
from cot_latent.t5x import weights
from tests.t5x import folders, small

SIZES, VOCABULARY = small.SIZES, 259


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A folder of Hugging Face's form, of the sizes of the small T5."""
  folder = tmp_path_factory.mktemp("source")
  folders.write(folder, SIZES, VOCABULARY)
  return folder


def scores_by_t5x(params, prompts, targets):
  model = small.encoder_decoder()
  batch = small.widths(model).convert(prompts, targets, np.ones(len(prompts)))
  return np.asarray(model.score_batch(params, batch))


def scores_by_folder(folder, prompts, targets):
  config = hf_config.read_config(folder)
  params = hf_weights.load(folder, config, VOCABULARY)
  model = language_model.from_config(config, VOCABULARY, 1, 8)
  return np.asarray(model.log_prob(params, prompts, targets)).sum(axis=1)


def check_same(params, folder):
  rng = np.random.default_rng(2)
  prompts = rng.integers(3, VOCABULARY, (4, 16)).astype(np.int32)
  targets = rng.integers(3, VOCABULARY, (4, 8)).astype(np.int32)
  np.testing.assert_allclose(
    scores_by_t5x(params, prompts, targets),
    scores_by_folder(folder, prompts, targets),
    rtol=1e-5,
  )


def test_there_and_back(source, tmp_path):
  path = weights.from_folder(str(source), str(tmp_path / "t5x"))
  stored = weights.read(path)
  assert stored.step == 0
  check_same(stored.params, source)
  again = tmp_path / "again"
  assert weights.to_folder(path, str(source), str(again)) == 0
  check_same(stored.params, again)
  one, other = (
    hf_weights.load(folder, hf_config.read_config(folder), VOCABULARY)
    for folder in (source, again)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)
  # Another model's parameters are noticed.
  twin = jax.tree.map(lambda leaf: leaf * 1.01, stored.params)
  with pytest.raises(AssertionError):
    check_same(twin, again)
  assert weights.to_t5x(SIZES, one).keys() == stored.params.keys()


def test_mistakes_are_one_line(source, tmp_path, capsys):
  weights.from_folder(str(source), str(tmp_path))
  with pytest.raises(UserError, match="checkpoint_0 exists"):
    weights.from_folder(str(source), str(tmp_path))
  assert weights.main(["from_folder", str(tmp_path), str(tmp_path / "x")]) == 2
  assert capsys.readouterr().err.count("\n") == 1
