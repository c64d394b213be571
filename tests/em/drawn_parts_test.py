"""Parts of what was drawn are found again, or drawn again and that is said."""

import io
import json
import signal

import numpy as np
import pytest

from cot_latent.em import drawn_parts
from cot_latent.em.drawing import Drawer
from cot_latent.errors import Preempted
from cot_latent.inference import rng
from cot_latent.runtime import files, preemption
from tests.asserts import assert_trees_equal
from tests.training import toy
from tests.training.scripted import Scripted

SIZE, BATCHES = 2, 3  # rows of a batch, batches of a part


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("unused")
  return toy.load(toy.make_experiment(folder, task=toy.CHAIN))


def draw(
  data,
  directory,
  *,
  model="a",
  seed=0,
  stop_after=None,
  is_hinted=False,
  shared=None,
  step=0,
  **more,
):
  """Draws for all questions; gives what came out and the number of calls."""

  def say(prompts):
    if len(scripted.calls) == stop_after:
      signal.raise_signal(signal.SIGTERM)
    texts = [f"it is {sum(row)}" for row in prompts.tolist()]
    return texts, [True] * len(prompts)

  scripted = Scripted(data.task, say)
  drawer = Drawer(scripted, data.task, data.train, SIZE, BATCHES)
  rows = np.arange(len(data.train))
  parts = drawn_parts.DrawnParts(directory, shared)
  phase = parts.phase("memory", step, model)
  key = rng.purpose_key(seed, "memory")
  try:
    with preemption.handled():
      drawn = drawer.draw_all(
        *(None, rows, 0 * rows, key),
        prompts=data.train.guides if is_hinted else None,
        parts=phase,
        **more,
      )
  except Preempted:
    return None, len(scripted.calls)
  return drawn, len(scripted.calls)


def without_times(drawn):
  return drawn._replace(sampling_seconds=0.0, checking_seconds=0.0)


def parts_of(directory):
  return sorted((directory / drawn_parts.FOLDER).iterdir())


def test_what_was_drawn_before_sigterm_is_not_drawn_again(data, tmp_path):
  whole, num_parts = draw(data, tmp_path / "whole"), 4
  assert whole[1] == num_parts == len(parts_of(tmp_path / "whole"))
  directory = tmp_path / "stopped"
  assert draw(data, directory, stop_after=2) == (None, 2)
  again, num_calls = draw(data, directory)
  assert num_calls == num_parts - 2
  assert_trees_equal(without_times(again), without_times(whole[0]))


def flip(content):
  place = len(content) // 2
  return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def changed(**arrays):
  """What writes a part with other arrays, under a hash that fits."""

  def write(content):
    line, archive = content.split(b"\n", maxsplit=1)
    with np.load(io.BytesIO(archive)) as stored:
      found = dict(stored) | arrays
    stream = io.BytesIO()
    np.savez(stream, **found)
    said = json.loads(line) | {"sha256": files.sha256(stream.getvalue())}
    return files.to_json_line(said).encode() + stream.getvalue()

  return write


@pytest.mark.parametrize(
  "damage",
  [
    flip,
    changed(tokens=np.zeros((1, 3), np.int32)),
    changed(tokens=np.zeros(6, np.int32)),
    changed(tokens=np.zeros((6, 3))),
    changed(ended=np.bool_(True)),
    changed(log_prob=np.zeros((6, 1))),
    changed(more=np.zeros(1)),
    lambda content: content[:-9],
    lambda content: b"",
    lambda content: b"{}" + content[content.index(b"\n") :],
    lambda content: content[content.index(b"\n") + 1 :],
  ],
)
def test_a_damaged_part_is_drawn_again(data, tmp_path, capsys, damage):
  whole, _ = draw(data, tmp_path)
  path = parts_of(tmp_path)[1]
  path.write_bytes(damage(path.read_bytes()))
  again, num_calls = draw(data, tmp_path)
  assert num_calls == 1
  assert capsys.readouterr().err == f"{path} is damaged: it is drawn again\n"
  assert_trees_equal(without_times(again), without_times(whole))
  assert draw(data, tmp_path)[1] == 0


@pytest.mark.parametrize(
  "changes",
  [{"model": "b"}, {"seed": 1}, {"is_hinted": True}, {"temperature": 0.0}],
)
def test_a_foreign_part_is_drawn_again(data, tmp_path, capsys, changes):
  draw(data, tmp_path, **changes)
  _, num_calls = draw(data, tmp_path)
  said = capsys.readouterr().err.splitlines()
  assert num_calls == len(said) == 4
  assert said[0] == (
    f"{parts_of(tmp_path)[0]} was drawn by another model or for other "
    "questions: it is drawn again"
  )


def test_runs_that_are_alike_share_their_draws(data, tmp_path, capsys):
  shared = drawn_parts.Shared(tmp_path / "bases/drawn", "this model")
  whole, num_parts = draw(data, tmp_path / "one", shared=shared)
  assert num_parts == 4
  again, num_calls = draw(data, tmp_path / "two", shared=shared)
  assert num_calls == 0
  assert_trees_equal(without_times(again), without_times(whole))
  # What makes other draws makes other files, of which nothing is said.
  for changes in (
    {"shared": shared._replace(made_by="another model")},
    *({"model": "b"}, {"seed": 1}, {"is_hinted": True}, {"temperature": 0.0}),
    *({"step": 1}, {"shared": None}),
  ):
    given = {"shared": shared} | changes
    assert draw(data, tmp_path / str(changes), **given)[1] == 4
  assert len([*shared.folder.iterdir()]) == 6 * 4
  assert not capsys.readouterr().err


def test_a_damaged_shared_part_is_drawn_again(data, tmp_path, capsys):
  shared = drawn_parts.Shared(tmp_path / "drawn", "this model")
  whole, _ = draw(data, tmp_path / "one", shared=shared)
  path = min(shared.folder.iterdir())
  path.write_bytes(flip(path.read_bytes()))
  again, num_calls = draw(data, tmp_path / "two", shared=shared)
  assert num_calls == 1
  assert capsys.readouterr().err == f"{path} is damaged: it is drawn again\n"
  assert_trees_equal(without_times(again), without_times(whole))
  assert draw(data, tmp_path / "three", shared=shared)[1] == 0


def test_a_shared_folder_that_cannot_be_written_to_is_no_mistake(
  data, tmp_path
):
  (tmp_path / "file").touch()
  shared = drawn_parts.Shared(tmp_path / "file/drawn", "this model")
  assert draw(data, tmp_path / "one", shared=shared)[1] == 4
  assert draw(data, tmp_path / "one", shared=shared)[1] == 0


def test_a_checkpoint_s_parts_are_forgotten_and_later_ones_kept(tmp_path):
  parts = drawn_parts.DrawnParts(tmp_path)
  parts.forget(3)  # there are none
  folder = tmp_path / drawn_parts.FOLDER
  folder.mkdir()
  names = ["000003-greedy-0000.part", ".000002-x-0001.part.partial"]
  for name in (*names, "000004-greedy-0000.part", "mine"):
    (folder / name).touch()
  parts.forget(3)
  left = {path.name for path in folder.iterdir()}
  assert left == {"000004-greedy-0000.part", "mine"}
  (folder / "mine").unlink()
  parts.forget(4)
  assert not folder.exists()


def test_a_signal_that_is_held_back_means_what_it_meant():
  seen = []

  def work():
    with preemption.deferred() as is_asked:
      with preemption.held_back():
        signal.raise_signal(signal.SIGTERM)
        seen.append(is_asked())
      seen.append(is_asked())

  with pytest.raises(Preempted):
    work()
  assert seen == [False, True]
