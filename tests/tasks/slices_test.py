"""SeqIO itself finds `validation`, slices, names without versions, a cache."""

import pytest
import seqio

from cot_latent.data import subsets
from cot_latent.data.open import open_task
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.tasks import all as _  # noqa: F401  (registers them)
from cot_latent.tasks import common, slices

CHAIN = "chain_v1"


def task_ids(split):
  task = seqio.get_mixture_or_task(CHAIN)
  dataset = task.get_dataset(None, split, shuffle=False)
  return [row["id"].decode() for row in dataset.as_numpy_iterator()]


def test_validation_is_the_keyed_end_of_train():
  train, found = task_ids("train"), task_ids("validation")
  assert len(found) == 100
  assert found == [
    train[place] for place in subsets.select(train, 900, len(train))
  ]
  rest = task_ids(slices.REST)
  assert sorted([*rest, *found]) == sorted(train)


def test_it_is_what_the_embedded_trainer_calls_a_slice():
  task = open_task(Source(CHAIN))
  assert task_ids("validation") == list(task.rows(slices.PART).ids)
  assert slices.VALIDATION not in task.splits


def test_a_split_is_read_as_before():
  plain = common.build_variant(CHAIN).get_dataset(None, "test", shuffle=False)
  assert task_ids("test") == [
    row["id"].decode() for row in plain.as_numpy_iterator()
  ]


def test_a_slice_that_is_not_there_is_refused():
  with pytest.raises(UserError, match="only 1,000 examples"):
    task_ids("train[:2000]")


def test_several_hosts_share_a_slice():
  task = seqio.get_mixture_or_task(CHAIN)
  parts = [
    task.get_dataset(
      None, "validation", shuffle=False, shard_info=seqio.ShardInfo(n, 2)
    )
    for n in range(2)
  ]
  found = [row["id"].decode() for p in parts for row in p.as_numpy_iterator()]
  assert sorted(found) == sorted(task_ids("validation"))


class WithItsOwn(seqio.FunctionDataSource):
  def __init__(self):
    super().__init__(lambda split, shuffle_files: None, ["train", "validation"])


def test_a_validation_split_of_its_own_stays():
  made = slices.SlicedSource(WithItsOwn())
  assert made.splits == ("train", "validation")
  assert made.list_shards("validation") == ["validation"]


@pytest.mark.parametrize("name", ["bbh", "bbh_nlp", "gsm8k", "chain"])
def test_seqio_knows_a_name_without_a_version(name):
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  newest = seqio.get_mixture_or_task(common.resolve(name))
  assert tasks == seqio.get_subtasks(newest)
  assert common.resolve(name) == f"{name}_v1"


def test_a_cache_of_seqio_is_possible():
  assert seqio.get_mixture_or_task(CHAIN).supports_caching
