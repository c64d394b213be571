"""Tokenizers of Hugging Face checkpoints, with padding at id 0.

The ids of a run are the tokenizer's own, except that 0 and the padding id are
swapped, so that 0 is padding here as everywhere. Weights must be changed in the
same way: rows 0 and `padding_id` of the embedding are swapped.

A text is encoded as it would be inside a longer text. So the space that some
tokenizers put before a text (SentencePiece's dummy prefix) is left out, also in
decoding. Otherwise a target would begin with a space that the model saw nowhere
else. Tokens of a post-processor are left out as well. Text that looks like a
special token is plain text; added tokens that are not special, such as <think>,
are made from their text as everywhere.
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
from cot_latent.models.hf.tokenizer_files import TokenizerFiles
from cot_latent.models.vocabularies import ChatTemplate, Vocabulary

KIND = "HuggingFaceVocabulary"


def read_vocabulary(
  files: TokenizerFiles, bos: bool | None = None
) -> Vocabulary:
  """Reads a tokenizer.json.

  Args:
    files: Files of a folder or GGUF file.
    bos: Whether prompts begin with BOS; None follows the checkpoint's files.

  Raises:
    UserError: If it cannot be read, if it has no EOS, no token for padding, or
      no BOS although one is wanted, or if it does not fit config.json.
  """
  path, model = files.path, files.tokenizer
  assert model is not None
  try:
    tokenizer = _load(model)
  except Exception as error:  # the library raises plain Exceptions
    raise UserError(
      f"VOCABULARY: {path} is not a tokenizer.json ({_one_line(error)})"
    ) from None
  where = f"VOCABULARY: {path}"
  size = files.size() or tokenizer.size
  over = [t for t in tokenizer.ids.values() if t >= size]
  if not tokenizer.special.issuperset(over):
    raise UserError(
      f"{where} has ids up to {max(over)}, but config.json has a vocab_size of "
      f"{size}"
    )
  eos_id = _eos_id(where, files, tokenizer)
  bos_id, wants_bos = _bos_id(where, files, tokenizer, bos)
  ends = _ends(files, tokenizer, size) - {eos_id}
  template = files.chat_template or ""
  written = {t for t in tokenizer.special if tokenizer.text_of(t) in template}
  padding_id = _padding_id(
    where, files, tokenizer, size, {eos_id, bos_id, *ends, *written}
  )
  # A padding token is never drawn.
  end_ids = swap(sorted(ends - {padding_id}), padding_id)
  for name, found in (("EOS", eos_id), ("BOS", bos_id)):
    if found is not None and found >= size:
      raise UserError(
        f"{where} has {name} id {found}, but config.json has a vocab_size of "
        f"{size}"
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
    vocabulary, chat=_chat(files, tokenizer, padding_id)
  )
  once = vocabulary.encode("a")
  if vocabulary.decode([*once, *once]) != vocabulary.decode(once) * 2:
    raise UserError(
      f"{where} decodes tokens differently after other tokens, but a target "
      "must decode in the same way after its prompt"
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
  """Makes a vocabulary from a tokenizer.json.

  Args:
    name: Name for the report.
    model: The file's content; it is read at the first use.
    size: Vocabulary size V.
    eos_id: The run's id of the token that ends a sequence.
    bos_id: The run's id of the token that begins a prompt, if one does.
    padding_id: The tokenizer's own id that is swapped with 0.
    end_ids: The run's ids of further tokens that end a completion.
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
  """Returns the token for text without tokens in a tokenizer.json, if any."""
  found = _load(vocabulary.model).unknown
  return None if found is None else swap([found], vocabulary.padding_id)[0]


def token_name(vocabulary: Vocabulary, token: int) -> str:
  """Returns a token's name in a tokenizer.json; "" if it has none."""
  own = swap([token], vocabulary.padding_id)
  return _load(vocabulary.model).text_of(own[0])


def special_ids(vocabulary: Vocabulary) -> frozenset[int]:
  """Returns the run's ids of a tokenizer.json's special tokens."""
  own = sorted(_load(vocabulary.model).special)
  return frozenset(swap(own, vocabulary.padding_id))


def swap(ids: Sequence[int], padding_id: int) -> list[int]:
  """Swaps 0 and the padding id; its own inverse."""
  places = {0: padding_id, padding_id: 0}
  return [places.get(t, t) for t in ids]


class _Tokenizer:
  """A tokenizer.json, adapted to this package, with its own ids.

  Attributes:
    ids: Token -> id.
    size: One more than the highest id.
    special: Ids of added tokens that are special.
    unknown: Id for text without a token, if any.
    front: Tokens that its post-processor puts before a text.
  """

  def __init__(self, model: bytes):
    import tokenizers

    content = json.loads(model)
    if not isinstance(content, dict):
      raise ValueError("not an object")
    for name in ("normalizer", "pre_tokenizer", "decoder"):
      content[name] = _without_space(content.get(name))
    # Left by a training script: truncation, and pieces drawn at random.
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
      # The library renumbers them if the file leaves a gap.
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
  """A vocabulary's functions, with its tokenizer's own ids.

  Attributes:
    tokenizer: The tokenizer.
  """

  def __init__(self, model: bytes, ends: frozenset[int]):
    self.tokenizer = _load(model)
    self._silent = self.tokenizer.special | ends
    if self.tokenizer.unknown is not None:
      self._silent.add(self.tokenizer.unknown)
    # After the first letter of text that looks like a special token.
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
  """Changes a part of tokenizer.json to put no space before a text.

  Args:
    part: A normalizer, pre-tokenizer or decoder, or None.
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
  """Returns the id for unknown text; Unigram models give its index."""
  if model.get("type") == "Unigram" or "unk_id" in model:
    return model.get("unk_id")
  return ids.get(model.get("unk_token") or "")


def _eos_id(where: str, files: TokenizerFiles, tokenizer: _Tokenizer) -> int:
  name = files.token("eos_token")
  ends = files.eos_ids()
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
  where: str, files: TokenizerFiles, tokenizer: _Tokenizer, bos: bool | None
) -> tuple[int | None, bool]:
  """Finds BOS, and whether prompts begin with it."""
  if bos is None:
    bos = files.settings.get("add_bos_token")
  wants = bool(tokenizer.front) if bos is None else bool(bos)
  named = tokenizer.ids.get(files.token("bos_token") or "")
  found = named if named is not None else next(iter(tokenizer.front), None)
  if wants and found is None:
    raise UserError(
      f"{where}: prompts should begin with BOS, but tokenizer_config.json "
      "names no bos_token that it has"
    )
  if wants and len(tokenizer.front) > 1:
    raise UserError(
      f"{where} puts {len(tokenizer.front)} tokens before a text; only one, "
      "BOS, is supported (Source.bos = False puts none)"
    )
  return found, wants


def _ends(files: TokenizerFiles, tokenizer: _Tokenizer, size: int) -> set[int]:
  """Returns tokens that end a completion, special or not, or a model's turn."""
  found = {*files.eos_ids()}
  if files.chat_template is not None:
    end = chat_template.end_of_turn(
      files.chat_template, files.tokens(), tokenizer.special_texts()
    )
    if end is not None:
      found.add(tokenizer.ids[end])
  return {end for end in found if end < size}


def _chat(
  files: TokenizerFiles, tokenizer: _Tokenizer, padding_id: int
) -> ChatTemplate | None:
  """Returns the checkpoint's template, with the run's ids of special tokens."""
  if files.chat_template is None:
    return None
  return ChatTemplate(
    files.chat_template,
    files.tokens(),
    {
      text: swap([tokenizer.ids[text]], padding_id)[0]
      for text in tokenizer.special_texts()
    },
  )


def _padding_id(
  where: str,
  files: TokenizerFiles,
  tokenizer: _Tokenizer,
  size: int,
  used: Collection[int | None],
) -> int:
  """Chooses the padding: a token that no text makes, or an unused row.

  Args:
    where: The tokenizer's place, for the message.
    files: The checkpoint's files.
    tokenizer: The tokenizer.
    size: Rows of the embedding.
    used: EOS, BOS, other ends of a completion, and the tokens of a chat
      template.
  """
  special = {t for t in tokenizer.special if t < size}
  named = tokenizer.ids.get(files.token("pad_token") or "")
  if named in special - {*used}:
    assert named is not None
    return named
  unknown = tokenizer.ids.get(files.token("unk_token") or "")
  left = special - {*used, unknown, tokenizer.unknown}
  if left:
    return max(left)
  if tokenizer.size < size:
    return tokenizer.size
  raise UserError(
    f"{where} has no token for padding: no special token except EOS, BOS, "
    "ends of turns and unknown, and no unused row of the embedding; name a "
    "pad_token in tokenizer_config.json"
  )


def _one_line(error: Exception) -> str:
  return f"{' '.join(str(error).split()):.100}"
