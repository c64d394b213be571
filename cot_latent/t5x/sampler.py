"""Rationales drawn by T5X's own decoding loop.

B rows, P prompt tokens, T target tokens, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from t5x import partitioning

from cot_latent.models import threefry
from cot_latent.models.api import PAD_ID, Draws
from cot_latent.models.stops import Ending
from cot_latent.t5x.features import Converter


class T5XSampler:
  """Draws with a T5X model.

  It returns no log-probabilities, because T5X's loop does not keep them.

  Attributes:
    draw: The partitioned function of parameters, features, keys [B, 2] and
      temperature that returns tokens [B, T].
  """

  def __init__(
    self,
    model: Any,
    partitioner: partitioning.BasePartitioner,
    param_axes: Any,
    converter: Converter,
    ending: Ending,
  ):
    """Stores the settings; nothing is compiled yet.

    Args:
      model: Model of T5X, which ends a row at EOS by itself.
      partitioner: Partitioner of the run.
      param_axes: Axes of the parameters.
      converter: Makes the model's features.
      ending: Tokens and strings that end a row, EOS included.
    """
    self._partitioner, self._converter = partitioner, converter
    self._ending = ending
    rows_spec = partitioner.data_partition_spec
    self.draw = partitioner.partition(
      functools.partial(_predict, model, converter, ending),
      in_axis_resources=(param_axes, rows_spec, rows_spec, None),
      out_axis_resources=None,
    )

  def sample(
    self,
    params: Any,
    prompts: Any,
    rng_keys: jax.Array,
    temperature: float = 1.0,
    *,
    num_slots: int | None = None,
    report_done: Callable[[int], None] | None = None,
  ) -> Draws:
    """Draws as described in `models.api.Sampler`."""
    keys = np.asarray(jax.random.key_data(rng_keys))
    total = len(prompts)
    size = padded(self._partitioner, min(total, num_slots or total))
    parts = []
    for begin in range(0, total, size):
      # Repeats the last row to fill the batch.
      rows = np.minimum(np.arange(begin, begin + size), total - 1)
      drawn = self._sample_batch(params, prompts[rows], keys[rows], temperature)
      parts.append(drawn[: total - begin])
      if report_done:
        report_done(min(begin + size, total))
    tokens = np.concatenate(parts)
    _, ended = self._ending.lengths(tokens)
    return Draws(tokens, ended)

  def _sample_batch(self, params, prompts, keys, temperature) -> np.ndarray:
    length = self._converter.target_length
    zeros = np.zeros((len(prompts), length), np.int32)
    weights = np.zeros(len(prompts), np.float32)
    batch = self._converter.convert(prompts, zeros, weights)
    place = functools.partial(place_rows, self._partitioner)
    return np.asarray(
      self.draw(
        params,
        jax.tree.map(place, batch),
        place(keys),
        np.float32(temperature),
      )
    )


def _predict(model, converter, ending, params, batch, key_data, temperature):
  """[B, T] tokens of a batch of T5X's features."""
  start = jnp.zeros(len(key_data), jnp.int32)
  # None is to the end of the row, whatever evaluations are bound to.
  limit = None
  if converter.is_decoder_only:
    start = batch["decoder_causal_attention"].sum(axis=1) - 1
    limit = converter.target_length
  end_rows = None
  if ending != Ending((model.output_vocabulary.eos_id,)):
    end_rows = row_ends(ending, start, converter.target_length)
  tokens, _ = model.predict_batch_with_aux(
    params,
    batch,
    num_decodes=1,  # several would be sorted by their probability
    return_all_decodes=False,
    decoder_params={
      "max_decode_steps": limit,
      "max_decode_steps_hard_limit": None,
      # The callback turns the largest logit into a draw at temperature 1.
      "temperature": 0.0,
      "topk": 0,
      "topp": 0.0,
      "logit_callback_fn": row_noise(key_data, start, temperature),
      "state_callback_fn": end_rows,
    },
  )
  return tokens[:, : converter.target_length]


def row_noise(
  key_data: jax.Array, start: jax.Array, temperature: jax.Array
) -> Callable[[jax.Array, Any], jax.Array]:
  """Makes a callback for T5X's decoding with a random key per row.

  The largest logit plus Gumbel noise is a draw from the whole distribution at
  temperature 1. T5X has one key for all rows, so that a draw would depend on
  the row's place and on the batch size.

  Args:
    key_data: [B, 2] uint32, the rows' keys.
    start: [B] int32, position of each row's first drawn token.
    temperature: Scalar; 0 adds no noise.

  Returns:
    (logits [B, V], state of the loop) -> [B, V]. Padding is never drawn,
    because T5X's attention masks token 0.
  """

  def add_noise(logits, state):
    keys = jax.random.wrap_key_data(key_data, impl=threefry.impl())
    position = state.cur_index - start
    noise = jax.vmap(
      lambda key, number: jax.random.gumbel(
        jax.random.fold_in(key, number), logits.shape[-1:], mode="high"
      )
    )(keys, position)
    noisy = logits.astype(jnp.float32) + temperature * noise
    return noisy.at[:, PAD_ID].set(-jnp.inf)

  return add_noise


def row_ends(
  ending: Ending, start: jax.Array, length: int
) -> Callable[[Any], Any]:
  """Makes a callback for T5X's decoding that ends rows at any ending.

  T5X's loop knows one EOS and has no further state per row, so each row is read
  from its first token at every step. An ended row writes padding.

  Args:
    ending: Tokens and strings that end a row.
    start: [B] int32, position of each row's first drawn token.
    length: Target length T.

  Returns:
    State of the loop -> the state in which rows at an ending have ended.
  """
  # The token drawn at a position is stored at the next position.
  columns = start[:, None] + 1 + jnp.arange(length)

  def end_rows(state):
    tokens = jnp.take_along_axis(
      state.sequences, columns, axis=1, mode="fill", fill_value=PAD_ID
    )
    return state.replace(ended=state.ended | ending.has_end(tokens)[:, None])

  return end_rows


def padded(partitioner: partitioning.BasePartitioner, rows: int) -> int:
  """Returns the next number of rows that the data axis divides evenly."""
  size = partitioner.data_mesh_size
  return -(-rows // size) * size


def place_rows(
  partitioner: partitioning.BasePartitioner, array: np.ndarray
) -> jax.Array:
  """Places rows on the devices; every process has all of them."""
  sharding = jax.sharding.NamedSharding(
    partitioner.mesh, partitioner.data_partition_spec
  )
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index]
  )
