"""The M-step: one optimizer step on a weighted sum of log-probabilities.

Only this file differentiates.
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
from cot_latent.runtime import compilation
from cot_latent.training import gradients
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


@compilation.shares
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
  """Makes an optimizer's first state; its moments are sharded like params."""
  return partitioning.on_mesh(model.layout, optimizer.init(params))


class Scores(NamedTuple):
  """Log-probabilities that stay on the device until they are fetched.

  Attributes:
    num_rows: Number of rows S.
    rows: For each part, the integer indices of its rows.
    log_prob: For each part, nats of its rows, followed by nats of the rows that
      pad the part.
  """

  num_rows: int
  rows: list[np.ndarray]
  log_prob: list[jax.Array]

  def fetch(self) -> np.ndarray:
    """Waits for the step, and returns the log-probabilities.

    Returns:
      [S] float32 nats; nan for rows without weight, which are not scored.
    """
    scores = np.full(self.num_rows, np.nan, np.float32)
    for rows, log_prob in zip(self.rows, self.log_prob, strict=True):
      scores[rows] = np.asarray(log_prob)[: len(rows)]
    return scores


class Updated(NamedTuple):
  """The results of a step.

  Attributes:
    params: Trained parameters.
    opt_state: State of Optax's optimizer.
    norm: Scalar, norm of the gradient before clipping.
    is_finite: Scalar bool, whether norm and loss are finite. If not, parameters
      and optimizer state are unchanged.
    loss: Scalar, -sum_s weights[s] * log p(targets[s] | prompts[s]) before the
      step. With signed weights it has no meaning.
    log_prob: Log-probabilities of the sequences before the step.
    measured: [3] |A|^2, <A, B> and |B|^2 of the two terms' gradients, if they
      were asked for (`fitting.update`).
  """

  params: Any
  opt_state: Any
  norm: jax.Array
  is_finite: jax.Array
  loss: jax.Array
  log_prob: Scores
  measured: jax.Array | None = None


def build_step(
  model: LanguageModel,
  optimizer: optax.GradientTransformation,
  rows_at_once: int | None = None,
) -> Callable[..., Updated]:
  """Builds the step, on the model's mesh if it has one.

  Rows are differentiated in parts, the longest rows first. So each part is only
  as wide as its own longest row, and there are few shapes to compile. The
  common beginning of all rows is computed once for all parts. They sum the
  gradient with respect to it too, which is then propagated back once.

  Args:
    model: The language model.
    optimizer: Optimizer that returns the direction.
    rows_at_once: Rows of a part; None is all.

  Returns:
    (params, opt_state, frozen params, learning rate, prompts [S, P],
    targets [S, T], weights [S]) -> Updated. It ascends
    sum_s weights[s] * log p(targets[s] | prompts[s]). Parameters and optimizer
    state keep their shardings. With `terms` [2, S] and `eta` as well, the
    gradients of the two terms A and B are summed apart, and it ascends
    A - eta B: each row is still differentiated once. With `token_weights`
    [S, T] those multiply the tokens' log-probabilities, and `weights` only
    tells which rows have weight.
  """
  layout = model.layout
  compiled = functools.partial(compile_step, model, optimizer)
  functions = functools.cache(compiled)

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
    token_weights=None,
  ):
    state_places = places_of((params, opt_state)) if layout else None
    begin, zeros, add, finish = functions(state_places, terms is not None)
    prefix, prompts = token_rows.compact_prompts(prompts)
    prefix = partitioning.place(layout, prefix)
    size = min(rows_at_once or len(weights), len(weights))
    size = partitioning.padded(layout, "batch", size)
    lengths = model.ending.lengths(targets)[0]
    parts = _parts_of(lengths, weights, terms, size)
    shared = begin(params, frozen, prefix)
    sums, scored = zeros(params, shared), []
    for part in parts:
      trimmed, part_weights = _part_of(
        part, targets, token_weights, model.ending
      )
      sums, log_prob = add(
        sums,
        params,
        frozen,
        shared,
        partitioning.place_rows(layout, prompts[part.rows]),
        partitioning.place_rows(layout, trimmed),
        partitioning.place_rows(layout, part_weights, repeat=False),
        *([] if terms is None else [part.share]),
      )
      scored.append(log_prob)
    finished = finish(
      *(params, opt_state, frozen, rate, prefix, sums),
      *([] if terms is None else [np.float32(eta)]),
    )
    params, opt_state, norm, is_finite, loss, *measured = finished
    weighted = [part.rows[part.weights != 0] for part in parts]
    scores = Scores(len(weights), weighted, scored)
    return Updated(params, opt_state, norm, is_finite, loss, scores, *measured)

  return step


def _parts_of(lengths, weights, terms, size):
  """Returns the parts of rows that are differentiated one after the other."""
  if terms is None:
    return gradients.split(lengths, weights, size)
  return gradients.parts_by_term(lengths, terms, size)


def _part_of(part, targets, token_weights, ending):
  """Returns a part's targets, as wide as the longest, and their weights."""
  trimmed = token_rows.trim_targets(targets[part.rows], ending)
  if token_weights is None:
    return trimmed, part.weights
  weights = token_weights[part.rows, : trimmed.shape[1]]
  return trimmed, weights * (part.weights != 0)[:, None]


def places_of(tree: Any) -> Any:
  """Returns the shardings of a tree's arrays, or their shapes, hashable."""
  leaves, treedef = jax.tree.flatten(tree)
  return tuple(leaf.sharding for leaf in leaves), treedef


@compilation.shares
def compile_step(model: LanguageModel, optimizer, places, by_term: bool):
  """Compiles the step's functions: begin, zeros, add and finish.

  Args:
    model: The language model.
    optimizer: Optimizer that returns the direction.
    places: Shardings of parameters and optimizer state, from `places_of`; None
      is one device.
    by_term: Whether two terms are summed apart, in a pair of sums.
  """
  zero_places = added_places = updated_places = None
  if places is not None and model.layout is not None:
    everywhere = model.layout.sharding()
    params_places, opt_places = jax.tree.unflatten(places[1], places[0])
    term_places = gradients.Sums(everywhere, params_places, None)
    zero_places = (term_places, term_places) if by_term else term_places
    added_places = (zero_places, everywhere)
    updated_places = (params_places, opt_places, *[everywhere] * (3 + by_term))

  def zeros(params, shared):
    nothing = gradients.zeros(params, shared)
    return (nothing, nothing) if by_term else nothing

  def add(sums, *rows):
    part, log_prob = gradients.of_part(model, *rows)
    return jax.tree.map(jnp.add, sums, part), log_prob

  def add_by_term(sums, *rows_and_share):
    *rows, share = rows_and_share
    part, log_prob = gradients.of_part(model, *rows)
    added = (
      jax.tree.map(lambda old, new, by=by: old + by * new, term, part)
      for term, by in zip(sums, share, strict=True)
    )
    return tuple(added), log_prob

  def finish(params, opt_state, frozen, rate, prefix, sums):
    gradient = gradients.whole(model, params, frozen, prefix, sums)
    return _update(optimizer, params, opt_state, rate, gradient, sums.loss)

  def finish_by_term(params, opt_state, frozen, rate, prefix, sums, eta):
    kept, subtracted = (
      gradients.whole(model, params, frozen, prefix, term) for term in sums
    )
    pairs = (kept, kept), (kept, subtracted), (subtracted, subtracted)
    measured = jnp.stack([optax.tree.vdot(*pair) for pair in pairs])
    gradient = jax.tree.map(lambda a, b: a - eta * b, kept, subtracted)
    loss = sums[0].loss - eta * sums[1].loss
    updated = _update(optimizer, params, opt_state, rate, gradient, loss)
    return *updated, measured

  return (
    jax.jit(functools.partial(gradients.begin, model)),
    jax.jit(zeros, out_shardings=zero_places),
    jax.jit(
      add_by_term if by_term else add,
      donate_argnums=0,
      out_shardings=added_places,
    ),
    jax.jit(
      finish_by_term if by_term else finish,
      donate_argnums=(0, 1),
      out_shardings=updated_places,
    ),
  )


def _update(optimizer, params, opt_state, rate, gradient, loss):
  """Takes the optimizer's step if everything is finite."""
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
