"""The report of a run inside T5X: the embedded trainer's, step for step.

T5X's step counts those of the pretrained checkpoint too. In a report steps are
the method's, from 0; its part `t5x` says at which of T5X's they began.
"""

import atexit
import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t5x import partitioning, trainer

from cot_latent.em import header, plan, results, training_data
from cot_latent.em.evaluation import Output
from cot_latent.errors import Preempted, UserError
from cot_latent.inference.memory import MemoryState
from cot_latent.models import digests
from cot_latent.reporting import environment, record, seals, silent
from cot_latent.reporting.health import Limits
from cot_latent.runtime import compilation, files, lock, processes, terminal
from cot_latent.t5x import checks, provenance, store
from cot_latent.t5x.latent import Latent

# What looks at a header before anything is written. A module's variable, for
# between who sets it, `launch.run`, and the report stands T5X's own script.
check_header: Callable[[Mapping[str, Any]], None] | None = None
_open: set["Report"] = set()  # in this process, for `end_by`

_NUM_SAMPLES_SHOWN = 6  # of each kind
# What an evaluation leaves in the journal. T5X evaluates after it has saved,
# and once more where it goes on.
_OF_EVALUATION = ("result", "evaluation_seconds", "output", "sample")
_INTERRUPTIONS = (KeyboardInterrupt, Preempted, trainer.PreemptionError)


class Report:
  """Writes the journal, report.json and its page while T5X trains.

  Attributes:
    test: the held-out questions.
  """

  def __init__(
    self,
    latent: Latent,
    model_dir: str,
    total_steps: int,
    evaluation_period: int,
    relative_steps: int | None = None,
    limits: Limits | None = None,
  ):
    """Loads the held-out questions; writes nothing.

    Args:
      latent: the experiment.
      model_dir: the run's folder.
      total_steps: T5X's step at which the run ends.
      evaluation_period: steps between T5X's evaluations.
      relative_steps: T5X's setting of that name.
      limits: beyond which the run counts as dead.
    """
    self._began = time.perf_counter()
    compilation.watch()
    self._compiled_before = compilation.so_far()
    self._first_step_seconds: float | None = None
    self._latent, self._limits = latent, limits or Limits()
    self._store, self._model_dir = store.Store(model_dir), model_dir
    self._total_steps, self._relative = total_steps, relative_steps
    self._period = evaluation_period
    task = latent.config
    self.test = latent.task.load(
      task.test_split,
      prompt_length=task.prompt_length,
      over_long=task.over_long,
    )
    self._record: record.Record | silent.Record | None = None
    self._header: dict[str, Any] = {}
    self._held = contextlib.ExitStack()
    self._began_at = self._steps = 0

  @property
  def task(self):
    """Vocabulary and answers."""
    return self._latent.task

  def open(
    self,
    step: int,
    began_at: int,
    is_new: bool,
    params: Any,
    partitioner: partitioning.BasePartitioner,
    num_microbatches: int | None,
  ) -> None:
    """Begins the report, or goes on with it after a checkpoint.

    Args:
      step: T5X's.
      began_at: T5X's step at which the memory was made.
      is_new: whether it is made now.
      params: T5X's.
      partitioner: of the run.
      num_microbatches: of a step.

    Raises:
      UserError: if the folder belongs to another run or is in use, if steps
        are missing in its journal, or if TRAIN_STEPS is less than the steps of
        the checkpoint that it begins with.
    """
    self._began_at = began_at
    end = self._total_steps
    if self._relative:
      end = step + self._relative
    if is_new and end < step:
      raise UserError(
        f"TRAIN_STEPS = {end} counts the {step} steps of the checkpoint too: "
        f"set TRAIN_STEPS = {step} and what is to be trained"
      )
    self._steps, own = end - began_at, step - began_at
    sections, diff = self._sections(params, partitioner, num_microbatches)
    if check_header is not None:
      check_header(sections)
    self._store.fetch()
    folder, is_first = self._store.folder, processes.is_first()
    if is_first and not self._store.is_remote:
      folder.mkdir(parents=True, exist_ok=True)
      self._held.enter_context(lock.hold(folder))
    old = self._old(is_new)
    if old is not None:
      record.check_same_run(pathlib.Path(self._model_dir), old, sections)
      if old["status"] in record.FINISHED:
        self._held.close()
        if own == self._steps:
          return  # nothing is left to do
        raise UserError(
          f"{self._model_dir} has the report of a complete run, and its last "
          "checkpoint is gone: choose another MODEL_DIR"
        )
      self._take_over(sections, old, None if is_new else own)
    self._header = sections
    if old is None and is_first and diff:
      files.write_atomically(folder / record.DIFF, diff)
    resume_at = None if is_new else own
    if resume_at is not None and is_first and checks.evaluates_first():
      _drop_evaluation(folder / record.JOURNAL, resume_at)
    self._record = (
      record.Record(folder, sections, resume_at)
      if is_first
      else silent.Record(folder, resume_at)
    )
    # T5X has many places outside of steps and evaluations where it may end.
    atexit.register(_end_as_python_does)
    _open.add(self)
    self._write("running")

  def begun(self, params: Any, seconds: float, num_sampled: int) -> None:
    """Notes that the memory was made.

    Args:
      params: T5X's.
      seconds: that it took.
      num_sampled: sequences.
    """
    if self._record is None:
      return
    self._record.journal.add(
      0,
      "phase",
      phase="memory_start",
      seconds=seconds,
      num_sampled=num_sampled,
    )
    self._note_params(0, params)

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Notes what was measured in a step of T5X's."""
    if self._record is None:
      return
    if self._first_step_seconds is None:
      self._first_step_seconds = time.perf_counter() - self._began
    self._record.journal.add(step - self._began_at, "metrics", **metrics)

  def evaluated(
    self, step: int, outputs: Sequence[Output], seconds: float
  ) -> None:
    """Notes what T5X's evaluation found, and keeps the completions."""
    if self._record is None or not outputs:
      return
    own, journal = step - self._began_at, self._record.journal
    split = self._latent.config.test_split
    for row in results.rows(self.task.name, split, "greedy", outputs):
      journal.add(own, "result", **row)
    journal.add(
      own, "evaluation_seconds", seconds=seconds, num_sampled=len(outputs)
    )
    written = results.write(self._store.folder, own, split, "greedy", outputs)
    journal.add(own, "output", **written)
    if own in (0, self._steps):
      for output in outputs[:_NUM_SAMPLES_SHOWN]:
        journal.add(own, "sample", **results.sample("greedy", output))
    self._write("running")

  def saving(self, step: int, memory_sha256: str) -> None:
    """Brings all up to date before a checkpoint counts on it."""
    if self._record is None:
      return
    own, journal = step - self._began_at, self._record.journal
    journal.add(
      own,
      "usage",
      peak_memory_bytes=environment.peak_memory(),
      first_step_seconds=self._first_step_seconds,
      compilation=compilation.since(self._compiled_before),
    )
    # T5X's parameters are not read again to be hashed.
    journal.add(
      own,
      "checkpoint",
      path=f"checkpoint_{step}",
      memory_sha256=memory_sha256,
    )
    journal.sync()
    self._write("running")

  def close(self, step: int, params: Any, memory: MemoryState) -> None:
    """Ends the report as T5X's train ends."""
    if self._record is None:
      return
    own = step - self._began_at
    if own != self._steps:
      self._end("interrupted", f"stopped at step {own} of {self._steps}")
      return
    latent, journal = self._latent, self._record.journal
    if own:
      self._note_params(own, params)
    ids = latent.examples.ids
    written = results.write_memory(self._store.folder, own, ids, memory)
    journal.add(own, "output", **written)
    if own:
      for row in results.memory_samples(
        self.task, latent.examples, memory, _NUM_SAMPLES_SHOWN
      ):
        journal.add(own, "sample", **row)
    self._end("complete")
    _say(f"report: {self._store.home / 'report.html'}")

  @contextlib.contextmanager
  def guarded(self) -> Iterator[None]:
    """Has the report say what ended the run."""
    try:
      yield
    except BaseException as error:
      self.end_by(error)
      raise

  def end_by(self, error: BaseException | None) -> None:
    """Ends the report with what ended the run; None is not known."""
    # Nothing, such as a full disk, must hide what went wrong first.
    with contextlib.suppress(Exception):
      if error is None or isinstance(error, _INTERRUPTIONS):
        self._end("interrupted")
      else:
        self._end("failed", f"{type(error).__name__}: {error}"[:500])

  def _end(self, status: str, error: str | None = None) -> None:
    if self._record is None:
      return
    self._write(status, error)
    self._record.close()
    self._record = None
    self._held.close()
    _open.discard(self)

  def _write(self, status: str, error: str | None = None) -> None:
    assert self._record is not None
    self._note_config()
    self._record.write(status, error)
    if processes.is_first():
      self._store.push()

  def _note_config(self) -> None:
    """Puts the hash of what T5X wrote as config.gin among the parts."""
    content = self._store.config()
    if content is None:
      return
    parts = [p for p in self._header["parts"] if p["path"] != record.CONFIG]
    parts.append(
      {
        "path": record.CONFIG,
        "sha256": files.sha256(content),
        "num_bytes": len(content),
      }
    )
    self._header["parts"] = parts

  def _note_params(self, step: int, params: Any) -> None:
    assert self._record is not None
    self._record.journal.add(step, "params", sha256=digests.tree_sha256(params))

  def _old(self, is_new: bool) -> dict[str, Any] | None:
    """The report of the run that is gone on with, if there is one."""
    path = self._store.folder / "report.json"
    if not path.is_file():
      return None
    old = record.read_file(path)
    part = old.get("t5x")
    if is_new and part is not None and part["began_at"] != self._began_at:
      raise UserError(
        f"{path} is of a run that began at T5X's step {part['began_at']}, and "
        f"this one begins at {self._began_at}: choose another MODEL_DIR"
      )
    return old

  def _take_over(
    self, sections: dict[str, Any], old: dict[str, Any], resume_at: int | None
  ) -> None:
    """Keeps what the process that began the run wrote down."""
    resumption = header.take_over(sections, old)
    resumption["environment"] |= {
      f"t5x.{name}": [was, now_is]
      for name, was, now_is in seals.differences(old["t5x"], sections["t5x"])
    }
    if resume_at is not None:
      sections["t5x"] = old["t5x"]
      sections["continuity"]["resumes"].append(
        {"step": resume_at, **resumption}
      )

  def _sections(
    self,
    params: Any,
    partitioner: partitioning.BasePartitioner,
    num_microbatches: int | None,
  ) -> tuple[dict[str, Any], str]:
    """Writes the sections that do not change during a run."""
    latent = self._latent
    settings = self._experiment()
    source = latent.config.source
    cut = provenance.describe_partitioning(partitioner, num_microbatches)
    decisive = {
      name: seals.without_place(name, value)
      for name, value in seals.leaves(settings)
      if not seals.is_free(name)
    }
    sections, diff = header.build(
      identity={
        "run_id": f"{source.task}-{latent.method.name}-s{latent.seed}-"
        f"{files.short_hash(decisive)}",
        "task": self.task.name,
        "method": latent.method.name,
        "seed": latent.seed,
        "argv": ["python", "-m", "t5x.train", *sys.argv[1:]],
        "rerun": "t5x rerun report.json",
      },
      module=source.module,
      configuration=provenance.configuration() | {"experiment": settings},
      data=self._data(),
      params=params,
      topology={
        "num_processes": processes.count(),
        "num_devices": cut["num_devices"],
        "mesh": cut["mesh"],
      },
      plan=self._plan(),
      limits=self._limits,
    )
    sections["t5x"] = {
      **provenance.revision(),
      "began_at": self._began_at,
      "partitioning": cut,
    }
    return sections, diff

  def _experiment(self) -> dict[str, Any]:
    """What the run is, by the names that the embedded trainer's have."""
    latent = self._latent
    return {
      "task": plan.as_dict(latent.config),
      "method": plan.as_dict(latent.method),
      "evaluation": {"num_samples": 0, "period": self._period},
      "model_dir": self._model_dir,
      "seed": latent.seed,
      "steps": self._steps,
      "batch_size": latent.batch_size,
      "limits": dataclasses.asdict(self._limits),
      "t5x": provenance.bindings(),
    }

  def _data(self) -> dict[str, Any]:
    latent = self._latent
    return training_data.describe_splits(
      latent.task,
      None,
      {
        latent.config.train_split: latent.examples,
        latent.config.test_split: self.test,
      },
    )

  def _plan(self) -> dict[str, Any]:
    """Counts what the run will cost."""
    latent, steps = self._latent, self._steps
    num_evaluations = 1 + (-(-steps // self._period) if self._period else 0)
    return plan.plan_of(
      latent.method,
      steps=steps,
      batch_size=latent.batch_size,
      num_train=len(latent.examples),
      num_answers=len(self.test) * num_evaluations,
    )


def end_by(error: BaseException | None) -> None:
  """Ends the reports of this process that nothing else has ended.

  Args:
    error: that ends the run; None is not known.
  """
  for each in tuple(_open):
    each.end_by(error)


def _end_as_python_does() -> None:
  end_by(getattr(sys, "last_value", None))


def _drop_evaluation(path: pathlib.Path, step: int) -> None:
  """Takes the evaluation of the step out that T5X is about to repeat."""
  rows = [
    row
    for row in files.read_rows(path, step)
    if row["step"] < step or row["kind"] not in _OF_EVALUATION
  ]
  if path.is_file():
    files.write_atomically(path, "".join(map(files.to_json_line, rows)))


def _say(text: str) -> None:
  if processes.is_first():
    terminal.say(text, is_error=True)
