"""Checkpoints as `transformers` writes and understands them."""

import codecs
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from cot_latent.configuration import parsing
from cot_latent.errors import UserError
from cot_latent.models import lora
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import files as hf_files
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.rotary import RopeScaling
from tests.models.hf import checkpoints
from tests.models.hf.checkpoints import ARCHITECTURES, ROWS
from tests.models.hf.hub_configs import HUB
from tests.params import by_day

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
  """architecture -> model of `transformers`, and the folder it is saved in."""

  @functools.cache
  def one(architecture):
    folder = tmp_path_factory.mktemp(architecture)
    model = checkpoints.make_torch_model(architecture)
    model.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return model, folder

  return one


@pytest.fixture
def copied(made, tmp_path):
  """architecture -> a folder of the test's own."""

  def one(architecture="llama"):
    return shutil.copytree(made(architecture)[1], tmp_path / "copy")

  return one


def load(folder, **settings):
  config = hf_config.read_config(folder, **settings)
  size = hf_config.vocab_size(folder)
  return config, hf_weights.load(folder, config, size)


def change(folder, **changes):
  """Changes settings of a config.json; None takes them out."""
  path = pathlib.Path(folder) / "config.json"
  values = json.loads(path.read_text()) | changes
  for name, value in changes.items():
    if value is None:
      del values[name]
  path.write_text(json.dumps(values))


def tensors_of(folder):
  found = {}
  for path in pathlib.Path(folder).glob("*.safetensors"):
    found |= safetensors.numpy.load_file(path)
  return found


def check_same(actual, expected):
  """Checks that two dicts of arrays are the same, bit for bit."""
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    assert actual[name].dtype == array.dtype, name
    assert actual[name].shape == array.shape, name
    assert actual[name].tobytes() == array.tobytes(), name


def flat(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(k): np.asarray(x) for k, x in leaves}


def largest_difference(model, config, params):
  expected = checkpoints.expected_logits(model)
  assert expected.std() > 0.5  # there is something to be different
  return np.abs(checkpoints.logits(config, params) - expected).max()


@pytest.mark.parametrize(
  "architecture", by_day(ARCHITECTURES, "qwen3", "gemma2", "gemma3")
)
def test_the_same_as_transformers(made, architecture):
  model, folder = made(architecture)
  config, params = load(folder)
  difference = largest_difference(model, config, params)
  print(f"{architecture}: logits differ by {difference:.1e}")
  assert difference < 1e-4

  ours = checkpoints.build_model(config)
  prompts, targets = checkpoints.prompts(), checkpoints.targets()
  expected = torch.tensor(checkpoints.expected_logits(model)).log_softmax(-1)
  expected = np.take_along_axis(expected.numpy(), targets[..., None], -1)
  np.testing.assert_allclose(
    ours.log_prob(params, prompts, targets), expected[..., 0], atol=1e-4
  )
  keys = jax.random.split(jax.random.key(0), ROWS)
  np.testing.assert_array_equal(
    ours.sample(params, prompts, keys, 0.0).tokens,
    checkpoints.expected_greedy(model),
  )


# What each option amounts to, taken away.
WITHOUT = [
  ("llama", {"rope_scaling": None}),
  ("llama", {"rope_scaling": RopeScaling("linear", 8.0)}),
  ("llama", {"rope_base": 10_000.0}),
  ("llama", {"norm_eps": 1e-6}),
  ("llama", {"scale_embeddings": True}),
  ("llama", {"activation": "gelu_tanh"}),
  ("qwen2", {"qkv_bias": False}),
  ("qwen2_window", {"local_layers": ()}),
  ("qwen2_window", {"local_layers": (0, 1)}),
  ("qwen2_window", {"sliding_window": 6}),
  ("qwen3", {"qk_norm": False}),
  ("gemma2", {"norm_offset": 0.0}),
  ("gemma2", {"activation": "silu"}),
  ("gemma2", {"scale_embeddings": False}),
  ("gemma2", {"post_norms": False}),
  ("gemma2", {"query_scale": None}),
  ("gemma2", {"attention_softcap": None}),
  ("gemma2", {"final_softcap": None}),
  ("gemma2", {"sliding_window": 4}),
  ("gemma2", {"local_layers": (1,)}),
  ("gemma3", {"local_rope_base": None}),
  ("gemma3", {"rope_base": 10.0}),
  ("gemma3", {"rope_scaling": None}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "changes"), WITHOUT)
def test_an_option_left_out_is_noticed(made, architecture, changes):
  model, folder = made(architecture)
  config, params = load(folder)
  twin = dataclasses.replace(config, **changes)
  assert twin != config
  assert largest_difference(model, twin, params) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
  ("architecture", "one", "other"),
  [
    ("llama", "attention_norm", "mlp_norm"),
    ("llama", "gate", "up"),
    ("llama", "key", "value"),
    ("qwen3", "query_norm", "key_norm"),
    ("gemma2", "post_attention_norm", "mlp_norm"),
    ("gemma3", "post_attention_norm", "post_mlp_norm"),
  ],
)
def test_swapped_tensors_are_noticed(made, architecture, one, other):
  model, folder = made(architecture)
  config, params = load(folder)
  for number in range(config.num_layers):
    layer = params[f"layer_{number}"]
    layer[one], layer[other] = layer[other], layer[one]
  assert largest_difference(model, config, params) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_kernel_transposed_wrongly_is_noticed(made, architecture):
  model, folder = made(architecture)
  config, params = load(folder)
  query = params["layer_0"]["query"]
  shape = query["kernel"].shape
  turned = query["kernel"].reshape(shape[0], -1).T.reshape(-1)
  query["kernel"] = turned.reshape(shape)
  assert largest_difference(model, config, params) > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export(made, architecture, tmp_path):
  model, folder = made(architecture)
  _, params = load(folder)
  hf_weights.save(tmp_path / "export", params, folder)
  check_same(tensors_of(tmp_path / "export"), tensors_of(folder))
  _, again = load(tmp_path / "export")
  check_same(flat(again), flat(params))
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "export", attn_implementation="eager"
  )
  np.testing.assert_array_equal(
    checkpoints.expected_logits(theirs), checkpoints.expected_logits(model)
  )
  assert {p.name for p in tmp_path.iterdir()} == {"export"}


def test_an_export_has_what_was_trained(made, tmp_path):
  _, folder = made("llama")
  config = hf_config.read_config(folder)
  update = lora.Lora(2, targets=("query", "output"))
  trained = decoder_with(config, update, hf_weights.load(folder, config, 100))
  with pytest.raises(UserError, match=r"lora_down .*merge the update first"):
    hf_weights.save(tmp_path / "export", trained, folder)
  merged = lora.merged(trained, update)
  hf_weights.save(tmp_path / "export", merged, folder)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "export", attn_implementation="eager"
  )
  assert largest_difference(theirs, config, merged) < 1e-4
  assert largest_difference(made("llama")[0], config, merged) > 1e-2


def decoder_with(config, update, params):
  """Parameters with an update that is not nothing."""
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: x, params)
  for number in range(config.num_layers):
    for name in update.targets:
      layer = params[f"layer_{number}"][name]
      width, *out = layer["kernel"].shape
      layer["lora_down"] = rng.normal(0, 0.1, (width, update.rank))
      layer["lora_up"] = rng.normal(0, 0.1, (update.rank, *out))
  return params


def test_a_soft_prompt_is_not_exported(made, tmp_path):
  _, folder = made("llama")
  params = load(folder)[1] | {"soft_prompt": np.zeros((3, 32))}
  with pytest.raises(UserError, match="soft_prompt has no place"):
    hf_weights.save(tmp_path / "export", params, folder)
  assert not [*tmp_path.iterdir()]


def test_an_export_replaces_nothing(made, tmp_path):
  _, folder = made("llama")
  (tmp_path / "export").mkdir()
  with pytest.raises(UserError, match="export exists"):
    hf_weights.save(tmp_path / "export", load(folder)[1], folder)


def test_a_failed_export_leaves_nothing(made, tmp_path, monkeypatch):
  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
  _, folder = made("llama")
  with pytest.raises(OSError, match="disk full"):
    hf_weights.save(tmp_path / "export", load(folder)[1], folder)
  assert not [*tmp_path.iterdir()]


def test_an_export_of_another_model_is_refused(made, tmp_path):
  _, params = load(made("llama")[1])
  for source, match in (
    ("llama_tied", r"lacks the tensor lm_head.weight"),
    ("qwen3", "has the tensor model.layers.0.self_attn.k_norm.weight"),
    ("qwen2_window", "has the tensor model.layers.0.self_attn.k_proj.bias"),
  ):
    with pytest.raises(UserError, match=match):
      hf_weights.save(tmp_path / "export", params, made(source)[1])


def test_what_is_beside_the_weights_is_copied(copied, tmp_path):
  folder = copied()
  for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt"):
    (folder / name).write_text(name)
  (folder / "notes.txt").write_text("not the model's")
  hf_weights.save(tmp_path / "export", load(folder)[1], folder)
  found = {p.name: p.read_bytes() for p in (tmp_path / "export").iterdir()}
  expected = {p.name: p.read_bytes() for p in folder.iterdir()}
  del expected["notes.txt"], expected["model.safetensors"]
  assert {"config.json", "generation_config.json"} <= expected.keys()
  del found["model.safetensors"]
  assert found == expected


def test_several_files(made, tmp_path):
  model, folder = made("gemma2")
  model.save_pretrained(tmp_path / "cut", max_shard_size="20KB")
  assert len([*(tmp_path / "cut").glob("*.safetensors")]) > 2
  _, params = load(folder)
  check_same(flat(load(tmp_path / "cut")[1]), flat(params))

  out = tmp_path / "export"
  hf_weights.save(out, params, tmp_path / "cut", max_file_bytes=20_000)
  files = [*out.glob("*.safetensors")]
  assert len(files) > 2
  whole = tensors_of(folder)
  check_same(tensors_of(out), whole)
  for path in files:
    parts = safetensors.numpy.load_file(path)
    assert len(parts) == 1 or sum(x.nbytes for x in parts.values()) <= 20_000
  index = json.loads((out / hf_files.INDEX).read_text())
  assert index["metadata"]["total_size"] == sum(
    x.nbytes for x in whole.values()
  )
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    out, attn_implementation="eager"
  )
  np.testing.assert_array_equal(
    checkpoints.expected_logits(theirs), checkpoints.expected_logits(model)
  )


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_half_precision(tmp_path, stored):
  folder = tmp_path / "half"
  half = checkpoints.make_torch_model("qwen2").to(getattr(torch, stored))
  half.save_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  )
  config, params = load(folder)
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
  assert largest_difference(model, config, params) < 1e-4

  # Whether they are kept in more bits or not, the same ones are written.
  kept = ("float32", "bfloat16") if stored == "bfloat16" else ("float32",)
  for name in kept:
    _, params = load(folder, param_dtype=name)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {name}
    hf_weights.save(tmp_path / name, params, folder)
    check_same(tensors_of(tmp_path / name), tensors_of(folder))


def test_an_export_in_another_precision(made, tmp_path):
  model, folder = made("llama")
  _, params = load(folder)
  hf_weights.save(tmp_path / "export", params, folder, dtype="bfloat16")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "export"
  )
  assert theirs.dtype == torch.bfloat16
  expected = model.state_dict()
  for name, tensor in theirs.state_dict().items():
    assert torch.equal(tensor, expected[name].to(torch.bfloat16))
  settings = json.loads((tmp_path / "export/config.json").read_text())
  original = json.loads((folder / "config.json").read_text())
  assert settings == original | {"dtype": "bfloat16"}


def test_parameters_that_keep_fewer_bits_are_rounded_to_nearest(made):
  _, folder = made("llama")
  _, params = load(folder, param_dtype="bfloat16")
  exact = load(folder)[1]["layer_1"]["down"]["kernel"]
  expected = torch.tensor(np.asarray(exact)).to(torch.bfloat16)
  found = np.asarray(params["layer_1"]["down"]["kernel"]).astype(np.float32)
  np.testing.assert_array_equal(found, expected.float().numpy())


MESH = """
import json, sys
import jax, numpy as np
from cot_latent.models import partitioning
from cot_latent.models.hf import config as hf_config, files as hf_files
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.partitioning import MeshConfig, RULES

folder, out = sys.argv[1:]
assert len(jax.devices()) == 8
config = hf_config.read_config(folder)
size = hf_config.vocab_size(folder)
original = hf_files.read_tensors
asked = {}

class Watched:
  def __init__(self, name, tensor):
    self.name, self.tensor = name, tensor
  def __getattr__(self, name):
    return getattr(self.tensor, name)
  def __getitem__(self, index):
    part = self.tensor[index]
    asked.setdefault(self.name, []).append(part.size)
    return part

hf_files.read_tensors = lambda folder: {
  name: Watched(name, tensor) for name, tensor in original(folder).items()
}
# Sharded along heads and width; along "data" too, as they are stored by
# default; and through the middle of a head.
meshes = {
  "plain": MeshConfig(2, 4, fully_sharded=False),
  "fully": MeshConfig(2, 4),
  "heads": MeshConfig(2, 4, (("kv", "data"), *RULES)),
}
found = {}
for name, mesh in meshes.items():
  asked.clear()
  layout = partitioning.make_layout(mesh)
  params = hf_weights.load(folder, config, size, layout)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  flat = {jax.tree_util.keystr(key): leaf for key, leaf in leaves}
  np.savez(f"{out}/{name}.npz", **{k: np.asarray(x) for k, x in flat.items()})
  found[name] = {
    "shards": {
      k: [list(s.data.shape) for s in x.addressable_shards]
      for k, x in flat.items()
    },
    "asked": dict(asked),
  }
  hf_weights.save(f"{out}/{name}", params, folder)
print(json.dumps(found))
"""


def test_on_a_mesh(made, tmp_path):
  _, folder = made("qwen2")
  done = subprocess.run(
    [sys.executable, "-c", MESH, str(folder), str(tmp_path)],
    env=os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
      "PYTHONPATH": str(ROOT),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  config, params = load(folder)
  expected = flat(params)
  for name, seen in found.items():
    check_same(dict(np.load(tmp_path / f"{name}.npz")), expected)
    check_same(tensors_of(tmp_path / name), tensors_of(folder))
    # What is sharded is read a part at a time, and each part once.
    whole = {key: x.size for key, x in tensors_of(folder).items()}
    for key, sizes in seen["asked"].items():
      if name == "plain":
        assert sum(sizes) == whole[key]
  down = "model.layers.0.mlp.down_proj.weight"
  assert len(found["plain"]["asked"][down]) == 4
  assert len(found["fully"]["asked"][down]) == 8
  query = "['layer_0']['query']['kernel']"
  shapes = {n: {tuple(s) for s in x["shards"][query]} for n, x in found.items()}
  width, head = config.embed_dim, config.head_dim
  assert shapes == {
    "plain": {(width, 1, head)},
    "fully": {(width // 2, 1, head)},
    "heads": {(width, 1, head // 2)},
  }
  # Two heads of keys cannot be sharded into four.
  key = "['layer_0']['key']['kernel']"
  assert {*map(tuple, found["plain"]["shards"][key])} == {(width, 2, head)}


def check_refused(folder, match):
  with pytest.raises(UserError, match=match) as refused:
    load(folder)
  assert "\n" not in str(refused.value)
  assert str(folder) in str(refused.value)


LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 500.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
}
DEFAULT = {"rope_type": "default", "rope_theta": 1.0}
LINEAR = DEFAULT | {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
  ("architecture", "changes", "match"),
  [
    ("llama", {"model_type": "mixtral"}, "'mixtral'.* expected \"llama\" or"),
    ("llama", {"model_type": None}, "lacks 'model_type'"),
    ("llama", {"model_type": ["llama"]}, r"model_type = \['llama'\]"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("llama", {"hidden_act": None}, "lacks 'hidden_act'"),
    ("llama", {"attention_bias": True}, "attention_bias = True"),
    ("llama", {"attention_bias": 0}, "attention_bias = 0"),
    ("llama", {"mlp_bias": True}, "mlp_bias = True"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ("llama", {"hidden_size": None}, "lacks 'hidden_size'"),
    ("llama", {"hidden_size": 32.0}, "hidden_size = 32.0"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ("llama", {"num_hidden_layers": 10**8}, "whole number from 1 to 10,000"),
    ("llama", {"num_key_value_heads": 3}, "num_kv_heads = 3 must divide"),
    ("llama", {"head_dim": 7}, "head_dim = 7 must be even"),
    ("llama", {"head_dim": None, "hidden_size": 34}, "a divisor of 34"),
    ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps = '1e-6'"),
    ("llama", {"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
    ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no'"),
    ("llama", {"vocab_size": None}, "lacks 'vocab_size'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config = "),
    ("llama", {"per_layer_config": {"0": {}}}, "per_layer_config .*not known"),
    ("llama", {"rope_parameters": LLAMA3 | {"rope_type": "yarn"}}, "'yarn'"),
    ("llama", {"rope_parameters": LLAMA3 | {"factor": -1}}, "factor = -1"),
    ("llama", {"rope_parameters": LLAMA3 | {"beta": 1}}, "beta = 1 is not kno"),
    (
      "llama",
      {"rope_parameters": DEFAULT | {"factor": 2}},
      "factor = 2 is not",
    ),
    (
      "llama",
      {"rope_parameters": DEFAULT | {"partial_rotary_factor": 0.5}},
      "rope_parameters: partial_rotary_factor = 0.5",
    ),
    ("llama", {"rope_parameters": {"full_attention": {}}}, "full_attention = "),
    ("llama", {"rope_parameters": [1]}, r"rope_parameters = \[1\]"),
    ("llama", {"rope_theta": 0}, "rope_theta = 0"),
    (
      "llama",
      {"rope_parameters": LLAMA3 | {"high_freq_factor": 0.5}},
      "high_freq_factor",
    ),
    (
      "llama",
      {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}},
      "rope_scaling: type = 'dynamic'",
    ),
    ("llama", {"sliding_window": 4}, "sliding_window = 4 is not known"),
    ("qwen2", {"use_sliding_window": 1}, "use_sliding_window = 1"),
    ("qwen2", {"attention_bias": False}, "attention_bias = False is not known"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types = .*list of 2"),
    (
      "qwen2",
      {"layer_types": ["full_attention", "sliding_attention"]},
      "local_layers need a sliding_window",
    ),
    ("qwen2_window", {"max_window_layers": "a"}, "max_window_layers = 'a'"),
    ("qwen2_window", {"max_window_layers": None}, "needs sliding_window and"),
    ("qwen2_window", {"sliding_window": None}, "needs sliding_window and"),
    ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps = 1000"),
    (
      "qwen2_window",
      {"layer_types": ["chunked_attention"] * 2},
      "layer_types = .*chunked_attention",
    ),
    ("qwen3", {"head_dim": None}, "lacks 'head_dim'"),
    ("qwen3", {"attention_bias": True}, "attention_bias = True"),
    ("gemma2", {"attention_bias": True}, "attention_bias = True"),
    ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
    ("gemma2", {"use_bidirectional_attention": True}, "bidirectional.* = True"),
    ("gemma2", {"query_pre_attn_scalar": None}, "lacks 'query_pre_attn_scalar"),
    ("gemma2", {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar = -4"),
    ("gemma2", {"final_logit_softcapping": None}, "lacks 'final_logit_softca"),
    ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping = 0"),
    ("gemma2", {"sliding_window": None}, "lacks 'sliding_window'"),
    (
      "gemma3",
      {"rope_parameters": {"sliding_attention": LINEAR}},
      "'linear'.*in local layers",
    ),
    ("gemma3", {"rope_parameters": DEFAULT}, "rope_type = .* is not known"),
    ("gemma3", {"model_type": "gemma3"}, "model_type = 'gemma3'"),
  ],
)
def test_a_setting_that_is_not_supported_is_refused(
  copied, architecture, changes, match
):
  folder = copied(architecture)
  load(folder)
  change(folder, **changes)
  check_refused(folder, match)


def test_all_refused_settings_are_named_at_once(copied):
  folder = copied()
  bad = {"attention_bias": True, "hidden_size": "a", "logit_scale": 2.0}
  change(folder, **bad, rope_parameters=LLAMA3 | {"beta": 1})
  with pytest.raises(UserError) as refused:
    hf_config.read_config(folder)
  for name in (*bad, "beta"):
    assert f"{name} = " in str(refused.value)
  assert len(str(refused.value).split("; ")) == 4


NOTES = {
  "transformers.js_config": {"dtype": "q4"},
  "is_llama_config": True,
  "_model_name_or_path": "a",
  "temperature": 0.6,
}


def test_settings_of_no_number_are_accepted(copied):
  folder = copied()
  expected = hf_config.read_config(folder)
  before = hf_config.accepted_settings(folder)
  change(folder, **NOTES, unk_token_id=3, logit_scale=2.0)
  assert hf_config.read_config(folder, ignore=["logit_scale"]) == expected
  assert {*hf_config.accepted_settings(folder)} == {*before, *NOTES}
  with pytest.raises(UserError, match=r"ignore: .* has no 'logit_scael'"):
    hf_config.read_config(folder, ignore=["logit_scale", "logit_scael"])


def test_a_mistaken_override_is_refused(made):
  with pytest.raises(UserError, match=r"DecoderConfig.dtype: expected one of"):
    hf_config.read_config(made("llama")[1], dtype="float16")


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("{", "not valid JSON"),
    ("[]", r"expected an object, got \[\]"),
    (None, "cannot read .*No such file"),
  ],
)
def test_a_config_that_cannot_be_read_is_refused(copied, text, match):
  folder = copied()
  (folder / "config.json").unlink()
  if text is not None:
    (folder / "config.json").write_text(text)
  check_refused(folder, match)


def test_byte_order_marks(copied, tmp_path):
  folder = with_index(copied, lambda index: None)
  config, params = load(folder)
  contents = {path: path.read_bytes() for path in folder.glob("*.json")}
  assert len(contents) == 3  # two configs, and the index of the weights
  for path, content in contents.items():
    path.write_bytes(codecs.BOM_UTF8 + content)
  again_config, again = load(folder)
  assert again_config == config
  check_same(flat(again), flat(params))
  hf_weights.save(tmp_path / "out", params, folder)
  for path, content in contents.items():
    if path.name != hf_files.INDEX:
      assert (tmp_path / "out" / path.name).read_bytes() == content


def test_no_folder(tmp_path):
  check_refused(tmp_path / "nowhere", "no folder .*hf download")


def rewrite(folder, **changes):
  """Puts tensors into a checkpoint; None takes them out."""
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path) | changes
  safetensors.numpy.save_file(
    {k: v for k, v in tensors.items() if v is not None}, path
  )


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({NORM: None}, f"lacks the tensor {NORM}, which"),
    ({NORM: None, "lm_head.weight": None}, r"lacks .*\(and 1 more\)"),
    ({"score.weight": np.zeros(3, np.float32)}, "has the tensor score.weight"),
    ({NORM: np.zeros(33, np.float32)}, rf"{NORM} is \(33,\).* be \(32,\)"),
    ({NORM: np.zeros(32, np.int8)}, f"{NORM} is I8; only BF16, F16, F32"),
  ],
)
def test_other_tensors_are_refused(copied, changes, match):
  folder = copied()
  rewrite(folder, **changes)
  check_refused(folder, match)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_not_finite_are_refused(copied, value):
  folder = copied()
  norm = tensors_of(folder)[NORM].copy()
  norm[-1] = value
  rewrite(folder, **{NORM: norm})
  check_refused(
    folder, f"the tensor {NORM} has an infinite or undefined number"
  )


def test_a_copy_of_the_embedding(copied, tmp_path):
  # Some checkpoints have the output layer once more, and say that it is tied.
  folder = copied("llama_tied")
  expected = flat(load(folder)[1])
  embedding = tensors_of(folder)["model.embed_tokens.weight"]
  rewrite(folder, **{"lm_head.weight": embedding})
  _, params = load(folder)
  check_same(flat(params), expected)
  hf_weights.save(tmp_path / "export", params, folder)
  assert "lm_head.weight" not in tensors_of(tmp_path / "export")
  other = embedding.copy()
  other[-1, -1] += 1
  rewrite(folder, **{"lm_head.weight": other})
  check_refused(folder, "lm_head.weight is not the copy .*tie_word_embeddings")


def test_pickled_weights_are_refused(copied):
  folder = copied()
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  check_refused(folder, "pickled weights .* are not read")


def test_no_weights(copied):
  folder = copied()
  (folder / "model.safetensors").unlink()
  check_refused(folder, "has neither model.safetensors nor .* no checkpoint")


def test_a_file_that_is_not_whole_is_refused(copied):
  folder = copied()
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-1])
  check_refused(folder, "not a safetensors file, or is incomplete")


def with_index(copied, change):
  """A checkpoint in two files, whose index was changed."""
  folder = copied()
  (folder / "model.safetensors").unlink()
  source = checkpoints.make_torch_model("llama")
  source.save_pretrained(folder, max_shard_size="30KB")
  path = folder / hf_files.INDEX
  index = json.loads(path.read_text())
  change(index)
  path.write_text(json.dumps(index))
  return folder


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda x: x.pop("weight_map"), "has no weight_map"),
    (lambda x: x["weight_map"].update(a="b"), "lacks b: download"),
    (
      lambda x: x["weight_map"].update(a=min(x["weight_map"].values())),
      "lacks a, which model.safetensors.index.json lists",
    ),
  ],
)
def test_a_wrong_index_is_refused(copied, change, match):
  check_refused(with_index(copied, change), match)


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("../b", "names '../b', which is not in its folder"),
    ("..", "names '..', which is not in its folder"),
    (".", "names '.', which is not in its folder"),
    ("/etc/passwd", "names '/etc/passwd', which is not in its folder"),
    ("a\0", r"names 'a\x00', which is not in its folder"),
    ("\ud800", r"names '\ud800', which is not in its folder"),
    (3, "names 3, which is not in its folder"),
    ("", "names no file for a: download it again"),
    (None, "names no file for a: download it again"),
    ("sub", "sub is a folder, not a safetensors file"),
    ("pipe", "pipe is a pipe or a device, not a safetensors file"),
  ],
)
def test_an_index_names_files_of_its_folder(copied, name, said):
  folder = with_index(copied, lambda x: x["weight_map"].update(a=name))
  (folder / "sub").mkdir()
  os.mkfifo(folder / "pipe")
  check_refused(folder, re.escape(said))


def hub_folder(folder, name):
  """A checkpoint's folder, without weights that anyone would read."""
  (folder / "config.json").write_text(json.dumps(HUB[name][0]))
  # That a T5 has an output layer is told by its being there.
  safetensors.numpy.save_file(
    {"lm_head.weight": np.zeros(1, np.float32)}, folder / "model.safetensors"
  )
  return folder


@pytest.mark.parametrize(
  "name",
  by_day(
    *(HUB, "llama3_2_1b", "qwen2_5_0_5b", "qwen3_0_6b", "gemma2_2b"),
    *("gemma3_1b", "t5_1_1_small", "flan_t5_small", "byt5_small"),
  ),
)
def test_what_is_on_the_hub_is_understood(tmp_path, name):
  folder = hub_folder(tmp_path, name)
  config = hf_config.read_config(folder)
  size = hf_config.vocab_size(folder)
  model = checkpoints.build_model(config, size)
  leaves = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == HUB[name][1]
  # As `transformers` understands it, and writes it now.
  transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
  written = json.loads((folder / "config.json").read_text())
  assert "rope_theta" not in written
  assert hf_config.read_config(folder) == config


def test_options_of_models_on_the_hub(tmp_path):
  def read(name):
    return hf_config.read_config(hub_folder(tmp_path, name))

  assert read("llama3_1_8b") == DecoderConfig(
    num_layers=32,
    embed_dim=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14336,
    rope_base=500_000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    scale_embeddings=False,
    rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
  )
  qwen2, qwen3 = read("qwen2_5_0_5b"), read("qwen3_8b")
  assert (qwen2.qkv_bias, qwen2.qk_norm) == (True, False)
  assert (qwen3.qkv_bias, qwen3.qk_norm) == (False, True)
  assert qwen2.sliding_window is qwen3.sliding_window is None
  gemma2, gemma3 = read("gemma2_2b"), read("gemma3_1b")
  assert gemma2.local_layers == tuple(range(0, 26, 2))
  assert (gemma2.attention_softcap, gemma2.final_softcap) == (50.0, 30.0)
  assert {*range(26)} - {*gemma3.local_layers} == {5, 11, 17, 23}
  assert (gemma3.rope_base, gemma3.local_rope_base) == (1e6, 1e4)
  assert gemma2.tie_embeddings
  assert gemma3.tie_embeddings


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ({"type": "linear", "factor": 4.0}, RopeScaling("linear", 4.0)),
    (
      {"type": "default", "rope_type": "linear", "factor": 4},
      RopeScaling("linear", 4.0),
    ),
    ({"rope_type": "default"}, None),
    # Without a length of pretraining it is the model's own.
    (
      {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
      RopeScaling("llama3", 8.0, 1.0, 4.0, 2048),
    ),
  ],
)
def test_older_ways_to_stretch_positions(copied, old, new):
  folder = copied("llama_tied")
  change(folder, rope_parameters=None, rope_scaling=old, rope_theta=300)
  config = hf_config.read_config(folder)
  assert config.rope_scaling == new
  assert config.rope_base == 300.0


GIN_FILES = sorted(path.stem for path in (ROOT / "gin/models").glob("*.gin"))


def test_every_size_has_a_gin_file():
  # The third is in gguf_test; the last is no model of its own.
  others = {"tiny", "pretrained", "smollm2_135m", "fitted"}
  assert {*GIN_FILES} - others == {*HUB}


@pytest.mark.parametrize("name", HUB)
def test_a_gin_file_reads_its_checkpoint(tmp_path, name):
  folder = hub_folder(tmp_path, name)
  files = ["gin/runs/quickstart.gin", f"gin/models/{name}.gin"]
  with pytest.raises(UserError, match="CHECKPOINT"):
    parsing.parse(files, [], [])
  given = [f"CHECKPOINT = {str(folder)!r}"]
  model = parsing.parse(files, given, [])[0].model
  assert model == hf_config.read_config(
    folder, "bfloat16", "bfloat16", model.remat
  )
  given += ["DTYPE = 'float32'", "PARAM_DTYPE = 'float32'", "REMAT = True"]
  model = parsing.parse(files, given, [])[0].model
  assert model == hf_config.read_config(folder, remat=True)
