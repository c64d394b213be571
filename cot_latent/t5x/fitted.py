"""The fitted control variate inside T5X: products of the two terms' gradients.

T5X's step computes the gradient of one weighted sum. When eta is fitted, each
of the two terms is differentiated once more, before that step, because the step
donates the parameters. So a fit costs about two more gradients (FIT_PERIOD).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from t5x import trainer, utils


def build_measurement(
  model: Any,
  partitioner: Any,
  train_state_axes: Any,
  num_microbatches: int | None,
) -> Callable[[Any, Any, Any], jax.Array]:
  """Compiles the measurement of the terms.

  Args:
    model: Model of T5X.
    partitioner: Partitioner of T5X.
    train_state_axes: Axes of T5X's state.
    num_microbatches: Number of parts of a step's rows.

  Returns:
    (T5X's state, features of the rows of A, features of those of B) -> [3]
    |A|^2, <A, B> and |B|^2. The features differ only in their weights.
  """
  spec = partitioner.data_partition_spec

  def measure(train_state, kept, subtracted):
    first, second = (
      trainer.accumulate_grads_microbatched(
        model, train_state, batch, jax.random.PRNGKey(0), num_microbatches, spec
      )[0]
      for batch in (kept, subtracted)
    )
    pairs = (first, first), (first, second), (second, second)
    return jnp.stack([_product(*pair) for pair in pairs])

  return partitioner.partition(
    measure,
    in_axis_resources=(train_state_axes, spec, spec),
    out_axis_resources=None,
  )


def fetch(measured: jax.Array) -> Any:
  """Waits for the measurement, and returns [3] on the host."""
  return utils.get_local_data(measured)


def _product(one: Any, other: Any) -> jax.Array:
  """Returns the scalar product of two trees, in float32."""
  parts = jax.tree.map(
    lambda a, b: jnp.vdot(a.astype(jnp.float32), b.astype(jnp.float32)),
    one,
    other,
  )
  return sum(jax.tree.leaves(parts), jnp.float32(0))
