"""The log of a run, which both trainers fill: its journal and its report.

What is measured goes into the journal at once, row by row. From the journal
report.json and its page are made, whole each time: when the run starts, at
every checkpoint and at the end. So a reader always finds a valid report, and a
killed run has all rows that its last checkpoint counts on.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cot_latent.errors import Preempted, UserError
from cot_latent.reporting import environment, metric_names, page, record
from cot_latent.runtime import files

INTERRUPTIONS: tuple[type[BaseException], ...] = (KeyboardInterrupt, Preempted)
# Kinds of the rows that an evaluation adds.
_OF_EVALUATION = ("result", "evaluation_seconds", "output", "sample")
_Row = dict[str, Any]


class Events(Protocol):
  """A writer of TensorBoard's events."""

  def add_scalar(self, tag: str, value: float, step: int, /) -> Any:
    """Shows a number."""

  def flush(self) -> Any:
    """Returns when all numbers are written."""

  def close(self) -> Any:
    """Flushes, and ends the file."""


class Evaluation(NamedTuple):
  """What an evaluation found, as rows without step and kind.

  Attributes:
    results: A row for each task; the first is of all questions.
    num_sampled: Sequences that were drawn.
    output: The file with the completions.
    samples: Completions that the report shows.
  """

  results: Sequence[_Row]
  num_sampled: int
  output: _Row
  samples: Sequence[_Row] = ()


class RunLog:
  """The journal of one run, its report, and its events if they are wanted.

  Of several processes only the first one writes. The others have the same
  rows, and write nothing.

  Attributes:
    rows: The journal's rows in their order, each with `step` and `kind`.
    events: Where TensorBoard's numbers go; None shows none. It is closed with
      the log.
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
      header: The sections of the report that the journal does not give.
      resume_at: The step of the checkpoint that the run resumes from; rows
        after it are dropped. None at the start drops all rows.
      compiled: Counts the functions that this process has compiled for the run
        so far, and the seconds that it took (`compilation.since`).
      is_first: Whether this is the process that writes.
      began: When the run began, by `time.perf_counter`; None is now.

    Raises:
      UserError: If the journal lacks steps that were taken before.
    """
    self._directory, self._header = directory, header
    self._compiled = compiled
    self._began = time.perf_counter() if began is None else began
    self._first_step_seconds: float | None = None
    self.events: Events | None = None
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
    """Times a phase before the first step; one that fails has no row.

    Args:
      name: What the phase does, such as memory_start.
      **fields: What is known of it, such as `num_sampled` sequences.

    Yields:
      The fields, to add what is known at the end; `seconds_before`, which
      earlier processes took for a part of it, is added to the time.
    """
    began = time.perf_counter()
    yield fields
    before = fields.pop("seconds_before", 0.0)
    self.took(name, time.perf_counter() - began + before, **fields)

  def took(self, name: str, seconds: float, **fields: Any) -> None:
    """Notes a phase that was timed already; `phase` has the arguments."""
    self._add(0, "phase", phase=name, seconds=seconds, **fields)

  def phase_row(self, name: str) -> _Row:
    """What was noted of a phase, by this process or by one before it."""
    phases = record.of_kind(self.rows, "phase")
    (row,) = (row for row in phases if row["phase"] == name)
    return row

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Notes what a step measured.

    Args:
      step: Steps of the method that are taken, this one included.
      metrics: Numbers by name. Those with a slash in their names are shown in
        TensorBoard, except None, which stands for what is not finite.
    """
    if self._first_step_seconds is None:
      self._first_step_seconds = time.perf_counter() - self._began
    self._add(step, "metrics", **metrics)
    self._show(step, metric_names.scalars(metrics))

  def evaluated(
    self, step: int, seconds: float, evaluation: Evaluation
  ) -> None:
    """Notes an evaluation.

    Args:
      step: The step after which it was made.
      seconds: How long it took.
      evaluation: What it found.
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
    """Notes a file beside the report: its path, sha256 and num_bytes."""
    self._add(step, "output", **row)

  def sample(self, step: int, row: _Row) -> None:
    """Notes a completion that the report shows."""
    self._add(step, "sample", **row)

  def params(self, step: int, sha256: str) -> None:
    """Notes the hash of what is trained, as it is after a step."""
    self._add(step, "params", sha256=sha256)

  def saving(self, step: int) -> None:
    """Brings all rows to the disk, before a checkpoint counts on them."""
    if self.events:
      self.events.flush()
    self._add(
      step,
      "usage",
      peak_memory_bytes=environment.peak_memory(),
      first_step_seconds=self._first_step_seconds,
      compilation=self._compiled(),
    )
    self._sync()

  def checkpoint(self, step: int, **fields: str) -> None:
    """Notes a checkpoint, and brings the report up to date.

    Args:
      step: Of the checkpoint.
      **fields: What the checkpoint is known by, such as `sha256`.
    """
    self._add(step, "checkpoint", **fields)
    self._sync()
    self.write("running")

  def note_resumed(self, step: int, sha256: str) -> None:
    """Notes the checkpoint that the run resumes from, if no row has it.

    It has none where a process was killed between checkpoint and row.
    """
    rows = record.of_kind(self.rows, "checkpoint")
    if not any(row["step"] == step for row in rows):
      self._add(step, "checkpoint", sha256=sha256)

  def write(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Writes report.json and report.html.

    Args:
      status: Running, complete, failed or interrupted; a run that is complete
        and was not alive is written down as suspect.
      error: What went wrong, in a line.

    Returns:
      The report; {} of a process that writes nothing.
    """
    if self._journal is None:
      return {}
    report = record.build(self._header, self.rows, status, error)
    path = self._directory / "report.json"
    files.write_atomically(path, files.to_json(report))
    html = page.render(report | record.split(self.rows))
    files.write_atomically(path.with_suffix(".html"), html)
    return report

  def finish(self, status: str, error: str | None = None) -> dict[str, Any]:
    """Closes the events, writes the last report, and closes the journal.

    Args:
      status: As for `write`.
      error: What went wrong, in a line.

    Returns:
      As `write`.
    """
    self._close_events()
    report = self.write(status, error)
    self.close()
    return report

  @contextlib.contextmanager
  def guarded(self) -> Iterator[None]:
    """Has the report say what ended the run; closes all in the end."""
    try:
      yield
    except BaseException as error:
      # Nothing, such as a full disk, must hide what went wrong first.
      with contextlib.suppress(Exception):
        self._close_events()
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
    if self.events:
      for name, value in numbers.items():
        self.events.add_scalar(name, value, step)

  def _close_events(self) -> None:
    events, self.events = self.events, None
    if events:
      events.close()


def ending(
  error: BaseException | None,
  interruptions: tuple[type[BaseException], ...] = INTERRUPTIONS,
) -> tuple[str, str | None]:
  """How a report says what ended its run early.

  Args:
    error: What ended it; None where nobody knows.
    interruptions: Errors that are no failure of the run's.

  Returns:
    The status, and what went wrong, in a line.
  """
  if error is None or isinstance(error, interruptions):
    return "interrupted", None
  return "failed", f"{type(error).__name__}: {error}"[:500]


def drop_evaluation(directory: pathlib.Path, step: int) -> None:
  """Drops rows after a step, and those of the step's own evaluation.

  Args:
    directory: The run's folder.
    step: One that the run resumes from and evaluates once more.
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
