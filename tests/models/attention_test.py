"""Key-value caches are written in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.models.attention import LayerCache, empty_cache


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("column", [0, 3, 6])
def test_positions_are_replaced(dtype, column):
  numbers = np.random.default_rng(0)

  def of_length(length):
    keys, values = (
      jnp.asarray(numbers.normal(size=(2, 3, length, 4)), dtype)
      for _ in range(2)
    )
    return LayerCache(keys, values)

  old, new = of_length(8), of_length(2)
  written = jax.jit(LayerCache.write)(old, new, column)
  for whole, part, found in zip(old, new, written, strict=True):
    expected = np.array(whole)
    expected[:, :, column : column + 2] = part
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_write_does_not_convert_the_whole_cache(dtype):
  [cache] = empty_cache(1, 4, 2, 64, 8, jnp.dtype(dtype))
  [new] = empty_cache(1, 4, 2, 1, 8, jnp.dtype(dtype))
  write = jax.jit(LayerCache.write, donate_argnums=0)
  text = write.lower(cache, new, 3).compile().as_text()
  converts = [line for line in text.splitlines() if " convert(" in line]
  assert not [line for line in converts if "[4,2,64,8]" in line], converts
