"""The language models of this package: a sampler and a scorer in one.

Sampling and scoring use exactly the same distribution, which is not truncated
or changed otherwise. A sequence ends with the first token that is an end token
or completes a stop string (models/stops.py). A sequence that reaches the length
limit is scored as it was drawn.

Symbols: B rows, P prompt tokens, P' prefix tokens, T target tokens, V
vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cot_latent.models import partitioning, sampling, token_rows
from cot_latent.models.api import Array, Draws, Params
from cot_latent.models.causal import CausalNetwork
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.encoder_decoder import EncoderDecoderNetwork
from cot_latent.models.lora import Lora
from cot_latent.models.network import Network
from cot_latent.models.stops import Ending
from cot_latent.models.t5 import T5Config
from cot_latent.runtime import compilation


class LanguageModel:
  """A `Sampler` and a `Scorer`; every function is pure and compiled.

  Attributes:
    network: The functions of parameters, not compiled.
    sampler: The compiled functions that draw.
    shapes: Shapes of parameters with the shardings in which they are stored;
      None is one device.

  Example:

    model = from_config(DecoderConfig(1, 16, 2, 8, 32), 259, 1, 64)
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(prompts))
    draws = model.sample(params, prompts, keys)
    nats = model.log_prob(params, prompts, draws.tokens)
  """

  def __init__(self, network: Network):
    """Stores the network; nothing is compiled yet.

    Args:
      network: Functions of parameters.

    Raises:
      UserError: If an axis of the model does not divide into the layout's
        shards.
    """
    self.network = network
    self.shapes: Any = None
    shardings = None
    if network.layout is not None:
      boxed = jax.eval_shape(network.init, jax.random.key(0))
      shardings = partitioning.param_shardings(network.layout, boxed)
      self.shapes = partitioning.placed_shapes(nn.unbox(boxed), shardings)
    self.sampler = sampling.SlotSampler(network)
    self._init = jax.jit(self._unboxed_init, out_shardings=shardings)
    self._encode_prefix = jax.jit(network.encode_prefix)
    self._log_prob = jax.jit(self._traced_log_prob)

  @property
  def layout(self) -> partitioning.Layout | None:
    """Mesh and rules for parameters and rows; None is one device."""
    return self.network.layout

  @property
  def ending(self) -> Ending:
    """What ends a sequence."""
    return self.network.ending

  def with_ending(self, ending: Ending) -> "LanguageModel":
    """The same model with other sequences' ends; its parameters fit both."""
    return _with_ending(self, ending)

  def init(self, rng_key: jax.Array) -> Params:
    """Draws parameters."""
    return self._init(rng_key)

  def sample(
    self,
    params: Params,
    prompts: Array,
    rng_keys: jax.Array,
    temperature: float = 1.0,
    *,
    num_slots: int | None = None,
    report_done: Callable[..., None] | None = None,
  ) -> Draws:
    """Draws one continuation of each prompt; see `Sampler.sample`."""
    prefix, rest = token_rows.compact_prompts(prompts)
    return self.sampler.sample(
      params, prefix, rest, rng_keys, temperature, num_slots, report_done
    )

  def encode_prefix(self, params: Params, prefix: Array) -> Any:
    """Computes what all rows share that begin with a prefix [P'] int32."""
    return self._encode_prefix(params, prefix)

  def log_prob(
    self,
    params: Params,
    prompts: Array,
    targets: Array,
    shared: Any = None,
  ) -> jax.Array:
    """Scores targets; see `Scorer.log_prob`.

    Args:
      params: Parameters of the model.
      prompts: Tokens [B, P] int32, padded on the left.
      targets: Tokens [B, T] int32.
      shared: Result of `encode_prefix`; the prompts do not repeat its prefix.
        None if there is no prefix.

    Returns:
      [B, T] float32 nats, 0 after the end.
    """
    return self._log_prob(params, prompts, targets, shared)

  def _unboxed_init(self, rng_key):
    return nn.unbox(self.network.init(rng_key))

  def _traced_log_prob(self, params, prompts, targets, shared):
    if shared is None:
      prefix = jnp.asarray(token_rows.NO_PREFIX)
      shared = self.network.encode_prefix(params, prefix)
    return self.network.log_prob(params, shared, prompts, targets)


@functools.lru_cache(maxsize=16)  # what is compiled is kept by the model
def _with_ending(model: LanguageModel, ending: Ending) -> LanguageModel:
  return LanguageModel(dataclasses.replace(model.network, ending=ending))


@compilation.shares
def from_config(
  config: DecoderConfig | T5Config,
  vocab_size: int,
  ending: Ending | int,
  max_length: int,
  layout: partitioning.Layout | None = None,
  lora: Lora | None = None,
) -> LanguageModel:
  """Makes a language model.

  Args:
    config: Sizes and options; its type is the architecture.
    vocab_size: Size of the vocabulary, V.
    ending: Tokens and strings that end a sequence, or the id of one end token.
    max_length: Length at which sampling stops, T.
    layout: Mesh and rules for parameters and rows; None is one device.
    lora: Low-rank updates; None has none.

  Raises:
    UserError: If an axis of the model does not divide into the layout's shards.
  """
  if isinstance(ending, int):
    ending = Ending((ending,))
  settings = (vocab_size, ending, max_length, lora, layout)
  if isinstance(config, T5Config):
    return LanguageModel(EncoderDecoderNetwork(config, *settings))
  return LanguageModel(CausalNetwork(config, *settings))
