"""Logits are computed in chunks, as large as a device's memory allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.models import network, partitioning

ROWS, LENGTH, WIDTH, VOCAB = 8, 9, 4, 10
KERNEL = np.random.default_rng(0).normal(size=(WIDTH, VOCAB))


def make_layout():
  mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
  return partitioning.Layout(mesh, partitioning.RULES)


@pytest.mark.parametrize(
  ("layout", "most", "chunks"),
  [
    # One token of all rows has 4 * 8 * 10 bytes, a device's part 4 * 2 * 5.
    (None, 320, 9),
    (None, 3 * 320, 3),
    (None, 9 * 320, None),
    (make_layout(), 320, 2),
    (make_layout(), 3 * 40, 3),
    (make_layout(), 9 * 40, None),
  ],
)
def test_a_chunk_is_as_large_as_a_device_allows(
  layout, most, chunks, monkeypatch
):
  monkeypatch.setattr(network, "_CHUNK_BYTES", most)
  numbers = np.random.default_rng(1)
  x = numbers.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
  tokens = numbers.integers(VOCAB, size=(ROWS, LENGTH))

  def score(x, tokens):
    return network.score(lambda part: part @ KERNEL, x, tokens, layout)

  equations = jax.make_jaxpr(score)(x, tokens).jaxpr.eqns
  loops = [
    one.params["length"] for one in equations if one.primitive.name == "scan"
  ]
  assert loops == ([] if chunks is None else [chunks])
  expected = jnp.take_along_axis(
    jax.nn.log_softmax(x @ KERNEL), tokens[..., None], 2
  )
  np.testing.assert_allclose(score(x, tokens), expected[..., 0], rtol=1e-5)
