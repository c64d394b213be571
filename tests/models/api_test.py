"""What counts as a sampler, and what as a scorer."""

import numpy as np

from cot_latent.models.api import Draws, Sampler, Scorer
from tests.models import common


class Echo:
  """Answers with the prompt, as in the docstring of `Sampler`."""

  def sample(
    self,
    params,
    prompts,
    rng_keys,
    temperature=1.0,
    *,
    num_slots=None,
    report_done=None,
  ):
    ended = np.ones(len(prompts), bool)
    return Draws(prompts, ended, np.zeros(prompts.shape, np.float32))


def test_our_model_is_a_sampler_and_a_scorer():
  model = common.build_model()
  assert isinstance(model, Sampler)
  assert isinstance(model, Scorer)
  assert isinstance(Echo(), Sampler)
  assert not isinstance(Echo(), Scorer)
