"""Fitting a base model from scratch, where no pretrained one is at hand."""

from collections.abc import Callable

import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.errors import RunError
from cot_latent.inference import rng
from cot_latent.models.language_model import PAD_ID, LanguageModel
from cot_latent.training import mstep
from cot_latent.training.experiment import BaseConfig


def fit(
  model: LanguageModel,
  config: BaseConfig,
  examples: Examples,
  seed: int,
  report_step: Callable[[int], None],
):
  """Fits a new model to the targets of a split, whatever they are worth.

  Half of each minibatch is under the hinted prompt, so that the model learns
  to write rationales towards a given answer: what the memory starts from.

  Args:
    model: the language model.
    config: how long and how fast.
    examples: N examples with targets; each answer is the one that its target
      reaches.
    seed: the run's.
    report_step: called with the number of steps done.

  Returns:
    The fitted parameters.

  Raises:
    RunError: if the gradient is not finite at the end.
  """
  params = model.init(rng.purpose_key(seed, "params"))
  optimizer = mstep.build_optimizer(config.optimizer, config.steps)
  opt_state = optimizer.init(params)
  step_fn = mstep.build(model, optimizer)
  batch_size = config.batch_size
  weights = np.full(batch_size, 1 / batch_size, np.float32)
  length = max(examples.guides.shape[1], examples.prompts.shape[1])
  hinted, plain = (
    np.pad(x, ((0, 0), (length - x.shape[1], 0)), constant_values=PAD_ID)
    for x in (examples.guides, examples.prompts)
  )
  is_hinted = np.arange(batch_size)[:, None] % 2 == 1
  for step in range(config.steps):
    index = rng.minibatch(seed, "base_order", step, len(examples), batch_size)
    prompts = np.where(is_hinted, hinted[index], plain[index])
    params, opt_state, norm = step_fn(
      params, opt_state, prompts, examples.targets[index], weights
    )
    report_step(step + 1)
  # What is once not finite stays so.
  if not np.isfinite(norm):
    raise RunError(
      "the base model's gradient is not finite: try a lower learning rate, in "
      "another MODEL_DIR"
    )
  return params
