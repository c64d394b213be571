"""SeqIO vocabularies of Hugging Face checkpoints."""

import pathlib

import numpy as np
import seqio
import tensorflow as tf

from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.models.vocabularies import Vocabulary


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


class CheckpointPieces(seqio.SentencePieceVocabulary):
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
