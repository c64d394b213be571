"""Parameters go from T5X's T5 to the embedded trainer's and back."""

import copy
import dataclasses

import flax
import jax
import numpy as np
import pytest

from cot_latent.errors import UserError
from cot_latent.models import language_model
from cot_latent.t5x import weights
from tests.t5x import small

# Version 1.1 and version 1.0, whose output layer is its embedding.
OLD = dataclasses.replace(
  small.SIZES, activation="relu", tie_embeddings=True, scale_outputs=True
)
KINDS = {
  "1.1": (small.SIZES, {}),
  "1.0": (OLD, {"mlp_activations": ("relu",), "logits_via_embedding": True}),
}


def initial(settings):
  model = small.encoder_decoder(network=settings)
  shapes = {
    name: part.shape for name, part in small.widths(model).zeros(2).items()
  }
  variables = model.get_initial_variables(jax.random.PRNGKey(3), shapes)
  return flax.core.unfreeze(small.host(variables["params"]))


@pytest.fixture(scope="module")
def params():
  return initial({})


def scores(params, own, sizes=small.SIZES, settings=None):
  """Log-probabilities by T5X and by the embedded model, [4, 8]."""
  rng = np.random.default_rng(1)
  prompts = rng.integers(3, 259, (4, 16)).astype(np.int32)
  prompts[1, :5] = prompts[2, :11] = 0
  targets = rng.integers(3, 259, (4, 8)).astype(np.int32)
  targets[:, -1] = 1
  model = small.encoder_decoder(network=settings)
  theirs = []
  for place in range(8):
    batch = small.widths(model).convert(prompts, targets, np.ones(4))
    on_tokens = np.zeros((4, 8), np.float32)
    on_tokens[:, place] = 1
    batch["decoder_loss_weights"] = on_tokens
    theirs.append(np.asarray(model.score_batch(params, batch)))
  embedded = language_model.from_config(sizes, 259, 1, 8)
  return np.stack(theirs, 1), np.asarray(
    embedded.log_prob(own, prompts, targets)
  )


def check_same(params, own, *kind):
  one, other = scores(params, own, *kind)
  np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_agree(kind):
  sizes, settings = KINDS[kind]
  params = initial(settings)
  own = weights.from_t5x(sizes, params)
  check_same(params, own, sizes, settings)
  again = weights.to_t5x(sizes, own)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_kind_that_t5x_lacks_is_refused(params):
  sizes = dataclasses.replace(OLD, scale_outputs=False)
  with pytest.raises(UserError, match="has both or neither"):
    weights.from_t5x(sizes, params)
  # For a reason.
  settings = KINDS["1.0"][1]
  old = initial(settings)
  with pytest.raises(AssertionError):
    check_same(old, weights.from_t5x(OLD, old), sizes, settings)


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("gate", "up"),
    ("query", "key"),
    ("attention", "cross_attention"),
  ],
)
def test_arrays_in_each_others_place_are_noticed(params, one, other):
  own = copy.deepcopy(weights.from_t5x(small.SIZES, params))
  layer = own["decoder"]["layer_0"]
  if one in layer:
    parts = layer
  else:
    parts = layer["mlp"] if one == "gate" else layer["attention"]
  parts[one], parts[other] = parts[other], parts[one]
  with pytest.raises(AssertionError):
    check_same(params, own)


def test_another_model_is_refused(params):
  fewer = copy.deepcopy(params)
  del fewer["encoder"]["layers_1"]
  with pytest.raises(UserError, match="lacks encoder/layers_1"):
    weights.from_t5x(small.SIZES, fewer)
  more = copy.deepcopy(params)
  more["encoder"]["layers_2"] = more["encoder"]["layers_1"]
  with pytest.raises(UserError, match="has encoder/layers_2"):
    weights.from_t5x(small.SIZES, more)
