"""The report of a run inside T5X: the embedded trainer's, step for step.

T5X's step counts those of the pretrained checkpoint too. In a report steps are
the method's, from 0; its part `t5x` says at which of T5X's they began.
"""

import atexit
import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t5x import partitioning, trainer

from cot_latent.em import results
from cot_latent.em.evaluation import Output
from cot_latent.errors import UserError
from cot_latent.inference.memory import MemoryState
from cot_latent.models import digests
from cot_latent.reporting import record, runlog
from cot_latent.reporting.health import Limits
from cot_latent.runtime import compilation, files, lock, processes, terminal
from cot_latent.t5x import checks, header
from cot_latent.t5x.latent import Latent
from cot_latent.t5x.store import Store, StoredLog

# What looks at a header before anything is written. It is a module's variable
# because T5X's own script is between `launch.run`, which sets it, and a report.
check_header: Callable[[Mapping[str, Any]], None] | None = None
_open: set["Report"] = set()  # in this process, for `end_by`

_INTERRUPTIONS = (*runlog.INTERRUPTIONS, trainer.PreemptionError)


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
    self._latent, self._limits = latent, limits or Limits()
    self._store, self._model_dir = Store(model_dir), model_dir
    self._total_steps, self._relative = total_steps, relative_steps
    self._period = evaluation_period
    task = latent.config
    self.test = latent.task.load(
      task.test_split,
      prompt_length=task.prompt_length,
      over_long=task.over_long,
    )
    self._log: StoredLog | None = None
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
    """Begins the report, or resumes it after a checkpoint.

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
    sections, diff = header.build(
      self._latent,
      self.test,
      header.Plan(self._model_dir, self._steps, self._period, self._limits),
      began_at,
      params,
      partitioner,
      num_microbatches,
    )
    if check_header is not None:
      check_header(sections)
    self._hold()
    old = header.read_old(self._store.folder, began_at, is_new)
    resume_at = None if is_new else own
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
      header.take_over(sections, old, resume_at)
    self._log = self._open_log(sections, resume_at, None if old else diff)
    # T5X has many places outside of steps and evaluations where it may end.
    atexit.register(_end_as_python_does)
    _open.add(self)
    self._log.write("running")

  def begun(self, params: Any, seconds: float, num_sampled: int) -> None:
    """Notes that the memory was made.

    Args:
      params: T5X's.
      seconds: that it took.
      num_sampled: sequences.
    """
    if self._log is None:
      return
    self._log.took("memory_start", seconds, num_sampled=num_sampled)
    self._log.params(0, digests.tree_sha256(params))

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Notes what was measured in a step of T5X's."""
    if self._log is not None:
      self._log.step(step - self._began_at, metrics)

  def evaluated(
    self, step: int, outputs: Sequence[Output], seconds: float
  ) -> None:
    """Notes what T5X's evaluation found, and keeps the completions."""
    if self._log is None or not outputs:
      return
    own = step - self._began_at
    found = results.evaluated(
      self._store.folder,
      own,
      task=self.task.name,
      split=self._latent.config.test_split,
      decoder="greedy",
      outputs=outputs,
      is_shown=own in (0, self._steps),
    )
    self._log.evaluated(own, seconds, found)
    self._log.write("running")

  def saving(self, step: int, memory_sha256: str) -> None:
    """Brings all up to date before a checkpoint counts on it."""
    if self._log is None:
      return
    own = step - self._began_at
    self._log.saving(own)
    # T5X's parameters are not read again to be hashed.
    self._log.checkpoint(
      own, path=f"checkpoint_{step}", memory_sha256=memory_sha256
    )

  def close(self, step: int, params: Any, memory: MemoryState) -> None:
    """Ends the report as T5X's train ends."""
    if self._log is None:
      return
    own = step - self._began_at
    if own != self._steps:
      self._end("interrupted", f"stopped at step {own} of {self._steps}")
      return
    log, examples = self._log, self._latent.examples
    if own:
      log.params(own, digests.tree_sha256(params))
    folder = self._store.folder
    log.output(own, results.write_memory(folder, own, examples.ids, memory))
    if own:
      for row in results.memory_samples(self.task, examples, memory):
        log.sample(own, row)
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
      self._end(*runlog.ending(error, _INTERRUPTIONS))

  def _end(self, status: str, error: str | None = None) -> None:
    if self._log is None:
      return
    self._log.finish(status, error)
    self._log = None
    self._held.close()
    _open.discard(self)

  def _hold(self) -> None:
    """Makes the folder, and keeps other processes out of it."""
    self._store.fetch()
    if processes.is_first() and not self._store.is_remote:
      self._store.folder.mkdir(parents=True, exist_ok=True)
      self._held.enter_context(lock.hold(self._store.folder))

  def _open_log(
    self, sections: dict[str, Any], resume_at: int | None, diff: str | None
  ) -> StoredLog:
    folder, is_first = self._store.folder, processes.is_first()
    if is_first and diff:
      files.write_atomically(folder / record.DIFF, diff)
    if resume_at is not None and is_first and checks.evaluates_first():
      # T5X evaluates after it has saved, and once more where it resumes.
      runlog.drop_evaluation(folder, resume_at)
    return StoredLog(
      self._store,
      sections,
      resume_at,
      compiled=functools.partial(compilation.since, self._compiled_before),
      is_first=is_first,
      began=self._began,
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


def _say(text: str) -> None:
  if processes.is_first():
    terminal.say(text, is_error=True)
