"""A run whose steps cost nothing survives whatever happens at any write.

The journal, the report, the manifests and the order in which they are written
are the trainer's own. The model, its steps and Orbax are not: three processes
that are really killed are in tests/e2e/.
"""

import copy
import dataclasses
import itertools
import json
import pathlib
import random
import shutil

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from cot_latent.em import drawn_parts, evaluation
from cot_latent.em.evaluation import Output
from cot_latent.errors import Preempted, UserError
from cot_latent.inference import memory
from cot_latent.models.api import Draws
from cot_latent.reporting import page, record, seals
from cot_latent.runtime import files, preemption
from cot_latent.training import checkpoints, loading, start, train
from cot_latent.training.run import Run
from cot_latent.training.state import TrainState
from tests.asserts import assert_trees_equal
from tests.params import by_night
from tests.reporting import made_up
from tests.training import failing_disk, toy
from tests.training.failing_disk import Disk
from tests.training.kills import Killed, without_times

NO_GIN = {"gin_files": [], "bindings": [], "resolved": "", "operative": ""}
read_rows = files.read_rows
save = checkpoints.Checkpoints.save
FAULTS = [failing_disk.kill, failing_disk.fill, failing_disk.terminate]


drawn = []  # the parts that were drawn and not read


def draw(phase, number):
  """A part of a phase: rows that its place alone decides, and the model."""

  def sample():
    drawn.append(path.name)
    tokens = np.full((2, 8), number, np.int32)
    return Draws(tokens, np.ones(2, bool), tokens * np.float32(0.5))

  path = phase.next_path()
  keys = jax.random.split(jax.random.key(number), 2)
  return phase.draw(sample, np.full((2, 4), number), keys).draws


def begin(setup, data, log, parts):
  with log.phase("base") as found:
    found |= {"num_scored": 0, "was_read": False}
  with log.phase("memory_start"):
    phase = parts.phase("memory", 0, "1")
    tokens = np.concatenate([draw(phase, n).tokens for n in range(3)])
  chains = memory.init(toy.SIZES["train"], 8)
  written = jnp.asarray(chains.tokens).at[: len(tokens)].set(tokens)
  chains = chains._replace(tokens=written)
  return data, TrainState({"w": jnp.int32(1)}, {"m": jnp.int32(2)}, chains, 0)


def resume(setup, data, log, saved):
  chains = memory.init(toy.SIZES["train"], 8)
  like = TrainState({"w": jnp.int32(0)}, {"m": jnp.int32(0)}, chains, 0)
  return data, saved.restore(like)


def step(run, state):
  """Each part of the next state depends on all parts of this one."""
  number = state.step + 1
  w, m = (int(part) for part in (state.params["w"], state.opt_state["m"]))
  age = int(state.memory.num_proposed[0])
  state = state._replace(
    params={"w": jnp.int32((3 * w + m + age + number) % 1009)},
    opt_state={"m": jnp.int32((5 * m + w) % 1013)},
    memory=state.memory._replace(num_proposed=state.memory.num_proposed + w),
    step=number,
  )
  return state, made_up.metrics(**{"grad/norm": float(w)})


def evaluate(drawer, params, *, num_samples, parts, **_):
  told = [draw(parts, int(params["w"]) + n).tokens[0, 0] for n in range(2)]
  said = [str(sum(told))] * (num_samples or 1)
  return [
    Output(
      name, toy.PARITY, "?", "1", said, [True] * len(said), said[0], False, 0
    )
    for name in drawer.examples.ids[:3]
  ]


class NoEvents:
  """Stands for TensorBoard's writer."""

  def __init__(self, directory):
    pathlib.Path(directory).mkdir(exist_ok=True)

  def add_scalar(self, *_):
    pass

  def flush(self):
    pass

  def close(self):
    pass


@pytest.fixture(scope="module", autouse=True)
def _without_cost(compile_once):
  config = toy.make_experiment("unused")
  data = toy.load(config)
  header = train._header(config, "x", NO_GIN, data, None)
  header[0]["code"] |= {"files": {}, "packages": {}}  # long, and hashed often
  with pytest.MonkeyPatch.context() as patch:
    for function in (begin, resume):
      patch.setattr(start, function.__name__, function)
    patch.setattr(Run, "step", step)
    patch.setattr(evaluation, "evaluate", evaluate)
    patch.setattr(train.summary, "Writer", NoEvents)
    patch.setattr(Run, "show_memory", lambda *_: None)
    patch.setattr(train, "_header", lambda *_: copy.deepcopy(header))
    patch.setattr(page, "render", lambda report: "<html>")
    patch.setattr(loading, "load_data", lambda *_: data)
    patch.setattr(train.experiment, "run_id", lambda _: "x")
    yield


def config_of(directory, steps):
  return toy.make_experiment(directory, steps=steps)


def live(config, fault=None, at=0):
  """Has a process work on a run, in which something may go wrong.

  Returns:
    The report, or None if the process did not come to the end; and the disk.
  """
  disk = Disk(pathlib.Path(config.model_dir).parent, fault, at)
  with failing_disk.watched(disk), preemption.handled():
    try:
      return toy.run(config), disk
    except (Killed, Preempted):
      assert disk.has_happened
    except OSError as error:
      if error is not failing_disk.FULL:
        raise
  return None, disk


def whole_steps(config):
  """The steps of which there is a whole checkpoint, in order."""
  root = pathlib.Path(config.model_dir) / "checkpoints"
  folders = root.iterdir() if root.is_dir() else []
  return sorted(
    int(path.name)
    for path in folders
    if path.name.isdecimal() and checkpoints._fault(path) is None
  )


def state_of(config):
  (step,) = whole_steps(config)[-1:]
  with failing_disk.watched(Disk(pathlib.Path("/nowhere"))):
    saved = checkpoints.Checkpoints(
      pathlib.Path(config.model_dir) / "checkpoints"
    )
    like = TrainState({"w": 0}, {"m": 0}, memory.init(1, 8), step)
    return saved.restore(like)


def undisturbed(folder, steps):
  """A run that nothing disturbs: its configuration and report."""
  config = config_of(folder / "whole", steps)
  report, _ = live(config)
  assert report["status"] == "complete"
  return config, report


@pytest.fixture(scope="module")
def short(tmp_path_factory):
  """One of three steps, saved before them, after the second and at the end."""
  return undisturbed(tmp_path_factory.mktemp("runs"), 3)


def check_same(undisturbed, config, report):
  """Checks that a run has come to the end of one that nothing disturbed."""
  whole_config, whole = undisturbed
  for section in ("status", "results", "samples", "diagnostics", "digest"):
    assert report[section] == whole[section]
  assert without_times(report["metrics"]) == without_times(whole["metrics"])
  assert_trees_equal(state_of(config), state_of(whole_config))
  root = pathlib.Path(config.model_dir)
  assert record.read_whole(root) == json.loads(json.dumps(report))
  outputs, others = (
    {path.name: path.read_bytes() for path in (folder / "outputs").iterdir()}
    for folder in (root, pathlib.Path(whole_config.model_dir))
  )
  assert outputs == others
  assert not (root / drawn_parts.FOLDER).exists()
  unfinished = [*root.rglob("*.partial"), *root.rglob("*.tmp")]
  # What is set aside stays as it was, and so does a run that is complete.
  assert {path.name for path in unfinished} <= {
    *(".sha256.json.partial", ".report.html.partial")
  }


def step_of(name):
  return int(name.split("-")[0])


def check_left(config):
  """Checks that what a process left can be read, and is not made up."""
  root = pathlib.Path(config.model_dir)
  report = record.read(root) if root.is_dir() else None
  if report is not None:
    seals.check(report)
    last = max(whole_steps(config), default=0)
    rows = files.read_rows(root / record.JOURNAL, None)
    assert {row["step"] for row in rows} >= {*range(last + 1)} - {0}
  return report


@pytest.mark.parametrize(
  ("fault", "stride"),
  [
    (failing_disk.kill, 1),
    (failing_disk.fill, 5),
    *by_night((failing_disk.fill, 1), (failing_disk.terminate, 1)),
  ],
)
def test_whatever_goes_wrong_at_any_write_the_run_ends_the_same(
  short, tmp_path, fault, stride
):
  assert check_all_writes(short, tmp_path, fault, stride) > 160


def check_all_writes(short, tmp_path, fault, stride=1, first=0):
  """Runs with a fault at every write from `first` on; returns where none is."""
  for at in itertools.count(first, stride):
    config = config_of(tmp_path / f"{at}/run", 3)
    drawn.clear()
    report, disk = live(config, fault, at)
    if not disk.has_happened:
      break
    saved = whole_steps(config)
    left = check_left(config)
    # No part is drawn again but one that was being written, and those that led
    # to what a checkpoint holds.
    last = saved[-1] if saved else -1
    kept = {name for name in drawn[:-1] if step_of(name) > last}
    drawn.clear()
    if fault is failing_disk.terminate and saved and report is None:
      assert left["status"] == "interrupted"
      rows = files.read_rows(
        pathlib.Path(config.model_dir) / record.JOURNAL, None
      )
      assert saved[-1] == rows[-1]["step"]
    again, _ = live(config)
    assert not kept & {*drawn}
    if report is None and left and left["status"] not in record.FINISHED:
      resumed = [row["step"] for row in again["continuity"]["resumes"]]
      assert resumed == saved[-1:]
    check_same(short, config, again)
    shutil.rmtree(tmp_path / str(at))
  return at


def write_in_place(path, content):
  path.write_bytes(content.encode() if isinstance(content, str) else content)


def saves_too_late(saved, state):
  drawn_parts.DrawnParts(saved._directory.parent).forget(state.step)
  return save(saved, state)


@pytest.mark.parametrize(
  ("owner", "name", "twin", "first"),
  [
    # The journal keeps what was measured after the checkpoint.
    (files, "read_rows", lambda path, _: read_rows(path, None), 60),
    # Parts are deleted before a checkpoint holds them.
    (checkpoints.Checkpoints, "save", saves_too_late, 60),
    *by_night(
      # A file is written in its place.
      (files, "write_atomically", write_in_place, 0),
      # A checkpoint is taken for whole once it has its name.
      (checkpoints, "_fault", lambda folder: None, 0),
      # A part is never found again.
      (drawn_parts, "_read", lambda path, made_of, num_rows: "is lost", 0),
    ),
  ],
)
def test_broken_protocols_are_seen(
  short, tmp_path, monkeypatch, owner, name, twin, first
):
  """The twins of the day fail after write 60."""
  monkeypatch.setattr(owner, name, twin)
  with pytest.raises((AssertionError, UserError, OSError, ValueError)):
    check_all_writes(short, tmp_path, failing_disk.kill, first=first)


class Lives(stateful.RuleBasedStateMachine):
  """A run on which one process works after the other."""

  whole, folder = None, None  # of the test

  def __init__(self):
    super().__init__()
    shutil.rmtree(self.folder, ignore_errors=True)
    self.config = config_of(self.folder / "run", 7)

  @stateful.rule(
    fault=st.sampled_from(FAULTS),
    at=st.integers(0, 120),
    period=st.integers(1, 4),
  )
  def live(self, fault, at, period):
    live(dataclasses.replace(self.config, checkpoint_period=period), fault, at)

  @stateful.precondition(
    lambda self: (
      len(whole_steps(self.config)) > 1
      and check_left(self.config)["status"] not in record.FINISHED
    )
  )
  @stateful.rule(seed=st.integers(0, 99), is_unfinished=st.booleans())
  def damage(self, seed, is_unfinished):
    """Of two checkpoints the last is damaged, or was not finished."""
    last = whole_steps(self.config)[-1]
    folder = pathlib.Path(self.config.model_dir) / "checkpoints" / str(last)
    if is_unfinished:
      (folder / checkpoints._MANIFEST).unlink()
      return
    content = bytearray((folder / "state").read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1
    (folder / "state").write_bytes(content)

  @stateful.invariant()
  def can_be_read(self):
    check_left(self.config)

  def teardown(self):
    report, _ = live(self.config)
    check_same(self.whole, self.config, report)
    assert live(self.config)[0] == json.loads(json.dumps(report))


def test_any_sequence_of_faults_ends_the_same(tmp_path):
  Lives.whole, Lives.folder = undisturbed(tmp_path, 7), tmp_path / "lives"
  stateful.run_state_machine_as_test(
    Lives, settings=hypothesis.settings(stateful_step_count=4)
  )
