"""The log of a run, which both trainers fill: its journal and its report.

Measurements are written to the journal at once, row by row. report.json and its
page are made from the journal, completely each time: when the run starts, at
every checkpoint and at the end. So a reader always finds a valid report, and a
killed run has all rows on which its last checkpoint relies.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from cot_latent.errors import Preempted, UserError
from cot_latent.reporting import environment, metric_names, page, record
from cot_latent.runtime import files

INTERRUPTIONS: tuple[type[BaseException], ...] = (KeyboardInterrupt, Preempted)
# Kinds of the rows that an evaluation adds.
_OF_EVALUATION = ("result", "evaluation_seconds", "output", "sample")
_Row = dict[str, Any]


@runtime_checkable
class Writer(Protocol):
  """A writer of numbers: what is used of `clu.metric_writers.MetricWriter`."""

  def write_scalars(self, step: int, scalars: Mapping[str, float], /) -> Any:
    """Shows numbers by their names."""

  def flush(self) -> Any:
    """Returns once all numbers are written."""

  def close(self) -> Any:
    """Flushes, and ends the writing."""


class Evaluation(NamedTuple):
  """The results of an evaluation, as rows without step and kind.

  Attributes:
    results: One row per task; the first row is for all questions.
    num_sampled: Number of sequences drawn.
    output: The file with the completions.
    samples: Completions that the report shows.
  """

  results: Sequence[_Row]
  num_sampled: int
  output: _Row
  samples: Sequence[_Row] = ()


class RunLog:
  """The journal of one run, its report, and what shows its numbers elsewhere.

  Only the first of several processes writes. The others have the same rows, but
  write nothing.

  Attributes:
    rows: The journal's rows in order, each with `step` and `kind`.
    writers: Writers that are shown the numbers too. They are closed with the
      log.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    header: dict[str, Any],
    resume_at: int | None,
    *,
    compiled: Callable[[], Mapping[str, float]],
    is_first: bool = True,
    began: float | None = None,
  ):
    """Opens the log of a run that starts or resumes.

    Args:
      directory: The run's folder.
      header: Sections of the report that do not come from the journal.
      resume_at: The step of the checkpoint from which the run resumes; rows
        after it are dropped. None at the start drops all rows.
      compiled: Returns how many functions this process has compiled for the run
        so far, and the seconds that it took (`compilation.since`).
      is_first: Whether this is the process that writes.
      began: Time when the run began, by `time.perf_counter`; None is now.

    Raises:
      UserError: If the journal lacks steps that were taken before.
    """
    self._directory, self._header = directory, header
    self._compiled = compiled
    self._began = time.perf_counter() if began is None else began
    self._first_step_seconds: float | None = None
    self.writers: list[Writer] = []
    self._journal: files.Journal | None = None
    path = directory / record.JOURNAL
    if not is_first:
      self.rows = [] if resume_at is None else files.read_rows(path, resume_at)
      return
    if resume_at is not None:
      _check_steps(path, resume_at)
    self._journal = files.Journal(path, resume_at)
    self.rows = self._journal.rows

  @contextlib.contextmanager
  def phase(self, name: str, **fields: Any) -> Iterator[_Row]:
    """Times a phase before the first step; a failed phase has no row.

    Args:
      name: Name of the phase, such as memory_start.
      **fields: Further fields, such as `num_sampled` sequences.

    Yields:
      The fields, so that the phase can add to them. `seconds_before`, which
      earlier processes took for a part of it, is added to the time.
    """
    began = time.perf_counter()
    yield fields
    before = fields.pop("seconds_before", 0.0)
    self.took(name, time.perf_counter() - began + before, **fields)

  def took(self, name: str, seconds: float, **fields: Any) -> None:
    """Records a phase that was timed already; see `phase`."""
    self._add(0, "phase", phase=name, seconds=seconds, **fields)

  def phase_row(self, name: str) -> _Row:
    """Returns the row of a phase, from this process or an earlier one."""
    phases = record.of_kind(self.rows, "phase")
    (row,) = (row for row in phases if row["phase"] == name)
    return row

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Records the measurements of a step.

    Args:
      step: Number of steps taken, this one included.
      metrics: Numbers by name. Those with a slash in their names are shown in
        TensorBoard, except None, which stands for a number that is not finite.
    """
    if self._first_step_seconds is None:
      self._first_step_seconds = time.perf_counter() - self._began
    self._add(step, "metrics", **metrics)
    self._show(step, metric_names.scalars(metrics))

  def evaluated(
    self, step: int, seconds: float, evaluation: Evaluation
  ) -> None:
    """Records an evaluation.

    Args:
      step: The step after which it was made.
      seconds: Time that it took.
      evaluation: Its results.
    """
    for row in evaluation.results:
      self._add(step, "result", **row)
    self._add(
      step,
      "evaluation_seconds",
      seconds=seconds,
      num_sampled=evaluation.num_sampled,
    )
    whole = evaluation.results[0]
    self._show(step, {f"eval/{whole['decoder']}_accuracy": whole["accuracy"]})
    self.output(step, evaluation.output)
    for row in evaluation.samples:
      self.sample(step, row)

  def output(self, step: int, row: _Row) -> None:
    """Records a file beside the report: its path, sha256 and num_bytes."""
    self._add(step, "output", **row)

  def sample(self, step: int, row: _Row) -> None:
    """Records a completion that the report shows."""
    self._add(step, "sample", **row)

  def stuck(self, step: int, row: _Row) -> None:
    """Notes a question whose chain did not start, or did not move."""
    self._add(step, "stuck", **row)

  def params(self, step: int, sha256: str) -> None:
    """Records the hash of the trained parameters after a step."""
    self._add(step, "params", sha256=sha256)

  def saving(self, step: int) -> None:
    """Writes all rows to the disk, before a checkpoint relies on them."""
    for writer in self.writers:
      writer.flush()
    self._add(
      step,
      "usage",
      peak_memory_bytes=environment.peak_memory(),
      first_step_seconds=self._first_step_seconds,
      compilation=self._compiled(),
    )
    self._sync()

  def checkpoint(self, step: int, **fields: str) -> None:
    """Records a checkpoint, and updates the report.

    Args:
      step: Step of the checkpoint.
      **fields: Identification of the checkpoint, such as `sha256`.
    """
    self._add(step, "checkpoint", **fields)
    self._sync()
    self.write("running")

  def note_resumed(self, step: int, sha256: str) -> None:
    """Records the checkpoint from which the run resumes, if no row has it.

    It has none if a process was killed between checkpoint and row.
    """
    rows = record.of_kind(self.rows, "checkpoint")
    if not any(row["step"] == step for row in rows):
      self._add(step, "checkpoint", sha256=sha256)

  def write(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Writes report.json and report.html.

    Args:
      status: Running, complete, failed or interrupted. A complete run that was
        useless is recorded as suspect.
      error: The error, in one line.

    Returns:
      The report; {} from a process that writes nothing.
    """
    if self._journal is None:
      return {}
    report = record.build_report(self._header, self.rows, status, error)
    path = self._directory / "report.json"
    files.write_atomically(path, files.to_json(report))
    html = page.render(report | record.split(self.rows))
    files.write_atomically(path.with_suffix(".html"), html)
    return report

  def finish(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Closes the writers, writes the last report, and closes the journal.

    Args:
      status: Status of the run, as in `write`.
      error: The error, in one line.

    Returns:
      The report, as in `write`.
    """
    self._close_writers()
    report = self.write(status, error)
    self.close()
    return report

  @contextlib.contextmanager
  def guarded(self) -> Iterator[None]:
    """Makes the report record the error that ends the run; then closes all."""
    try:
      yield
    except BaseException as error:
      # Nothing, such as a full disk, may hide the first error.
      with contextlib.suppress(Exception):
        self._close_writers()
      with contextlib.suppress(Exception):
        self.write(*ending(error))
      raise
    finally:
      self.close()

  def close(self) -> None:
    """Closes the journal."""
    if self._journal:
      self._journal.close()

  def _add(self, step: int, kind: str, **fields: Any) -> None:
    if self._journal:
      self._journal.add(step, kind, **fields)
    else:
      self.rows.append({"step": step, "kind": kind, **fields})

  def _sync(self) -> None:
    if self._journal:
      self._journal.sync()

  def _show(self, step: int, numbers: Mapping[str, float]) -> None:
    for writer in self.writers:
      writer.write_scalars(step, numbers)

  def _close_writers(self) -> None:
    with contextlib.ExitStack() as closing:
      while self.writers:
        closing.callback(self.writers.pop().close)


def ending(
  error: BaseException | None,
  interruptions: tuple[type[BaseException], ...] = INTERRUPTIONS,
) -> tuple[str, str | None]:
  """Describes for a report what ended its run early.

  Args:
    error: The error that ended it; None if it is unknown.
    interruptions: Errors that are not failures of the run.

  Returns:
    The status, and the error in one line.
  """
  if error is None or isinstance(error, interruptions):
    return "interrupted", None
  return "failed", f"{type(error).__name__}: {error}"[:500]


def drop_evaluation(directory: pathlib.Path, step: int) -> None:
  """Drops rows after a step, and those of the step's own evaluation.

  Args:
    directory: The run's folder.
    step: Step from which the run resumes, and which it evaluates again.
  """
  path = directory / record.JOURNAL
  rows = [
    row
    for row in files.read_rows(path, step)
    if row["step"] < step or row["kind"] not in _OF_EVALUATION
  ]
  if path.is_file():
    files.write_atomically(path, "".join(map(files.to_json_line, rows)))


def _check_steps(path: pathlib.Path, resume_at: int) -> None:
  """Checks that a journal has all steps up to a checkpoint's."""
  steps = {row["step"] for row in files.read_rows(path, resume_at)}
  if missing := {*range(resume_at + 1)} - steps:
    raise UserError(
      f"{path} lacks step {min(missing)}, though the checkpoint is of step "
      f"{resume_at}: put the journal back, or choose another MODEL_DIR"
    )
