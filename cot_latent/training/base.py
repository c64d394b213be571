"""Fitting a base model from scratch, where no pretrained one is at hand."""

from collections.abc import Callable

import numpy as np

from cot_latent.data.examples import Examples
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
  """
  params = model.init(rng.purpose_key(seed, "params"))
  optimizer = mstep.build_optimizer(config.optimizer, config.steps)
  opt_state = optimizer.init(params)
  step_fn = mstep.build(model, optimizer)
  batch_size = config.batch_size
  weights = np.full(batch_size, 1 / batch_size, np.float32)
  # The guide is the longer prompt, for it holds the answer as well.
  pad = examples.guides.shape[1] - examples.prompts.shape[1]
  plain = np.pad(examples.prompts, ((0, 0), (pad, 0)), constant_values=PAD_ID)
  is_hinted = np.arange(batch_size)[:, None] % 2 == 1
  for step in range(config.steps):
    index = rng.minibatch(seed, "base_order", step, len(examples), batch_size)
    prompts = np.where(is_hinted, examples.guides[index], plain[index])
    params, opt_state, _ = step_fn(
      params, opt_state, prompts, examples.targets[index], weights
    )
    report_step(step + 1)
  return params
