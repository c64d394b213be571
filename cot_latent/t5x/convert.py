"""Parameters of T5X's T5 as those of the embedded trainer's, and back.

H heads, D width of a head, E width of the model, R buckets of relative
positions.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from cot_latent.errors import UserError
from cot_latent.models.t5 import T5Config

Tree = dict[str, Any]


class _Pair(NamedTuple):
  """One array by its two names, and how each becomes the other."""

  own: str
  theirs: str
  to_own: Callable[[np.ndarray], np.ndarray]
  to_theirs: Callable[[np.ndarray], np.ndarray]


def from_t5x(config: T5Config, params: Mapping[str, Any]) -> Tree:
  """Renames and reshapes T5X's parameters.

  Args:
    config: of the embedded model.
    params: `target` of a T5X checkpoint, of `t5x.examples.t5`.

  Returns:
    Parameters of `models.t5.T5`.

  Raises:
    UserError: if they are of another model, or of a kind that T5X has not.
  """
  _check_kind(config)
  flat = _flat(params)
  pairs = list(_pairs(config))
  _check_names(flat, {pair.theirs for pair in pairs}, "T5X's checkpoint")
  return traverse_util.unflatten_dict(
    {pair.own: pair.to_own(flat[pair.theirs]) for pair in pairs}, sep="/"
  )


def to_t5x(config: T5Config, params: Mapping[str, Any]) -> Tree:
  """The other way; see `from_t5x`."""
  _check_kind(config)
  flat = _flat(params)
  pairs = list(_pairs(config))
  _check_names(flat, {pair.own for pair in pairs}, "the model")
  return traverse_util.unflatten_dict(
    {pair.theirs: pair.to_theirs(flat[pair.own]) for pair in pairs}, sep="/"
  )


def _flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  flat = traverse_util.flatten_dict(plain(params), sep="/")
  return {name: np.asarray(array) for name, array in flat.items()}


def plain(tree: Any) -> Any:
  """Makes dicts of a tree's mappings, whatever they are."""
  if isinstance(tree, Mapping):
    return {name: plain(part) for name, part in tree.items()}
  return tree


def _check_kind(config: T5Config) -> None:
  if config.scale_outputs != config.tie_embeddings:
    raise UserError(
      f"a T5 with tie_embeddings = {config.tie_embeddings} and scale_outputs = "
      f"{config.scale_outputs}: T5X's has both or neither, so that this one "
      "cannot be moved"
    )


def _check_names(flat, wanted: set[str], what: str) -> None:
  missing, others = wanted - flat.keys(), flat.keys() - wanted
  if missing or others:
    name = min(missing or others)
    verb = "lacks" if missing else "has"
    raise UserError(
      f"{what} {verb} {name}: it is no T5 of these layers and this kind"
    )


def _pairs(config: T5Config) -> Iterator[_Pair]:
  """All arrays of a model."""
  yield _same("embed/embedding", "token_embedder/embedding")
  if not config.tie_embeddings:
    yield _same("unembedding", "decoder/logits_dense/kernel")
  for stack, number in (
    ("encoder", config.num_encoder_layers),
    ("decoder", config.num_decoder_layers),
  ):
    yield _same(f"{stack}/final_norm/scale", f"{stack}/{stack}_norm/scale")
    yield _Pair(
      f"{stack}/relative_bias",
      f"{stack}/relpos_bias/rel_embedding",
      np.transpose,  # [H, R] there
      np.transpose,
    )
    for layer in range(number):
      own, theirs = f"{stack}/layer_{layer}", f"{stack}/layers_{layer}"
      if stack == "encoder":
        yield from _attention(config, own, theirs, "attention", "attention")
      else:
        yield from _attention(
          config, own, theirs, "attention", "self_attention"
        )
        yield from _attention(
          config, own, theirs, "cross_attention", "encoder_decoder_attention"
        )
      yield from _mlp(config, own, theirs)


def _attention(
  config: T5Config, own: str, theirs: str, name: str, their_name: str
) -> Iterator[_Pair]:
  norm = "cross_attention" if name == "cross_attention" else their_name
  yield _same(
    f"{own}/{name}/norm/scale", f"{theirs}/pre_{norm}_layer_norm/scale"
  )
  heads = (config.num_heads, config.head_dim)
  for part in ("query", "key", "value"):
    yield _Pair(
      f"{own}/{name}/{part}/kernel",
      f"{theirs}/{their_name}/{part}/kernel",
      lambda kernel: kernel.reshape(-1, *heads),  # [E, H * D] there
      lambda kernel: kernel.reshape(len(kernel), -1),
    )
  yield _same(
    f"{own}/{name}/output/kernel", f"{theirs}/{their_name}/out/kernel"
  )


def _mlp(config: T5Config, own: str, theirs: str) -> Iterator[_Pair]:
  names = {"down": "wo"}
  if config.activation == "relu":
    names |= {"up": "wi"}
  else:
    names |= {"gate": "wi_0", "up": "wi_1"}
  yield _same(f"{own}/mlp/norm/scale", f"{theirs}/pre_mlp_layer_norm/scale")
  for name, their_name in names.items():
    yield _same(f"{own}/mlp/{name}/kernel", f"{theirs}/mlp/{their_name}/kernel")


def _same(own: str, theirs: str) -> _Pair:
  return _Pair(own, theirs, np.asarray, np.asarray)
