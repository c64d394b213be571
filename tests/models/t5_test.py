"""T5 equals transformers, and its parts agree with each other."""

import dataclasses
import functools
import json
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cot_latent.errors import UserError
from cot_latent.models import (
  encoder_decoder,
  language_model,
  lora,
  network,
  relative,
  slots,
  t5,
  token_rows,
)
from cot_latent.models.api import PAD_ID
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.stops import Ending
from tests.asserts import assert_trees_equal
from tests.models import twins

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

torch.set_num_threads(1)

VOCABULARY, EOS_ID = 19, 1
ROWS, PROMPT_LENGTH, LENGTH = 7, 41, 12
# No two sizes alike, and sequences longer than the last bucket's beginning.
SIZES = {
  "vocab_size": VOCABULARY,
  "d_model": 20,
  "d_kv": 6,
  "num_heads": 3,
  "d_ff": 28,
  "num_layers": 2,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 10,
  "decoder_start_token_id": PAD_ID,
  "layer_norm_epsilon": 1e-3,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
VARIANTS = {
  "t5_1_1": GATED,
  "t5_1_0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
  "byt5": {**GATED, "num_decoder_layers": 1},
  "mt5": {"feed_forward_proj": "gated-gelu"},  # tied and not scaled
}
slow = pytest.mark.slow
# What is written and scored token by token: the others differ by their layers,
# which the logits show.
WRITTEN = [
  pytest.param(name, marks=() if name in ("t5_1_1", "byt5") else slow)
  for name in VARIANTS
]


def make(variant, **changes):
  """A peer of random numbers that matter, norms and biases included."""
  kind = "MT5" if variant == "mt5" else "T5"
  options = {**SIZES, **VARIANTS[variant], **changes}
  config = getattr(transformers, f"{kind}Config")(**options)
  model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
  if not VARIANTS[variant].get("tie_word_embeddings", True):
    model.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(model.shared.weight)
    )
  numbers = torch.Generator().manual_seed(0)
  for name, weight in model.named_parameters():
    with torch.no_grad():
      if "layer_norm" in name:
        weight.uniform_(0.5, 1.5, generator=numbers)
        if variant == "t5_1_0" and name == "decoder.final_layer_norm.weight":
          weight.mul_(4)  # what it scales its outputs by
      elif "relative" in name:
        weight.normal_(0, 2, generator=numbers)
      elif name in ("shared.weight", "lm_head.weight"):
        weight.normal_(0, 0.5, generator=numbers)
      else:
        # What is added to the tokens must drown them, or they are repeated.
        gain = 3 if name.endswith((".o.weight", ".wo.weight")) else 1
        spread = gain * weight.shape[1] ** -0.5
        weight.normal_(0, spread, generator=numbers)
  return model.eval()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
  """Folders of checkpoints, as transformers writes them."""
  root = tmp_path_factory.mktemp("t5")
  for variant in VARIANTS:
    make(variant).save_pretrained(root / variant)
  return root


@functools.cache
def loaded(folder):
  config = hf_config.read_config(folder)
  return config, hf_weights.load(folder, config, VOCABULARY)


def build(config, length=LENGTH, **changes):
  return language_model.from_config(
    config, VOCABULARY, EOS_ID, length, **changes
  )


@functools.cache
def build_once(config):
  return build(config)


@functools.cache
def peer(folder):
  kind = "MT5" if folder.name == "mt5" else "T5"
  peers = getattr(transformers, f"{kind}ForConditionalGeneration")
  return peers.from_pretrained(folder).eval()


@functools.cache
def prompts():
  """Prompts of many lengths, an empty one and a full one among them."""
  numbers = np.random.default_rng(0)
  shape = (ROWS, PROMPT_LENGTH)
  tokens = numbers.integers(2, VOCABULARY, shape, np.int32)
  tokens[::3, -3] = PAD_ID  # padding only where no other token is before it
  length = np.linspace(0, PROMPT_LENGTH, ROWS).astype(int)[:, None]
  padding = np.arange(PROMPT_LENGTH) < PROMPT_LENGTH - length
  return np.where(padding, PAD_ID, tokens)


@functools.cache
def targets():
  numbers = np.random.default_rng(1)
  shape = (ROWS, LENGTH)
  tokens = numbers.integers(2, VOCABULARY, shape, np.int32)
  tokens[0, 5], tokens[1, 0], tokens[2, 3] = EOS_ID, EOS_ID, PAD_ID
  return tokens


def keys(rows=ROWS, seed=0):
  return jax.random.split(jax.random.key(seed), rows)


def check_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def as_torch(array):
  return torch.tensor(np.asarray(array), dtype=torch.long)


def peer_inputs():
  mask = np.asarray(network.prompt_mask(jnp.asarray(prompts())))
  return {
    "input_ids": as_torch(prompts()),
    "attention_mask": as_torch(mask),
  }


# Against transformers.


def our_logits(config, params):
  """[B, T, V] of the targets, one module call after the other."""
  module = t5.T5(config, VOCABULARY)
  mask = network.prompt_mask(jnp.asarray(prompts()))
  inputs = np.pad(targets(), ((0, 0), (1, 0)))[:, :-1]
  own = {"params": params}
  encoded = module.apply(own, jnp.asarray(prompts()), mask, method="encode")
  x, _, _ = module.apply(
    own,
    inputs,
    encoded,
    mask,
    t5.causal_mask(LENGTH),
    method="decode",
  )
  return t5.unembed(config, params, x)


@functools.cache
def peer_logits(folder):
  inputs = np.pad(targets(), ((0, 0), (1, 0)))[:, :-1]
  with torch.no_grad():
    output = peer(folder)(**peer_inputs(), decoder_input_ids=as_torch(inputs))
  return output.logits.numpy()


def check_logits(folder, **changes):
  config, params = loaded(folder)
  config = dataclasses.replace(config, **changes)
  logits = jax.jit(functools.partial(our_logits, config))(params)
  check_close(logits, peer_logits(folder))
  return logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_scores_equal_transformers(folders, variant):
  folder = folders / variant
  logits = check_logits(folder)
  assert np.std(logits) > 0.5  # something to compare
  config, params = loaded(folder)
  log_probs = jax.nn.log_softmax(logits)
  expected = np.take_along_axis(
    np.asarray(log_probs), targets()[..., None], axis=-1
  )[..., 0]
  expected *= Ending((EOS_ID,)).mask(targets())
  actual = build_once(config).log_prob(params, prompts(), targets())
  check_close(actual, expected)


def scaled(attend, query, cache, masked):
  return attend(query * query.shape[-1] ** -0.5, cache, masked)


def without_bias(attend, query, cache, masked):
  return attend(query, cache, masked._replace(bias=None))


def one_sided(relative_bias, table, offset, max_distance, is_causal):
  del is_causal
  return relative_bias(table, offset, max_distance, True)


def backwards(relative_bias, table, offset, max_distance, is_causal):
  offset = offset if is_causal else -offset
  return relative_bias(table, offset, max_distance, is_causal)


def two_sided(relative_bias, table, offset, max_distance, is_causal):
  del is_causal
  return relative_bias(table, offset, max_distance, False)


def fewer_buckets(distance_buckets, num_buckets, max_distance):
  return distance_buckets(num_buckets, max_distance + 3)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("part", "twin"),
  [
    ((t5, "attend"), scaled),
    ((t5, "attend"), without_bias),
    ((relative, "relative_bias"), one_sided),
    ((relative, "relative_bias"), two_sided),
    ((relative, "relative_bias"), backwards),
    ((relative, "distance_buckets"), fewer_buckets),
  ],
)
def test_a_broken_twin_differs_from_transformers(folders, part, twin):
  with twins.replaced(*part, twin), pytest.raises(AssertionError):
    check_logits(folders / "t5_1_1")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variant", "change"),
  [
    ("t5_1_0", {"scale_outputs": False}),
    ("mt5", {"scale_outputs": True}),
    ("byt5", {"norm_eps": 1e-6}),
  ],
)
def test_a_wrong_option_differs_from_transformers(folders, variant, change):
  check_logits(folders / variant)
  with pytest.raises(AssertionError):
    check_logits(folders / variant, **change)


@pytest.mark.parametrize("sizes", [(32, 128), (8, 10), (6, 40), (32, 20)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_buckets_equal_those_of_transformers(sizes, is_causal):
  num_buckets, max_distance = sizes
  peer_attention = transformers.models.t5.modeling_t5.T5Attention
  offset = np.arange(-400, 1 if is_causal else 401)
  expected = peer_attention._relative_position_bucket(
    as_torch(offset), not is_causal, num_buckets, max_distance
  )
  table = jnp.arange(num_buckets)[:, None]
  actual = relative.relative_bias(
    table, offset[None, None], max_distance, is_causal
  )
  np.testing.assert_array_equal(actual[0, 0, 0], expected)


@pytest.mark.parametrize("variant", WRITTEN)
def test_greedy_generations_equal_those_of_transformers(folders, variant):
  folder = folders / variant
  config, params = loaded(folder)
  draws = build_once(config).sample(params, prompts(), keys(), 0.0)
  generated = peer(folder).generate(
    **peer_inputs(), max_new_tokens=LENGTH, do_sample=False, num_beams=1
  )
  expected = np.zeros((ROWS, LENGTH), np.int32)
  expected[:, : generated.shape[1] - 1] = generated[:, 1:]
  np.testing.assert_array_equal(draws.tokens, expected)
  assert len(np.unique(draws.tokens)) > 3


# Checkpoints.


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_export_is_the_same_for_us_and_for_transformers(
  folders, variant, tmp_path
):
  config, params = loaded(folders / variant)
  hf_weights.save(tmp_path / "export", params, folders / variant)
  again, read = loaded(tmp_path / "export")
  assert again == config
  assert_trees_equal(read, params)
  model, report = type(peer(folders / variant)).from_pretrained(
    tmp_path / "export", output_loading_info=True
  )
  assert not any(report.values())
  original = peer(folders / variant)
  state, expected = model.state_dict(), original.state_dict()
  assert state.keys() == expected.keys()
  for name in state:
    assert torch.equal(state[name], expected[name]), name
  inputs = {**peer_inputs(), "decoder_input_ids": as_torch(targets())}
  with torch.no_grad():
    assert torch.equal(model(**inputs).logits, original(**inputs).logits)


def test_a_checkpoint_in_shards_and_in_bfloat16(folders, tmp_path):
  config, params = loaded(folders / "byt5")
  peer(folders / "byt5").save_pretrained(tmp_path / "a", max_shard_size="9KB")
  assert len([*(tmp_path / "a").glob("*.safetensors")]) > 2
  assert_trees_equal(loaded(tmp_path / "a"), (config, params))

  half = peer(folders / "byt5").bfloat16()
  half.save_pretrained(tmp_path / "b")
  peer.cache_clear()  # torch converts in place
  config = hf_config.read_config(tmp_path / "b", param_dtype="bfloat16")
  read = hf_weights.load(tmp_path / "b", config, VOCABULARY)
  cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert_trees_equal(read, cast)
  hf_weights.save(tmp_path / "c", read, tmp_path / "b", max_file_bytes=4_000)
  assert len([*(tmp_path / "c").glob("*.safetensors")]) > 2
  model = transformers.T5ForConditionalGeneration.from_pretrained(
    tmp_path / "c", dtype="auto"
  )
  for name, weight in model.state_dict().items():
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, half.state_dict()[name])


def options_of(folder):
  return json.loads((folder / "config.json").read_text())


@pytest.fixture
def changed(folders, tmp_path):
  """variant, settings -> a folder of the test's own; None takes one out."""

  def change(variant="t5_1_1", **changes):
    folder = tmp_path / "changed"
    shutil.copytree(folders / variant, folder, dirs_exist_ok=True)
    options = {**options_of(folder), **changes}
    options = {k: v for k, v in options.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(options))
    return folder

  return change


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "umt5"}, "model_type = 'umt5'"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj = 'gated-silu'"),
    ({"dense_act_fn": "gelu"}, "dense_act_fn = 'gelu'"),
    ({"is_gated_act": False}, "is_gated_act = False"),
    ({"decoder_start_token_id": 5}, "decoder_start_token_id = 5"),
    ({"pad_token_id": 3}, "pad_token_id = 3"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder = False"),
    ({"quantization_config": {"bits": 8}}, "quantization_config = "),
    ({"d_model": None}, "lacks 'd_model'"),
    ({"d_model": "20"}, "d_model = '20'"),
    ({"layer_norm_epsilon": 0}, "layer_norm_epsilon = 0"),
    ({"relative_attention_num_buckets": 7}, "num_buckets = 7"),
    ({"relative_attention_max_distance": 4}, "max_distance = 4"),
  ],
)
def test_an_unsupported_option_is_refused_by_name(changed, change, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    hf_config.read_config(changed(**change))
  assert "config.json" in str(error.value)


def test_options_of_older_checkpoints(folders, changed):
  newer = ("scale_decoder_outputs", "dense_act_fn", "is_gated_act")
  for variant in VARIANTS:
    folder = changed(
      variant,
      **dict.fromkeys(newer),
      tie_word_embeddings=variant == "t5_1_0",
    )
    assert hf_config.read_config(folder) == loaded(folders / variant)[0]
  # The first T5 had no number of decoder layers and no word on its MLP.
  folder = changed("t5_1_0", num_decoder_layers=None, feed_forward_proj=None)
  assert hf_config.read_config(folder) == loaded(folders / "t5_1_0")[0]


def test_another_models_tensors_are_refused(folders, changed):
  def check(match, **changes):
    folder = changed(**changes)
    config = hf_config.read_config(folder)
    size = hf_config.vocab_size(folder)
    with pytest.raises(UserError, match=match):
      hf_weights.load(folder, config, size)

  check(r"lacks the tensor decoder\.block\.2\.", num_decoder_layers=3)
  check(r"has the tensor decoder\.block\.1\.", num_decoder_layers=1)
  check(r"shared\.weight is \(19, 20\)", vocab_size=VOCABULARY + 1)
  check(
    r"lacks the tensor .*\.wi\.weight",
    **{"feed_forward_proj": "relu", "dense_act_fn": None, "is_gated_act": None},
  )


def test_known_copies_are_ignored(folders, tmp_path):
  source, folder = folders / "t5_1_1", tmp_path / "with_copies"
  shutil.copytree(source, folder)
  path = folder / "model.safetensors"
  stored = safetensors.numpy.load_file(path)
  copy = {
    f"{stack}.embed_tokens.weight": stored["shared.weight"]
    for stack in ("encoder", "decoder")
  }
  unused = (
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  )
  with_copies = {**stored, **copy, unused: np.ones((8, 3), np.float32)}
  safetensors.numpy.save_file(with_copies, path)
  assert_trees_equal(loaded(folder), loaded(source))
  hf_weights.save(tmp_path / "export", loaded(folder)[1], folder)
  written = safetensors.numpy.load_file(tmp_path / "export/model.safetensors")
  assert written.keys() == stored.keys()
  with_copies["decoder.embed_tokens.weight"] = stored["shared.weight"] + 1
  safetensors.numpy.save_file(with_copies, path)
  with pytest.raises(UserError, match="not the copy of shared"):
    hf_weights.load(folder, loaded(source)[0], VOCABULARY)


# Sampling and scores.


def check_scored_as_drawn(model, config, params):
  draws = model.sample(params, prompts(), keys())
  scores = build_once(config).log_prob(params, prompts(), draws.tokens)
  check_close(draws.log_prob, scores)
  return draws


@pytest.mark.parametrize("variant", WRITTEN)
def test_what_is_drawn_is_what_is_scored(folders, variant):
  config, params = loaded(folders / variant)
  draws = check_scored_as_drawn(build_once(config), config, params)
  assert len(np.unique(draws.tokens)) > 5


def late(relative_bias, table, offset, max_distance, is_causal):
  """Counts a position more where tokens are fed in one by one."""
  alone = is_causal and offset.shape[1] == 1
  return relative_bias(table, offset - alone, max_distance, is_causal)


def in_the_ring(masked, change):
  """Changes the mask of the ring where tokens are fed in one by one."""
  if masked.bias is None or masked.mask.shape[1] > 1:
    return masked
  return masked._replace(mask=change(masked.mask))


def forgets_the_start(attend, query, cache, masked):
  def hide(mask):
    # It is in the last column of a ring that began with it.
    alone = mask.sum(-1, keepdims=True) == 1
    return jnp.where(alone, mask, mask.at[..., -1].set(False))

  return attend(query, cache, in_the_ring(masked, hide))


def sees_the_whole_ring(attend, query, cache, masked):
  return attend(query, cache, in_the_ring(masked, jnp.ones_like))


def sees_padding(attend, query, cache, masked):
  """Shows the encoder's padding to the decoder."""
  mask = masked.mask if masked.bias is not None else jnp.ones_like(masked.mask)
  return attend(query, cache, masked._replace(mask=mask))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("part", "twin"),
  [
    ((relative, "relative_bias"), late),
    ((t5, "attend"), forgets_the_start),
    ((t5, "attend"), sees_the_whole_ring),
  ],
)
def test_a_broken_twin_is_not_scored_as_drawn(folders, part, twin):
  config, params = loaded(folders / "byt5")
  with twins.replaced(*part, twin), pytest.raises(AssertionError):
    check_scored_as_drawn(build(config), config, params)


QUEUE = 15  # rows, which wait for slots
NETWORK = encoder_decoder.EncoderDecoderNetwork


def queue(folder, eos_id, network=NETWORK, **settings):
  config, params = loaded(folder)
  model = language_model.LanguageModel(
    network(config, VOCABULARY, Ending((eos_id,)), LENGTH)
  )
  rows = np.resize(prompts(), (QUEUE, PROMPT_LENGTH))
  return model.sample(params, rows, keys(QUEUE), **settings)


@functools.cache
def drawn_at_once(folder):
  """A token that ends rows at many positions, and what is drawn with it."""
  tokens = queue(folder, EOS_ID).tokens
  eos_id = int(np.bincount(tokens.ravel(), minlength=2)[2:].argmax()) + 2
  draws = queue(folder, eos_id)
  length = np.where(draws.ended, (draws.tokens == eos_id).argmax(axis=1), -1)
  assert len(np.unique(length)) > 3
  return eos_id, draws


def check_slots(folder, network=NETWORK):
  eos_id, expected = drawn_at_once(folder)
  draws = queue(folder, eos_id, network, num_slots=4)
  np.testing.assert_array_equal(draws.tokens, expected.tokens)
  np.testing.assert_array_equal(draws.ended, expected.ended)
  check_close(draws.log_prob, expected.log_prob)


@pytest.mark.slow
def test_slots_change_nothing(folders, monkeypatch):
  drawn_at_once(folders / "byt5")
  monkeypatch.setattr(slots, "_WORTH_SHRINKING", 1)
  check_slots(folders / "byt5")


class BeginsTogether(encoder_decoder.EncoderDecoderNetwork):
  """Puts a row's start where that of the first rows is."""

  def prefill(self, params, shared, prompts, column):
    return super().prefill(params, shared, prompts, jnp.zeros_like(column))


@pytest.mark.slow
def test_a_broken_twin_is_noticed_in_slots(folders):
  drawn_at_once(folders / "byt5")
  with pytest.raises(AssertionError):
    check_slots(folders / "byt5", BeginsTogether)


def check_padding(config, params):
  model = build(config)
  wide = np.pad(prompts(), ((0, 0), (9, 0)))
  expected = build_once(config).log_prob(params, prompts(), targets())
  check_close(model.log_prob(params, wide, targets()), expected)
  return model.sample(params, wide, keys())


def test_padding_changes_nothing(folders):
  config, params = loaded(folders / "byt5")
  draws = build_once(config).sample(params, prompts(), keys())
  wide = check_padding(config, params)
  np.testing.assert_array_equal(draws.tokens, wide.tokens)
  check_close(draws.log_prob, wide.log_prob)
  broken = [
    (t5, "attend", sees_padding),
    (encoder_decoder, "prompt_mask", twins.all_real),
  ]
  for twin in broken:
    with twins.replaced(*twin), pytest.raises(AssertionError):
      check_padding(config, params)


# What all rows begin with.

TEXT = np.array([5, 3, 0, 17, 4, 9], np.int32)


def with_text(prompts):
  """Puts the text after each row's padding, before its prompt.

  An empty prompt keeps one padding token, as something to start from.
  """
  wide = np.zeros((len(prompts), prompts.shape[1] + len(TEXT)), np.int32)
  for row, prompt in zip(wide, prompts, strict=True):
    real = np.trim_zeros(prompt, "f")
    real = np.concatenate([TEXT, real if len(real) else [PAD_ID]])
    row[len(row) - len(real) :] = real
  return wide


def check_beginnings(config, params):
  model = build(config)
  expected = model.log_prob(params, with_text(prompts()), targets())
  embedding = params["embed"]["embedding"]
  for number_soft in (0, 2, len(TEXT)):
    soft, prefix = np.split(TEXT, [number_soft])
    start = params
    if number_soft:
      start = {**params, network.SOFT_PROMPT: embedding[soft]}
    actual = model.log_prob(
      start, prompts(), targets(), model.encode_prefix(start, prefix)
    )
    check_close(actual, expected)


def before_padding(after_padding, shared, prompts):
  """Leaves the beginning where it is, and counts columns."""
  tokens, _ = after_padding(shared, prompts)
  num_before = tokens.shape[1] - prompts.shape[1]
  before = jnp.broadcast_to(tokens[-1:, :num_before], (ROWS, num_before))
  is_real = network.prompt_mask(prompts)
  column = jnp.arange(tokens.shape[1])
  real = jnp.pad(is_real, ((0, 0), (num_before, 0)), constant_values=True)
  return jnp.concatenate([before, prompts], 1), jnp.where(real, column, -1)


def test_a_prefix_and_a_soft_prompt_are_as_the_text(folders):
  config, params = loaded(folders / "byt5")
  check_beginnings(config, params)
  with (
    twins.replaced(encoder_decoder, "_after_padding", before_padding),
    pytest.raises(AssertionError),
  ):
    check_beginnings(config, params)


def test_a_common_beginning_is_drawn_from(folders):
  config, params = loaded(folders / "byt5")
  model = build_once(config)
  common = np.tile(TEXT, 6)[1:35]
  rows = np.zeros((4, 50), np.int32)
  for row, length in enumerate([1, 3, 9, 16]):
    rest = np.arange(2, 2 + length)
    rows[row, 50 - 34 - length :] = np.concatenate([common, rest])
  prefix, rest = token_rows.split_prefix(rows)
  assert len(prefix) == 32
  embedding = params["embed"]["embedding"]
  soft = {**params, network.SOFT_PROMPT: embedding[TEXT]}
  draws = model.sample(soft, rows, keys(4))
  scores = model.log_prob(soft, rows, draws.tokens)
  check_close(draws.log_prob, scores)
  check_close(
    model.log_prob(soft, rest, draws.tokens, model.encode_prefix(soft, prefix)),
    scores,
  )


@pytest.mark.slow
def test_a_soft_prompt_has_a_gradient(folders):
  config, params = loaded(folders / "byt5")
  soft = params["embed"]["embedding"][TEXT]
  gradients = []
  for remat in (False, True):
    model = build(dataclasses.replace(config, remat=remat))

    def total(params, model=model):
      return model.log_prob(params, prompts(), targets()).sum()

    start = {**params, network.SOFT_PROMPT: soft}
    gradients.append(jax.grad(total)(start))
  for gradient, other in zip(*map(jax.tree.leaves, gradients), strict=True):
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(gradient, other, rtol=0, atol=1e-3)


def test_large_logits_are_scored_bit_by_bit(folders, monkeypatch):
  config, params = loaded(folders / "byt5")
  expected = build_once(config).log_prob(params, prompts(), targets())
  monkeypatch.setattr(network, "_CHUNK_BYTES", 4 * ROWS * VOCABULARY * 5)
  actual = build(config).log_prob(params, prompts(), targets())
  check_close(actual, expected)


# Low-rank updates.


def test_updates(folders):
  config, params = loaded(folders / "byt5")
  plain = build_once(config).log_prob(params, prompts(), targets())
  updates = lora.Lora(rank=2, targets=lora.TARGETS)
  model = build(config, lora=updates)
  numbers = np.random.default_rng(0)

  def filled(spread):
    """The checkpoint's parameters, and updates of this size."""

    def fill(path, leaf):
      name = path[-1].key
      if not lora.is_added(name):
        return functools.reduce(lambda x, key: x[key.key], path, params)
      size = 1.0 if name == "lora_down" else spread
      return numbers.normal(0, size, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map_with_path(fill, shapes)

  def number(tree):
    names = [path[-1].key for path, _ in jax.tree.leaves_with_path(tree)]
    return sum(map(lora.is_added, names))

  # Two attentions and an MLP in the decoder's layer; its encoder has two.
  assert number(filled(0)) == 2 * (2 * 7 + 11)
  unchanged = model.log_prob(filled(0), prompts(), targets())
  np.testing.assert_array_equal(unchanged, plain)
  changed = filled(0.02)
  actual = model.log_prob(changed, prompts(), targets())
  assert np.abs(actual - plain).max() > 1e-2
  draws = model.sample(changed, prompts(), keys(), num_slots=3)
  scores = model.log_prob(changed, prompts(), draws.tokens)
  check_close(draws.log_prob, scores)
  merged = lora.merged(changed, updates)
  check_close(build_once(config).log_prob(merged, prompts(), targets()), actual)


# From scratch.


def test_a_new_model_starts_with_plain_scores():
  config = t5.T5Config(1, 1, 64, 4, 16, 96)
  model = build(config)
  params = model.init(jax.random.key(0))
  query = params["encoder"]["layer_0"]["attention"]["query"]["kernel"]
  key = params["encoder"]["layer_0"]["attention"]["key"]["kernel"]
  assert np.std(key) == pytest.approx(64**-0.5, rel=0.1)
  assert np.std(query) == pytest.approx((64 * 16) ** -0.5, rel=0.1)
  short = prompts()[:, -4:]
  assert model.log_prob(params, short, targets()).min() > -25


def test_axes_are_named():
  config = t5.T5Config(1, 1, 8, 2, 4, 12)
  network = NETWORK(config, VOCABULARY, EOS_ID, 3)
  boxed = jax.eval_shape(network.init, jax.random.key(0))
  names = jax.tree.map(
    lambda leaf: (
      leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else None
    ),
    boxed,
    is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
  )
  layer = names["decoder"]["layer_0"]
  assert layer["cross_attention"]["query"]["kernel"] == ("embed", "heads", "kv")
  assert layer["attention"]["output"]["kernel"] == ("heads", "embed")
  assert layer["mlp"]["gate"]["kernel"] == ("embed", "mlp")
  assert layer["mlp"]["down"]["kernel"] == ("mlp", "embed")
  assert names["embed"]["embedding"] == ("vocab", "embed")
  assert names["unembedding"] == ("embed", "vocab")
  assert names["encoder"]["relative_bias"] == (None, "heads")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_buckets": 7}, "num_buckets = 7 must be even"),
    ({"num_buckets": 2}, "num_buckets = 2 must be even and at least 4"),
    ({"max_distance": 16}, "max_distance = 16 must be above half"),
    ({"embed_dim": 0}, "embed_dim = 0 must be above 0"),
    ({"activation": "silu"}, "activation: expected one of"),
    ({"remat": 1}, "remat: expected bool"),
  ],
)
def test_a_wrong_configuration_is_refused(change, message):
  fields = dict.fromkeys(
    ("embed_dim", "num_heads", "head_dim", "mlp_dim"), 4
  ) | {"num_encoder_layers": 1, "num_decoder_layers": 1}
  t5.T5Config(**fields)
  with pytest.raises(UserError, match=message):
    t5.T5Config(**fields | change)
