"""Slices of splits: TFDS's notation, in an order that the ids alone make."""

import types

import hypothesis
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from cot_latent.data import cache, subsets
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.errors import UserError


def bounds(unit):
  numbers = (
    st.integers(-110, 110) if unit else st.integers(-35, 35)
  ) | st.none()
  return numbers.map(lambda n: "" if n is None else f"{n}{unit}")


PAIRS = st.sampled_from(["", "%", ".5%"]).flatmap(
  lambda unit: st.tuples(bounds(unit), bounds(unit))
)


@hypothesis.given(pair=PAIRS, size=st.integers(1, 40))
def test_a_slice_is_what_tfds_takes_it_for(pair, size):
  text = f"train[{pair[0]}:{pair[1]}]"
  info = {"train": types.SimpleNamespace(num_examples=size)}
  try:
    read = tfds.core.ReadInstruction.from_spec(text).to_absolute(info)[0]
    wanted = range(size)[read.from_ : read.to]
  except ValueError:
    wanted = ()
  try:
    found = range(size)[slice(*subsets.parse(text).places(size))]
    assert len(found)
  except UserError:
    found = ()
  assert list(found) == list(wanted)


@pytest.mark.parametrize(
  "text",
  [
    *("", "train[", "train[]", "train[:]", "train[5]", "train[1:2:3]"),
    *("train[:1e3]", "train[:5.5]", "train[ :5]", "train[10:20%]", "[:5]"),
    *("train[:10]+test[:5]", "train[:5]\n", "train[:\u0665]", "train[:101%]"),
    *(f"train[:{'9' * 309}]", f"train[-{'9' * 5000}:]", f"test[{'9' * 309}%:]"),
  ],
)
def test_what_is_no_slice_is_refused_in_one_line(text):
  with pytest.raises(UserError, match=r"^split .* percent") as error:
    subsets.parse(text)
  assert "\n" not in str(error.value)


def rows(names):
  return [f"{name}?" for name in names], [f"{name}" for name in names]


TASK = Task.from_rows(*rows(range(200)), test=rows(range(10)))


def test_slices_are_parts_of_the_split_in_its_order():
  whole = TASK.load("train")
  parts = [TASK.load(f"train{part}") for part in ("[:30%]", "[30%:]")]
  assert [len(part) for part in parts] == [60, 140]
  # As they are in the whole split, and each once.
  assert sorted([*parts[0].ids, *parts[1].ids]) == list(whole.ids)
  for part in parts:
    assert list(part.ids) == sorted(part.ids)
    places = [whole.ids.index(name) for name in part.ids]
    np.testing.assert_array_equal(part.words, whole.words[places])
    assert part.questions == [whole.questions[i] for i in places]
  # No beginning of the file, and nested.
  ids = set(TASK.load("train[:20]").ids)
  assert ids < set(parts[0].ids)
  assert ids != set(whole.ids[:20])
  prints = {e.fingerprint() for e in (whole, *parts, TASK.load("train[:20]"))}
  assert len(prints) == 4


def test_the_order_is_that_of_the_ids_alone():
  ids = [f"id{i}" for i in range(50)]
  # Written down, since a report that names a slice means these for good.
  chosen = {"id24", "id3", "id33", "id35"}
  for order in (ids, ids[::-1]):
    found = {order[i] for i in subsets.select(order, 0, 4)}
    assert found == chosen


def test_an_empty_slice():
  for split, message in (
    ("test[:11]", "split 'test[:11]' of task 'rows': it has only 10 examples"),
    (
      f"test[-{'9' * 18}:]",
      f"split 'test[-{'9' * 18}:]' of task 'rows': it has only 10 examples",
    ),
    (
      "test[5:5]",
      "split 'test[5:5]' of task 'rows': it contains none of the 10",
    ),
    ("tset[:5]", "task 'rows' has no split 'tset', only ['train', 'test']"),
  ):
    with pytest.raises(UserError) as error:
      TASK.load(split)
    assert str(error.value).startswith(message)


def test_a_cache_is_whole_and_cut_when_it_is_read(tmp_path):
  from cot_latent.data.open import open_task

  task = open_task(Source("chain"))
  path = tmp_path / "chain.npz"
  path.write_bytes(cache.to_bytes(task)[0])
  stored = open_task(Source("chain", cache=str(path)))
  parts = [t.load("test[-15%:]") for t in (task, stored)]
  assert parts[0].fingerprint() == parts[1].fingerprint()
  assert len(parts[0]) == 30
