"""A checkpoint gives back every bit of what a run carries."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cot_latent.em.outer_loops import Pool
from cot_latent.inference import memory, rng
from cot_latent.training import checkpoints, mstep
from cot_latent.training.state import TrainState
from tests.asserts import assert_trees_equal
from tests.training import toy


@functools.cache
def make_params(seed):
  """Parameters and the state of their optimizer."""
  config = toy.make_experiment("unused")
  params = toy.make_model(config).init(rng.purpose_key(seed, "params"))
  opt_state = mstep.build_optimizer(config.optimizer).init(params)
  # Moments that are not all zero.
  return params, jax.tree.map(lambda x: x + 1, opt_state)


def make_state(step, seed=0):
  params, opt_state = make_params(seed)
  chains = memory.init(24, 8)
  generator = np.random.default_rng(seed)
  chains = memory.start(
    chains,
    np.arange(20),
    generator.integers(3, 99, (20, 8), np.int32),
    generator.integers(2, size=20).astype(bool),
  )
  return TrainState(params, opt_state, chains, step)


def make_looped_state(step, seed=0):
  """One with a pool and with what its loops begin from."""
  state = make_state(step, seed)
  generator = np.random.default_rng(seed + 7)
  pool = Pool(
    tokens=jnp.asarray(generator.integers(99, size=(24, 2, 8)), jnp.int32),
    is_correct=jnp.asarray(generator.integers(2, size=(24, 2)), bool),
    capped_fraction=jnp.float32(generator.random()),
    unparseable_fraction=jnp.float32(generator.random()),
    loop=jnp.int32(seed + 3),
    began_at=jnp.int32(seed + 5),
    ends_at=jnp.int32(seed + 9),
  )
  base = jax.tree.map(lambda x: x - 1, state.params)
  return state._replace(pool=pool, base_params=base)


@pytest.fixture
def saved(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
  yield saved
  saved.close()


def is_read_otherwise_by_orbax(folder, state):
  """Whether Orbax alone reads another state there, without an error."""
  try:
    with ocp.StandardCheckpointer() as reader:
      found = reader.restore(folder / "default")["params"]
  except Exception:
    return False
  leaves = zip(
    jax.tree.leaves(found), jax.tree.leaves(state.params), strict=True
  )
  return not all(np.array_equal(one, other) for one, other in leaves)


def test_a_flipped_bit_that_orbax_does_not_notice_is_damage(
  saved, tmp_path, capsys
):
  """Orbax has no checksum of the arrays' bytes: hence the manifest."""
  state, folder = make_state(step=5, seed=1), tmp_path / "checkpoints/5"
  saved.save(make_state(step=2))
  saved.save(state)
  assert not is_read_otherwise_by_orbax(folder, state)
  arrays = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
  content = arrays.read_bytes()
  for place in random.Random(0).sample(range(len(content)), 40):
    flipped = content[place] ^ 1
    arrays.write_bytes(
      content[:place] + bytes([flipped]) + content[place + 1 :]
    )
    if is_read_otherwise_by_orbax(folder, state):
      break
  else:
    pytest.fail("Orbax noticed each flipped bit: its own checks may do")
  again = checkpoints.Checkpoints(tmp_path / "checkpoints")
  assert again.latest_step() == 2
  again.close()
  said = f"{arrays.relative_to(folder)} was changed"
  assert f"step 5 is damaged ({said})" in capsys.readouterr().err


def test_nothing_is_saved_at_first(saved):
  assert saved.latest_step() is None


def test_restores_every_bit(saved):
  state = make_state(step=5)
  saved.save(state)
  restored = saved.restore(make_state(step=0, seed=1))
  assert_trees_equal(restored, state)
  assert type(restored.step) is int


def test_restores_a_pool_and_the_base_parameters(saved):
  state = make_looped_state(step=5)
  saved.save(state)
  restored = saved.restore(make_looped_state(step=0, seed=1))
  assert_trees_equal(restored, state)
  # Without base parameters too: a loop that does not begin again has none.
  without = make_looped_state(step=6)._replace(base_params=None)
  saved.save(without)
  like = make_looped_state(step=0, seed=1)._replace(base_params=None)
  assert_trees_equal(saved.restore(like), without)


def test_another_manager_restores_the_latest(saved, tmp_path):
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
