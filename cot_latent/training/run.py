"""The loop of a run: steps, evaluations and checkpoints."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cot_latent.em import evaluation, outer_loops, results, step_info
from cot_latent.em.drawn_parts import DrawnParts, Phase
from cot_latent.em.scored_step import ScoredEStep
from cot_latent.em.watching import Profiler
from cot_latent.em.weighted_rows import WeightedRows
from cot_latent.errors import Preempted, RunError
from cot_latent.inference import fitting, rng
from cot_latent.models import digests, partitioning
from cot_latent.reporting import health, metric_names, record
from cot_latent.reporting.runlog import Evaluation, RunLog
from cot_latent.runtime import preemption, processes, terminal
from cot_latent.runtime.progress import DrawingProgress, Progress
from cot_latent.training import base, loops, mstep, start, tuning
from cot_latent.training.checkpoints import Checkpoints
from cot_latent.training.loading import Data
from cot_latent.training.setup import Setup
from cot_latent.training.state import TrainState


class Run:
  """The loop of one run, which takes its steps and records them."""

  def __init__(
    self,
    setup: Setup,
    data: Data,
    log: RunLog,
    checkpoints: Checkpoints,
    parts: DrawnParts,
  ):
    """Builds the M-step; computes nothing.

    Args:
      setup: Models, optimizer and devices of the run.
      data: Data of the run, with the worked examples that it drew.
      log: Log of the run.
      checkpoints: Checkpoints of the run.
      parts: Stored draws, kept until a checkpoint holds their results.
    """
    self.config, self.directory = setup.config, setup.directory
    self.task, self.layout = setup.task, setup.layout
    self.model, self.init_optimizer = setup.model, setup.init_optimizer
    self.data, self.log, self.checkpoints = data, log, checkpoints
    self.drawer = setup.drawer(setup.model, setup.task, data.test)
    self.parts = parts
    self.profiler = Profiler(setup.config.watch, setup.directory)
    self.held_out = None
    if setup.config.method.scores_answers():
      self.held_out = setup.held_out(data.test)
    self.e_step = setup.e_step(data)
    self.m_step = mstep.build_step(
      setup.scorer(),
      setup.optimizer,
      setup.config.rows_of_part(),
    )

  def run(self, state: TrainState, is_new: bool) -> None:
    """Takes all remaining steps.

    Args:
      state: The state from which the run starts or resumes.
      is_new: Whether it starts, so that nothing is evaluated or saved yet.

    Raises:
      Preempted: If the process must end; the state is saved by then.
      RunError: If too many steps in a row have no finite gradient.
    """
    if is_new:
      self.note_params(state)
      if not self.config.steps:
        self.keep_results(state)
      self.evaluate(state)
    with preemption.deferred() as is_preempted:
      if is_new:
        self.save(state)
      base.forget_fit(self.directory)
      with contextlib.closing(self.profiler):
        self.take_steps(state, is_preempted)

  def take_steps(
    self, state: TrainState, is_preempted: Callable[[], bool]
  ) -> None:
    """Takes all steps; if the process must end, saves and stops."""
    config = self.config
    progress = Progress(config.method.name, config.steps, state.step)
    while True:
      if processes.is_true_on_any(is_preempted()):
        if self.checkpoints.latest_step() != state.step:
          self.save(state)
        raise Preempted
      if state.step == config.steps:
        return
      with self.profiler.step(state.step + 1):
        state, metrics = self.step(state)
      self.log.step(state.step, metrics)
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
    is_over = self.is_over(state)
    if is_over:
      info = info._replace(num_weighted=0)
    rate = 0.0 if is_over else float(self.learning_rate(state))
    state = state._replace(step=state.step + 1)
    differentiating = time.perf_counter()
    # Without a valid row there is no estimate. If all terms cancel, the
    # estimate is 0, and the optimizer takes its step (Algorithm 1).
    eta = None if state.fit is None else state.fit.eta()
    norm, loss, is_finite, gap = 0.0, 0.0, True, None
    if not info.is_skipped() and not is_over:
      updated = self.m_step(
        *(state.params, state.opt_state, state.frozen, rate),
        *(rows.prompts, rows.targets, rows.weights),
        *(() if rows.terms is None else (rows.terms, eta)),
        token_weights=rows.token_weights,
      )
      scores = updated.log_prob.fetch()
      gap = rows.log_prob_gap(scores)
      if info.visits is not None and rows.memory_of is not None:
        visits = info.visits.scored(rows.memory_of, scores)
        info = info._replace(visits=visits)
      norm, loss = float(updated.norm), float(updated.loss)
      is_finite = bool(updated.is_finite)
      state = state._replace(params=updated.params, opt_state=updated.opt_state)
      if is_finite:
        pool = outer_loops.end_early(
          config.method.loops, state.pool, state.step, loss, self.layout
        )
        state = state._replace(pool=pool, fit=_fitted(state.fit, updated))
      else:
        self.stop_if_hopeless(state.step)
    now = time.perf_counter()
    update = step_info.UpdateInfo(
      learning_rate=rate,
      is_finite=is_finite,
      # JSON has no NaN; after the last loop there is no gradient.
      norm=norm if is_finite and not is_over else None,
      loss=loss if is_finite and not is_over else None,
      log_prob_gap=gap if is_finite else None,
      gradient_seconds=now - differentiating,
      rest_seconds=differentiating
      - began
      - (info.sampling_seconds - info.seconds_before)
      - info.checking_seconds,
      eta=eta,
      fit=state.fit,
    )
    return state, step_info.metrics(info, update)

  def stop_if_hopeless(self, step: int) -> None:
    """Ends the run if too many steps in a row had no finite gradient.

    Args:
      step: Step without a finite gradient; it is not in the journal yet.
    """
    most = self.config.max_nonfinite_steps
    rows = [
      row
      for row in record.of_kind(self.log.rows, "metrics")
      if not row[metric_names.IS_SKIPPED]  # skipped steps had no gradient
    ]
    before = rows[len(rows) - most :] if len(rows) >= most else None
    if before is None or any(row[metric_names.IS_FINITE] for row in before):
      return
    raise RunError(
      f"no finite gradient in {most + 1} steps in a row, up to step {step}: "
      "try a lower learning rate or OptimizerConfig.clip_norm, in another "
      "MODEL_DIR"
    )

  def is_over(self, state: TrainState) -> bool:
    """Whether the last outer loop is over, so that no more is fitted."""
    outer, pool = self.config.method.loops, state.pool
    if outer is None or pool is None:
      return False
    return pool.is_over(outer, state.step)

  def learning_rate(self, state: TrainState) -> jax.Array:
    """Returns the schedule's value; each outer loop restarts the schedule.

    Skipped steps count, as in Algorithm 1, where it is a function of the step.
    """
    config, pool = self.config, state.pool
    num_steps = loops.loop_steps(config, pool)
    schedule = mstep.learning_rate(config.optimizer, num_steps)
    return schedule(state.step - (0 if pool is None else int(pool.began_at)))

  def weigh(
    self, state: TrainState, index: np.ndarray
  ) -> tuple[TrainState, WeightedRows, step_info.StepInfo]:
    """Takes the E-step of a minibatch: draws, or reads the loop's pool."""
    config = self.config
    if config.method.loops is not None:
      return loops.step(
        self.e_step,
        config,
        self.init_optimizer,
        state,
        index,
        lambda: self.loop_parts(state),
      )
    e_step = self.e_step
    if isinstance(e_step, ScoredEStep) and config.method.has_reference():
      base = tuning.merge(state.base_params, state.frozen)
      e_step = dataclasses.replace(e_step, reference=base)
    chains, rows, info = e_step.step(
      state.model_params(), state.memory, index, state.step + 1, state.fit
    )
    return state._replace(memory=chains), rows, info

  def loop_parts(self, state: TrainState) -> Phase:
    """Begins the phase of a loop's draws, kept until a step of it is saved."""
    sha256 = start.params_sha256(state, self.log)
    return self.parts.phase("loop", state.step + 1, sha256)

  def evaluate(self, state: TrainState) -> None:
    """Answers the held-out questions and stores the outputs."""
    settings, step = self.config.evaluation, state.step
    is_end = step in (0, self.config.steps)
    ways: list[tuple[str, int | None]] = [("greedy", None)]
    if is_end and settings.num_samples:
      ways.append(("self_consistency", settings.num_samples))
    params_sha256 = start.params_sha256(state, self.log)
    for decoder, num_samples in ways:
      began = time.perf_counter()
      phase = self.parts.phase(decoder, step, params_sha256)
      outputs = evaluation.evaluate(
        self.drawer,
        state.model_params(),
        num_samples=num_samples,
        seed=self.config.seed,
        step=step,
        report_done=self.progress(decoder, num_samples or 1, step),
        parts=phase,
      )
      seconds = time.perf_counter() - began + phase.seconds_read
      found = results.evaluated(
        self.directory,
        step,
        task=self.task.name,
        split=self.config.task.test_split,
        decoder=decoder,
        outputs=outputs,
        is_shown=is_end and decoder == "greedy",
      )
      if self.held_out is not None and decoder == "greedy":
        found, more = self.add_likelihood(state, found, params_sha256)
        seconds += more
      self.log.evaluated(step, seconds, found)
      self.warn([{"step": step, **row} for row in found.results])

  def progress(self, name: str, num_samples: int, step: int) -> DrawingProgress:
    """Tells how far an evaluation is; a short one within the run is silent."""
    return DrawingProgress(
      name.replace("_", "-"),
      len(self.data.test) * num_samples,
      self.config.task.max_length,
      tells_end=step in (0, self.config.steps),
    )

  def add_likelihood(
    self, state: TrainState, found: Evaluation, params_sha256: str
  ) -> tuple[Evaluation, float]:
    """Adds the held-out questions' log-likelihood to a greedy evaluation.

    Returns:
      The evaluation, and the seconds that it took more.
    """
    began = time.perf_counter()
    assert self.held_out is not None
    phase = self.parts.phase("likelihood", state.step, params_sha256)
    nats = self.held_out.log_likelihood(
      state.model_params(),
      self.config.seed,
      state.step,
      phase,
      self.progress("likelihood", self.held_out.num_samples, state.step),
    )
    rows = self.held_out.add_to(found.results, nats)
    found = found._replace(
      results=rows, num_sampled=found.num_sampled + nats.size
    )
    return found, time.perf_counter() - began + phase.seconds_read

  def warn(self, results: Sequence[dict[str, Any]]) -> None:
    """Warns at once if an evaluation is useless."""
    limits = dataclasses.asdict(self.config.limits)
    for sign in health.signs_of_evaluation(results, limits):
      if processes.is_first():
        terminal.say(f"suspect: {sign}", is_error=True)

  def note_params(self, state: TrainState) -> None:
    """Records the hash of the trained parameters."""
    params = state.params or state.frozen  # nothing is trained without steps
    self.log.params(state.step, digests.tree_sha256(params))

  def keep_results(self, state: TrainState) -> None:
    """Writes results for use without a checkpoint: memory, soft prompt."""
    ids, step = self.data.train.ids, state.step
    self.log.output(
      step, results.write_memory(self.directory, step, ids, state.memory)
    )
    if isinstance(self.config.tuning, tuning.SoftPrompt):
      content = tuning.soft_prompt_bytes(partitioning.to_host(state.params))
      self.log.output(
        step, results.write_soft_prompt(self.directory, step, content)
      )

  def show_memory(self, state: TrainState) -> None:
    """Puts a few remembered rationales into the report, and stuck questions."""
    shown = self.task, self.data.train, state.memory
    for row in results.memory_samples(*shown):
      self.log.sample(state.step, row)
    for row in results.stuck_questions(*shown):
      self.log.stuck(state.step, row)

  def save(self, state: TrainState) -> None:
    """Saves a checkpoint and updates the report."""
    self.log.saving(state.step)
    sha256 = self.checkpoints.save(state)
    self.log.checkpoint(state.step, sha256=sha256)
    self.parts.forget(state.step)


def _fitted(
  fit: fitting.Fit | None, updated: mstep.Updated
) -> fitting.Fit | None:
  """Returns a step's metrics of the control variate, if it measured any."""
  if fit is None or updated.measured is None:
    return fit
  return fitting.update(fit, updated.measured)
