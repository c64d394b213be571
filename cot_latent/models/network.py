"""The functions of a language model, whatever its architecture.

Symbols: B rows, P prompt tokens, P' prefix tokens, T target tokens, E width of
the model, V vocabulary.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from cot_latent.models import layers
from cot_latent.models.api import PAD_ID, Params
from cot_latent.models.lora import DOWN, UP, Lora, merged
from cot_latent.models.partitioning import Layout
from cot_latent.models.stops import Ending

SOFT_PROMPT = "soft_prompt"  # the parameter of that name, [L, E]

_CHUNK_BYTES = 2**27
# Parameters that only products take, in the type of activations.
_IN_PRODUCTS = ("kernel", "embedding", "unembedding", DOWN, UP)


@dataclasses.dataclass(frozen=True)
class Network(abc.ABC):
  """Pure functions of parameters; their caller compiles them.

  Attributes:
    config: Sizes and options, by whose type the architecture is chosen.
    vocab_size: Size of the vocabulary, V.
    ending: Tokens and stop strings that end a sequence.
    max_length: Length at which sampling stops, T.
    lora: Low-rank updates; None has none.
    layout: Mesh and rules; None is one device.
  """

  config: Any
  vocab_size: int
  ending: Ending
  max_length: int
  lora: Lora | None = None
  layout: Layout | None = None

  @property
  @abc.abstractmethod
  def module(self) -> nn.Module:
    """The Flax module, without the output layer."""

  @abc.abstractmethod
  def init(self, rng_key: jax.Array) -> Params:
    """Draws parameters, boxed with the names of their axes."""

  def for_sampling(self) -> Self:
    """The network that samples, given `params_for_sampling`.

    What it draws and scores is the same, up to rounding; its functions only
    take other parameters.
    """
    if self._merges_updates:
      return dataclasses.replace(self, lora=None)
    if self.layout is None:
      return self
    # Nothing is left to be gathered.
    whole = dataclasses.replace(self.layout, fully_sharded=False)
    return dataclasses.replace(self, layout=whole)

  def params_for_sampling(self, params: Params) -> Params:
    """Makes the parameters that the network of `for_sampling` takes."""
    if self.lora is not None and self._merges_updates:
      return merged(params, self.lora)
    if self.layout is not None:
      return self._gathered(self.layout, params)
    return self._narrowed(params)

  def _narrowed(self, params: Params) -> Params:
    """Rounds what products take, once, where they would round it each time."""
    dtype = jnp.dtype(self.config.dtype)

    def one(path, leaf):
      is_wider = leaf.dtype.itemsize > dtype.itemsize
      return (
        leaf.astype(dtype) if path[-1] in _IN_PRODUCTS and is_wider else leaf
      )

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
      {path: one(path, leaf) for path, leaf in flat.items()}
    )

  @property
  def _merges_updates(self) -> bool:
    """Whether updates can be added to kernels, and are not rounded away."""
    types = {self.config.dtype, self.config.param_dtype}
    return self.layout is None and types == {"float32"}

  def split_for_sampling(self, params: Params) -> tuple[Params, Params]:
    """Splits off the parameters that are ready for sampling.

    Args:
      params: Parameters of the model, on the devices or on the host.

    Returns:
      Those that `params_for_sampling` has to change; and those that are on the
      devices in the type and place that the sampler takes, not to be copied.
    """
    if self.layout is None:
      return params, {}
    wanted = self._sampled(self.layout, params)
    flat = traverse_util.flatten_dict(params)

    def is_ready(path, leaf):
      dtype, sharding = wanted[path]
      now = getattr(leaf, "sharding", None)  # an array of the host has none
      is_placed = now is not None and now.is_equivalent_to(sharding, leaf.ndim)
      return is_placed and leaf.dtype == dtype

    ready = {path for path, leaf in flat.items() if is_ready(path, leaf)}
    unflatten = traverse_util.unflatten_dict
    return (
      unflatten({path: x for path, x in flat.items() if path not in ready}),
      unflatten({path: x for path, x in flat.items() if path in ready}),
    )

  def _gathered(self, layout: Layout, params: Params) -> Params:
    """Gathers what is stored in parts, once, in the type that products take."""
    wanted = self._sampled(layout, params)

    def one(path, leaf):
      dtype, sharding = wanted[path]
      leaf = leaf.astype(dtype)
      return jax.lax.with_sharding_constraint(leaf, sharding)

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
      {path: one(path, leaf) for path, leaf in flat.items()}
    )

  def _sampled(self, layout: Layout, params: Params) -> dict:
    """Types and shardings of parameters for sampling, by path."""
    wanted = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
      names = self._axes.get(path, ())
      dtype = self.config.dtype if path[-1] in _IN_PRODUCTS else leaf.dtype
      sharding = layout.sharding_of(leaf.shape, *names)
      wanted[path] = jnp.dtype(dtype), sharding
    return wanted

  @functools.cached_property
  def _axes(self) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    """Names of the axes of each parameter that has them, by path."""
    boxed = jax.eval_shape(self.init, jax.random.key(0))
    return {
      path: leaf.names
      for path, leaf in traverse_util.flatten_dict(boxed).items()
      if hasattr(leaf, "names")
    }

  @abc.abstractmethod
  def encode_prefix(self, params: Params, prefix: jax.Array) -> Any:
    """Computes what all rows share that begin with a prefix.

    Args:
      params: Parameters of the model.
      prefix: Tokens [P'] int32; P' may be 0.

    Returns:
      A pytree, which the other methods take as `shared`.
    """

  @abc.abstractmethod
  def prefill(
    self, params: Params, shared: Any, prompts: jax.Array, column: jax.Array
  ) -> tuple[jax.Array, Any]:
    """Feeds prompts in.

    Args:
      params: Parameters of the model.
      shared: Result of `encode_prefix`.
      prompts: Tokens [B, P] int32, padded on the left.
      column: Column that `decode_step` will be given with the next token, a
        scalar.

    Returns:
      Logits [B, V] of the first new token, and the rows' cache, a pytree every
      array of which has rows first.
    """

  @abc.abstractmethod
  def decode_step(
    self,
    params: Params,
    shared: Any,
    cache: Any,
    tokens: jax.Array,
    slot_position: jax.Array,
    column: jax.Array,
  ) -> tuple[jax.Array, Any]:
    """Feeds one new token of each row in.

    Args:
      params: Parameters of the model.
      shared: Result of `encode_prefix`.
      cache: The rows' cache.
      tokens: Tokens [B] int32.
      slot_position: How many new tokens each row has before this one, [B]
        int32; rows may differ.
      column: Column of the ring in the cache where this step's keys and values
        go, a scalar; one more at each call, to be taken modulo T.

    Returns:
      Logits [B, V] of the next token, and the rows' cache.
    """

  @abc.abstractmethod
  def log_prob(
    self, params: Params, shared: Any, prompts: jax.Array, targets: jax.Array
  ) -> jax.Array:
    """Scores targets [B, T] after prompts [B, P]: nats, 0 after the end."""

  @abc.abstractmethod
  def unembed(self, params: Params, x: jax.Array) -> jax.Array:
    """Computes logits [..., V] of the module's outputs [..., E]."""

  def apply(self, params: Params, *arguments: Any, **fields: Any) -> Any:
    """Applies the module, which does not know the soft prompt."""
    own = {name: v for name, v in params.items() if name != SOFT_PROMPT}
    return self.module.apply({"params": own}, *arguments, **fields)

  def score_targets(
    self, params: Params, x: jax.Array, targets: jax.Array
  ) -> jax.Array:
    """Scores targets [B, T] by the module's outputs [B, T, E] before them."""
    params = layers.with_output(params, self.layout)
    unembed = functools.partial(self.unembed, params)
    chosen = score(unembed, x, targets, self.layout)
    return jnp.where(self.ending.mask(targets), chosen, 0)


def prompt_mask(prompts: jax.Array) -> jax.Array:
  """Marks the tokens of prompts, and not the padding before them.

  An empty prompt keeps one padding token, so that there is something to start
  from. A position whose attention mask is all False would also attend to the
  tokens after it.

  Args:
    prompts: Tokens [B, P] int32, padded on the left.

  Returns:
    [B, P] bool, False on padding.
  """
  return (jnp.cumsum(prompts != PAD_ID, axis=1) > 0).at[:, -1].set(True)


def log_prob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """[...] nats of tokens [...] under logits [..., V], in float32."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def score(
  unembed: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  tokens: jax.Array,
  layout: Layout | None = None,
) -> jax.Array:
  """Scores tokens, chunk by chunk where their logits would take much memory.

  On a mesh the gradient of each chunk is summed over the devices by itself, so
  that chunks are as large as a device's part allows.

  Args:
    unembed: Output layer, [B, t, E] -> [B, t, V] logits.
    x: Outputs of the network before each token, [B, T, E].
    tokens: Tokens [B, T] int32.
    layout: Mesh and rules; None is one device.

  Returns:
    [B, T] nats.
  """
  rows, length, _ = x.shape
  logits: tuple[int, ...] = (rows, jax.eval_shape(unembed, x).shape[-1])
  if layout is not None:
    logits = layout.sharding_of(logits, "batch", "vocab").shard_shape(logits)
  size = max(1, _CHUNK_BYTES // (4 * math.prod(logits)))
  if size >= length:
    return log_prob_of(unembed(x), tokens)
  number = -(-length // size)

  @jax.checkpoint
  def score_chunk(chunk):
    return log_prob_of(unembed(chunk[0]), chunk[1])

  chunks = (_chunks(x, number, size), _chunks(tokens, number, size))
  scored = jax.lax.map(score_chunk, chunks)
  return jnp.moveaxis(scored, 0, 1).reshape(rows, -1)[:, :length]


def _chunks(array: jax.Array, number: int, size: int) -> jax.Array:
  """[number, B, size, ...] of an array [B, T, ...], padded with zeros."""
  missing = number * size - array.shape[1]
  widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
  padded = jnp.pad(array, widths)
  parts = padded.reshape(len(array), number, size, *array.shape[2:])
  return jnp.moveaxis(parts, 1, 0)
