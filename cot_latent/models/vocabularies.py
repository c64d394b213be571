"""Tokenizers: their interface for training, and a check for lost text."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cot_latent.errors import UserError

BYTES = "ByteVocabulary"  # prefix of the names of byte vocabularies
_NUM_SPECIAL = 3  # PAD, EOS and UNK of SeqIO's byte vocabulary come first
NUM_BYTES = 256 + _NUM_SPECIAL
_NUM_SHOWN = 8


class ChatTemplate(NamedTuple):
  """A checkpoint's format for conversations.

  Attributes:
    source: The template, in Jinja.
    variables: Special tokens that it may use, such as `bos_token`.
    special: Each special token's text -> its id.
  """

  source: str
  variables: Mapping[str, str]
  special: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """A tokenizer's interface for training.

  Attributes:
    name: Name for the report.
    size: Vocabulary size V.
    eos_id: The token that ends a sequence.
    decode: Token ids without EOS -> text; ids without text are dropped.
    encode: Text -> token ids, without BOS and EOS.
    model: The SentencePiece model or tokenizer.json, or b"" if there is none.
    bos_id: The token that begins every prompt; None if there is none.
    padding_id: The tokenizer's own id that was swapped with 0, which is padding
      here; 0 if none was.
    end_ids: Tokens besides EOS that end a completion: a checkpoint's further
      EOS, and the end of a chat model's turn.
    chat: Format of a conversation; None if the checkpoint has none.
  """

  name: str
  size: int
  eos_id: int
  decode: Callable[[Sequence[int]], str]
  encode: Callable[[str], list[int]]
  model: bytes = b""
  bos_id: int | None = None
  padding_id: int = 0
  end_ids: tuple[int, ...] = ()
  chat: ChatTemplate | None = None

  def decode_rows(self, tokens: np.ndarray) -> list[str]:
    """Decodes [B, T] int32, each row up to its first EOS.

    Example of bytes, which begin at 3; token 1 is EOS and 0 is padding:

      >>> rows = np.array([[107, 108, 1, 109], [109, 0, 0, 0]])
      >>> byte_vocabulary().decode_rows(rows)
      ['hi', 'j']
    """
    return [self.decode(_until_eos(row, self.eos_id)) for row in tokens]


def byte_vocabulary(extra_ids: int = 0) -> Vocabulary:
  """Makes SeqIO's ByteVocabulary, without SeqIO.

  Args:
    extra_ids: Number of ids without text after the bytes; ByT5 has 125.
  """
  return Vocabulary(
    f"{BYTES}(extra_ids={extra_ids})" if extra_ids else BYTES,
    NUM_BYTES + extra_ids,
    1,
    _decode_bytes,
    _encode_bytes,
  )


def sentencepiece_vocabulary(
  name: str,
  model: bytes,
  size: int,
  eos_id: int,
  bos_id: int | None = None,
) -> Vocabulary:
  """Makes a vocabulary of a SentencePiece model, like SeqIO's.

  Args:
    name: Name for the report.
    model: The serialized model.
    size: Vocabulary size V, extra ids included.
    eos_id: The token that ends a sequence.
    bos_id: The token that begins a prompt, if one does.
  """
  return Vocabulary(
    name,
    size,
    eos_id,
    functools.partial(_decode_pieces, model),
    functools.partial(_encode_pieces, model),
    model,
    bos_id,
  )


def check_round_trip(
  encode: Callable[[str], Sequence[int]],
  decode: Callable[[Sequence[int]], str],
  texts: Iterable[tuple[str, str]],
  what: str,
) -> None:
  """Refuses a vocabulary that changes these texts.

  Args:
    encode: Text -> token ids.
    decode: Token ids -> text.
    texts: Pairs of an example's id and a text of it.
    what: The vocabulary and the task, for the message.

  Raises:
    UserError: If a text changes; names the characters that are lost, or the
      place of the first change.
  """

  def survives(text: str) -> bool:
    return decode(list(encode(text))) == text

  broken = [(name, text) for name, text in texts if not survives(text)]
  if not broken:
    return
  # Between letters, because white space at an end is often cut by itself.
  characters = sorted(set().union(*(text for _, text in broken)))
  lost = [c for c in characters if not survives(f"a{c}a")]
  name, text = broken[0]
  if lost:
    shown = " ".join(map(repr, lost[:_NUM_SHOWN]))
    if len(lost) > _NUM_SHOWN:
      shown += f" and {len(lost) - _NUM_SHOWN} more"
    how = f"it loses or changes {shown}"
  else:
    got = decode(list(encode(text)))
    at = next(
      (i for i, (a, b) in enumerate(zip(text, got, strict=False)) if a != b),
      min(len(text), len(got)),
    )
    how = f"{text[max(at - 10, 0) : at + 10]!r} becomes another text"
  raise UserError(
    f"{what}: encoding and decoding changes {len(broken)} of its texts, the "
    f"first that of {name}: {how}; use a vocabulary that keeps them, "
    "such as bytes (VOCABULARY = None)"
  )


def _decode_bytes(tokens: Sequence[int]) -> str:
  kept = (t - _NUM_SPECIAL for t in tokens)
  return bytes(t for t in kept if 0 <= t < 256).decode(errors="ignore")


def _encode_bytes(text: str) -> list[int]:
  return [byte + _NUM_SPECIAL for byte in text.encode()]


@functools.lru_cache(maxsize=8)
def processor(model: bytes):
  """Opens a SentencePiece model.

  Args:
    model: The serialized model.

  Returns:
    A SentencePieceProcessor.
  """
  import sentencepiece

  return sentencepiece.SentencePieceProcessor(model_proto=model)


def are_same_pieces(model: bytes, other: bytes) -> bool:
  """Whether two SentencePiece models are one, in whatever order of fields.

  Args:
    model: A serialized model.
    other: Another one; what is no model equals none.
  """
  if not (model and other):
    return False
  try:
    one, two = processor(model), processor(other)
  except RuntimeError:
    return False
  return one.serialized_model_proto() == two.serialized_model_proto()


def _decode_pieces(model: bytes, tokens: Sequence[int]) -> str:
  pieces = processor(model)
  size, unknown = pieces.GetPieceSize(), pieces.unk_id()
  # Ids after the last piece, SeqIO's extra ids, have no text of their own.
  return pieces.DecodeIds([t if t < size else unknown for t in tokens])


def _encode_pieces(model: bytes, text: str) -> list[int]:
  return processor(model).EncodeAsIds(text)


def _until_eos(row: np.ndarray, eos_id: int) -> list[int]:
  tokens = row.tolist()
  return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
