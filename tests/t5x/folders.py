"""Models in Hugging Face's form, which the embedded trainer begins with."""

import json

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from cot_latent.models import language_model
from cot_latent.models.hf import families
from tests.models.hf import hub_configs
from tests.t5x import small


def write(folder, sizes, vocab_size, **settings):
  """Writes a T5 with parameters at random; settings are of config.json."""
  settings |= hub_configs._T5 | {
    "vocab_size": vocab_size,
    "d_model": sizes.embed_dim,
    "d_kv": sizes.head_dim,
    "d_ff": sizes.mlp_dim,
    "num_heads": sizes.num_heads,
    "num_layers": sizes.num_encoder_layers,
    "num_decoder_layers": sizes.num_decoder_layers,
  }
  (folder / "config.json").write_text(json.dumps(settings))
  model = language_model.from_config(sizes, vocab_size, 1, 8)
  params = small.host(model.init(jax.random.key(0)))
  family = families.FAMILIES["t5"]
  safetensors.numpy.save_file(
    {
      family.name(path, sizes): np.ascontiguousarray(
        families.to_tensor(path, array)
      )
      for path, array in traverse_util.flatten_dict(params).items()
    },
    folder / "model.safetensors",
  )
