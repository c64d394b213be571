"""What a run shows beside its report: metrics elsewhere, and a profile.

Nothing here changes what a run computes, so reports and run ids leave it out.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import jax

from cot_latent.errors import UserError
from cot_latent.reporting.runlog import Writer
from cot_latent.runtime import processes, terminal
from cot_latent.runtime.validation import check_types

# Marks a dataclass field that no report has.
UNRECORDED = {"is_recorded": False}


@dataclasses.dataclass(frozen=True)
class Watch:
  """What a run shows beside its report.

  Only the first of several processes writes metrics and a profile.

  Attributes:
    metric_writers: Functions without arguments that make writers, such as
      `clu.metric_writers.LoggingWriter`. Each is called once, when the run
      begins or resumes.
    profile_steps: The first and the last step that jax.profiler records,
      counted from 1; None records nothing.
  """

  metric_writers: Sequence[Callable[[], Writer]] = ()
  profile_steps: tuple[int, int] | None = None

  def __post_init__(self):
    for make in self.metric_writers:
      if isinstance(make, Writer) and not isinstance(make, type):
        raise UserError(
          f"METRIC_WRITERS has a {type(make).__name__} that is made already: "
          "write the reference without (), such as "
          "[@metric_writers.LoggingWriter]"
        )
    check_types(self)
    if (
      self.profile_steps
      and not 1 <= self.profile_steps[0] <= (self.profile_steps[1])
    ):
      raise UserError(
        f"PROFILE_STEPS = {self.profile_steps}: give the first and the last "
        "step, counted from 1, such as (11, 13)"
      )

  def check_steps(self, steps: int) -> None:
    """Checks that a run takes the steps that a profile is to have.

    Args:
      steps: Steps of the run.

    Raises:
      UserError: If it does not.
    """
    if self.profile_steps and self.profile_steps[1] > steps:
      raise UserError(
        f"PROFILE_STEPS = {self.profile_steps}: the run has only {steps} steps"
      )

  def open_writers(self) -> list[Writer]:
    """Makes the writers.

    Raises:
      UserError: If something made is not a writer.
    """
    if not processes.is_first():
      return []
    made = [make() for make in self.metric_writers]
    for one in made:
      if not isinstance(one, Writer):
        raise UserError(
          f"METRIC_WRITERS: a {type(one).__name__} is not a metric writer; it "
          "needs write_scalars, flush and close"
        )
    return made


class Profiler:
  """Records some steps of a run with jax.profiler, into MODEL_DIR/profile."""

  def __init__(self, watch: Watch, directory: str | os.PathLike[str]):
    """Records nothing yet.

    Args:
      watch: Which steps are recorded.
      directory: The run's folder.
    """
    steps = watch.profile_steps if processes.is_first() else None
    self._first, self._last = steps or (0, 0)
    self._folder = os.path.join(directory, "profile")
    self._is_on = False

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Surrounds a step.

    Args:
      number: Number of the step, from 1.
    """
    if number == self._first:
      jax.profiler.start_trace(self._folder)
      self._is_on = True
    is_over = True
    try:
      with jax.profiler.StepTraceAnnotation("step", step_num=number):
        yield
      is_over = number >= self._last
    finally:
      if is_over:
        self.close()

  def close(self) -> None:
    """Writes what was recorded, even before the last step to record."""
    if self._is_on:
      self._is_on = False
      jax.profiler.stop_trace()
      terminal.say(f"profile: {self._folder}", is_error=True)
