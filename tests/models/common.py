"""The model under test: sizes, parameters, prompts."""

import contextlib
import functools

import flax.linen as nn
import jax
import numpy as np

from cot_latent.models import decoder, language_model
from cot_latent.models.api import PAD_ID

# No two sizes alike, and the base is not the default one.
CONFIG = decoder.DecoderConfig(
  num_layers=2,
  embed_dim=32,
  num_heads=3,
  head_dim=8,
  mlp_dim=48,
  rope_base=100.0,
)
VOCABULARY, EOS_ID, LENGTH = 13, 1, 8
ROWS, PROMPT_LENGTH = 28, 6


def build_model(vocabulary=VOCABULARY, length=LENGTH, config=CONFIG):
  return language_model.from_config(config, vocabulary, EOS_ID, length)


def random_params(init, seed=0):
  """Parameters of an opinionated model, whose answers depend on its input.

  As initialised, it would repeat its last token; and norms would scale by 1.

  Args:
    init: rng_key -> params, of which only the shapes are used.
    seed: Of the numbers.

  Returns:
    A pytree of float32 arrays.
  """
  rng = np.random.default_rng(seed)
  spread = CONFIG.embed_dim**-0.5

  def fill(path, leaf):
    match path[-1].key:
      case "scale":
        values = rng.uniform(0.5, 1.5, leaf.shape)
      case "embedding":
        values = rng.normal(0, spread, leaf.shape)
      case "kernel":
        values = rng.normal(0, 3 * spread, leaf.shape)
    return values.astype(np.float32)

  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map_with_path(fill, shapes)


@functools.cache
def compiled():
  """The model under test; twins build their own."""
  return build_model()


@functools.cache
def params():
  return random_params(compiled().init)


@functools.cache
def prompts():
  """Prompts of every length from none to P."""
  numbers = np.random.default_rng(0)
  tokens = numbers.integers(2, VOCABULARY, (ROWS, PROMPT_LENGTH), np.int32)
  tokens[::3, 3] = PAD_ID  # padding only where no other token is before it
  length = np.arange(ROWS)[:, None] % (PROMPT_LENGTH + 1)
  padding = np.arange(PROMPT_LENGTH) < PROMPT_LENGTH - length
  return np.where(padding, PAD_ID, tokens)


def keys(seed=0, rows=ROWS):
  return jax.random.split(jax.random.key(seed), rows)


def random_targets(rows=ROWS):
  """Targets without EOS, but with padding's token, which can be drawn too."""
  numbers = np.random.default_rng(1)
  tokens = numbers.integers(VOCABULARY, size=(rows, LENGTH), dtype=np.int32)
  return np.where(tokens == EOS_ID, PAD_ID, tokens)


def slow_target_mask(row):
  return [EOS_ID not in row[:t] for t in range(len(row))]


def check_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@contextlib.contextmanager
def shifted_inputs(offset):
  """Adds an offset to the inputs' embeddings, to differentiate by."""

  def shift(next_fn, args, kwargs, context):
    out = next_fn(*args, **kwargs)
    # The embedding is the output layer too, but by another method.
    is_input = isinstance(context.module, nn.Embed)
    is_input &= context.method_name == "__call__"
    return out + offset if is_input else out

  with nn.intercept_methods(shift):
    yield
