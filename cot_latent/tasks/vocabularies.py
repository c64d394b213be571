"""SeqIO vocabularies: bytes, SentencePiece and Hugging Face checkpoints."""

import pathlib

import numpy as np
import seqio
import tensorflow as tf

from cot_latent.errors import UserError
from cot_latent.models.hf import gguf_files, packaged, tokenizer_files
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.models.vocabularies import Vocabulary

BYTES = seqio.ByteVocabulary(extra_ids=0)


class HuggingFaceVocabulary(seqio.Vocabulary):
  """A tokenizer.json, with padding at id 0; see `models/hf/tokenizer.py`.

  Attributes:
    wrapped: The vocabulary as training uses it, which does the work.
  """

  def __init__(self, wrapped: Vocabulary):
    """Wraps the vocabulary from `models.hf.tokenizer.read_vocabulary`."""
    super().__init__()
    self.wrapped = wrapped

  @property
  def bos_id(self) -> int | None:
    """Returns the first token of every prompt; `encode` does not add it."""
    return self.wrapped.bos_id

  @property
  def eos_id(self) -> int:
    """Returns the token that ends a target."""
    return self.wrapped.eos_id

  @property
  def unk_id(self) -> int | None:
    """Returns the token for unknown text; None if all text has tokens."""
    return hf_tokenizer.unknown_id(self.wrapped)

  @property
  def padding_id(self) -> int:
    """Returns the tokenizer's own padding id, which was swapped with 0."""
    return self.wrapped.padding_id

  @property
  def _base_vocab_size(self) -> int:
    return self.wrapped.size

  def _encode(self, s: str) -> list[int]:
    return self.wrapped.encode(s)

  def _decode(self, ids) -> str:
    return self.wrapped.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    """Encodes one string; [T] int32."""

    def encode(text: bytes) -> np.ndarray:
      return np.asarray(self.wrapped.encode(text.decode()), np.int32)

    ids = tf.numpy_function(encode, [s], tf.int32)
    ids.set_shape([None])
    return ids

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Decodes [..., T] int32."""

    def decode(rows: np.ndarray) -> np.ndarray:
      texts = [
        self.decode(row.tolist()).encode()
        for row in rows.reshape(-1, rows.shape[-1])
      ]
      return np.array(texts, object).reshape(rows.shape[:-1])

    texts = tf.numpy_function(decode, [ids], tf.string)
    texts.set_shape(ids.shape[:-1])
    return texts

  def __eq__(self, other):
    return isinstance(other, HuggingFaceVocabulary) and all(
      getattr(self.wrapped, name) == getattr(other.wrapped, name)
      for name in ("model", "size", "eos_id", "bos_id", "padding_id")
    )

  def __hash__(self):
    return hash(self.wrapped.model)

  def __str__(self) -> str:
    return self.wrapped.name


class HuggingFacePieces(seqio.SentencePieceVocabulary):
  """A checkpoint's SentencePiece model, without the space before a text."""

  def __init__(
    self, path: pathlib.Path, size: int | None = None, bos_id: int | None = None
  ):
    """Opens the model.

    Args:
      path: Path of the model's file.
      size: Vocabulary size V; None is the number of pieces.
      bos_id: First token of every prompt, if prompts begin with BOS.
    """
    spec = seqio.vocabularies.sentencepiece_model_pb2.NormalizerSpec(
      add_dummy_prefix=False
    )
    super().__init__(str(path), normalizer_spec_overrides=spec)
    self._size, self._bos_id = size, bos_id

  @property
  def bos_id(self) -> int | None:
    """Returns the first token of every prompt; `encode` does not add it."""
    return self._bos_id

  @property
  def padding_id(self) -> int:
    """Returns 0, because padding is at 0 already."""
    return 0

  @property
  def vocab_size(self) -> int:
    """Returns the embedding's number of rows; it may exceed that of pieces."""
    return self._size or self._base_vocab_size


def load(path: str | None, bos: bool | None = None) -> seqio.Vocabulary:
  """Loads a vocabulary.

  Args:
    path: Path of a SentencePiece model, of a Hugging Face checkpoint's folder
      or its tokenizer.json, or of a GGUF file; None is bytes.
    bos: Whether prompts begin with BOS; None follows the checkpoint's files.

  Raises:
    UserError: If the file is missing or no vocabulary, has other ids of padding
      and EOS than SeqIO needs, or has no BOS where `bos` asks for one.
  """
  place = None if path is None else packaged.locate(path)
  if place is not None and not place.exists():
    raise UserError(f"VOCABULARY: there is no file {path}")
  if place is not None and (
    place.is_dir() or place.suffix in (".json", gguf_files.SUFFIX)
  ):
    extra_ids = tokenizer_files.byte_extra_ids(place)
    if extra_ids is not None and not bos:
      return seqio.ByteVocabulary(extra_ids=extra_ids)
    files = tokenizer_files.read_files(place)
    if files.pieces is not None:
      return _load_pieces(files, files.pieces, bos)
    return HuggingFaceVocabulary(hf_tokenizer.read_vocabulary(files, bos))
  if bos:
    raise UserError(
      f"Source.bos: {'bytes have' if path is None else f'{path} has'} no BOS, "
      "as only the folder of a checkpoint (VOCABULARY) can have"
    )
  if path is None:
    return BYTES
  return _check_pieces(path, seqio.SentencePieceVocabulary(path))


def _load_pieces(
  files: tokenizer_files.TokenizerFiles, path: pathlib.Path, bos: bool | None
) -> seqio.Vocabulary:
  """Loads a checkpoint's SentencePiece model."""
  alone = HuggingFacePieces(path)
  tokenizer = _check_pieces(str(path), alone).tokenizer
  size, num_pieces = files.size(), tokenizer.GetPieceSize()
  if size is not None and size < num_pieces:
    raise UserError(
      f"VOCABULARY: {path} has {num_pieces} pieces, and config.json a "
      f"vocab_size of {size}"
    )
  if bos is None:
    bos = bool(files.settings.get("add_bos_token"))
  if bos and tokenizer.bos_id() < 0:
    raise UserError(
      f"VOCABULARY: {path}: prompts must begin with BOS, and it has none"
    )
  return HuggingFacePieces(path, size, tokenizer.bos_id() if bos else None)


def _check_pieces(
  path: str, vocabulary: seqio.SentencePieceVocabulary
) -> seqio.SentencePieceVocabulary:
  try:
    tokenizer = vocabulary.tokenizer
  except Exception as error:  # protobuf and SentencePiece have their own kinds
    raise UserError(
      f"VOCABULARY: {path} is not a SentencePiece model ({error!s:.100})"
    ) from None
  if (tokenizer.pad_id(), tokenizer.eos_id()) != (0, 1):
    raise UserError(
      f"VOCABULARY: {path} has pad id {tokenizer.pad_id()} and EOS id "
      f"{tokenizer.eos_id()}; SeqIO needs 0 and 1 (spm_train --pad_id=0 "
      "--eos_id=1 --unk_id=2), or a tokenizer.json beside it"
    )
  return vocabulary
