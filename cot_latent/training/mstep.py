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
    measured: [3] |A|^2, <A, B> and |B|^2 of the two terms' gradients, where
      they were asked for (`fitting.update`).
  """

  params: Any
  opt_state: Any
  norm: jax.Array
  is_finite: jax.Array
  loss: jax.Array
  log_prob: Scores
  measured: jax.Array | None = None


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
    come back laid out as they were. With `terms` [2, S] and `eta` as well, the
    gradients of the two terms A and B are summed apart, and it ascends
    A - eta B: each row is still differentiated once.
  """
  layout = model.layout
  functions = functools.cache(functools.partial(_compile, model, optimizer))

  def step(
    params,
    opt_state,
    frozen,
    rate,
    prompts,
    targets,
    weights,
    terms=None,
    eta=None,
  ):
    state_places = _places((params, opt_state)) if layout else None
    begin, zeros, add, finish = functions(state_places, terms is not None)
    prefix, prompts = token_rows.compact_prompts(prompts)
    prefix = partitioning.place(layout, prefix)
    size = min(rows_at_once or len(weights), len(weights))
    size = partitioning.padded(layout, "batch", size)
    parts = (
      _parts(targets, weights, size)
      if terms is None
      else _parts_by_term(targets, terms, size)
    )
    shared = begin(params, frozen, prefix)
    sums, scored = zeros(params, shared), []
    for part in parts:
      sums, log_prob = add(
        sums,
        params,
        frozen,
        shared,
        partitioning.place_rows(layout, prompts[part.rows]),
        partitioning.place_rows(
          layout, token_rows.trim_targets(targets[part.rows])
        ),
        partitioning.place_rows(layout, part.weights, repeat=False),
        *([] if terms is None else [part.share]),
      )
      scored.append(log_prob)
    finished = finish(
      *(params, opt_state, frozen, rate, prefix, sums),
      *([] if terms is None else [np.float32(eta)]),
    )
    params, opt_state, norm, is_finite, loss, *measured = finished
    scores = Scores(
      len(weights),
      [part.rows[part.weights != 0] for part in parts],
      scored,
    )
    return Updated(
      params, opt_state, norm, is_finite, loss, scores, *measured
    )

  return step


class _Part(NamedTuple):
  """Rows that are differentiated together.

  Attributes:
    rows: [size] which rows; the last part is filled up with its last one.
    weights: [size] float32, 0 of rows that only fill up.
    share: [2] float32, by what the part's gradient is multiplied for A and
      for B.
  """

  rows: np.ndarray
  weights: np.ndarray
  share: np.ndarray = np.ones(2, np.float32)


def _parts_by_term(
  targets: np.ndarray, terms: np.ndarray, size: int
) -> list[_Part]:
  """Cuts rows into parts whose gradient serves both terms.

  Within a part the weights of A and of B are in one proportion: rows of A
  alone, rows of B alone, and rows of both, of which few proportions occur (for
  K = 1 one: all accepted draws have the same beta).

  Args:
    targets: [S, T] int32.
    terms: [2, S] float32 weights of A and of B.
    size: of a part.
  """
  kept, subtracted = terms
  in_kept = kept != 0
  ratio = np.divide(subtracted, kept, where=in_kept, out=np.zeros_like(kept))
  ratio = np.round(ratio, 5)  # equal but for rounding
  parts = []
  for value in np.unique(ratio[in_kept]):
    weights = np.where(in_kept & (ratio == value), kept, 0)
    share = np.array([1, subtracted @ weights / (kept @ weights)], np.float32)
    parts += [p._replace(share=share) for p in _parts(targets, weights, size)]
  alone = np.where(in_kept, 0, subtracted)
  if alone.any() or not parts:
    share = np.array([0, 1], np.float32)
    parts += [p._replace(share=share) for p in _parts(targets, alone, size)]
  return parts


def _parts(
  targets: np.ndarray, weights: np.ndarray, size: int
) -> list[_Part]:
  """Cuts the rows that have weight into parts, the longest rows first.

  Args:
    targets: [S, T] int32.
    weights: [S] float32.
    size: of a part.

  Returns:
    At least one part.
  """
  lengths = token_rows.target_lengths(targets)
  order = np.argsort(-lengths, kind="stable")
  order = order[weights[order] != 0]
  missing = max(1, -(-len(order) // size)) * size - len(order)
  filler = np.full(missing, order[-1] if len(order) else 0)
  rows = np.concatenate([order, filler])
  filled = np.pad(weights[order], (0, missing))
  shape = (-1, size)
  return list(map(_Part, rows.reshape(shape), filled.reshape(shape)))


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


def _compile(model: LanguageModel, optimizer, places, by_term: bool):
  """Compiles the step's functions: begin, zeros, add and finish.

  Args:
    model: the language model.
    optimizer: gives the direction.
    places: of parameters and optimizer, as `_places` gives them; None is one
      device.
    by_term: Whether two terms are summed apart, in a pair of sums.
  """
  zero_places = added_places = updated_places = None
  if places is not None and model.layout is not None:
    everywhere = model.layout.sharding()
    params_places, opt_places = jax.tree.unflatten(places[1], places[0])
    zero_places = _Sums(everywhere, params_places, None)
    if by_term:
      zero_places = (zero_places, zero_places)
    added_places = (zero_places, everywhere)
    updated_places = (params_places, opt_places, *[everywhere] * (3 + by_term))

  def begin(params, frozen, prefix):
    return model.encode_prefix(tuning.merge(params, frozen), prefix)

  def zeros(params, shared):
    like = _Sums(jnp.float32(0), params, _inexact(shared))
    return jax.tree.map(jnp.zeros_like, (like, like) if by_term else like)

  def differentiate(params, frozen, shared, prompts, targets, weights):
    def surrogate(params, inexact):
      whole = tuning.merge(params, frozen)
      log_prob = model.log_prob(
        whole, prompts, targets, _replace_inexact(shared, inexact)
      ).sum(axis=1)
      return -(weights * log_prob).sum(), log_prob

    gradients = jax.value_and_grad(surrogate, argnums=(0, 1), has_aux=True)
    (loss, log_prob), gradients = gradients(params, _inexact(shared))
    return _Sums(loss, *gradients), log_prob

  def add(sums, *arguments):
    part, log_prob = differentiate(*arguments)
    return jax.tree.map(jnp.add, sums, part), log_prob

  def add_by_term(sums, *arguments_and_share):
    *arguments, share = arguments_and_share
    part, log_prob = differentiate(*arguments)
    added = (
      jax.tree.map(lambda old, new, by=by: old + by * new, term, part)
      for term, by in zip(sums, share, strict=True)
    )
    return tuple(added), log_prob

  def whole_gradient(params, frozen, prefix, sums):
    _, way_back = jax.vjp(
      lambda params: _inexact(begin(params, frozen, prefix)), params
    )
    (through_shared,) = way_back(sums.shared_gradient)
    return jax.tree.map(jnp.add, sums.gradient, through_shared)

  def update(params, opt_state, rate, gradient, loss):
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
    return params, opt_state, norm, is_finite, loss

  def finish(params, opt_state, frozen, rate, prefix, sums):
    gradient = whole_gradient(params, frozen, prefix, sums)
    return update(params, opt_state, rate, gradient, sums.loss)

  def finish_by_term(params, opt_state, frozen, rate, prefix, sums, eta):
    kept, subtracted = (
      whole_gradient(params, frozen, prefix, term) for term in sums
    )
    measured = jnp.stack(
      [
        optax.tree.vdot(one, other)
        for one, other in (
          (kept, kept),
          (kept, subtracted),
          (subtracted, subtracted),
        )
      ]
    )
    gradient = jax.tree.map(lambda a, b: a - eta * b, kept, subtracted)
    loss = sums[0].loss - eta * sums[1].loss
    return *update(params, opt_state, rate, gradient, loss), measured

  if by_term:
    add, finish = add_by_term, finish_by_term
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
