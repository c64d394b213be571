"""Checkpoints of T5X's are read in both forms."""

import jax
import numpy as np
import pytest
from t5x import checkpoints as theirs

from cot_latent.errors import UserError
from cot_latent.t5x import weights
from tests.t5x import small


@pytest.fixture(scope="module")
def trained():
  """A train state with its partitioner, and its parameters."""
  with pytest.MonkeyPatch.context() as patch:
    model = small.encoder_decoder(small.sgd())
    made = small.make_latent(model, patch)
    with small.make_trainer(model, made) as trainer:
      state = trainer.train_state
      yield (
        state,
        trainer._partitioner,
        weights.plain(small.host(state.params)),
      )


def save_native(state, partitioner, folder):
  theirs.Checkpointer(state, partitioner, str(folder)).save(state)


def save_orbax(state, partitioner, folder):
  manager = theirs.OrbaxCheckpointManagerInterface(
    str(folder), state, partitioner
  )
  manager.save(state)
  manager.wait_until_finished()
  manager.close()


@pytest.mark.parametrize("save", [save_native, save_orbax])
def test_both_forms_are_read(trained, save, tmp_path):
  state, partitioner, params = trained
  save(state, partitioner, tmp_path)
  stored = weights.read(str(tmp_path / "checkpoint_0"))
  assert stored.step == 0
  jax.tree.map(np.testing.assert_array_equal, dict(stored.params), params)
  own = weights.from_t5x(small.SIZES, stored.params)
  assert own["embed"]["embedding"].shape == (259, small.SIZES.embed_dim)


def test_another_folder_is_refused(tmp_path):
  with pytest.raises(UserError, match="is not a checkpoint of T5X"):
    weights.read(str(tmp_path))
