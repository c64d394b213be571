"""Tokens as a person reads them, of each kind of vocabulary."""

import pytest

from cot_latent.data.seqio_task import wrap_vocabulary
from cot_latent.models import pieces
from cot_latent.tasks import vocabularies
from tests.models.hf import tokenizer_checkpoints as checkpoints


def load(kind):
  folder = checkpoints.folders()[kind]
  return wrap_vocabulary(vocabularies.load(str(folder), None))


@pytest.mark.parametrize("kind", [*checkpoints.MADE, "pieces"])
def test_pieces_add_up_to_the_text(kind):
  vocabulary = load(kind)
  text = "The answer is\n1,800 Quark."
  if kind in checkpoints.LOSES_LETTERS | {"pieces"}:
    text = "The answer is"
  ids = vocabulary.encode(text)
  found = list(pieces.pieces(vocabulary, ids))
  assert [piece.id for piece in found] == ids
  assert not any(piece.is_special for piece in found)
  assert "".join(piece.text for piece in found).removeprefix(" ") == text


@pytest.mark.parametrize(
  ("kind", "name"),
  [("llama_3", "<|begin_of_text|>"), ("gemma", "<bos>"), ("pieces", "</s>")],
)
def test_special_tokens_have_their_names(kind, name):
  vocabulary = load(kind)
  token = vocabulary.eos_id if kind == "pieces" else vocabulary.bos_id
  # What reads like one is text.
  ids = [token, *vocabulary.encode(name)]
  first, *rest = pieces.pieces(vocabulary, ids)
  assert first == (token, name, True)
  if kind != "pieces":
    assert not any(piece.is_special for piece in rest)
  # A part of a letter has no text of its own.
  if kind == "llama_3":
    (byte, *_) = pieces.pieces(vocabulary, vocabulary.encode("\U0001f600"))
    assert byte.text == "\\xf0"
