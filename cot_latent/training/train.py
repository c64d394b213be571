"""The embedded trainer: from an experiment to its report."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tensorboard import summary

from cot_latent.data.open import open_task
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.em import (
  evaluation,
  header,
  outer_loops,
  plan,
  results,
  step_info,
  training_data,
)
from cot_latent.em.drawing import Drawer
from cot_latent.em.estep import EStep, WeightedRows
from cot_latent.errors import Preempted, RunError, UserError
from cot_latent.inference import rng
from cot_latent.models import api, digests, language_model, lora, partitioning
from cot_latent.reporting import environment, metric_names, record, silent
from cot_latent.runtime import (
  compilation,
  files,
  lock,
  preemption,
  processes,
  tf_startup,
)
from cot_latent.runtime.progress import Progress
from cot_latent.training import (
  base,
  bootstrap,
  checkpoints,
  experiment,
  loading,
  loops,
  mstep,
  tuning,
)
from cot_latent.training.state import TrainState

_NUM_SAMPLES_SHOWN = 6  # of each kind, in the report


class Prepared(NamedTuple):
  """A checked experiment: all but the folder is ready.

  Attributes:
    config: the experiment.
    directory: the run's folder.
    data: what it reads.
    header: the sections of the report that do not change during the run.
    diff: what is changed in the code, as git shows it; "" for nothing.
    resumption: how this process differs from the one that began the run.
    old: the report in the run's folder, if the run has begun already.
  """

  config: experiment.Experiment
  directory: pathlib.Path
  data: loading.Data
  header: dict[str, Any]
  diff: str
  resumption: dict[str, Any]
  old: dict[str, Any] | None

  def is_complete(self) -> bool:
    """Whether the run is over already, so that nothing is left to do."""
    return self.old is not None and self.old["status"] in record.FINISHED


def prepare(
  config: experiment.Experiment,
  gin_record: dict[str, Any],
  open_task: Callable[[Source], Task] = open_task,
) -> Prepared:
  """Loads the data and checks all that can be checked; writes nothing.

  Args:
    config: the experiment.
    gin_record: what the configuration came from, for the report.
    open_task: opens its tasks; several runs may share what was opened.

  Raises:
    UserError: if the data or the precision cannot be used, or if the folder
      belongs to another run.
  """
  if jax.config.read("jax_enable_x64"):
    raise UserError(
      "jax_enable_x64 is on, and the model computes in float32: unset "
      "JAX_ENABLE_X64"
    )
  name = experiment.run_id(config)
  directory = pathlib.Path(config.model_dir or f"runs/{name}")
  old = record.read(directory)
  loaded = loading.load_data(config, open_task)
  sections, diff = _header(config, name, gin_record, loaded)
  resumption = {}
  if old is not None:
    record.check_same_run(directory, old, sections)
    resumption = header.take_over(sections, old)
  return Prepared(config, directory, loaded, sections, diff, resumption, old)


def train(prepared: Prepared) -> dict[str, Any]:
  """Runs an experiment, or goes on with it where it was stopped.

  Returns:
    The report, which is also written to the experiment's folder, with the
    metrics and samples that lie beside it. If the run is complete already,
    nothing is done. Of several processes only the first one has the report.

  Raises:
    UserError: if the folder is in use, or if several processes were asked for
      different things.
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
  """Runs an experiment whose folder is held."""
  config, directory, loaded = prepared.config, prepared.directory, prepared.data
  sections, old = prepared.header, prepared.old
  is_first = processes.is_first()
  if old is None and is_first:
    if prepared.diff:
      files.write_atomically(directory / record.DIFF, prepared.diff)
    # The report comes first: by it a killed run's folder is known again.
    record.Record(directory, sections, None).write("running")
  saved = checkpoints.Checkpoints(directory / "checkpoints")
  resume_at = saved.latest_step()
  if resume_at is not None:
    sections["continuity"]["resumes"].append(
      {"step": resume_at, **prepared.resumption}
    )
  run_record: record.Record | silent.Record = (
    record.Record(directory, sections, resume_at)
    if is_first
    else silent.Record(directory, resume_at)
  )
  with contextlib.closing(run_record), contextlib.closing(saved):
    try:
      if resume_at is not None:
        _note_checkpoint(run_record.journal, resume_at, saved.sha256(resume_at))
      run_record.write("running")
      run = _Run(config, loaded, run_record, saved, directory)
      with contextlib.ExitStack() as stack:
        if run.writer:
          stack.callback(run.writer.close)
        run.run()
      report = run_record.write("complete")
      return report | record.split(run_record.journal.rows)
    except (KeyboardInterrupt, Preempted):
      run_record.write("interrupted")
      raise
    except BaseException as error:
      # Nothing, such as a full disk, must hide what went wrong first.
      with contextlib.suppress(Exception):
        run_record.write("failed", f"{type(error).__name__}: {error}"[:500])
      raise


class _Run:
  """One pass through base model, memory start, steps and evaluations."""

  def __init__(self, config, loaded, run_record, saved, directory):
    self.began = time.perf_counter()
    self.first_step_seconds: float | None = None
    self.compiled_before = compilation.so_far()
    self.config, self.data = config, loaded
    self.record, self.journal = run_record, run_record.journal
    self.checkpoints, self.directory = saved, directory
    self.task = loaded.task
    self.layout = partitioning.make_layout(config.mesh)
    self.model = _build_model(config, self.task, self.layout)
    self.optimizer = mstep.build_optimizer(config.optimizer)
    self.init_optimizer = functools.partial(
      mstep.init_optimizer, self.model, self.optimizer
    )
    self.m_step = mstep.build(
      self.model,
      self.optimizer,
      config.rows_at_once or -(-config.batch_size // 4),
    )
    # TensorBoard's own writer: CLU's starts TensorFlow.
    tf_startup.keep_tensorboard_from_tensorflow()
    self.writer: summary.Writer | None = None
    if processes.is_first():
      self.writer = summary.Writer(str(directory / "tensorboard"))

  def run(self) -> None:
    """Takes all steps that are still to be taken."""
    config = self.config
    is_new = self.checkpoints.latest_step() is None
    if is_new:
      state = self.start()
      self.note_params(state)
      if not config.steps:
        self.keep_results(state)
      self.evaluate(state)
    else:
      state = self.restore()
    with preemption.deferred() as is_preempted:
      if is_new:
        self.save(state)
      self.take_steps(state, is_preempted)

  def take_steps(
    self, state: TrainState, is_preempted: Callable[[], bool]
  ) -> None:
    """Takes all steps; where the process is to end, saves and stops."""
    config = self.config
    progress = Progress(config.method.name, config.steps, state.step)
    while True:
      if processes.any_says(is_preempted()):
        if self.checkpoints.latest_step() != state.step:
          self.save(state)
        raise Preempted
      if state.step == config.steps:
        return
      state, metrics = self.step(state)
      if self.first_step_seconds is None:
        self.first_step_seconds = time.perf_counter() - self.began
      self.journal.add(state.step, "metrics", **metrics)
      self.write_scalars(
        state.step,
        step_info.scalars(metrics),
      )
      progress(
        state.step,
        f"accepted {metrics[metric_names.ACCEPT_RATE]:.2f}  "
        f"memory {metrics[metric_names.MEMORY_CORRECT]:.2f}",
      )
      is_last = state.step == config.steps
      if is_last or state.step % config.evaluation.period == 0:
        self.evaluate(state)
      if is_last:
        self.note_params(state)
        self.keep_results(state)
        self.show_memory(state)
      if is_last or state.step % config.checkpoint_period == 0:
        self.save(state)

  def start(self) -> TrainState:
    """Makes or loads the base model and fills the memory."""
    config = self.config
    began = time.perf_counter()
    params, was_read = self.base_params()
    jax.block_until_ready(params)
    self.journal.add(
      0,
      "phase",
      phase="base",
      seconds=time.perf_counter() - began,
      num_scored=0 if was_read else experiment.base_rows(config),
      was_read=was_read,
      **self.frozen_hash(params),
    )
    if self.is_bootstrapped():
      self.draw_exemplars(params)
    state = self.begin(params)
    is_empty = config.method.memory_start == "empty"
    num_drawn = 0 if is_empty else len(self.data.train)
    with self.phase("memory_start", num_sampled=num_drawn):
      chains = self.e_step().start_memory(
        state.model_params(), Progress("memory", len(self.data.train))
      )
    return self.first_state(state._replace(memory=chains))

  def e_step(self) -> EStep:
    """The E-step on the questions as they are now."""
    config = self.config
    return EStep(
      self.model,
      self.task,
      self.data.train,
      config.method,
      config.seed,
      config.task.max_length,
      config.evaluation.batch_size,
      self.layout,
    )

  def base_params(self) -> tuple[Any, bool]:
    """Makes or loads the base model, and tells whether it was there already."""
    config = self.config
    # What is frozen is in no checkpoint: it must be found again.
    folder = config.base_dir or (config.tuning and self.directory / "base")
    return base.make(
      folder and pathlib.Path(folder),
      _build_model(config, self.task, self.layout, with_lora=False),
      config,
      self.data,
    )

  def begin(self, params: Any) -> TrainState:
    """Adds to the base model what is trained; the state has nothing else."""
    trained, frozen = tuning.begin(
      self.config.tuning,
      params,
      self.model,
      self.data.soft_tokens,
      rng.purpose_key(self.config.seed, "params"),
    )
    return TrainState(trained, None, None, 0, frozen=frozen)

  def frozen_hash(self, params: Any) -> dict[str, str]:
    """What tells whether a frozen base model is the same; {} if none is."""
    if self.config.tuning is None:
      return {}
    return {"frozen_sha256": digests.tree_sha256(params)}

  def first_state(self, state: TrainState) -> TrainState:
    """Makes the state before any step of parameters and memory."""
    state = state._replace(opt_state=self.init_optimizer(state.params))
    return loops.first_state(self.config, state, self.layout)

  def is_bootstrapped(self) -> bool:
    """Whether worked examples are drawn, for prompts or a soft prompt."""
    is_soft = self.data.soft_task is not None
    return is_soft or self.data.task.prompts.exemplars == "bootstrapped"

  def draw_exemplars(self, params) -> None:
    """Draws worked examples from the base model and puts them to use."""
    config, train, test = self.config, self.data.train, self.data.test
    longest = max(
      int((array != api.PAD_ID).sum(axis=1).max())
      for array in (train.prompts, train.guides, test.prompts, test.guides)
    )
    room = config.task.prompt_length - longest
    if self.data.soft_task is not None:
      room = np.iinfo(np.int32).max  # embeddings take none of the prompt's
    began = time.perf_counter()
    drawer = Drawer(
      _build_model(config, self.task, self.layout, with_lora=False),
      self.data.soft_task or self.task,
      train,
      config.evaluation.batch_size,
    )
    exemplars, num_sampled = bootstrap.draw(drawer, params, config.seed, room)
    self.journal.add(
      0,
      "phase",
      phase="bootstrap",
      seconds=time.perf_counter() - began,
      num_sampled=num_sampled,
      sha256=bootstrap.write(self.directory, exemplars),
    )
    for one in exemplars:
      self.journal.add(
        0,
        "sample",
        source="bootstrapped exemplar",
        id=one.id,
        question=one.question,
        answer=one.answer,
        completion=one.completion,
        extracted=one.answer,
        is_correct=True,
      )
    self.use_exemplars(exemplars)

  def use_exemplars(self, exemplars: Sequence[bootstrap.Exemplar]) -> None:
    """Puts worked examples before all questions but the base model's.

    Or makes them what a soft prompt begins as.
    """
    task, train, test = self.data.task, self.data.train, self.data.test
    if self.data.soft_task is not None:
      longer = bootstrap.put_before(
        self.data.soft_task, train, exemplars, train
      )
      tokens = training_data.common_beginning(
        [row[row != api.PAD_ID] for row in longer.prompts],
        [row[row != api.PAD_ID] for row in train.prompts],
        train.bos_id,
      )
      self.data = self.data._replace(soft_tokens=tokens)
      return
    self.data = self.data._replace(
      train=bootstrap.put_before(task, train, exemplars, train),
      test=bootstrap.put_before(task, train, exemplars, test),
    )

  def restore(self) -> TrainState:
    """Goes on from the last checkpoint."""
    if self.is_bootstrapped():
      (sha256,) = (
        row["sha256"]
        for row in record.of_kind(self.journal.rows, "phase")
        if row["phase"] == "bootstrap"
      )
      self.use_exemplars(bootstrap.read(self.directory, sha256))
    if self.config.tuning is None:
      trained = self.model.init(rng.purpose_key(self.config.seed, "params"))
      state = TrainState(trained, None, None, 0)
    else:
      params, _ = self.base_params()
      self.check_frozen(params)
      state = self.begin(params)
    state = state._replace(memory=self.e_step().empty_memory())
    return self.checkpoints.restore(self.first_state(state))

  def check_frozen(self, params: Any) -> None:
    """Checks that frozen parameters are those that the run began with."""
    (row,) = (
      row
      for row in record.of_kind(self.journal.rows, "phase")
      if row["phase"] == "base"
    )
    if self.frozen_hash(params).items() <= row.items():
      return
    raise UserError(
      "the base model is not the one that this run began with: put it back "
      f"({self.config.base}), or choose another MODEL_DIR"
    )

  def step(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Takes one step: E-step, then M-step."""
    config, began = self.config, time.perf_counter()
    index = rng.minibatch(
      config.seed,
      "order",
      state.step,
      len(self.data.train),
      config.batch_size,
    )
    state, rows, info = self.weigh(state, index)
    state = state._replace(step=state.step + 1)
    differentiating = time.perf_counter()
    # Without a valid row there is no estimate. With one whose terms all cancel
    # the estimate is 0, and the optimizer takes its step (Algorithm 1).
    rate = float(self.learning_rate(state))
    norm, loss, is_finite, gap = 0.0, 0.0, True, None
    if not info.is_skipped():
      updated = self.m_step(
        *(state.params, state.opt_state, state.frozen, rate),
        *(rows.prompts, rows.targets, rows.weights),
      )
      gap = rows.log_prob_gap(updated.log_prob.fetch())
      norm, loss = float(updated.norm), float(updated.loss)
      is_finite = bool(updated.is_finite)
      state = state._replace(params=updated.params, opt_state=updated.opt_state)
      if is_finite:
        pool = outer_loops.end_early(
          config.method.loops, state.pool, state.step, loss, self.layout
        )
        state = state._replace(pool=pool)
      else:
        self.stop_if_hopeless(state.step)
    now = time.perf_counter()
    update = step_info.UpdateInfo(
      learning_rate=rate,
      is_finite=is_finite,
      norm=norm if is_finite else None,  # JSON has no NaN
      loss=loss if is_finite else None,
      log_prob_gap=gap if is_finite else None,
      gradient_seconds=now - differentiating,
      rest_seconds=differentiating
      - began
      - info.sampling_seconds
      - info.checking_seconds,
    )
    return state, step_info.metrics(info, update)

  def stop_if_hopeless(self, step: int) -> None:
    """Ends the run if too many steps in a row had no finite gradient.

    Args:
      step: one that has none; it is not in the journal yet.
    """
    most = self.config.max_nonfinite_steps
    rows = [
      row
      for row in record.of_kind(self.journal.rows, "metrics")
      if not row[metric_names.IS_SKIPPED]  # which had no gradient at all
    ]
    before = rows[len(rows) - most :] if len(rows) >= most else None
    if before is None or any(row[metric_names.IS_FINITE] for row in before):
      return
    raise RunError(
      f"no finite gradient in {most + 1} steps in a row, up to step {step}: "
      "try a lower learning rate or OptimizerConfig.clip_norm, in another "
      "MODEL_DIR"
    )

  def learning_rate(self, state: TrainState) -> jax.Array:
    """The schedule's value; it begins anew with each outer loop."""
    config = self.config
    num_steps = loops.loop_steps(config, state.pool)
    schedule = mstep.learning_rate(config.optimizer, num_steps)
    return schedule(mstep.num_updates(state.opt_state))

  def weigh(
    self, state: TrainState, index: np.ndarray
  ) -> tuple[TrainState, WeightedRows, step_info.StepInfo]:
    """Takes the E-step of a minibatch: draws, or reads the loop's pool."""
    config = self.config
    if config.method.loops is not None:
      return loops.step(
        self.e_step(), config, self.init_optimizer, state, index
      )
    chains, rows, info = self.e_step().step(
      state.model_params(), state.memory, index, state.step + 1
    )
    return state._replace(memory=chains), rows, info

  def evaluate(self, state: TrainState) -> None:
    """Answers the held-out questions and writes the outputs down."""
    settings, step = self.config.evaluation, state.step
    is_end = step in (0, self.config.steps)
    ways: list[tuple[str, int | None]] = [("greedy", None)]
    if is_end and settings.num_samples:
      ways.append(("self_consistency", settings.num_samples))
    for decoder, num_samples in ways:
      began = time.perf_counter()
      test = self.data.test
      outputs = evaluation.evaluate(
        Drawer(self.model, self.task, test, settings.batch_size),
        state.model_params(),
        num_samples=num_samples,
        seed=self.config.seed,
        step=step,
        report_done=Progress(
          decoder.replace("_", "-"), len(test) * (num_samples or 1)
        )
        if is_end
        else None,
      )
      split = self.config.task.test_split
      for row in results.rows(self.task.name, split, decoder, outputs):
        self.journal.add(step, "result", **row)
      self.journal.add(
        step,
        "evaluation_seconds",
        seconds=time.perf_counter() - began,
        num_sampled=len(outputs) * (num_samples or 1),
      )
      self.write_scalars(
        step,
        {
          f"eval/{decoder}_accuracy": sum(o.is_correct for o in outputs)
          / len(outputs)
        },
      )
      written = results.write(self.directory, step, split, decoder, outputs)
      self.journal.add(step, "output", **written)
      if is_end and decoder == "greedy":
        for output in outputs[:_NUM_SAMPLES_SHOWN]:
          row = results.sample("greedy", output)
          self.journal.add(step, "sample", **row)

  def note_params(self, state: TrainState) -> None:
    """Puts the hash of the trainable parameters down."""
    self.journal.add(
      state.step,
      "params",
      sha256=digests.tree_sha256(state.params),
    )

  def keep_results(self, state: TrainState) -> None:
    """Writes what can be used without a checkpoint: memory, soft prompt."""
    ids, step = self.data.train.ids, state.step
    written = [results.write_memory(self.directory, step, ids, state.memory)]
    if isinstance(self.config.tuning, tuning.SoftPrompt):
      written.append(
        results.write_soft_prompt(
          self.directory,
          step,
          tuning.soft_prompt_bytes(partitioning.to_host(state.params)),
        )
      )
    for row in written:
      self.journal.add(step, "output", **row)

  def show_memory(self, state: TrainState) -> None:
    """Puts a few remembered rationales into the report."""
    for row in results.memory_samples(
      self.task, self.data.train, state.memory, _NUM_SAMPLES_SHOWN
    ):
      self.journal.add(state.step, "sample", **row)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes numbers for TensorBoard."""
    if self.writer:
      for name, value in scalars.items():
        self.writer.add_scalar(name, value, step)

  def save(self, state: TrainState) -> None:
    """Saves a checkpoint and brings the report up to date."""
    if self.writer:
      self.writer.flush()
    self.journal.add(
      state.step,
      "usage",
      peak_memory_bytes=environment.peak_memory(),
      first_step_seconds=self.first_step_seconds,
      compilation=compilation.since(self.compiled_before),
    )
    self.journal.sync()
    sha256 = self.checkpoints.save(state)
    self.journal.add(state.step, "checkpoint", sha256=sha256)
    self.record.write("running")

  @contextlib.contextmanager
  def phase(self, name: str, **counts: int) -> Iterator[None]:
    """Times a phase before the first step."""
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    self.journal.add(0, "phase", phase=name, seconds=seconds, **counts)


def _note_checkpoint(journal: files.Journal, step: int, sha256: str) -> None:
  """Adds the row of a checkpoint that a killed process did not come to add."""
  rows = record.of_kind(journal.rows, "checkpoint")
  if not any(row["step"] == step for row in rows):
    journal.add(step, "checkpoint", sha256=sha256)


def _build_model(
  config: experiment.Experiment,
  task: Task,
  layout: partitioning.Layout | None,
  with_lora: bool = True,
) -> language_model.LanguageModel:
  update = config.tuning if with_lora else None
  return language_model.from_config(
    config.model,
    task.vocabulary.size,
    task.ending,
    config.task.max_length,
    layout,
    update if isinstance(update, lora.Lora) else None,
  )


def _header(
  config: experiment.Experiment,
  name: str,
  gin_record: dict[str, Any],
  loaded: loading.Data,
) -> tuple[dict[str, Any], str]:
  """Writes the sections of the report that do not change during a run.

  Returns:
    The sections, and what is changed in the code.
  """
  layout = partitioning.make_layout(config.mesh)
  model = _build_model(config, loaded.task, layout)
  return header.build(
    identity={
      "run_id": name,
      "task": loaded.task.name,
      "method": config.method.name,
      "seed": config.seed,
      "argv": environment.argv(),
      "rerun": "t5x rerun report.json",
    },
    module=config.task.source.module,
    configuration=gin_record | {"experiment": plan.as_dict(config)},
    data=loading.describe_data(config, loaded),
    params=jax.eval_shape(model.init, rng.purpose_key(config.seed, "params")),
    topology=partitioning.describe(layout),
    plan=experiment.plan(config, len(loaded.train), len(loaded.test)),
    limits=config.limits,
  )
