"""The M-step: one optimizer step on a weighted sum of log-probabilities.

The only place that differentiates.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cot_latent.models import partitioning, token_rows
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


class Scores(NamedTuple):
  """Log-probabilities that stay on the device until they are looked at.

  Attributes:
    num_rows: S.
    rows: For each part of the rows, which have weight: integers.
    log_prob: For each part, at least as many nats; those behind are of rows
      that only fill the part up.
  """

  num_rows: int
  rows: list[np.ndarray]
  log_prob: list[jax.Array]

  def fetch(self) -> np.ndarray:
    """Waits for the step.

    Returns:
      [S] float32 nats; nan of rows without weight, which are not scored.
    """
    scores = np.full(self.num_rows, np.nan, np.float32)
    for rows, log_prob in zip(self.rows, self.log_prob, strict=True):
      scores[rows] = np.asarray(log_prob)[: len(rows)]
    return scores


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
    log_prob: of the sequences before the step.
  """

  params: Any
  opt_state: Any
  norm: jax.Array
  is_finite: jax.Array
  loss: jax.Array
  log_prob: Scores


def build(
  model: LanguageModel,
  optimizer: optax.GradientTransformation,
  rows_at_once: int | None = None,
) -> Callable[..., Updated]:
  """Builds the step, on the mesh of the model if it has one.

  Rows are differentiated in parts, the longest first, so that each part is but
  as wide as its own longest row and there are few shapes to compile for. What
  all rows begin with is computed once for all parts: they add up the gradient
  with respect to it too, which then goes the way back once.

  Args:
    model: the language model.
    optimizer: gives the direction.
    rows_at_once: rows of a part; None is all.

  Returns:
    (params, opt_state, frozen params, learning rate, prompts [S, P],
    targets [S, T], weights [S]) -> Updated. It ascends
    sum_s weights[s] * log p(targets[s] | prompts[s]). Parameters and optimizer
    come back laid out as they were.
  """
  layout = model.layout
  functions = functools.cache(functools.partial(_compile, model, optimizer))

  def step(params, opt_state, frozen, rate, prompts, targets, weights):
    state_places = _places((params, opt_state)) if layout else None
    begin, zeros, add, finish = functions(state_places)
    prefix, prompts = token_rows.compact_prompts(prompts)
    prefix = partitioning.place(layout, prefix)
    size = min(rows_at_once or len(weights), len(weights))
    size = partitioning.padded(layout, "batch", size)
    parts = _parts(model.ending.lengths(targets)[0], weights, size)
    shared = begin(params, frozen, prefix)
    sums, scored = zeros(params, shared), []
    for rows, part_weights in parts:
      sums, log_prob = add(
        sums,
        params,
        frozen,
        shared,
        partitioning.place_rows(layout, prompts[rows]),
        partitioning.place_rows(
          layout, token_rows.trim_targets(targets[rows], model.ending)
        ),
        partitioning.place_rows(layout, part_weights, repeat=False),
      )
      scored.append(log_prob)
    params, opt_state, norm, is_finite, loss = finish(
      params, opt_state, frozen, rate, prefix, sums
    )
    scores = Scores(
      len(weights),
      [rows[part_weights != 0] for rows, part_weights in parts],
      scored,
    )
    return Updated(params, opt_state, norm, is_finite, loss, scores)

  return step


def _parts(
  lengths: np.ndarray, weights: np.ndarray, size: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Cuts the rows that have weight into parts, the longest rows first.

  Args:
    lengths: Tokens of each row, [S].
    weights: [S] float32.
    size: of a part.

  Returns:
    For each part, and there is at least one, the rows [size] and their weights
    [size]; the last part is filled up with its last row, of weight 0.
  """
  order = np.argsort(-lengths, kind="stable")
  order = order[weights[order] != 0]
  missing = max(1, -(-len(order) // size)) * size - len(order)
  filler = np.full(missing, order[-1] if len(order) else 0)
  rows = np.concatenate([order, filler])
  filled = np.pad(weights[order], (0, missing))
  shape = (-1, size)
  return list(zip(rows.reshape(shape), filled.reshape(shape), strict=True))


class _Sums(NamedTuple):
  """What parts of the rows add up.

  Attributes:
    loss: scalar.
    gradient: of the loss with respect to what is trained, but for the way that
      leads through what all rows share.
    shared_gradient: with respect to the floating-point arrays of that.
  """

  loss: Any
  gradient: Any
  shared_gradient: Any


def _places(tree: Any) -> Any:
  """The shardings of a tree's arrays, hashable."""
  leaves, treedef = jax.tree.flatten(tree)
  return tuple(leaf.sharding for leaf in leaves), treedef


def _compile(model: LanguageModel, optimizer, places):
  """Compiles the step's functions: begin, zeros, add and finish.

  Args:
    model: the language model.
    optimizer: gives the direction.
    places: of parameters and optimizer, as `_places` gives them; None is one
      device.
  """
  zero_places = added_places = updated_places = None
  if places is not None and model.layout is not None:
    everywhere = model.layout.sharding()
    params_places, opt_places = jax.tree.unflatten(places[1], places[0])
    zero_places = _Sums(everywhere, params_places, None)
    added_places = (zero_places, everywhere)
    updated_places = (params_places, opt_places, *[everywhere] * 3)

  def begin(params, frozen, prefix):
    return model.encode_prefix(tuning.merge(params, frozen), prefix)

  def zeros(params, shared):
    return jax.tree.map(
      jnp.zeros_like, _Sums(jnp.float32(0), params, _inexact(shared))
    )

  def add(sums, params, frozen, shared, prompts, targets, weights):
    def surrogate(params, inexact):
      whole = tuning.merge(params, frozen)
      log_prob = model.log_prob(
        whole, prompts, targets, _replace_inexact(shared, inexact)
      ).sum(axis=1)
      return -(weights * log_prob).sum(), log_prob

    differentiate = jax.value_and_grad(surrogate, argnums=(0, 1), has_aux=True)
    (loss, log_prob), gradients = differentiate(params, _inexact(shared))
    return jax.tree.map(jnp.add, sums, _Sums(loss, *gradients)), log_prob

  def finish(params, opt_state, frozen, rate, prefix, sums):
    _, way_back = jax.vjp(
      lambda params: _inexact(begin(params, frozen, prefix)), params
    )
    (through_shared,) = way_back(sums.shared_gradient)
    gradient = jax.tree.map(jnp.add, sums.gradient, through_shared)
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
    updates, new_state = optimizer.update(gradient, opt_state, params)
    updates = jax.tree.map(lambda update: -rate * update, updates)
    new_params = optax.apply_updates(params, updates)
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      (new_params, new_state),
      (params, opt_state),
    )
    return params, opt_state, norm, is_finite, sums.loss

  return (
    jax.jit(begin),
    jax.jit(zeros, out_shardings=zero_places),
    jax.jit(add, donate_argnums=0, out_shardings=added_places),
    jax.jit(finish, donate_argnums=(0, 1), out_shardings=updated_places),
  )


def _inexact(tree: Any) -> list[jax.Array]:
  """The leaves that can be differentiated by."""
  return [
    leaf
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]


def _replace_inexact(tree: Any, inexact: list[jax.Array]) -> Any:
  """Puts other leaves where `_inexact` took some."""
  left = iter(inexact)
  return jax.tree.map(
    lambda leaf: (
      next(left) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
    ),
    tree,
  )
