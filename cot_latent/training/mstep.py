"""The M-step: one optimizer step on a weighted sum of log-probabilities.

The only place that differentiates.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cot_latent.models import language_model, partitioning
from cot_latent.models.language_model import LanguageModel
from cot_latent.training import tuning
from cot_latent.training.experiment import OptimizerConfig


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Builds warm-up and cosine decay; step -> learning rate."""
  decay_steps = config.decay_steps or num_steps - config.warmup_steps
  decay = optax.cosine_decay_schedule(
    config.learning_rate, max(1, decay_steps), config.final_ratio
  )
  if not config.warmup_steps:
    return decay
  warmup = optax.linear_schedule(0, config.learning_rate, config.warmup_steps)
  return optax.join_schedules([warmup, decay], [config.warmup_steps])


def num_updates(opt_state: Any) -> int:
  """Counts the optimizer's steps, which leave out skipped ones."""
  counts = optax.tree.get_all_with_path(opt_state, "count")
  return int(counts[0][1])


def build_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Builds Adam with clipping; the step multiplies by the learning rate."""
  clip = (
    optax.identity()
    if config.clip_norm is None
    else optax.clip_by_global_norm(config.clip_norm)
  )
  return optax.chain(
    clip, optax.scale_by_adam(config.b1, config.b2, config.eps)
  )


def init_optimizer(
  model: LanguageModel, optimizer: optax.GradientTransformation, params: Any
) -> Any:
  """Makes an optimizer's first state, whose moments lie where params do."""
  return partitioning.on_mesh(model.layout, optimizer.init(params))


class Updated(NamedTuple):
  """What a step gives.

  Attributes:
    params: that are trained.
    opt_state: Optax's.
    norm: scalar, of the gradient before clipping.
    is_finite: scalar bool, of norm and loss; where it is False, parameters and
      optimizer are as they were before.
    loss: scalar, -sum_s weights[s] * log p(targets[s] | prompts[s]) before the
      step. Where weights are signed it means nothing.
    log_prob: [S] nats, of the sequences before the step.
  """

  params: Any
  opt_state: Any
  norm: jax.Array
  is_finite: jax.Array
  loss: jax.Array
  log_prob: jax.Array


def build(
  model: LanguageModel,
  optimizer: optax.GradientTransformation,
  rows_at_once: int | None = None,
) -> Callable[..., Updated]:
  """Builds the jitted step, on the mesh of the model if it has one.

  Args:
    model: the language model.
    optimizer: gives the direction.
    rows_at_once: rows that are differentiated at once; None is all.

  Returns:
    (params, opt_state, frozen params, learning rate, prompts [S, P],
    targets [S, T], weights [S]) -> Updated. It ascends
    sum_s weights[s] * log p(targets[s] | prompts[s]). Parameters and optimizer
    come back laid out as they were.
  """
  layout = model.layout
  if rows_at_once is not None:
    rows_at_once = partitioning.padded(layout, "batch", rows_at_once)

  def step(params, opt_state, frozen, rate, prefix, prompts, targets, weights):
    def surrogate(params, prompts, targets, weights):
      whole = tuning.merge(params, frozen)
      log_prob = model.log_prob(whole, prompts, targets, prefix).sum(axis=1)
      return -(weights * log_prob).sum(), log_prob

    differentiate = jax.value_and_grad(surrogate, has_aux=True)
    rows = (prompts, targets, weights)
    if rows_at_once is None or rows_at_once >= len(weights):
      (loss, log_prob), gradient = differentiate(params, *rows)
    else:
      loss, log_prob, gradient = _by_parts(
        functools.partial(differentiate, params), rows, rows_at_once
      )
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    updates, new_state = optimizer.update(gradient, opt_state, params)
    updates = jax.tree.map(lambda update: -rate * update, updates)
    new_params = optax.apply_updates(params, updates)
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      (new_params, new_state),
      (params, opt_state),
    )
    return Updated(params, opt_state, norm, is_finite, loss, log_prob)

  if layout is None:
    jitted = jax.jit(step, donate_argnums=(0, 1))

    def step_here(params, opt_state, frozen, rate, prompts, targets, weights):
      return jitted(
        *(params, opt_state, frozen, rate),
        *language_model.compact(prompts),
        *(language_model.trim_targets(targets), weights),
      )

    return step_here

  @functools.cache
  def compiled(shardings, treedef):
    places = jax.tree.unflatten(treedef, shardings)
    everywhere = layout.sharding()
    return jax.jit(
      step,
      donate_argnums=(0, 1),
      out_shardings=Updated(*places, *[everywhere] * 4),
    )

  def step_rows(params, opt_state, frozen, rate, prompts, targets, weights):
    leaves, treedef = jax.tree.flatten((params, opt_state))
    shardings = tuple(leaf.sharding for leaf in leaves)
    prefix, prompts = language_model.compact(prompts)
    targets = language_model.trim_targets(targets)
    return compiled(shardings, treedef)(
      params,
      opt_state,
      frozen,
      rate,
      partitioning.place(layout, prefix),
      partitioning.place_rows(layout, prompts),
      partitioning.place_rows(layout, targets),
      partitioning.place_rows(layout, weights, repeat=False),
    )

  return step_rows


def _by_parts(differentiate, rows, size: int):
  """Sums values and gradients of parts of the rows, one after the other.

  Args:
    differentiate: rows -> (value, log-probs [S]), gradient.
    rows: arrays of S rows, the last of which are weights; what fills the last
      part up has no weight.
    size: of a part.
  """
  total = len(rows[-1])
  number = -(-total // size)

  def parts(array):
    widths = [(0, number * size - total)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, widths).reshape(number, size, *array.shape[1:])

  def add(so_far, part):
    (value, log_prob), gradient = differentiate(*part)
    return jax.tree.map(jnp.add, so_far, (value, gradient)), log_prob

  stacked = tuple(map(parts, rows))
  first = jax.tree.map(lambda x: x[0], stacked)
  (value, _), gradient = jax.eval_shape(differentiate, *first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, gradient))
  (value, gradient), log_prob = jax.lax.scan(add, zeros, stacked)
  return value, log_prob.reshape(-1)[:total], gradient
