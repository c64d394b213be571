"""A model as functions of its parameters: init, sample, log_prob.

What is sampled is exactly what is scored: the distribution is neither truncated
nor otherwise changed, a sequence ends with its first EOS, and one that reaches
the length limit is scored as it was drawn.

Symbols: B rows, P prompt tokens, P' prefix tokens, T target tokens, V
vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.models import (
  causal,
  decoder,
  encoder_decoder,
  partitioning,
  sampling,
  t5,
)
from cot_latent.models.api import PAD_ID, Draws, Params
from cot_latent.models.lora import Lora

# Tokens by which the beginning that all rows share is cut off, and from which
# on it is worth it.
_PREFIX_STEP, _SHORTEST_PREFIX = 8, 32
_NOTHING = np.zeros(0, np.int32)


class LanguageModel(NamedTuple):
  """What training needs of a model; every function is pure and compiled.

  Attributes:
    init: rng_key -> params.
    sample: (params, prompts [N, P], keys [N], temperature=1.0, num_slots=None,
      report_done=None) -> Draws on the host, the same on every process.
      Temperature 0 is greedy decoding; `num_slots` rows are written at once, or
      all; `report_done` is called with the number of rows done.
    begin: (params, prefix [P']) -> what all rows share that begin with it.
    log_prob: (params, prompts [B, P], targets [B, T], shared=None) -> [B, T]
      nats; `shared` is of `begin`, None where rows begin with no prefix.
    layout: where parameters and rows lie; None is one device.
  """

  init: Callable[[jax.Array], Params]
  sample: Callable[..., Draws]
  begin: Callable[..., Any]
  log_prob: Callable[..., jax.Array]
  layout: partitioning.Layout | None = None


def build(
  config: decoder.DecoderConfig | t5.T5Config,
  vocab_size: int,
  eos_id: int,
  max_length: int,
  layout: partitioning.Layout | None = None,
  lora: Lora | None = None,
) -> LanguageModel:
  """Builds a language model.

  Args:
    config: its sizes, and by its type the architecture.
    vocab_size: V.
    eos_id: the token that ends a sequence.
    max_length: T, where sampling stops.
    layout: where its parameters and rows lie; None is one device.
    lora: low-rank updates that it has.

  Returns:
    The model's functions.

  Raises:
    UserError: if the model cannot be cut as the layout says.
  """
  settings = (vocab_size, eos_id, max_length, lora, layout)
  if isinstance(config, t5.T5Config):
    network = encoder_decoder.build(config, *settings)
  else:
    network = causal.build(config, *settings)
  sample_rows = sampling.build(network, eos_id, max_length, layout)

  def init(rng_key):
    return nn.unbox(network.init(rng_key))

  def sample(params, prompts, *settings, **named_settings):
    return sample_rows(
      params, *compact(np.asarray(prompts)), *settings, **named_settings
    )

  def begin(params, prefix):
    return network.begin(params, jnp.asarray(prefix))

  def log_prob(params, prompts, targets, shared=None):
    if shared is None:
      shared = begin(params, _NOTHING)
    return network.log_prob(params, shared, prompts, targets)

  shardings = None
  if layout is not None:
    shardings = partitioning.param_shardings(
      layout, jax.eval_shape(network.init, jax.random.key(0))
    )
  return LanguageModel(
    jax.jit(init, out_shardings=shardings),
    sample,
    jax.jit(begin),
    jax.jit(log_prob),
    layout,
  )


def split_prefix(prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Takes off what all prompts begin with, to be computed once.

  Args:
    prompts: [N, P] int32, padded in front.

  Returns:
    [P'] int32, the prefix, of a multiple of a step's length so that there are
    few sizes to compile for, and [N, P - P'] the rest, of which no row is
    empty.
  """
  lengths = (np.cumsum(prompts != PAD_ID, axis=1) > 0).sum(axis=1)
  longest = prompts.shape[1]
  limit = int(lengths.min(initial=longest)) - 1
  size = 0
  if len(prompts) > 1 and limit >= _SHORTEST_PREFIX:
    columns = longest - lengths[:, None] + np.arange(limit)
    begins = np.take_along_axis(prompts, columns, axis=1)
    is_same = (begins == begins[0]).all(axis=0)
    common = limit if is_same.all() else int(is_same.argmin())
    size = common // _PREFIX_STEP * _PREFIX_STEP
    # What is left of a row must not begin as padding does.
    rows, first = np.arange(len(prompts)), longest - lengths
    while size and (prompts[rows, first + size] == PAD_ID).any():
      size -= _PREFIX_STEP
  if size < _SHORTEST_PREFIX:
    return _NOTHING, prompts
  prefix = begins[0, :size]
  # The rows' ends stay where they are, and padding takes the prefix's place.
  place = np.arange(longest) < (longest - lengths + size)[:, None]
  return prefix, np.where(place, PAD_ID, prompts)[:, size:]


def compact(prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """`split_prefix`, and the padding cut that all rows have.

  Args:
    prompts: [N, P] int32, padded in front.

  Returns:
    The prefix, and the rest, of one of few widths.
  """
  prefix, prompts = split_prefix(np.asarray(prompts))
  is_used = (prompts != PAD_ID).any(axis=0)
  longest = int(is_used[::-1].nonzero()[0].max(initial=0))
  width = min(prompts.shape[1], _bucket(longest + 1))
  return prefix, prompts[:, prompts.shape[1] - width :]


def target_lengths(targets: np.ndarray) -> np.ndarray:
  """[S] integers, the tokens of rows [S, T] before the padding behind them."""
  is_used = targets[:, ::-1] != PAD_ID
  return np.where(
    is_used.any(axis=1), targets.shape[1] - is_used.argmax(axis=1), 0
  )


def trim_targets(targets: np.ndarray) -> np.ndarray:
  """Cuts the padding behind the longest of rows [S, T]; widths are few."""
  longest = int(target_lengths(targets).max(initial=1))
  return targets[:, : _bucket(longest)]


def _bucket(length: int) -> int:
  """The next of 16, 24, 32, 48, 64, 96, ..."""
  size = 16
  while size < length:
    size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size
