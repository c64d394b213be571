"""The embedded trainer: from an experiment to its report."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from tensorboard import summary

from cot_latent.data.open import open_task
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.em import header, plan
from cot_latent.em.drawn_parts import FOLDER, DrawnParts, Shared
from cot_latent.errors import UserError
from cot_latent.inference import rng
from cot_latent.models import partitioning
from cot_latent.reporting import environment, record
from cot_latent.reporting.runlog import RunLog
from cot_latent.runtime import compilation, files, lock, processes, tf_startup
from cot_latent.training import experiment, lengths, loading, setup, start
from cot_latent.training.checkpoints import Checkpoints
from cot_latent.training.given import GivenModel
from cot_latent.training.run import Run


class Prepared(NamedTuple):
  """A checked experiment; only its folder is not ready yet.

  Attributes:
    config: The experiment.
    directory: The run's folder.
    data: What the run reads.
    header: The sections of the report that do not change during the run.
    diff: Changes to the code, as git shows them; "" for none.
    resumption: How this process differs from the one that began the run.
    old: The report in the run's folder, if the run has begun already.
    code: The code of this process, as in the report's section.
    given: The model, if a program passes one.
  """

  config: experiment.Experiment
  directory: pathlib.Path
  data: loading.Data
  header: dict[str, Any]
  diff: str
  resumption: dict[str, Any]
  old: dict[str, Any] | None
  code: dict[str, Any]
  given: GivenModel | None = None

  def is_complete(self) -> bool:
    """Whether the run is over already, so that nothing is left to do."""
    return self.old is not None and self.old["status"] in record.FINISHED


def prepare(
  config: experiment.Experiment,
  gin_record: dict[str, Any],
  open_task: Callable[[Source], Task] = open_task,
  given: GivenModel | None = None,
) -> Prepared:
  """Loads the data and checks all that can be checked; writes nothing.

  Args:
    config: The experiment.
    gin_record: Origin of the configuration, for the report.
    open_task: Opens the experiment's tasks; several runs may share opened
      tasks.
    given: The model, if a program passes one.

  Raises:
    UserError: If the data or the precision cannot be used, or if the folder
      belongs to another run.
  """
  if jax.config.read("jax_enable_x64"):
    raise UserError(
      "jax_enable_x64 is on, and the model computes in float32: unset "
      "JAX_ENABLE_X64"
    )
  config = lengths.limited(config, open_task)
  name = experiment.run_id(config)
  directory = pathlib.Path(config.model_dir or f"runs/{name}")
  old = record.read(directory)
  loaded = loading.load_data(config, open_task)
  sections, diff = _header(config, name, gin_record, loaded, given)
  code, resumption = sections["code"], {}
  if old is not None:
    record.check_same_run(directory, old, sections)
    resumption = header.keep_original_sections(sections, old)
  return Prepared(
    config, directory, loaded, sections, diff, resumption, old, code, given
  )


def train(prepared: Prepared) -> dict[str, Any]:
  """Runs an experiment, or resumes it after a stop.

  If the run is complete already, nothing is done.

  Args:
    prepared: Result of `prepare`. Its header is changed in place.

  Returns:
    The report, which is also written to the experiment's folder, with the
    metrics and samples that are stored beside it. Only the first of several
    processes has the report.

  Raises:
    UserError: If the folder is in use, or if the processes have different
      configurations.
    RunError: If the run cannot continue, such as without a finite gradient.
    Preempted: If the process must end; the state is saved by then.
  """
  compilation.keep_on_disk()
  compilation.watch()
  config, sections = prepared.config, prepared.header
  directory, old = prepared.directory, prepared.old
  processes.check_agreement(
    [
      plan.as_dict(config) | {"model_dir": str(directory)},
      partitioning.describe(partitioning.make_layout(config.mesh)),
      sections["data"],
      sections["randomness"],
      old and old["status"],
    ]
  )
  if old is not None and prepared.is_complete():
    return record.read_whole(directory)
  if not processes.is_first():
    return _train(prepared)
  directory.mkdir(parents=True, exist_ok=True)
  with lock.hold(directory):
    if record.read(directory) != old:
      raise UserError(
        f"another process has worked in MODEL_DIR {directory} meanwhile: give "
        "the same command again"
      )
    return _train(prepared)


def _train(prepared: Prepared) -> dict[str, Any]:
  """Runs an experiment whose folder is locked."""
  config, directory = prepared.config, prepared.directory
  sections, is_first = prepared.header, processes.is_first()
  open_log = functools.partial(
    RunLog,
    directory,
    sections,
    compiled=functools.partial(compilation.since, compilation.so_far()),
    is_first=is_first,
  )
  if prepared.old is None and is_first:
    if prepared.diff:
      files.write_atomically(directory / record.DIFF, prepared.diff)
    # The report comes first: it identifies the folder of a killed run.
    open_log(None).write("running")
  with contextlib.closing(Checkpoints(directory / "checkpoints")) as saved:
    resume_at = saved.latest_step()
    if resume_at is not None:
      sections["continuity"]["resumes"].append(
        {"step": resume_at, **prepared.resumption}
      )
    log = open_log(resume_at)
    with log.guarded():
      if resume_at is not None:
        log.note_resumed(resume_at, saved.sha256(resume_at))
      log.write("running")
      if is_first:
        # TensorBoard's own writer: CLU's starts TensorFlow.
        tf_startup.keep_tensorboard_from_tensorflow()
        log.writers = [
          _TensorBoard(str(directory / "tensorboard")),
          *config.watch.open_writers(),
        ]
      task, given = prepared.data.task, prepared.given
      built = setup.build_setup(config, directory, task, given)
      parts = DrawnParts(directory, _shared_draws(config, prepared.code))
      if resume_at is None:
        data, state = start.begin(built, prepared.data, log, parts)
      else:
        parts.forget(resume_at)
        data, state = start.resume(built, prepared.data, log, saved)
      run = Run(built, data, log, saved, parts)
      run.run(state, is_new=resume_at is None)
      return log.finish("complete") | record.split(log.rows)


def _shared_draws(
  config: experiment.Experiment, code: Mapping[str, Any]
) -> Shared | None:
  """Returns where runs with this base model share draws; None if nowhere."""
  if config.base_dir is None:
    return None
  settings, devices = plan.as_dict(config), jax.devices()
  made_by = [
    *(settings[name] for name in ("model", "tuning", "task", "mesh")),
    *(devices[0].device_kind, len(devices), environment.drawing_code(code)),
  ]
  if config.method.scores_answers():  # words end its rationales
    made_by.append(settings["method"]["likelihood"])
  content = files.to_json_line(made_by).encode()
  return Shared(pathlib.Path(config.base_dir, FOLDER), files.sha256(content))


class _TensorBoard:
  """TensorBoard's own writer of events as a writer of metrics."""

  def __init__(self, folder: str):
    """Opens the file of events."""
    self._events = summary.Writer(folder)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds numbers by their names."""
    for name, value in scalars.items():
      self._events.add_scalar(name, value, step)

  def flush(self) -> None:
    """Writes everything to the disk."""
    self._events.flush()

  def close(self) -> None:
    """Flushes, and ends the file."""
    self._events.close()


def _header(
  config: experiment.Experiment,
  name: str,
  gin_record: dict[str, Any],
  loaded: loading.Data,
  given: GivenModel | None,
) -> tuple[dict[str, Any], str]:
  """Writes the sections of the report that do not change during a run.

  Returns:
    The sections, and the changes to the code.
  """
  layout = partitioning.make_layout(config.mesh)
  model = given or setup.build_model(config, loaded.task, layout, config.tuning)
  return header.build_header(
    identity={
      "run_id": name,
      "task": loaded.task.name,
      "method": config.method.name,
      "seed": config.seed,
      "argv": environment.argv(),
      "rerun": "the program that called cot_latent.train"
      if given
      else "t5x rerun report.json",
    },
    module=config.task.source.module,
    configuration=gin_record | {"experiment": plan.as_dict(config)},
    data=loading.describe_data(config, loaded),
    params=jax.eval_shape(model.init, rng.purpose_key(config.seed, "params")),
    topology=partitioning.describe(layout),
    plan=experiment.plan(config, len(loaded.train), len(loaded.test)),
    limits=config.limits,
  )
