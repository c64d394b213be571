"""Keys depend on what they are for, and on nothing else."""

import hashlib
import itertools

import jax
import numpy as np
import pytest

from cot_latent.inference import rng

IDS = [f"gsm8k/{n}" for n in range(50)]


def data(keys):
  return np.asarray(jax.random.key_data(keys))


def check_distinct(keys):
  every = [tuple(data(key)) for key in keys]
  assert len(set(every)) == len(every)


def test_choices_do_not_share_keys():
  steps = [*range(5), 2**31, 2**32 - 1]
  keys = [
    rng.purpose_key(seed, purpose, *numbers)
    for seed in range(3)
    for purpose in rng.PURPOSES
    for numbers in [(), *((n,) for n in steps), *itertools.permutations([0, 1])]
  ]
  check_distinct(keys)
  # Had the purpose no part in it, two purposes would share their keys.
  with pytest.raises(AssertionError):
    check_distinct([rng.purpose_key(0, "draw", 1) for _ in rng.PURPOSES])


def test_the_order_of_numbers_matters():
  check_distinct([rng.purpose_key(0, "draw", *n) for n in [(1, 2), (2, 1)]])


def test_same_choice_same_key():
  again = [data(rng.purpose_key(3, "draw", 5)) for _ in range(2)]
  np.testing.assert_array_equal(*again)


def test_unknown_purpose():
  with pytest.raises(ValueError, match=r"unknown purpose 'draws'.*'draw'"):
    rng.purpose_key(0, "draws")


def test_a_purpose_of_your_own_has_keys_of_its_own():
  own = ["mine/draw", "mine/noise", "other/draw"]
  keys = [rng.purpose_key(0, purpose, 7) for purpose in own]
  check_distinct(keys + [rng.purpose_key(0, p, 7) for p in rng.PURPOSES])
  # By the rule of all others; also golden.
  np.testing.assert_array_equal(data(keys[0]), [964923659, 349537612])


# Golden: a change here changes every run's draws. Made by
# jax.random.key_data(rng.purpose_key(*arguments)).
@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ((0, "params"), [3313755303, 452578551]),
    ((0, "order", 0), [3525746968, 2852714522]),
    ((1, "draw", 7), [2625448782, 286309986]),
    ((3, "memory", 2, 5), [2238161273, 73896184]),
  ],
)
def test_keys_stay_the_same(arguments, expected):
  np.testing.assert_array_equal(data(rng.purpose_key(*arguments)), expected)


# Also golden.
def test_row_keys_stay_the_same():
  words = rng.id_words(["gsm8k/0", "gsm8k/1"])
  keys = rng.row_keys(rng.purpose_key(0, "draw", 7), words, np.array([0, 3]))
  expected = [[4210798272, 3968274364], [3614332099, 547188332]]
  np.testing.assert_array_equal(data(keys), expected)


def test_id_words_are_the_start_of_sha256():
  words = rng.id_words(IDS)
  assert words.dtype == np.uint32
  for text, (high, low) in zip(IDS, words, strict=True):
    start = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert f"{high:08x}{low:08x}" == start


def test_rows_do_not_share_keys():
  words = np.repeat(rng.id_words(IDS), 4, axis=0)
  draws = np.tile(np.arange(4), len(IDS))
  steps = [rng.purpose_key(0, "draw", step) for step in range(3)]
  steps.append(rng.purpose_key(0, "evaluate"))
  keys = [key for step in steps for key in rng.row_keys(step, words, draws)]
  check_distinct(keys)


def check_place_independent(row_keys):
  """Checks that a row's key is the same in any batch and at any place."""
  rng_key = rng.purpose_key(0, "draw", 1)
  words, draws = rng.id_words(IDS), np.arange(len(IDS)) % 3
  expected = data(row_keys(rng_key, words, draws))
  order = np.random.default_rng(0).permutation(len(IDS))
  for chosen in [order, order[:7], order[:1]]:
    keys = row_keys(rng_key, words[chosen], draws[chosen])
    np.testing.assert_array_equal(data(keys), expected[chosen])


def split_row_keys(rng_key, words, draw):
  """The usual way: one key a place in the batch."""
  del draw
  return jax.random.split(rng_key, len(words))


def test_row_keys_do_not_depend_on_the_batch():
  check_place_independent(rng.row_keys)
  with pytest.raises(AssertionError):
    check_place_independent(split_row_keys)


# Sizes with and without a remainder, and one batch an epoch.
SIZES = [(12, 4), (13, 4), (7, 7), (10, 6), (5, 1)]


def check_epochs(minibatch, num_examples, batch_size, epochs=4):
  """Checks that no example comes twice in an epoch, and epochs differ."""
  per_epoch = num_examples // batch_size
  orders = []
  for epoch in range(epochs):
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    batches = [
      minibatch(0, "order", step, num_examples, batch_size) for step in steps
    ]
    for batch in batches:
      assert batch.shape == (batch_size,)
      assert batch.dtype == np.int32
    order = np.concatenate(batches)
    assert ((order >= 0) & (order < num_examples)).all()
    assert len(set(order)) == per_epoch * batch_size
    orders.append(tuple(order))
  assert len(set(orders)) == epochs


def with_replacement(seed, purpose, step, num_examples, batch_size):
  key = rng.purpose_key(seed, purpose, step)
  return np.asarray(
    jax.random.randint(key, (batch_size,), 0, num_examples, np.int32)
  )


def same_every_epoch(seed, purpose, step, num_examples, batch_size):
  per_epoch = num_examples // batch_size
  return rng.minibatch(
    seed, purpose, step % per_epoch, num_examples, batch_size
  )


def fresh_every_step(seed, purpose, step, num_examples, batch_size):
  """Distinct within a batch, but not within an epoch."""
  first = step * (num_examples // batch_size)
  return rng.minibatch(seed, purpose, first, num_examples, batch_size)


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_epochs_are_cut_from_permutations(num_examples, batch_size):
  check_epochs(rng.minibatch, num_examples, batch_size)


@pytest.mark.parametrize(
  "broken", [with_replacement, same_every_epoch, fresh_every_step]
)
def test_broken_epochs_are_rejected(broken):
  with pytest.raises(AssertionError):
    check_epochs(broken, 12, 4)


def test_the_remainder_is_another_one_each_time():
  left_out = set()
  for epoch in range(30):
    steps = range(3 * epoch, 3 * epoch + 3)
    batches = [rng.minibatch(0, "order", step, 13, 4) for step in steps]
    left_out |= set(range(13)) - set(np.concatenate(batches).tolist())
  assert len(left_out) > 1


def test_minibatch_is_a_function_of_its_arguments():
  steps = np.random.default_rng(0).permutation(9)  # in no order
  first = {s: rng.minibatch(1, "order", int(s), 12, 4) for s in steps}
  for step in range(9):
    again = rng.minibatch(1, "order", step, 12, 4)
    np.testing.assert_array_equal(again, first[step])
  others = [
    rng.minibatch(2, "order", 0, 12, 4),
    rng.minibatch(1, "base_order", 0, 12, 4),
  ]
  for other in others:
    assert (other != first[0]).any()
