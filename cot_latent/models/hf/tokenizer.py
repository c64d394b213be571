"""Tokenizers of Hugging Face checkpoints, with padding at id 0.

Ids of a run are the tokenizer's own except two: 0 and the one that pads
change places, so that 0 is padding here as everywhere. Whoever takes weights
over must do the same with rows 0 and `padding_id` of the embedding.

A text is encoded as it would be inside a longer one. So the space that some
tokenizers put before a text (SentencePiece's dummy prefix) is left out, in
decoding too: a target would otherwise begin with a space that the model saw
nowhere else. What a post-processor adds is left out as well. Text that reads
like a special token is text and makes no special token; added tokens that are
not special, such as <think>, are made of their text as everywhere.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cot_latent.errors import UserError
from cot_latent.models.hf import chat_template
from cot_latent.models.hf.tokenizer_files import Checkpoint
from cot_latent.models.vocabularies import ChatTemplate, Vocabulary

KIND = "HuggingFaceVocabulary"


def read_vocabulary(
  checkpoint: Checkpoint, bos: bool | None = None
) -> Vocabulary:
  """Reads a tokenizer.json.

  Args:
    checkpoint: What a folder or GGUF file has.
    bos: Whether prompts begin with BOS; None as the checkpoint's files say.

  Raises:
    UserError: If it cannot be read, if it has no EOS, no token to pad with, or
      no BOS where that is wanted, or if it does not fit config.json.
  """
  path, model = checkpoint.path, checkpoint.tokenizer
  assert model is not None
  try:
    tokenizer = _load(model)
  except Exception as error:  # the library's own kind is Exception
    raise UserError(
      f"VOCABULARY: {path} is not a tokenizer.json ({_one_line(error)})"
    ) from None
  where = f"VOCABULARY: {path}"
  size = checkpoint.size() or tokenizer.size
  over = [t for t in tokenizer.ids.values() if t >= size]
  if not tokenizer.special.issuperset(over):
    raise UserError(
      f"{where} has ids up to {max(over)}, and config.json a vocab_size of "
      f"{size}"
    )
  eos_id = _eos_id(where, checkpoint, tokenizer)
  bos_id, wants_bos = _bos_id(where, checkpoint, tokenizer, bos)
  ends = _ends(checkpoint, tokenizer, size) - {eos_id}
  template = checkpoint.chat_template or ""
  written = {t for t in tokenizer.special if tokenizer.text_of(t) in template}
  padding_id = _padding_id(
    where, checkpoint, tokenizer, size, {eos_id, bos_id, *ends, *written}
  )
  # One that pads is never drawn.
  end_ids = swap(sorted(ends - {padding_id}), padding_id)
  for name, found in (("EOS", eos_id), ("BOS", bos_id)):
    if found is not None and found >= size:
      raise UserError(
        f"{where} has {name} id {found}, and config.json a vocab_size of {size}"
      )
  if not wants_bos:
    bos_id = None
  parts = [f"sha256 {hashlib.sha256(model).hexdigest()[:16]}", f"EOS {eos_id}"]
  if bos_id is not None:
    parts.append(f"BOS {bos_id}")
  parts.append(f"padding {padding_id}")
  if end_ids:
    parts.append(f"ends {' '.join(map(str, swap(end_ids, padding_id)))}")
  vocabulary = make_vocabulary(
    f"{KIND}({', '.join(parts)})",
    model,
    size,
    swap([eos_id], padding_id)[0],
    None if bos_id is None else swap([bos_id], padding_id)[0],
    padding_id,
    end_ids,
  )
  vocabulary = dataclasses.replace(
    vocabulary, chat=_chat(checkpoint, tokenizer, padding_id)
  )
  once = vocabulary.encode("a")
  if vocabulary.decode([*once, *once]) != vocabulary.decode(once) * 2:
    raise UserError(
      f"{where} makes another text of two texts in a row than of each alone, "
      "and a target continues its prompt"
    )
  return vocabulary


def make_vocabulary(
  name: str,
  model: bytes,
  size: int,
  eos_id: int,
  bos_id: int | None,
  padding_id: int,
  end_ids: Sequence[int] = (),
) -> Vocabulary:
  """Makes a vocabulary of a tokenizer.json.

  Args:
    name: What it is, for the report.
    model: The file's content; it is not looked into before it is used.
    size: V.
    eos_id: The token that ends a sequence, as a run has it.
    bos_id: Likewise the one that begins a prompt, if one does.
    padding_id: The tokenizer's own id that changes places with 0.
    end_ids: Tokens besides EOS that end a completion, as a run has them.
  """
  ends = frozenset(
    swap([eos_id, *([] if bos_id is None else [bos_id]), 0], padding_id)
  )
  return Vocabulary(
    name=name,
    size=size,
    eos_id=eos_id,
    decode=functools.partial(_decode, model, ends, padding_id),
    encode=functools.partial(_encode, model, ends, padding_id),
    model=model,
    bos_id=bos_id,
    padding_id=padding_id,
    end_ids=tuple(end_ids),
  )


def unknown_id(vocabulary: Vocabulary) -> int | None:
  """What stands for text that a tokenizer.json has no token for, if any."""
  found = _load(vocabulary.model).unknown
  return None if found is None else swap([found], vocabulary.padding_id)[0]


def token_name(vocabulary: Vocabulary, token: int) -> str:
  """What a tokenizer.json calls a token; "" where it has none."""
  own = swap([token], vocabulary.padding_id)
  return _load(vocabulary.model).text_of(own[0])


def special_ids(vocabulary: Vocabulary) -> frozenset[int]:
  """The ids of a tokenizer.json's special tokens, as a run has them."""
  own = sorted(_load(vocabulary.model).special)
  return frozenset(swap(own, vocabulary.padding_id))


def swap(ids: Sequence[int], padding_id: int) -> list[int]:
  """Lets 0 and the padding id change places; its own inverse."""
  places = {0: padding_id, padding_id: 0}
  return [places.get(t, t) for t in ids]


class _Tokenizer:
  """A tokenizer.json as it is used here, with ids of its own.

  Attributes:
    ids: Token -> id.
    size: One more than the highest id.
    special: The ids of added tokens that are special.
    unknown: The id that stands for text without a token, if any.
    front: What its post-processor puts before a text.
  """

  def __init__(self, model: bytes):
    import tokenizers

    content = json.loads(model)
    if not isinstance(content, dict):
      raise ValueError("not an object")
    for name in ("normalizer", "pre_tokenizer", "decoder"):
      content[name] = _without_space(content.get(name))
    # Left by a training script: what is cut, and pieces drawn at random.
    for holder, name in (
      (content, "truncation"),
      (content, "padding"),
      (content.get("model"), "dropout"),
    ):
      if isinstance(holder, dict) and name in holder:
        holder[name] = None
    self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    self._tokenizer.encode_special_tokens = True
    self.ids = self._tokenizer.get_vocab(with_added_tokens=True)
    for token in content.get("added_tokens") or ():
      # The library numbers them anew where the file leaves a gap.
      if self.ids.get(token["content"]) != token["id"]:
        raise ValueError(
          f"the added token {token['content']!r:.40} cannot have id "
          f"{token['id']}"
        )
    self.size = max(self.ids.values(), default=-1) + 1
    added = self._tokenizer.get_added_tokens_decoder()
    self.special = {t for t, token in added.items() if token.special}
    self.unknown = _unknown_id(content["model"], self.ids)
    whole = self._tokenizer.encode("a")
    is_added = zip(whole.ids, whole.special_tokens_mask, strict=True)
    self.front = [t for t, _ in itertools.takewhile(lambda x: x[1], is_added)]

  def encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    return self._tokenizer.decode(ids, skip_special_tokens=False)

  def special_texts(self) -> list[str]:
    return [self.text_of(token) for token in sorted(self.special)]

  def text_of(self, token: int) -> str:
    return self._tokenizer.id_to_token(token) or ""


class _Codec:
  """What a vocabulary does with its tokenizer's own ids.

  Attributes:
    tokenizer: The tokenizer.
  """

  def __init__(self, model: bytes, ends: frozenset[int]):
    self.tokenizer = _load(model)
    self._silent = self.tokenizer.special | ends
    if self.tokenizer.unknown is not None:
      self._silent.add(self.tokenizer.unknown)
    # After the first letter of what reads like a special token.
    names = filter(None, map(self.tokenizer.text_of, sorted(self._silent)))
    self._cut = re.compile("|".join(f"(?={re.escape(n)})" for n in names))

  def encode(self, text: str) -> list[int]:
    ids = self.tokenizer.encode(text)
    if self._silent.isdisjoint(ids):
      return ids
    # Unigram models have special tokens among their pieces.
    places = [match.start() + 1 for match in self._cut.finditer(text)]
    parts = itertools.pairwise([0, *places, len(text)])
    return [t for a, b in parts for t in self.tokenizer.encode(text[a:b])]

  def decode(self, ids: Sequence[int]) -> str:
    return self.tokenizer.decode([t for t in ids if t not in self._silent])


# By content: each task of a mixture opens the vocabulary again.
_load = functools.lru_cache(maxsize=8)(_Tokenizer)
_codec = functools.lru_cache(maxsize=8)(_Codec)


def _encode(
  model: bytes, ends: frozenset[int], padding_id: int, text: str
) -> list[int]:
  return swap(_codec(model, ends).encode(text), padding_id)


def _decode(
  model: bytes, ends: frozenset[int], padding_id: int, tokens: Sequence[int]
) -> str:
  own = swap([int(t) for t in tokens], padding_id)
  return _codec(model, ends).decode(own)


def _without_space(part):
  """Rewrites a part of tokenizer.json to put no space before a text.

  Args:
    part: A normalizer, pre-tokenizer or decoder; None is none.
  """
  if not isinstance(part, dict):
    return part
  for name in ("normalizers", "pretokenizers", "decoders"):
    if name in part:
      inner = part[name]
      # Metaspace splits by itself, and would miss the spaces of T5.
      if any(p["type"] == "Metaspace" for p in inner):
        inner = [p for p in inner if p["type"] != "WhitespaceSplit"]
      inner = [_without_space(p) for p in inner]
      return part | {name: [p for p in inner if p is not None]}
  match part["type"]:
    case "Prepend":
      return None
    case "Strip" if part.get("content") == " ":  # the decoder of this name
      return part | {"start": 0}
    case "Metaspace":
      kept = {k: v for k, v in part.items() if k != "add_prefix_space"}
      return kept | {"prepend_scheme": "never"}
    case "ByteLevel":
      return part | {"add_prefix_space": False}
  return part


def _unknown_id(model: Mapping[str, Any], ids: Mapping[str, int]) -> int | None:
  """The id for unknown text, which Unigram names by its place."""
  if model.get("type") == "Unigram" or "unk_id" in model:
    return model.get("unk_id")
  return ids.get(model.get("unk_token") or "")


def _eos_id(where: str, checkpoint: Checkpoint, tokenizer: _Tokenizer) -> int:
  name = checkpoint.token("eos_token")
  ends = checkpoint.eos_ids()
  found = next(iter(ends), None) if name is None else tokenizer.ids.get(name)
  if found is not None:
    return found
  if name is not None:
    raise UserError(f"{where} has no token {name!r:.40}, its eos_token")
  raise UserError(
    f"{where} has no EOS: name an eos_token in tokenizer_config.json, or an "
    "eos_token_id in config.json"
  )


def _bos_id(
  where: str, checkpoint: Checkpoint, tokenizer: _Tokenizer, bos: bool | None
) -> tuple[int | None, bool]:
  """Finds BOS, and whether prompts begin with it."""
  if bos is None:
    bos = checkpoint.settings.get("add_bos_token")
  wants = bool(tokenizer.front) if bos is None else bool(bos)
  named = tokenizer.ids.get(checkpoint.token("bos_token") or "")
  found = named if named is not None else next(iter(tokenizer.front), None)
  if wants and found is None:
    raise UserError(
      f"{where}: prompts are to begin with BOS, and no bos_token of "
      "tokenizer_config.json is in it"
    )
  if wants and len(tokenizer.front) > 1:
    raise UserError(
      f"{where} puts {len(tokenizer.front)} tokens before a text; one at most, "
      "BOS, is understood (Source.bos = False puts none)"
    )
  return found, wants


def _ends(checkpoint: Checkpoint, tokenizer: _Tokenizer, size: int) -> set[int]:
  """Special tokens that end a completion: named, or behind a model's turn."""
  found = {*checkpoint.eos_ids()}
  if checkpoint.chat_template is not None:
    end = chat_template.end_of_turn(
      checkpoint.chat_template, checkpoint.tokens(), tokenizer.special_texts()
    )
    if end is not None:
      found.add(tokenizer.ids[end])
  return {end for end in found & tokenizer.special if end < size}


def _chat(
  checkpoint: Checkpoint, tokenizer: _Tokenizer, padding_id: int
) -> ChatTemplate | None:
  """The checkpoint's template, with special tokens as a run has them."""
  if checkpoint.chat_template is None:
    return None
  return ChatTemplate(
    checkpoint.chat_template,
    checkpoint.tokens(),
    {
      text: swap([tokenizer.ids[text]], padding_id)[0]
      for text in tokenizer.special_texts()
    },
  )


def _padding_id(
  where: str,
  checkpoint: Checkpoint,
  tokenizer: _Tokenizer,
  size: int,
  used: Collection[int | None],
) -> int:
  """Chooses what pads: a token that no text makes, or a row without one.

  Args:
    where: The tokenizer's place, for the message.
    checkpoint: What stands beside it.
    tokenizer: The tokenizer.
    size: Rows of the embedding.
    used: EOS, BOS, what else ends a completion, and what a chat template
      writes.
  """
  special = {t for t in tokenizer.special if t < size}
  named = tokenizer.ids.get(checkpoint.token("pad_token") or "")
  if named in special - {*used}:
    assert named is not None
    return named
  unknown = tokenizer.ids.get(checkpoint.token("unk_token") or "")
  left = special - {*used, unknown, tokenizer.unknown}
  if left:
    return max(left)
  if tokenizer.size < size:
    return tokenizer.size
  raise UserError(
    f"{where} has nothing to pad with: no special token besides EOS, BOS, ends "
    "of turns and unknown, and no row of the embedding to spare; name a "
    "pad_token in tokenizer_config.json"
  )


def _one_line(error: Exception) -> str:
  return f"{' '.join(str(error).split()):.100}"
