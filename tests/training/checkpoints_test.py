"""A checkpoint gives back every bit of what a run carries."""

import jax
import numpy as np
import pytest

from cot_latent.inference import memory, rng
from cot_latent.training import checkpoints, mstep
from tests.asserts import assert_trees_equal
from tests.training import toy


def make_state(step, seed=0):
  config = toy.make_experiment("unused")
  params = toy.make_model(config).init(rng.purpose_key(seed, "params"))
  optimizer = mstep.build_optimizer(config.optimizer, config.steps)
  chains = memory.init(24, 8)
  generator = np.random.default_rng(seed)
  chains = memory.start(
    chains,
    np.arange(20),
    generator.integers(3, 99, (20, 8), np.int32),
    generator.integers(2, size=20).astype(bool),
  )
  # Moments that are not all zero.
  opt_state = jax.tree.map(lambda x: x + 1, optimizer.init(params))
  return checkpoints.TrainState(params, opt_state, chains, step)


@pytest.fixture
def saved(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
  yield saved
  saved.close()


def test_nothing_is_saved_at_first(saved):
  assert saved.latest_step() is None


def test_restores_every_bit(saved):
  state = make_state(step=5)
  saved.save(state)
  restored = saved.restore(make_state(step=0, seed=1))
  assert_trees_equal(restored, state)
  assert type(restored.step) is int


def test_restores_the_latest_in_another_process(saved, tmp_path):
  for step in (0, 2, 4):
    saved.save(make_state(step, seed=step))
  again = checkpoints.Checkpoints(tmp_path / "checkpoints")
  assert again.latest_step() == 4
  assert_trees_equal(again.restore(make_state(0)), make_state(4, seed=4))
  again.close()


def test_only_the_last_two_are_kept(saved, tmp_path):
  for step in (0, 2, 4):
    saved.save(make_state(step))
  folder = tmp_path / "checkpoints"
  steps = {p.name for p in folder.iterdir() if p.name.isdigit()}
  assert steps == {"2", "4"}
