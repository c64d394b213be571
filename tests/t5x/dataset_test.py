"""The memory goes through checkpoints with T5X's training iterator."""

import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.inference import memory
from cot_latent.t5x.latent import Chains, RationaleIterator

EMPTY = {"decoder_target_tokens": np.zeros((2, 3), np.int32)}


def make(tmp_path, fingerprint="these"):
  return RationaleIterator(EMPTY, fingerprint, str(tmp_path / "run"))


def filled():
  state = memory.init(4, 3)
  state = memory.start(
    state,
    np.array([0, 2]),
    np.array([[5, 1, 0], [6, 7, 1]]),
    np.array([True, False]),
  )
  return Chains(state, began_at=100, step=107)


def assert_same(one, other):
  assert (one.began_at, one.step) == (other.began_at, other.step)
  for name, wanted in one.memory._asdict().items():
    got = getattr(other.memory, name)
    np.testing.assert_array_equal(got, wanted)
    assert np.asarray(got).dtype == np.asarray(wanted).dtype


def stored(tmp_path, place="run/checkpoint_7/dataset"):
  folder = tmp_path / place
  folder.mkdir(parents=True)
  iterator = make(tmp_path)
  iterator.chains = filled()
  iterator.save(str(folder / "train_ds-000-of-001"))
  return folder


def test_what_is_saved_is_restored(tmp_path):
  folder = stored(tmp_path)
  again = make(tmp_path)
  again.restore(str(folder / "train_ds-000-of-001"))
  assert_same(filled(), again.chains)


def test_another_number_of_processes_finds_it(tmp_path):
  folder = stored(tmp_path)
  again = make(tmp_path)
  again.restore(str(folder / "process_1-of-2" / "train_ds-001-of-002"))
  assert_same(filled(), again.chains)
  folder = stored(tmp_path, "run/checkpoint_9/dataset/process_0-of-2")
  alone = make(tmp_path)
  alone.restore(str(folder.parent / "train_ds-000-of-001"))
  assert_same(filled(), alone.chains)


def test_a_base_model_has_none(tmp_path):
  (tmp_path / "train_ds-000-of-001.index").write_bytes(b"TensorFlow's")
  iterator = make(tmp_path)
  iterator.restore(str(tmp_path / "train_ds-000-of-001"))
  assert iterator.chains == Chains()
  iterator.save(str(tmp_path / "none"))
  assert not list(tmp_path.glob("none*"))


def test_other_questions(tmp_path):
  own = stored(tmp_path)
  with pytest.raises(UserError, match="is of other questions"):
    make(tmp_path, "others").restore(str(own / "train_ds-000-of-001"))


def test_the_memory_of_another_run_stays_there(tmp_path):
  elsewhere = stored(tmp_path, "before/checkpoint_7/dataset")
  iterator = make(tmp_path)
  iterator.restore(str(elsewhere / "train_ds-000-of-001"))
  assert iterator.chains == Chains()


def test_a_memory_that_is_lost(tmp_path, monkeypatch):
  own = stored(tmp_path)
  (own / "train_ds-000-of-001.memory.npz").unlink()
  for model_dir in (tmp_path / "run", "run"):
    monkeypatch.chdir(tmp_path)
    iterator = RationaleIterator(EMPTY, "these", str(model_dir))
    with pytest.raises(UserError, match=r"no rationale memory in .*/dataset:"):
      iterator.restore(str(own / "train_ds-000-of-001"))


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"", "File is not a zip file"),
    (np.savez_compressed, "fingerprint"),
  ],
)
def test_a_memory_that_is_damaged(tmp_path, content, said):
  own = stored(tmp_path)
  path = own / "train_ds-000-of-001.memory.npz"
  if callable(content):
    content(path, step=np.array(3))
  else:
    path.write_bytes(content)
  with pytest.raises(UserError, match=rf"memory in .* is damaged .*{said}"):
    make(tmp_path).restore(str(own / "train_ds-000-of-001"))


def test_batches_are_empty_and_equal(tmp_path):
  iterator = make(tmp_path)
  (spec,) = iterator.element_spec.values()
  assert (spec.shape, spec.dtype) == ((2, 3), np.int32)
  first, second = next(iterator), next(iterator)
  assert not first["decoder_target_tokens"].any()
  assert first.keys() == second.keys() == EMPTY.keys()
