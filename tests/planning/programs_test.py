"""What a step of the decoding loop does not read."""

import jax
import pytest

from cot_latent.models import decoder, language_model, partitioning, t5
from cot_latent.planning import programs

EMBED, HEADS, WIDTH, MLP, VOCAB = 16, 4, 8, 32, 64
# Two shards of the model axis; heads and vocabulary divide.
TABLE = VOCAB * EMBED * 4 // 2
KERNEL = EMBED * HEADS * WIDTH * 4 // 2


def params_of(config):
  """Shapes of parameters that are whole along the data axis."""
  mesh = jax.sharding.AbstractMesh((2, 2), ("data", "model"))
  layout = partitioning.Layout(mesh, partitioning.RULES, fully_sharded=False)
  return language_model.from_config(config, VOCAB, 1, 8, layout).shapes


@pytest.mark.parametrize(("is_tied", "expected"), [(True, 0), (False, TABLE)])
@pytest.mark.parametrize("is_whole", [True, False])
def test_an_embedding_is_read_where_it_is_the_output_layer(
  is_tied, expected, is_whole
):
  config = decoder.DecoderConfig(
    1, EMBED, HEADS, WIDTH, MLP, tie_embeddings=is_tied
  )
  assert programs.unread_bytes(params_of(config), is_whole) == expected


def test_an_encoder_is_read_before_the_loop():
  config = t5.T5Config(1, 1, EMBED, HEADS, WIDTH, MLP)
  params = params_of(config)
  encoder = programs.device_bytes(params["encoder"])
  # Four projections, and three kernels of the MLP.
  assert encoder > 4 * KERNEL + 3 * EMBED * MLP * 4 // 2
  # The untied embedding, and keys and values of the encoder's positions.
  whole = TABLE + encoder + 2 * KERNEL
  assert programs.unread_bytes(params, is_whole=True) == whole
  assert programs.unread_bytes(params, is_whole=False) == TABLE
