"""The report of a run inside T5X, with steps as in the embedded trainer's.

T5X's step also counts the steps of the pretrained checkpoint. A report counts
the method's steps from 0; its part `t5x` has T5X's step at which they began.
"""

import atexit
import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
from t5x import partitioning, trainer

from cot_latent.em import evaluation, results
from cot_latent.em.evaluation import Output
from cot_latent.em.watching import Profiler, Watch
from cot_latent.errors import UserError
from cot_latent.inference.memory import MemoryState
from cot_latent.models import digests
from cot_latent.reporting import record, runlog
from cot_latent.reporting.health import Limits
from cot_latent.reporting.runlog import RunLog
from cot_latent.runtime import compilation, files, lock, processes, terminal
from cot_latent.t5x import checks, header
from cot_latent.t5x.latent import Latent
from cot_latent.t5x.storage import Store

# Called with a header before anything is written. It is a module variable
# because T5X's own script runs between `launch.run`, which sets it, and the
# report.
check_header: Callable[[Mapping[str, Any]], None] | None = None
_open: set["Report"] = set()  # of this process, for `end_by`

_PREDICTIONS = seqio.metrics.ModelOutputType.PREDICTION
_INTERRUPTIONS = (*runlog.INTERRUPTIONS, trainer.PreemptionError)


class StoredLog(RunLog):
  """A log that may be in a bucket, and whose report names T5X's config.gin."""

  def __init__(
    self,
    store: Store,
    sections: dict[str, Any],
    resume_at: int | None,
    **settings: Any,
  ):
    """Opens the log; see `RunLog`, which takes the last arguments.

    Args:
      store: The run's folder.
      sections: Sections of the report that do not come from the journal.
      resume_at: The step from which the run resumes; None at the start.
      **settings: Further arguments of `RunLog`.
    """
    super().__init__(store.folder, sections, resume_at, **settings)
    self._store, self._sections = store, sections

  def write(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Writes report.json and report.html, and copies files to the bucket."""
    content = self._store.config()
    if content is not None:
      header.name_config(self._sections, content)
    report = super().write(status, error)
    if processes.is_first():
      self._store.push()
    return report


class Report:
  """Writes the journal, report.json and its page while T5X trains.

  Attributes:
    test: The held-out questions.
  """

  def __init__(
    self,
    latent: Latent,
    model_dir: str,
    total_steps: int,
    evaluation_period: int,
    limits: Limits | None = None,
    watch: Watch | None = None,
  ):
    """Loads the held-out questions; writes nothing.

    Args:
      latent: The experiment.
      model_dir: The run's folder.
      total_steps: T5X's step at which the run ends.
      evaluation_period: Steps between T5X's evaluations.
      limits: Limits beyond which a complete run is suspect.
      watch: Metric writers and profile.
    """
    self._began = time.perf_counter()
    compilation.watch()
    self._compiled_before = compilation.so_far()
    self._latent, self._limits = latent, limits or Limits()
    self._watch = watch or Watch()
    self._profiler: Profiler | None = None
    self._store, self._model_dir = Store(model_dir), model_dir
    self._total_steps = total_steps
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
    """The task, with vocabulary and answers."""
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
      step: T5X's step.
      began_at: T5X's step at which the memory was made.
      is_new: Whether it is made now.
      params: Parameters of T5X.
      partitioner: Partitioner of the run.
      num_microbatches: Number of parts of a step's rows.

    Raises:
      UserError: If the folder belongs to another run or is in use, if steps
        are missing in its journal, or if TRAIN_STEPS is less than the steps of
        the initial checkpoint.
    """
    self._began_at = began_at
    end = self._total_steps
    if is_new and end < step:
      raise UserError(
        f"TRAIN_STEPS = {end} counts the {step} steps of the checkpoint too: "
        f"set TRAIN_STEPS to {step} plus the steps to be trained"
      )
    self._steps, own = end - began_at, step - began_at
    self._watch.check_steps(self._steps)
    sections, diff = header.build_header(
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
      header.keep_original_sections(sections, old, resume_at)
    self._log = self._open_log(sections, resume_at, None if old else diff)
    # T5X may end at many places outside of steps and evaluations.
    atexit.register(_end_as_python_does)
    _open.add(self)
    self._log.write("running")

  def begun(self, params: Any, seconds: float, num_sampled: int) -> None:
    """Records that the memory was made.

    Args:
      params: Parameters of T5X.
      seconds: Time that it took.
      num_sampled: Number of sequences drawn.
    """
    if self._log is None:
      return
    self._log.took("memory_start", seconds, num_sampled=num_sampled)
    self._log.params(0, digests.tree_sha256(params))

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Records the measurements of a step of T5X's."""
    if self._log is not None:
      self._log.step(step - self._began_at, metrics)

  def evaluated(
    self, step: int, outputs: Sequence[Output], seconds: float
  ) -> None:
    """Records the results of T5X's evaluation, and stores the completions."""
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
    correct = sum(output.is_correct for output in outputs)
    _say(
      f"{'greedy':<14} step {own}: {correct}/{len(outputs)} correct  "
      f"{seconds:.1f} s"
    )

  def saving(self, step: int, memory_sha256: str) -> None:
    """Writes everything that a checkpoint relies on, before it is saved."""
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
      for row in results.stuck_questions(self.task, examples, memory):
        log.stuck(own, row)
    self._end("complete")
    _say(f"report: {self._store.home / 'report.html'}")

  @contextlib.contextmanager
  def guarded(self) -> Iterator[None]:
    """Makes the report record the error that ends the run."""
    try:
      yield
    except BaseException as error:
      self.end_by(error)
      raise

  def end_by(self, error: BaseException | None) -> None:
    """Ends the report with the error that ended the run; None is unknown."""
    # Nothing, such as a full disk, may hide the first error.
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
    """Makes and locks the folder."""
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
      # T5X evaluates after it has saved, and again when it resumes.
      runlog.drop_evaluation(folder, resume_at)
    self._profiler = Profiler(self._watch, folder)
    self._held.callback(self._profiler.close)
    log = StoredLog(
      self._store,
      sections,
      resume_at,
      compiled=functools.partial(compilation.since, self._compiled_before),
      is_first=is_first,
      began=self._began,
    )
    log.writers = self._watch.open_writers()
    return log

  def profiled(self, step: int) -> contextlib.AbstractContextManager[None]:
    """Surrounds a step of T5X's, counted from 0, which may be recorded."""
    if self._profiler is None:
      return contextlib.nullcontext()
    return self._profiler.step(step + 1 - self._began_at)


class Evaluator:
  """A SeqIO evaluator that passes its answers to a report."""

  def __init__(
    self,
    make: Callable[..., seqio.Evaluator],
    report: Report | None,
    **settings: Any,
  ):
    """Makes the evaluator.

    Args:
      make: SeqIO's evaluator, with gin's settings.
      report: Report of the run; None records no answers.
      **settings: Arguments from T5X.
    """
    self._made = make(**settings)
    self._report = report
    if report is not None and not checks.evaluates_greedily():
      # A report's results are greedy, or majorities of samples.
      terminal.say(
        "the evaluation draws samples (decoding.temperature_sample), so "
        "the report leaves it out: set topk = 1",
        is_error=True,
      )
      self._report = None
    self._ids: dict[str, list[str]] = {}

  def __getattr__(self, name: str) -> Any:
    """Returns any other attribute of SeqIO's evaluator."""
    return getattr(self._made, name)

  def evaluate(self, *, step: int | None = None, **settings: Any) -> Any:
    """Evaluates; see `seqio.Evaluator.evaluate`."""
    if self._report is None:
      return self._made.evaluate(step=step, **settings)
    with self._report.guarded():
      began = time.perf_counter()
      metrics, outputs = self._made.evaluate(step=step, **settings)
      answers = self._answers(self._report, outputs)
      seconds = time.perf_counter() - began
      self._report.evaluated(int(step or 0), answers, seconds)
    return metrics, outputs

  def _answers(self, report: Report, outputs: Any) -> list[Output]:
    """Reads the completions of the report's questions, in their order."""
    tokens: dict[str, Any] = {}
    for task in self._made.eval_tasks:
      if _PREDICTIONS in outputs[task.name]:
        ids = self._ids_of(task.name)
        tokens |= zip(ids, outputs[task.name][_PREDICTIONS], strict=True)
    test = report.test
    return [
      evaluation.judge(
        report.task, test, place, np.asarray(tokens[name], np.int32).ravel()
      )
      for place, name in enumerate(test.ids)
      if name in tokens
    ]

  def _ids_of(self, task: str) -> list[str]:
    if task not in self._ids:
      rows = self._made.cached_task_datasets[task].as_numpy_iterator()
      self._ids[task] = [row["id"].decode() for row in rows]
    return self._ids[task]


def end_by(error: BaseException | None) -> None:
  """Ends the reports of this process that are still open.

  Args:
    error: Error that ends the run; None if it is unknown.
  """
  for each in tuple(_open):
    each.end_by(error)


def _end_as_python_does() -> None:
  end_by(getattr(sys, "last_value", None))


def _say(text: str) -> None:
  if processes.is_first():
    terminal.say(text, is_error=True)
