"""T5X's Trainer; each of its steps is an E-step and then T5X's own step.

M questions per minibatch, K draws each, S sequences that are differentiated.
"""

import contextlib
import time
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from t5x import trainer, utils

from cot_latent.em import outer_loops, step_info
from cot_latent.em.estep import EStep
from cot_latent.em.step_info import StepInfo, UpdateInfo
from cot_latent.em.weighted_rows import WeightedRows
from cot_latent.errors import RunError, UserError
from cot_latent.inference import fitting, memory, rng
from cot_latent.reporting import metric_names
from cot_latent.runtime import processes
from cot_latent.runtime.progress import DrawingProgress, Progress
from cot_latent.t5x import checks, fitted, header, loops, sampler
from cot_latent.t5x.latent import Chains, Latent
from cot_latent.t5x.report import Report

# T5X averages these over the loss's weights, which are signed here.
_MEANINGLESS = (
  "accuracy",
  "loss_per_nonpadding_target_token",
  "non_padding_fraction/loss_weights",
)
_NORM, _THEIR_NORM = "latent/grad/norm", "weight_gradient_norm"


class GradientNorm(trainer.WeightMetricsComputer):
  """The one of T5X's metrics on parameters that a report has."""

  def compute_metrics(self, gradients, old_train_state, new_train_state):
    """Measures the norm of the whole gradient."""
    del old_train_state, new_train_state
    squares = [jnp.vdot(part, part) for part in jax.tree.leaves(gradients)]
    norm = jnp.sqrt(sum(squares)).astype(jnp.float32)
    return {_NORM: clu.metrics.Average.from_model_output(norm[None])}


class LatentTrainer(trainer.Trainer):
  """Draws rationales with the current parameters, and learns from them."""

  def __init__(
    self,
    *arguments: Any,
    latent: Latent,
    report: Report | None = None,
    **settings: Any,
  ):
    """Takes the arguments of T5X's Trainer; makes the memory if there is none.

    Args:
      *arguments: Arguments of `t5x.trainer.Trainer`.
      latent: The questions and the method.
      report: Report of the run; None records nothing.
      **settings: Further arguments of `t5x.trainer.Trainer`.

    Raises:
      UserError: If the memory does not belong to the parameters, or if
        processes have different configurations.
    """
    settings.setdefault("weight_metrics_computer", GradientNorm())
    super().__init__(*arguments, **settings)
    self._latent, self._report = latent, report
    self._steps: dict[int, Any] = {}
    self._empty_metrics: Any = None
    self._progress: Progress | None = None
    self._measures: Any = None
    self._e_step = EStep(
      sampler.T5XSampler(
        self._model,
        self._partitioner,
        self._train_state_axes.params,
        latent.converter,
        latent.task.ending,
      ),
      latent.task,
      latent.examples,
      latent.method,
      latent.seed,
      latent.config.max_length,
      batch_size=latent.batch_size * latent.method.num_draws,
    )
    # Few sizes are compiled, and each must be sharded evenly.
    parts = max(self._num_microbatches or 1, 1)
    self._unit = sampler.padded(self._partitioner, 1) * parts
    self._start_memory(int(utils.get_local_data(self.train_state.step)))

  @property
  def chains(self) -> Chains:
    """The chains, which T5X's checkpoints store as part of their dataset."""
    iterator = self._latent.iterator
    if iterator is None:
      raise UserError(
        "train_script.train.get_dataset_fn must be %LATENT, which holds the "
        "rationale memory"
      )
    return iterator.chains

  def _start_memory(self, step: int) -> None:
    chains, latent = self.chains, self._latent
    processes.check_agreement(
      [
        *(header.bindings(), latent.seed, latent.model_dir),
        latent.examples.fingerprint(),
      ]
    )
    if jax.process_count() > 1:
      _share(chains, latent)
    if chains.memory is not None:
      if chains.step != step:
        raise UserError(
          f"the checkpoint has parameters of step {step} and a rationale "
          f"memory of step {chains.step}: start from another checkpoint"
        )
      loops.check(latent, chains)
      self._open_report(is_new=False)
      return
    chains.began_at = chains.step = step
    chains.pool = loops.empty_pool(latent)
    chains.fit = fitting.begin() if latent.method.is_fitted() else None
    self._open_report(is_new=True)
    loops.keep_first(latent, self.train_state)
    began = time.perf_counter()
    chains.memory = self._e_step.start_memory(
      self.train_state.params,
      DrawingProgress("memory", len(latent.examples), latent.config.max_length),
    )
    if self._report:
      is_empty = latent.method.memory_start == "empty"
      self._report.begun(
        self.train_state.params,
        time.perf_counter() - began,
        0 if is_empty else len(latent.examples),
      )

  def _open_report(self, is_new: bool) -> None:
    if self._report is None:
      return
    chains = self.chains
    self._report.open(
      chains.step,
      chains.began_at,
      is_new,
      self.train_state.params,
      self._partitioner,
      self._num_microbatches,
    )
    assert self._latent.iterator is not None
    self._latent.iterator.before_saving = self._report.saving

  def train(self, batch_iter, num_steps, start_step=None):
    """Takes steps as T5X does, except for the content of a step."""
    self._compiled_train_step = self._latent_step
    with self._report.guarded() if self._report else contextlib.nullcontext():
      return super().train(batch_iter, num_steps, start_step)

  def close(self) -> None:
    """Closes what T5X opened, and the report."""
    super().close()
    if self._report is None:
      return
    chains = self.chains
    if chains.memory is not None:
      self._report.close(chains.step, self.train_state.params, chains.memory)

  def compile_train(self, batch) -> None:
    """Compiles T5X's step for the most sequences that a step may have."""
    del batch  # it has no rationales
    latent = self._latent
    size = self._padded(latent.method.max_scored(latent.batch_size))
    super().compile_train(self._place(latent.converter.zeros(size)))
    self._steps[size] = self._compiled_train_step

  def _latent_step(self, train_state, batch):
    """Takes a step, which a profile may record."""
    del batch  # only its shapes are used
    step = int(utils.get_local_data(train_state.step))
    if self._report is None:
      return self._take_step(train_state, step)
    with self._report.profiled(step):
      return self._take_step(train_state, step)

  def _take_step(self, train_state: Any, step: int):
    """An E-step, and T5X's step on the sequences that have weight."""
    began = time.perf_counter()
    train_state, collected = loops.begin(
      self._latent, self.chains, self._e_step, train_state, step
    )
    is_over = loops.is_over(self._latent, self.chains, step)
    rows, info = self._weigh(train_state.params, step)
    if is_over:
      info = info._replace(num_weighted=0)
    if collected:
      info = collected.charged_to(info)
    differentiating = time.perf_counter()
    weighted = self._place(self._convert(rows, rows.weights))
    chains = self.chains
    eta = None if chains.fit is None else chains.fit.eta()
    if not info.is_skipped() and not is_over:
      measured = self._measure(train_state, rows)
      size = len(weighted["decoder_target_tokens"])
      train_state, metrics = self._step_for(size, train_state)(
        train_state, weighted
      )
      loss = _number(metrics["loss"])
      if not np.isfinite([loss, _norm(metrics) or 0.0]).all():
        raise RunError(
          f"loss or gradient of step {step + 1} is not finite: try a lower "
          "learning rate, in another MODEL_DIR"
        )
      loops.end(self._latent, chains, step + 1, loss)
      if chains.fit is not None and measured is not None:
        chains.fit = fitting.update(chains.fit, measured)
    else:
      # There is no estimate, or the last loop is over; T5X counts the step.
      metrics = self._nothing(train_state, weighted)
      train_state = train_state.replace_step(train_state.step + 1)
    self._show_progress(info)
    if self._report:
      now = time.perf_counter()
      update = UpdateInfo(
        learning_rate=_number(metrics["learning_rate"]),
        is_finite=True,  # otherwise the run would have ended
        norm=_norm(metrics),
        loss=_number(metrics["loss"]),
        log_prob_gap=None,  # T5X's loop returns no log-probabilities
        gradient_seconds=now - differentiating,
        rest_seconds=differentiating
        - began
        - info.sampling_seconds
        - info.checking_seconds,
        eta=eta,
        fit=chains.fit,
      )
      self._report.step(step + 1, step_info.metrics(info, update))
    metrics = {k: v for k, v in metrics.items() if k not in _MEANINGLESS}
    for name, value in metric_names.scalars(info.metrics()).items():
      metrics[f"latent/{name}"] = clu.metrics.Average.from_model_output(
        jnp.asarray([value], jnp.float32)
      )
    return train_state, metrics

  def _weigh(self, params: Any, step: int) -> tuple[WeightedRows, StepInfo]:
    """Takes the E-step at T5X's step, counted from 0."""
    latent, chains = self._latent, self.chains
    assert chains.memory is not None
    own_step = step - chains.began_at
    index = rng.minibatch(
      latent.seed, "order", own_step, len(latent.examples), latent.batch_size
    )
    chains.step = step + 1
    if chains.pool is not None:
      return outer_loops.pool_step(
        self._e_step, chains.memory, chains.pool, index, own_step + 1
      )
    chains.memory, rows, info = self._e_step.step(
      params, chains.memory, index, own_step + 1, chains.fit
    )
    return rows, info

  def _show_progress(self, info: StepInfo) -> None:
    """Prints how far the run is, as the embedded trainer does."""
    chains = self.chains
    done = chains.step - chains.began_at
    if self._progress is None:
      total = checks.total_steps()
      if total is None:
        return  # only T5X's train knows it
      name, steps = self._latent.method.name, total - chains.began_at
      self._progress = Progress(name, steps, done - 1)
    found = info.metrics()
    self._progress(
      done,
      f"accepted {found[metric_names.ACCEPT_RATE]:.2f}  "
      f"memory {found[metric_names.MEMORY_CORRECT]:.2f}",
    )

  def _measure(self, train_state: Any, rows: WeightedRows) -> Any:
    """Measures the terms for the control variate's fit; None if none is due."""
    if rows.terms is None:
      return None
    if self._measures is None:
      self._measures = fitted.build_measurement(
        self._model,
        self._partitioner,
        self._train_state_axes,
        self._num_microbatches,
      )
    kept, subtracted = (
      self._place(self._convert(rows, term)) for term in rows.terms
    )
    return fitted.fetch(self._measures(train_state, kept, subtracted))

  def _convert(self, rows: WeightedRows, weights: np.ndarray):
    """Returns features of the rows, padded with rows of weight 0."""
    more = self._padded(len(rows.weights)) - len(rows.weights)
    targets = np.pad(rows.targets, ((0, more), (0, 0)))
    prompts = np.pad(rows.prompts, ((0, more), (0, 0)))
    weights = np.pad(weights, (0, more))
    return self._latent.converter.convert(prompts, targets, weights)

  def _padded(self, rows: int) -> int:
    return -(-rows // self._unit) * self._unit

  def _place(self, batch):
    return jax.tree.map(
      lambda array: sampler.place_rows(self._partitioner, array), batch
    )

  def _step_for(self, size: int, train_state):
    """Returns T5X's partitioned step, compiled for this number of rows."""
    if size not in self._steps:
      self._steps[size] = self._partitioner.compile(
        self._partitioned_train_step,
        train_state,
        self._place(self._latent.converter.zeros(size)),
      )
    return self._steps[size]

  def _nothing(self, train_state, batch):
    """Returns the metrics of a skipped step."""
    if self._empty_metrics is None:
      step = self._partitioned_train_step
      _, shapes = jax.eval_shape(step, train_state, batch)
      self._empty_metrics = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes
      )
    rate = jnp.asarray([self._learning_rate_fn(train_state.step)])
    average, last = clu.metrics.Average, clu.metrics.LastValue
    return self._empty_metrics | {
      "learning_rate": average.from_model_output(rate),
      "learning_rate/current": last.from_model_output(rate),
    }


def _norm(metrics) -> float | None:
  """Returns the gradient's norm; None if it is not measured."""
  norm = metrics.get(_NORM, metrics.get(_THEIR_NORM))
  return None if norm is None else _number(norm)


def _number(metric: Any) -> float:
  """Returns the sum that one step adds to a metric."""
  return float(utils.get_local_data(metric.total))


def _share(chains: Chains, latent: Latent) -> None:
  """Gives all processes the first one's chains: some do not restore them."""
  is_there, began_at, step = multihost_utils.broadcast_one_to_all(
    np.array([chains.memory is not None, chains.began_at, chains.step])
  ).tolist()
  chains.began_at, chains.step = began_at, step
  if is_there:
    own, pool = chains.memory, chains.pool
    if own is None:
      own = memory.init(len(latent.examples), latent.config.max_length)
      pool = loops.empty_pool(latent)
    fit = chains.fit
    if fit is None and latent.method.is_fitted():
      fit = fitting.begin()
    chains.memory, chains.pool, chains.fit = (
      multihost_utils.broadcast_one_to_all((own, pool, fit))
    )
