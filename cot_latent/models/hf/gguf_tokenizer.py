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
    UserError: If the file cannot be read, has no tokens, splits texts in an
      unknown way, or has a malformed setting; names the setting.
  """
  file = gguf_files.open_file(path)
  tokens = _tokens(file)
  kinds = _numbers(file, _KEYS.TOKEN_TYPE, len(tokens), _KINDS.NORMAL)
  kind = file.read(_KEYS.MODEL)
  if kind == "gpt2":
    parts = _byte_level(file, tokens)
  elif kind == "llama":
    parts = _pieces(file, tokens, kinds)
  else:
    raise _refused(file, _KEYS.MODEL, "gpt2 or llama")
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
  """Returns the content of a tokenizer_config.json.

  Raises:
    UserError: As in `read_tokenizer`.
  """
  file = gguf_files.open_file(path)
  tokens = _tokens(file)
  settings: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "add_bos_token": _adds_bos(file),
  }
  template = file.read(_KEYS.CHAT_TEMPLATE)
  if isinstance(template, str):
    settings["chat_template"] = template
  for name, key in (
    ("bos_token", _KEYS.BOS_ID),
    ("eos_token", _KEYS.EOS_ID),
    ("pad_token", _KEYS.PAD_ID),
    ("unk_token", _KEYS.UNK_ID),
  ):
    if _is_id(number := file.read(key), tokens):
      settings[name] = tokens[number]
  return settings


def read_generation(path: pathlib.Path) -> dict[str, Any]:
  """Returns the content of a generation_config.json: the end tokens."""
  file = gguf_files.open_file(path)
  keys = (_KEYS.EOS_ID, _KEYS.EOT_ID, _KEYS.EOM_ID)
  ends = [file.read(key) for key in keys]
  return {"eos_token_id": [*dict.fromkeys(e for e in ends if type(e) is int)]}


def _refused(file: File, key: str, expected: str) -> UserError:
  """Returns the error about a setting."""
  return UserError(
    f"VOCABULARY: {file.path}: {key} = {file.read(key)!r:.40} is not "
    f"supported: expected {expected}"
  )


def _tokens(file: File) -> list[str]:
  """Reads the texts of the tokens."""
  found = file.read(_KEYS.LIST)
  if found is None or found == []:
    raise UserError(f"VOCABULARY: {file.path} has no tokens")
  if not _is_list(found, str):
    raise _refused(file, _KEYS.LIST, "texts")
  return found


def _numbers(file: File, key: str, length: int, default: float) -> list:
  """Reads a number for each token."""
  found = file.read(key)
  if found is None or found == []:
    return [default] * length
  if not _is_list(found, type(default), int) or len(found) != length:
    raise _refused(file, key, f"{length} numbers, one for each token")
  return found


def _is_list(found: Any, *kinds: type) -> bool:
  return isinstance(found, list) and all(isinstance(x, kinds) for x in found)


def _is_id(found: Any, tokens: Sequence[str]) -> bool:
  return type(found) is int and 0 <= found < len(tokens)


def _id(file: File, key: str, tokens: Sequence[str]) -> int | None:
  """Reads the id of a token; None if there is none."""
  found = file.read(key)
  if found is not None and not _is_id(found, tokens):
    raise _refused(file, key, f"the id of a token, 0 to {len(tokens) - 1}")
  return found


def _flag(file: File, key: str) -> bool | None:
  found = file.read(key)
  if found is not None and not isinstance(found, bool):
    raise _refused(file, key, "true or false")
  return found


def _adds_bos(file: File) -> bool:
  found = _flag(file, _KEYS.ADD_BOS)
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
      _read_merges(file, tokens), ignore_merges=before in _LLAMA3
    ),
  }


def _read_merges(file: File, tokens: Sequence[str]) -> list[list[str]]:
  """Reads pairs of tokens that make another, the first ones first."""
  found = file.read(_KEYS.MERGES)
  if found is None:
    return []
  if not _is_list(found, str):
    raise _refused(file, _KEYS.MERGES, "texts")
  known, pairs = {*tokens}, [merge.split(" ") for merge in found]
  for pair in pairs:
    if len(pair) != 2 or not known.issuperset([*pair, "".join(pair)]):
      raise UserError(
        f"VOCABULARY: {file.path}: {_KEYS.MERGES} has {' '.join(pair)!r:.40}, "
        "which is not two tokens that make a third"
      )
  return pairs


def _pieces(
  file: File, tokens: Sequence[str], kinds: Sequence[int]
) -> dict[str, Any]:
  """Makes a SentencePiece model of pairs; it has scores instead of merges."""
  has_space = _flag(file, _KEYS.ADD_PREFIX) is not False
  unknown = _id(file, _KEYS.UNK_ID, tokens)
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
      _merges(normal, _numbers(file, _KEYS.SCORES, len(tokens), 0.0)),
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
  number = _id(file, _KEYS.BOS_ID, tokens) if _adds_bos(file) else None
  if number is None:
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
