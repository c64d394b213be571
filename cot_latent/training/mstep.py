"""The M-step: one optimizer step on a weighted sum of log-probabilities.

The only place that differentiates.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from cot_latent.models.language_model import LanguageModel
from cot_latent.training.experiment import OptimizerConfig


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Builds warm-up and cosine decay; step -> learning rate."""
  decay_steps = config.decay_steps or num_steps - config.warmup_steps
  decay = optax.cosine_decay_schedule(
    config.learning_rate, max(1, decay_steps), config.final_ratio
  )
  if not config.warmup_steps:
    return decay
  warmup = optax.linear_schedule(0, config.learning_rate, config.warmup_steps)
  return optax.join_schedules([warmup, decay], [config.warmup_steps])


def num_updates(opt_state: Any) -> int:
  """Counts the optimizer's steps, which leave out skipped ones."""
  counts = optax.tree.get_all_with_path(opt_state, "count")
  return int(counts[0][1])


def build_optimizer(
  config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """Builds Adam with clipping and the schedule above."""
  clip = (
    optax.identity()
    if config.clip_norm is None
    else optax.clip_by_global_norm(config.clip_norm)
  )
  adam = optax.adam(
    learning_rate(config, num_steps), config.b1, config.b2, config.eps
  )
  return optax.chain(clip, adam)


def build(
  model: LanguageModel, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Any, Any, jax.Array]]:
  """Builds the jitted step.

  Returns:
    (params, opt_state, prompts [S, P], targets [S, T], weights [S]) ->
    (params, opt_state, gradient norm). It ascends
    sum_s weights[s] * log p(targets[s] | prompts[s]); the value of that sum
    means nothing, for weights are signed.
  """

  def step(params, opt_state, prompts, targets, weights):
    def surrogate(params):
      log_prob = model.log_prob(params, prompts, targets).sum(axis=1)
      return -(weights * log_prob).sum()

    gradient = jax.grad(surrogate)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    norm = optax.tree.norm(gradient)
    return optax.apply_updates(params, updates), opt_state, norm

  return jax.jit(step, donate_argnums=(0, 1))
