"""One loop over layers that are alike: compiled once, however many there are.

Parameters stay stored by layer, with the names and in the files of a model
without a loop. A compiled function stacks them before it loops, and so copies
all that the device has of them. So there is a loop only on a mesh, where a
device stores a part, and only for layers so large that compiling each takes
long.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cot_latent.models.partitioning import Layout

LEAST_PARAMS = 2**22  # of a layer


def is_worth_it(layout: Layout | None, params: Any) -> bool:
  """Whether layers are run by a loop.

  It does not depend on their number, so that a plan may compile fewer.

  Args:
    layout: Mesh and rules; None is one device.
    params: Parameters of one layer, or their shapes.
  """
  if layout is None:
    return False
  sizes = (math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  return sum(sizes) >= LEAST_PARAMS


def loop(
  run: Callable[[Any, Any], tuple[Any, Any]],
  x: Any,
  layers: Sequence[Any],
  remat: bool,
) -> tuple[Any, tuple[Any, ...]]:
  """Runs layers one after the other, in a loop.

  Args:
    run: Runs one layer: (x, the layer's own arrays) -> (the next layer's x,
      another result).
    x: Input of the first layer.
    layers: Each layer's own arrays, trees of the same structure and shapes.
    remat: Whether only each layer's input is stored for the gradient, and the
      rest is computed again.

  Returns:
    The last layer's x, and each layer's other result.
  """
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
  if remat:
    run = jax.checkpoint(run, prevent_cse=False)
  x, others = jax.lax.scan(run, x, stacked)
  return x, tuple(
    jax.tree.map(lambda leaf, n=n: leaf[n], others) for n in range(len(layers))
  )


def choose(is_second: jax.Array, first: Any, second: Any = None) -> Any:
  """Returns one of two trees; the first if there is no other."""
  if second is None:
    return first
  return jax.tree.map(lambda a, b: jnp.where(is_second, b, a), first, second)
