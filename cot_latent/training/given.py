"""Any model in the embedded trainer, from a sampler and a scorer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cot_latent.errors import UserError
from cot_latent.models.api import PAD_ID, Array, Draws
from cot_latent.models.stops import Ending


class GivenModel:
  """Makes a language model for the trainer from a sampler and a scorer.

  Attributes:
    model: Anything with `sample` and `log_prob` (models/api.py).
    params: Its parameters, a tree of arrays.
    ending: What ends a sequence.
    layout: None; a model that is given is on one device.
  """

  layout = None

  def __init__(self, model: Any, params: Any, ending: Ending):
    """Keeps them; computes nothing."""
    self.model, self.params, self.ending = model, params, ending
    self._endings: dict[Ending, GivenModel] = {}

  def with_ending(self, ending: Ending) -> "GivenModel":
    """The same model with other sequences' ends, if it can have them.

    Raises:
      UserError: If it has no method `with_ending`.
    """
    if not hasattr(self.model, "with_ending"):
      raise UserError(
        f"train(model=...): {type(self.model).__name__} has no method "
        "with_ending(ending), by which it would stop before the answer, as "
        "answer_given_rationale needs"
      )
    if ending not in self._endings:
      model = self.model.with_ending(ending)
      self._endings[ending] = GivenModel(model, self.params, ending)
    return self._endings[ending]

  def init(self, rng_key: jax.Array) -> Any:
    """Copies the parameters, because a step donates its input."""
    del rng_key
    return jax.tree.map(jnp.array, self.params)

  def sample(
    self,
    params: Any,
    prompts: Array,
    rng_keys: jax.Array,
    temperature: float = 1.0,
    *,
    num_slots: int | None = None,
    report_done: Callable[[int], None] | None = None,
  ) -> Draws:
    """Draws with the model, as many rows at once as it may.

    A sampler need not know of slots: it is given `num_slots` rows at a time.
    """
    size = num_slots or len(prompts)
    parts = []
    for start in range(0, len(prompts), size):
      rows = slice(start, start + size)
      drawn = self.model.sample(
        params, prompts[rows], rng_keys[rows], temperature
      )
      parts.append(Draws(*drawn))
      if report_done is not None:
        report_done(min(start + size, len(prompts)))
    has_log_prob = all(part.log_prob is not None for part in parts)
    return Draws(
      _joined([part.tokens for part in parts], PAD_ID),
      jnp.concatenate([jnp.asarray(part.ended) for part in parts]),
      _joined([part.log_prob for part in parts], 0) if has_log_prob else None,
    )

  def encode_prefix(self, params: Any, prefix: Array) -> Array:
    """Returns the prefix as tokens: rows share no computation."""
    del params
    return jnp.asarray(prefix)

  def log_prob(
    self, params: Any, prompts: Array, targets: Array, shared: Any = None
  ) -> jax.Array:
    """Scores targets of prompts that begin with the tokens `shared`."""
    if shared is not None:
      rows = jnp.broadcast_to(shared, (len(prompts), *shared.shape))
      whole = jnp.concatenate([rows, jnp.asarray(prompts)], axis=1)
      # Padding moves to the left, and the other tokens keep their order.
      order = jnp.argsort(whole != PAD_ID, axis=1, stable=True)
      prompts = jnp.take_along_axis(whole, order, axis=1)
    return self.model.log_prob(params, prompts, targets)


def _joined(parts: Sequence[Array], padding: int) -> jax.Array:
  """Joins arrays [R, t] of different t, padded at the end to the widest."""
  arrays = [jnp.asarray(part) for part in parts]
  width = max(array.shape[1] for array in arrays)
  return jnp.concatenate(
    [
      jnp.pad(
        array,
        ((0, 0), (0, width - array.shape[1])),
        constant_values=padding,
      )
      for array in arrays
    ]
  )
