"""A T5 that has learnt the toy task a little, as T5X begins with it."""

import dataclasses
import functools

from cot_latent.models import language_model, t5
from cot_latent.t5x import weights
from cot_latent.training import base
from tests.t5x import small
from tests.training import toy

STEPS = 40
# Of tests/t5x/small.gin.
SMALL = t5.T5Config(
  num_encoder_layers=1,
  num_decoder_layers=1,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=32,
)


@functools.cache
def params(sizes, vocab_size):
  """Fits the embedded trainer's base model; gives its parameters."""
  config = toy.make_experiment("nowhere")
  model = language_model.from_config(
    sizes, vocab_size, 1, config.task.max_length
  )
  settings = dataclasses.replace(config.base, steps=STEPS)
  examples = toy.load(config).base
  return small.host(base.fit(model, settings, examples, 0, lambda step: None))


def write(directory, sizes, vocab_size):
  """Writes them as a checkpoint of T5X's, of step 0; gives its path."""
  directory.mkdir()
  path = str(directory / "checkpoint_0")
  weights.write(path, weights.to_t5x(sizes, params(sizes, vocab_size)))
  return path
