"""A damaged or malformed GGUF file ends in one line, whatever is wrong."""

import contextlib
import math
import pathlib
import random
import struct

import numpy as np
import pytest

from cot_latent import cli
from cot_latent.errors import UserError
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import gguf_files, gguf_tokenizer, tokenizer_files
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.models.hf import weights as hf_weights
from tests.asserts import message_of
from tests.reporting.mutations import mutated_bytes, mutated_tree

TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "\u2581", "a", "b", "ab", "<0x0A>"]
KINDS = [2, 3, 3, 3, 1, 1, 1, 1, 6]
# GGUF's numbers of types.
U32, I32, F32, BOOL, STRING, ARRAY, U64, I64 = 4, 5, 6, 7, 8, 9, 10, 11


def llama(**changed):
  """Settings and tensors of a tiny file with a tokenizer of pieces."""
  settings = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 32,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 8,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10_000.0,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": KINDS,
    "tokenizer.ggml.scores": [-float(n) for n in range(len(TOKENS))],
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 3,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.chat_template": "{{ messages[0].content }}</s>",
  }
  tensors = {
    "token_embd.weight": [8, len(TOKENS)],
    "output_norm.weight": [8],
    "rope_freqs.weight": [2],
  }
  block = {"attn_q": [8, 8], "attn_k": [8, 4], "attn_v": [8, 4]}
  block |= {"attn_output": [8, 8], "attn_norm": [8], "ffn_norm": [8]}
  block |= {key: [8, 8] for key in ("ffn_gate", "ffn_up", "ffn_down")}
  tensors |= {f"blk.0.{name}.weight": shape for name, shape in block.items()}
  return {"settings": settings | changed, "tensors": tensors}


def gpt2(**changed):
  """The same with a byte-level tokenizer."""
  tokens = ["<pad>", "<|end|>", "a", "b", "ab"]
  made = llama(
    **{
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "gpt-2",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": [3, 3, 1, 1, 1],
      "tokenizer.ggml.merges": ["a b"],
      "tokenizer.ggml.bos_token_id": 1,
      "tokenizer.ggml.eos_token_id": 1,
      "tokenizer.ggml.padding_token_id": 0,
    }
    | changed
  )
  del made["settings"]["tokenizer.ggml.scores"]
  del made["settings"]["tokenizer.ggml.unknown_token_id"]
  made["tensors"]["token_embd.weight"] = [8, len(tokens)]
  return made


def text(value):
  content = value.encode("utf-8", "surrogatepass")
  return struct.pack("<Q", len(content)) + content


def typed(value):
  """The number of a value's type, and its bytes."""
  match value:
    case bool():
      return BOOL, struct.pack("<?", value)
    case int() if 0 <= value < 2**32:
      return U32, struct.pack("<I", value)
    case int() if -(2**31) <= value < 0:
      return I32, struct.pack("<i", value)
    case int():
      return U64, struct.pack("<Q", value % 2**64)
    case float():
      return F32, struct.pack("<f", value if abs(value) < 3e38 else math.inf)
    case str():
      return STRING, text(value)
    case list():
      parts = [typed(x) for x in value]
      kind = parts[0][0] if parts else U32
      kept = [content for other, content in parts if other == kind]
      head = struct.pack("<IQ", kind, len(kept))
      return ARRAY, head + b"".join(kept)
  return typed([*value]) if isinstance(value, dict) else typed(str(value))


def packed(tree):
  """Bytes of a file. What has no place in one becomes something else."""
  tree = tree if isinstance(tree, dict) else {}
  settings, tensors = (
    part if isinstance(part, dict) else {}
    for part in (tree.get("settings"), tree.get("tensors"))
  )
  head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(settings))]
  for name, value in settings.items():
    kind, content = typed(value)
    head += [text(name), struct.pack("<I", kind), content]
  data = b""
  for name, shape in tensors.items():
    shape = shape if isinstance(shape, list) else [shape]
    sizes = [x % 2**64 for x in shape if type(x) is int]
    head += [text(name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
    head.append(struct.pack("<IQ", 0, len(data)))
    count = min(math.prod(sizes), 1000)
    data += np.ones(count, "<f4").tobytes() + bytes(-4 * count % 32)
  whole = b"".join(head)
  return whole + bytes(-len(whole) % 32) + data


def read(path: pathlib.Path):
  """All that is read of a file: config, tokenizer and weights."""
  files = tokenizer_files.read_files(path)
  vocabulary = hf_tokenizer.read_vocabulary(files)
  config = hf_config.read_config(path)
  size = hf_config.vocab_size(path)
  return vocabulary, hf_weights.load(path, config, size)


def parts_of(path):
  """The same one by one: what one refuses, another may take."""
  yield lambda: hf_config.read_config(path)
  yield lambda: hf_config.accepted_settings(path)
  yield lambda: gguf_tokenizer.read_generation(path)
  yield lambda: hf_tokenizer.read_vocabulary(tokenizer_files.read_files(path))
  yield lambda: [x.get_shape() for x in gguf_files.read_tensors(path).values()]


def written(folder, tree):
  path = folder / "a.gguf"
  path.write_bytes(packed(tree))
  return path


@pytest.mark.parametrize("made", [llama, gpt2])
def test_what_is_mutated_is_read_as_it_is(tmp_path, made):
  vocabulary, params = read(written(tmp_path, made()))
  assert vocabulary.decode(vocabulary.encode("abba")) == "abba"
  assert vocabulary.bos_id == 1
  assert np.asarray(params["embed"]["embedding"]).shape[1] == 8


PIECES = "9 numbers, one for each token"
KEY = "tokenizer.ggml."
MALFORMED = [
  (llama, {f"{KEY}tokens": []}, " has no tokens"),
  (llama, {f"{KEY}tokens": [1, 2]}, "tokens = [1, 2] is not supported: "),
  (llama, {f"{KEY}tokens": "ab"}, "tokens = 'ab' is not supported: expected "),
  (llama, {f"{KEY}token_type": KINDS[1:]}, f"expected {PIECES}"),
  (llama, {f"{KEY}token_type": ["a"] * 9}, f"expected {PIECES}"),
  (llama, {f"{KEY}scores": [0.0] * 8}, f"expected {PIECES}"),
  (llama, {f"{KEY}scores": 1.0}, "scores = 1.0 is not supported: expected 9 "),
  (llama, {f"{KEY}unknown_token_id": 9}, "unknown_token_id = 9 is not support"),
  (llama, {f"{KEY}unknown_token_id": -1}, "-1 is not supported: expected the"),
  (llama, {f"{KEY}bos_token_id": 9}, "bos_token_id = 9 is not supported: exp"),
  (llama, {f"{KEY}bos_token_id": "a"}, "the id of a token, 0 to 8"),
  (llama, {f"{KEY}add_bos_token": 7}, "add_bos_token = 7 is not supported: ex"),
  (llama, {f"{KEY}add_space_prefix": "a"}, "expected true or false"),
  (llama, {f"{KEY}model": [1]}, "model = [1] is not supported: expected gpt2"),
  (gpt2, {f"{KEY}pre": 3}, "pre = 3, the way to split texts, is not supported"),
  (gpt2, {f"{KEY}merges": 3}, "merges = 3 is not supported: expected texts"),
  (gpt2, {f"{KEY}merges": ["ab"]}, "merges has 'ab', which is not two tokens"),
  (gpt2, {f"{KEY}merges": ["a a"]}, "merges has 'a a', which is not two token"),
  (gpt2, {f"{KEY}merges": ["a b c"]}, "merges has 'a b c', which is not two"),
  (gpt2, {f"{KEY}bos_token_id": 5}, "the id of a token, 0 to 4"),
  (gpt2, {"general.architecture": ["llama"]}, "['llama'] is not supported: "),
  (gpt2, {"llama.block_count": 2**31}, "expected 1, the number of layers that"),
  (gpt2, {"llama.embedding_length": [8]}, "= [8] is not supported: expected a"),
  (gpt2, {"llama.attention.head_count": 0}, "= 0 is not supported: expected a"),
]


@pytest.mark.parametrize(("made", "changed", "said"), MALFORMED)
def test_a_malformed_setting_is_named(tmp_path, made, changed, said):
  path = written(tmp_path, made(**changed))
  text = message_of(read, path)
  assert str(path) in text
  assert next(iter(changed)).removeprefix("llama.") in text or "tokens" in said
  assert said in text


@pytest.mark.parametrize(
  ("shape", "said"),
  [
    (None, "a.gguf lacks the tensor token_embd.weight"),
    ([], "the tensor token_embd.weight is [], not a matrix"),
    ([9], "the tensor token_embd.weight is [9], not a matrix"),
    ([8, 0], "the tensor token_embd.weight is [8, 0], not a matrix"),
  ],
)
def test_a_file_without_an_embedding(tmp_path, shape, said):
  tree = llama()
  tree["tensors"]["token_embd.weight"] = shape
  if shape is None:
    del tree["tensors"]["token_embd.weight"]
  path = written(tmp_path, tree)
  for part in (hf_config.read_config, read):
    assert said in message_of(part, path)
  assert "lacks 'vocab_size'" in message_of(hf_config.vocab_size, path)
  # It still has a tokenizer, as llama.cpp's files of vocabularies have.
  files = tokenizer_files.read_files(path)
  assert hf_tokenizer.read_vocabulary(files).size == len(TOKENS)


def test_a_bos_that_is_not_used_may_be_anything(tmp_path):
  changed = {f"{KEY}bos_token_id": 2**32 - 1, f"{KEY}add_bos_token": False}
  vocabulary, _ = read(written(tmp_path, llama(**changed)))
  assert vocabulary.bos_id is None


def test_what_claims_more_than_the_file_has(tmp_path):
  content = packed(llama())
  head = struct.pack("<IQ", U32, len(KINDS))
  assert content.count(head) == 1
  path = tmp_path / "a.gguf"
  path.write_bytes(content.replace(head, struct.pack("<IQ", U32, 2**20)))
  assert "is incomplete (it ends before byte " in message_of(read, path)


def test_text_that_is_not_utf8(tmp_path):
  content = packed(llama(**{"tokenizer.ggml.model": "lla\ud800"}))
  path = tmp_path / "a.gguf"
  path.write_bytes(content)
  said = "tokenizer.ggml.model is not UTF-8 (invalid continuation byte)"
  assert said in message_of(read, path)


def test_the_command_says_it_in_a_line(tmp_path, capsys):
  path = written(tmp_path, llama(**{f"{KEY}unknown_token_id": 9}))
  arguments = ["import", str(path), "--output", f"{tmp_path}/made"]
  assert cli.main(arguments) == 2
  out, err = capsys.readouterr()
  assert (out, err.count("\n")) == ("", 1)
  assert "tokenizer.ggml.unknown_token_id = 9" in err
  assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
  "number", [400, pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_mutations_end_in_a_line(tmp_path, number):
  gguf_files._open.cache_clear()
  for seed in range(number):
    rng = random.Random(seed)
    tree = rng.choice((llama, gpt2))()
    content = packed(tree)
    if rng.random() < 0.7:
      content = packed(mutated_tree(rng, tree))
    else:
      content = mutated_bytes(rng, content)
    path = tmp_path / f"{seed}.gguf"
    path.write_bytes(content)
    for part in parts_of(path):
      try:
        with contextlib.suppress(UserError):
          part()
      except Exception as error:
        raise AssertionError(f"mutation {seed}") from error
    path.unlink()
