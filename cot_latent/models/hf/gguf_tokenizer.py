"""The tokenizer.json and its settings that are equivalent to a GGUF file's."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gguf

from cot_latent.errors import UserError
from cot_latent.models.hf import gguf_files
from cot_latent.models.hf.gguf_files import File

_KEYS = gguf.Keys.Tokenizer
_KINDS = gguf.TokenType
_SPACE = "\u2581"  # SentencePiece's mark for a space

_DIGITS = r"\p{N}{1,3}"
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN = ("qwen2", "deepseek-r1-qwen")


def read_tokenizer(path: pathlib.Path) -> bytes:
  """Returns the content of a tokenizer.json with the same tokens and ids.

  Raises:
    UserError: If the file cannot be read, has no tokens, or splits texts in an
      unknown way.
  """
  file = gguf_files.open_file(path)
  tokens, kinds = file.read(_KEYS.LIST), file.read(_KEYS.TOKEN_TYPE)
  if not tokens:
    raise UserError(f"VOCABULARY: {path} has no tokens")
  kinds = kinds or [_KINDS.NORMAL] * len(tokens)
  kind = file.read(_KEYS.MODEL)
  if kind == "gpt2":
    parts = _byte_level(file, tokens)
  elif kind == "llama":
    parts = _pieces(file, tokens, kinds)
  else:
    raise UserError(
      f"VOCABULARY: {path}: {_KEYS.MODEL} = {kind!r:.40} is not supported: "
      "expected gpt2 or llama"
    )
  parts["model"]["vocab"] = {
    token: number
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
    if kind != _KINDS.UNUSED
  }
  special = {_KINDS.CONTROL, _KINDS.UNKNOWN}
  added = [
    _added_token(number, token, kind in special)
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
    if kind in special | {_KINDS.USER_DEFINED}
  ]
  content = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": added,
    **parts,
    "post_processor": _begin(file, tokens),
  }
  return json.dumps(content, ensure_ascii=False).encode()


def read_settings(path: pathlib.Path) -> dict[str, Any]:
  """Returns the content of a tokenizer_config.json."""
  file = gguf_files.open_file(path)
  tokens = file.read(_KEYS.LIST) or []
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "add_bos_token": _adds_bos(file),
    "chat_template": file.read(_KEYS.CHAT_TEMPLATE),
  }
  for name, key in (
    ("bos_token", _KEYS.BOS_ID),
    ("eos_token", _KEYS.EOS_ID),
    ("pad_token", _KEYS.PAD_ID),
    ("unk_token", _KEYS.UNK_ID),
  ):
    number = file.read(key)
    if number is not None and number < len(tokens):
      settings[name] = tokens[number]
  return {name: v for name, v in settings.items() if v is not None}


def read_generation(path: pathlib.Path) -> dict[str, Any]:
  """Returns the content of a generation_config.json: the end tokens."""
  read = gguf_files.open_file(path).read
  ends = [read(key) for key in (_KEYS.EOS_ID, _KEYS.EOT_ID, _KEYS.EOM_ID)]
  return {"eos_token_id": [*dict.fromkeys(e for e in ends if e is not None)]}


def _adds_bos(file: File) -> bool:
  found = file.read(_KEYS.ADD_BOS)
  if found is None:
    # The default of llama.cpp.
    return file.read(_KEYS.MODEL) == "llama" or (
      file.read(_KEYS.PRE) in _LLAMA3
    )
  return found


def _added_token(number: int, text: str, is_special: bool) -> dict[str, Any]:
  return {
    "id": number,
    "content": text,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": is_special,
  }


def _byte_level(file: File, tokens: Sequence[str]) -> dict[str, Any]:
  """Makes a tokenizer of byte-level pairs, as in GPT-2."""
  del tokens
  before = file.read(_KEYS.PRE)
  level = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
  }
  if before in (*_LLAMA3, *_QWEN):
    pattern = _WORDS % (_DIGITS if before in _LLAMA3 else r"\p{N}")
    first = {
      "type": "Split",
      "pattern": {"Regex": pattern},
      "behavior": "Isolated",
      "invert": False,
    }
    cuts = [first, level]
  elif before == "smollm":
    digits = {"type": "Digits", "individual_digits": True}
    cuts = [digits, level | {"use_regex": True}]
  elif before == "gpt-2":
    cuts = [level | {"use_regex": True}]
  else:
    raise UserError(
      f"VOCABULARY: {file.path}: {_KEYS.PRE} = {before!r:.40}, the way to "
      "split texts, is not supported: use the model's Hugging Face folder"
    )
  return {
    "normalizer": {"type": "NFC"} if before in _QWEN else None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
    "decoder": level | {"use_regex": True},
    "model": _pairs(
      [merge.split(" ") for merge in file.read(_KEYS.MERGES) or ()],
      ignore_merges=before in _LLAMA3,
    ),
  }


def _pieces(
  file: File, tokens: Sequence[str], kinds: Sequence[int]
) -> dict[str, Any]:
  """Makes a SentencePiece model of pairs; it has scores instead of merges."""
  has_space = file.read(_KEYS.ADD_PREFIX)
  has_space = has_space is None or has_space
  unknown = file.read(_KEYS.UNK_ID)
  normalizers: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
  ]
  decoders: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
  ]
  if has_space:
    normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
    decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
  normal = {
    token: number
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
    if kind == _KINDS.NORMAL
  }
  return {
    "normalizer": {"type": "Sequence", "normalizers": normalizers},
    "pre_tokenizer": None,
    "decoder": {"type": "Sequence", "decoders": decoders},
    "model": _pairs(
      _merges(normal, file.read(_KEYS.SCORES) or [0.0] * len(tokens)),
      unk_token=None if unknown is None else tokens[unknown],
      byte_fallback=_KINDS.BYTE in kinds,
      fuse_unk=True,
    ),
  }


def _merges(
  normal: Mapping[str, int], scores: Sequence[float]
) -> list[list[str]]:
  """Returns pairs of pieces that make another, the highest score first."""
  found = [
    (-scores[number], normal[left], normal[right], left, right)
    for token, number in normal.items()
    for left, right in ((token[:i], token[i:]) for i in range(1, len(token)))
    if left in normal and right in normal
  ]
  return [[left, right] for *_, left, right in sorted(found)]


def _pairs(merges: Sequence[Sequence[str]], **settings) -> dict[str, Any]:
  """Makes a model of pairs without a vocabulary."""
  return {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "vocab": {},
    "merges": merges,
    **settings,
  }


def _begin(file: File, tokens: Sequence[str]) -> dict[str, Any] | None:
  """Returns the part that puts BOS before a text, if the file wants it."""
  number = file.read(_KEYS.BOS_ID)
  if number is None or not _adds_bos(file):
    return None
  bos = tokens[number]
  begin = {"SpecialToken": {"id": bos, "type_id": 0}}
  return {
    "type": "TemplateProcessing",
    "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [
      begin,
      {"Sequence": {"id": "A", "type_id": 0}},
      {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
  }
