"""Sampling with kernels put together and updates merged, and its products."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.models import causal, fused, language_model, layers, products
from cot_latent.models.lora import TARGETS, Lora
from tests.models import common
from tests.params import by_night

SOME, ALL = Lora(2, targets=("query", "value", "up")), Lora(3, targets=TARGETS)
CONFIG = dataclasses.replace(
  common.CONFIG, num_heads=4, num_kv_heads=2, qkv_bias=True
)


def build(dtype, lora):
  config = dataclasses.replace(CONFIG, dtype=dtype, param_dtype=dtype)
  return language_model.from_config(
    config, common.VOCABULARY, common.EOS_ID, common.LENGTH, lora=lora
  )


def random_params(model):
  numbers = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(
    lambda x: jnp.asarray(numbers.normal(0, 0.4, x.shape), x.dtype), shapes
  )


@pytest.mark.parametrize("lora", [*by_night(None), SOME, *by_night(ALL)])
@pytest.mark.parametrize(
  ("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.15)]
)
def test_what_is_sampled_is_scored_with_kernels_put_together(
  dtype, tolerance, lora
):
  model = build(dtype, lora)
  params = random_params(model)
  draws = model.sample(params, common.prompts(), common.keys(0))
  scored = model.log_prob(params, common.prompts(), draws.tokens)
  np.testing.assert_allclose(draws.log_prob, scored, rtol=0, atol=tolerance)


def test_a_narrow_model_keeps_its_updates_apart():
  # Added to a bfloat16 kernel, small ones would be rounded away.
  model = build("bfloat16", SOME)
  adapted = model.network.params_for_sampling(random_params(model))
  block = adapted["layer_0"]
  assert block["query_key_value"]["lora_down"].shape == (32, 2 * SOME.rank)
  assert block["gate_up"]["lora_down"].shape == (32, SOME.rank)
  assert fused.lora_of("gate_up", SOME).scale == SOME.scale


def test_products_are_rounded_once_where_parameters_are_wider():
  config = dataclasses.replace(CONFIG, dtype="bfloat16")  # and float32 params
  model = language_model.from_config(
    config, common.VOCABULARY, common.EOS_ID, common.LENGTH, lora=SOME
  )
  params = random_params(model)
  adapted = model.network.params_for_sampling(params)
  block = adapted["layer_0"]
  for name in ("kernel", "lora_down", "lora_up"):
    assert block["gate_up"][name].dtype == jnp.bfloat16
  assert block["mlp_norm"]["scale"].dtype == jnp.float32
  # Products round the parameters of the model as it is stored to the same.
  narrow = model.network.for_sampling()
  wide = fused.fuse(params)
  table = wide["embed"]["embedding"]
  wide["unembedding"] = table.astype(jnp.bfloat16).T
  logits = [
    jax.jit(narrow.prefill)(of, causal.Shared(), common.prompts(), 0)[0]
    for of in (adapted, wide)
  ]
  np.testing.assert_array_equal(*logits)


def test_the_gradient_of_a_product_with_an_update():
  numbers = np.random.default_rng(0)
  shapes = (5, 7), (7, 6), (7, 2), (2, 6)
  arguments = [jnp.asarray(numbers.normal(size=shape)) for shape in shapes]

  def apart(x, kernel, down, up):
    return jnp.sin(x @ kernel + (x @ down) @ up).sum()

  def together(*arguments):
    return jnp.sin(products.updated_product(*arguments)).sum()

  every = (0, 1, 2, 3)
  for one, other in zip(
    jax.grad(apart, every)(*arguments),
    jax.grad(together, every)(*arguments),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_the_gradient_of_a_narrow_product():
  numbers = np.random.default_rng(0)
  x, kernel = (
    jnp.asarray(numbers.normal(size=shape), jnp.bfloat16)
    for shape in ((5, 7), (7, 6))
  )

  def narrow(x, kernel):
    return jnp.square(products.product(x, kernel)).sum()

  def wide(x, kernel):
    return jnp.square(x @ kernel).sum()

  for one, other in zip(
    jax.jit(jax.grad(narrow, (0, 1)))(x, kernel),
    jax.grad(wide, (0, 1))(*(y.astype(jnp.float32) for y in (x, kernel))),
    strict=True,
  ):
    assert one.dtype == jnp.bfloat16
    np.testing.assert_allclose(
      one.astype(jnp.float32), other, rtol=0.05, atol=0.2
    )


def test_logits_of_narrow_activations_and_their_gradient():
  numbers = np.random.default_rng(0)
  x, table = (
    jnp.asarray(numbers.normal(size=shape), jnp.bfloat16)
    for shape in ((2, 5, 7), (11, 7))
  )

  def loss(x, table):
    logits = layers.unembed({"embed": {"embedding": table}}, x)
    assert logits.dtype == jnp.float32
    return jnp.sin(logits).sum(), logits

  narrow, wide = (
    jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*inputs)
    for inputs in ((x, table), (x.astype("float32"), table.astype("float32")))
  )
  for one, other in zip(*map(jax.tree.leaves, (narrow, wide)), strict=True):
    np.testing.assert_allclose(
      one.astype(jnp.float32), other, rtol=0.03, atol=0.1
    )
