"""Gradients of weighted log-probabilities, summed over parts of the rows.

S rows of T target tokens. The common beginning of all rows is computed once,
and the gradient with respect to it is summed like the rest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.models.language_model import LanguageModel
from cot_latent.training import tuning


class Part(NamedTuple):
  """Rows that are differentiated together.

  Attributes:
    rows: [size] indices of the rows; the last part repeats its last row.
    weights: [size] float32, 0 for repeated rows.
    share: [2] float32, factors of the part's gradient in A and B.
  """

  rows: np.ndarray
  weights: np.ndarray
  share: np.ndarray = np.ones(2, np.float32)


def parts_by_term(
  lengths: np.ndarray, terms: np.ndarray, size: int
) -> list[Part]:
  """Cuts rows into parts whose gradient serves both terms.

  In a part the weights of A and of B are proportional: rows of A alone, rows of
  B alone, and rows of both. Only few proportions occur for the latter (for
  K = 1 one, because all accepted draws have the same beta).

  Args:
    lengths: [S] tokens of each row.
    terms: [2, S] float32 weights of A and of B.
    size: Rows of a part.
  """
  kept, subtracted = terms
  in_kept = kept != 0
  ratio = np.divide(subtracted, kept, where=in_kept, out=np.zeros_like(kept))
  ratio = np.round(ratio, 5)  # equal except for rounding
  parts = []
  for value in np.unique(ratio[in_kept]):
    weights = np.where(in_kept & (ratio == value), kept, 0)
    share = np.array([1, subtracted @ weights / (kept @ weights)], np.float32)
    parts += [p._replace(share=share) for p in split(lengths, weights, size)]
  alone = np.where(in_kept, 0, subtracted)
  share = np.array([0, 1], np.float32)
  parts += [p._replace(share=share) for p in split(lengths, alone, size)]
  return parts


def split(lengths: np.ndarray, weights: np.ndarray, size: int) -> list[Part]:
  """Cuts the rows that have weight into parts, the longest rows first.

  Args:
    lengths: [S] tokens of each row.
    weights: [S] float32.
    size: Rows in a part.

  Returns:
    The parts; none if no row has weight.
  """
  order = np.argsort(-lengths, kind="stable")
  order = order[weights[order] != 0]
  if not len(order):
    return []
  missing = -len(order) % size
  filler = np.full(missing, order[-1])
  rows = np.concatenate([order, filler])
  filled = np.pad(weights[order], (0, missing))
  shape = (-1, size)
  return list(map(Part, rows.reshape(shape), filled.reshape(shape)))


class Sums(NamedTuple):
  """Sums over parts of the rows.

  Attributes:
    loss: Scalar, the loss.
    gradient: Gradient with respect to the trained parameters, excluding the
      path through the shared prefix.
    shared_gradient: Gradient with respect to the floating-point arrays of the
      shared prefix.
  """

  loss: Any
  gradient: Any
  shared_gradient: Any


def begin(model: LanguageModel, params: Any, frozen: Any, prefix: Any) -> Any:
  """Computes the prefix that all rows share."""
  return model.encode_prefix(tuning.merge(params, frozen), prefix)


def zeros(params: Any, shared: Any) -> Sums:
  """Returns sums over no rows; those of the prefix have at least float32."""

  def zeros_like(leaf):
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    return jnp.zeros_like(leaf, dtype)

  return Sums(
    jnp.zeros((), jnp.float32),
    jax.tree.map(jnp.zeros_like, params),
    jax.tree.map(zeros_like, _inexact(shared)),
  )


def of_part(
  model: LanguageModel, params, frozen, shared, prompts, targets, weights
) -> tuple[Sums, jax.Array]:
  """Differentiates the rows of a part.

  Args:
    model: Language model.
    params: Trained parameters.
    frozen: The other parameters.
    shared: Result of `begin`.
    prompts: [size, P] int32.
    targets: [size, T] int32.
    weights: [size] float32, or [size, T] of the tokens, of which then only
      those with weight count in a row's log-probability.

  Returns:
    The part's contribution to the sums, and the rows' log-probabilities in
    nats.
  """

  def surrogate(params, inexact):
    whole = tuning.merge(params, frozen)
    by_token = model.log_prob(
      whole, prompts, targets, _replace_inexact(shared, inexact)
    )
    if weights.ndim == 2:
      counted = jnp.where(weights != 0, by_token, 0)
      return -(weights * counted).sum(), counted.sum(axis=1)
    log_prob = by_token.sum(axis=1)
    return -(weights * log_prob).sum(), log_prob

  differentiate = jax.value_and_grad(surrogate, argnums=(0, 1), has_aux=True)
  (loss, log_prob), gradients = differentiate(params, _inexact(shared))
  return Sums(loss, *gradients), log_prob


def whole(
  model: LanguageModel, params: Any, frozen: Any, prefix: Any, sums: Sums
) -> Any:
  """Returns the gradient, including the path through the shared prefix."""
  shared, way_back = jax.vjp(
    lambda params: _inexact(begin(model, params, frozen, prefix)), params
  )
  gradient = [
    summed.astype(leaf.dtype)
    for summed, leaf in zip(sums.shared_gradient, shared, strict=True)
  ]
  (through_shared,) = way_back(gradient)
  return jax.tree.map(jnp.add, sums.gradient, through_shared)


def _inexact(tree: Any) -> list[jax.Array]:
  """Returns the leaves that have a gradient."""
  return [
    leaf
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]


def _replace_inexact(tree: Any, inexact: list[jax.Array]) -> Any:
  """Replaces the leaves that `_inexact` returned."""
  left = iter(inexact)
  return jax.tree.map(
    lambda leaf: (
      next(left) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
    ),
    tree,
  )
