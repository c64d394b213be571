"""The bytes that each token adds to the decoded text.

A token of a byte-level BPE may be a part of a letter. Then its text alone does
not tell what it adds to a longer text, but its bytes do.

Decoding depends on a token's neighbours in three ways:
- SentencePiece drops a space at the beginning of a text; see `first`.
- Invalid UTF-8 is left out of a text (SeqIO's bytes), or becomes U+FFFD (all
  other vocabularies). The bytes are the same; see `TokenBytes.drops_invalid`.
- `byte_fallback` of a tokenizer.json turns every byte token of an invalid run
  into U+FFFD, even the valid ones. Bytes are counted as they are.

V vocabulary.
"""

import re
from typing import NamedTuple

from cot_latent.models import vocabularies
from cot_latent.models.api import PAD_ID
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.models.vocabularies import Vocabulary

_REPLACED = "\ufffd"  # decoding turns invalid UTF-8 into this
_SPACE = "\u2581"  # SentencePiece's space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes(NamedTuple):
  """The bytes that tokens add to the decoded text.

  Attributes:
    inside: V byte strings that tokens add within a text; empty for a token
      without text.
    first: V byte strings or None that tokens add at the beginning of a text.
      None adds nothing, and the text has still to begin. If `first` itself is
      None, the beginning is like any other place.
    drops_invalid: Whether invalid UTF-8 is left out of the text.
  """

  inside: list[bytes]
  first: list[bytes | None] | None = None
  drops_invalid: bool = False


def token_bytes(vocabulary: Vocabulary) -> TokenBytes:
  """Finds the bytes of every token.

  Args:
    vocabulary: Bytes, a SentencePiece model or a tokenizer.json. In any other
      kind each token is decoded alone, and must not depend on its neighbours.

  Returns:
    The bytes. Padding adds none, whatever the vocabulary.
  """
  if vocabulary.name.startswith(vocabularies.BYTES):
    found = TokenBytes(
      [_of_byte(t) for t in range(vocabulary.size)], drops_invalid=True
    )
  elif vocabulary.name.startswith(hf_tokenizer.KIND):
    found = TokenBytes(_of_tokenizer(vocabulary))
  elif vocabulary.model:
    found = _of_pieces(vocabulary)
  else:
    found = TokenBytes(
      [vocabulary.decode([t]).encode() for t in range(vocabulary.size)]
    )
  found.inside[PAD_ID] = b""
  return found


def _of_byte(token: int) -> bytes:
  first = vocabularies.NUM_BYTES - 256
  return bytes([token - first]) if 0 <= token - first < 256 else b""


def _of_tokenizer(vocabulary: Vocabulary) -> list[bytes]:
  found = []
  for token in range(vocabulary.size):
    text = vocabulary.decode([token])
    # A part of a letter: the token's name in the file has its bytes.
    if _REPLACED in text:
      found.append(_of_name(hf_tokenizer.token_name(vocabulary, token)))
    else:
      found.append(text.encode())
  return found


def _of_name(name: str) -> bytes:
  """Reads the bytes of a token from its name in a tokenizer.json."""
  if is_byte := _BYTE_TOKEN.fullmatch(name):
    return bytes([int(is_byte[1], 16)])
  if all(letter in _BYTE_OF_LETTER for letter in name):
    return bytes(_BYTE_OF_LETTER[letter] for letter in name)
  return name.encode()


def _byte_letters() -> dict[str, int]:
  """Returns the letters by which GPT-2's byte-level BPE writes each byte.

  Printable bytes of Latin-1 stand for themselves; the others are numbered from
  U+0100 on.
  """
  own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  others = [byte for byte in range(256) if byte not in own]
  return {chr(byte): byte for byte in own} | {
    chr(256 + place): byte for place, byte in enumerate(others)
  }


_BYTE_OF_LETTER = _byte_letters()


def _of_pieces(vocabulary: Vocabulary) -> TokenBytes:
  processor = vocabularies.processor(vocabulary.model)
  inside, spaced = [], []
  for token in range(processor.GetPieceSize()):
    piece = processor.IdToPiece(token)
    if processor.IsControl(token):
      inside.append(b"")
    elif processor.IsByte(token):
      inside.append(_of_name(piece))
    elif processor.IsUnknown(token):
      inside.append(vocabulary.decode([token]).encode())
    else:
      inside.append(piece.replace(_SPACE, " ").encode())
      if piece.startswith(_SPACE):
        spaced.append(token)
  # Ids after the last piece are decoded as the unknown token.
  unknown = inside[processor.unk_id()]
  inside += [unknown] * (vocabulary.size - len(inside))
  if not spaced or vocabulary.decode(spaced[:1]).startswith(" "):
    return TokenBytes(inside)
  first: list[bytes | None] = list(inside)
  for token in spaced:
    first[token] = inside[token][1:]
  for token, added in enumerate(first):
    # A token without text may end the beginning, or not.
    if not added and not vocabulary.decode([token, spaced[0]]).startswith(" "):
      first[token] = None
  return TokenBytes(inside, first)
