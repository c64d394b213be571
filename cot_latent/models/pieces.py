"""Tokens as a person reads them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cot_latent.models import vocabularies
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.models.token_bytes import token_bytes
from cot_latent.models.vocabularies import Vocabulary

_BYTE_SPECIALS = ("<pad>", "</s>", "<unk>")  # SeqIO's names


class Piece(NamedTuple):
  """A token.

  Attributes:
    id: The run's id of the token.
    text: The text that it adds, with bytes that are no letter as escapes; the
      name of a special token or of a token that adds no text.
    is_special: Whether `text` is a name.
  """

  id: int
  text: str
  is_special: bool


def pieces(vocabulary: Vocabulary, tokens: Iterable[int]) -> Iterator[Piece]:
  """Reads tokens one by one.

  Args:
    vocabulary: Vocabulary of the tokens.
    tokens: Ids of the tokens.

  >>> [piece.text for piece in pieces(vocabularies.byte_vocabulary(), [75, 1])]
  ['H', '</s>']
  """
  inside = token_bytes(vocabulary).inside
  special = _special_ids(vocabulary)
  for token in map(int, tokens):
    if inside[token] and token not in special:
      text = inside[token].decode(errors="backslashreplace")
      yield Piece(token, text, is_special=False)
    else:
      yield Piece(token, _name(vocabulary, token), is_special=True)


def _special_ids(vocabulary: Vocabulary) -> frozenset[int]:
  """Returns the ids of special tokens that nevertheless have a text."""
  if vocabulary.name.startswith(hf_tokenizer.KIND):
    return hf_tokenizer.special_ids(vocabulary)
  return frozenset()


def _name(vocabulary: Vocabulary, token: int) -> str:
  name = ""
  if vocabulary.name.startswith(vocabularies.BYTES):
    name = dict(enumerate(_BYTE_SPECIALS)).get(token, "")
  elif vocabulary.name.startswith(hf_tokenizer.KIND):
    name = hf_tokenizer.token_name(vocabulary, token)
  elif vocabulary.model:
    processor = vocabularies.processor(vocabulary.model)
    if token < processor.GetPieceSize():
      name = processor.IdToPiece(token)
  return name or "<no name>"
