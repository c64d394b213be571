"""Tokens become the text that SeqIO would make of them, and none is lost."""

import functools
import pathlib

import hypothesis
import numpy as np
import pytest
import seqio
from hypothesis import strategies as st

from cot_latent.data import prompts
from cot_latent.data.seqio_task import wrap_vocabulary
from cot_latent.errors import UserError
from cot_latent.models import vocabularies
from cot_latent.tasks import vocabularies as seqio_vocabularies
from cot_latent.tasks.datasets import bbh, gsm8k
from tests import asserts
from tests.tasks import pipeline

EOS = 1


@functools.cache
def seqio_vocabulary(name):
  if name == "bytes":
    return seqio_vocabularies.load(None)
  return seqio_vocabularies.load(pipeline.sentencepiece_models()[name])


each_vocabulary = pytest.mark.parametrize(
  "name", ["bytes", "whole", "lacking", "folding"]
)


def check_decode(decode_rows, vocabulary):
  """Compares with SeqIO's own `decode`, on any ids."""

  @hypothesis.given(
    st.lists(
      # Also those after the last one, as padding of V to a round size has.
      st.integers(0, vocabulary.vocab_size + 40) | st.sampled_from([0, EOS, 2]),
      max_size=20,
    )
  )
  def check(ids):
    row = np.array([ids], np.int32)
    assert decode_rows(row) == [vocabulary.decode(ids)]

  check()


@each_vocabulary
def test_any_ids_are_decoded_as_seqio_does(name):
  vocabulary = seqio_vocabulary(name)
  wrapped = wrap_vocabulary(vocabulary)
  check_decode(wrapped.decode_rows, vocabulary)

  def through_eos(rows):
    """Does not stop at EOS."""
    return [
      wrapped.decode([t for t in row if t != EOS]) for row in rows.tolist()
    ]

  with pytest.raises(AssertionError):
    check_decode(through_eos, vocabulary)


@each_vocabulary
def test_texts_are_decoded_as_seqio_does(name):
  """Random ids seldom make letters of several bytes."""
  vocabulary = seqio_vocabulary(name)
  wrapped = wrap_vocabulary(vocabulary)

  @hypothesis.given(
    st.text("ab {}<>\n\u00e9\u4e2d\U0001f600\0", max_size=9), st.integers(0, 9)
  )
  def check(text, cut):
    ids = list(vocabulary.encode(text))[: -cut or None]
    assert wrapped.decode(ids) == vocabulary.decode(ids)

  check()


@each_vocabulary
def test_what_is_known_of_a_vocabulary(name):
  vocabulary = seqio_vocabulary(name)
  wrapped = wrap_vocabulary(vocabulary)
  assert wrapped.size == vocabulary.vocab_size
  assert wrapped.eos_id == vocabulary.eos_id == EOS
  assert (wrapped.bos_id, wrapped.padding_id) == (None, 0)
  for text in ("", "a b", "\u00e9 {}<>\n\0", "</s><pad>"):
    assert wrapped.encode(text) == list(vocabulary.encode(text))
  if name == "bytes":
    assert (wrapped.name, wrapped.size) == ("ByteVocabulary", 259)
    assert wrapped.model == b""
  else:
    path = pipeline.sentencepiece_models()[name]
    assert wrapped.model == pathlib.Path(path).read_bytes()
    assert wrapped.name.startswith("SentencePieceVocabulary(sha256 ")
    assert path not in wrapped.name


def test_other_vocabularies_decode_as_they_do():
  """Extra ids of bytes, and any vocabulary of another library."""
  for vocabulary in (
    seqio.ByteVocabulary(extra_ids=100),
    seqio.PassThroughVocabulary(size=10, eos_id=3),
  ):
    wrapped = wrap_vocabulary(vocabulary)
    assert wrapped.size == vocabulary.vocab_size
    assert wrapped.eos_id == vocabulary.eos_id
    assert wrapped.decode([5, 6]) == vocabulary.decode([5, 6])
  assert wrap_vocabulary(seqio.ByteVocabulary(extra_ids=9)).encode("a") == [100]


def test_extra_ids_after_the_pieces():
  path = pipeline.sentencepiece_models()["whole"]
  vocabulary = seqio.SentencePieceVocabulary(path, extra_ids=20)
  wrapped = wrap_vocabulary(vocabulary)
  assert wrapped.size == vocabulary.vocab_size == 470
  check_decode(wrapped.decode_rows, vocabulary)


def test_rows_are_decoded_up_to_the_first_eos():
  def spell(text):
    return [byte + 3 for byte in text.encode()]

  tokens = [
    [*spell("ab"), EOS, *spell("cd"), EOS],
    [*spell("abcde"), 0],  # cut: no EOS
    [EOS, *spell("abcde")],
    [0, *spell("\u00e9"), EOS, 0, 0],
    [*spell("ab"), 0xC3 + 3, EOS, 0, 0],  # half a letter
  ]
  decoded = vocabularies.byte_vocabulary().decode_rows(
    np.array(tokens, np.int32)
  )
  assert decoded == ["ab", "abcde", "", "\u00e9", "ab"]


def check(name, texts, encode=None):
  vocabulary = seqio_vocabulary(name)
  vocabularies.check_round_trip(
    encode or vocabulary.encode,
    wrap_vocabulary(vocabulary).decode,
    texts,
    f"{name} on task 'toy'",
  )


message_of = functools.partial(asserts.message_of, check)


def test_what_is_lost_is_named():
  texts = [("a/0", "a b"), ("a/1", "a <\n> b{"), ("a/2", "\u00e9 {")]
  assert message_of("lacking", texts) == (
    "lacking on task 'toy': encoding and decoding changes 2 of its "
    "texts, the first that of a/1: it loses or changes '\\n' '<' '>' '{' "
    "'\u00e9'; use a vocabulary that keeps them, such as bytes (VOCABULARY = "
    "None)"
  )
  assert "changes '\\n'; use" in message_of("folding", [("a/0", "a\nb")])
  check("lacking", texts[:1])
  check("whole", texts)
  check("bytes", texts)


def test_not_all_of_very_many_lost_characters_are_listed():
  letters = "".join(map(chr, range(0x4E00, 0x4E00 + 50)))
  text = message_of("lacking", [("a/0", letters)])
  assert f"{' '.join(map(repr, letters[:8]))} and 42 more;" in text


def test_where_white_space_is_folded_is_shown():
  """Each character survives by itself; two spaces do not."""
  text = message_of("folding", [("a/0", "b" * 20 + "  c" + "d" * 20)])
  assert "that of a/0: 'bbbbbbbbb  cdddddddd' becomes another text;" in text
  # At an end.
  assert "'b ' becomes another" in message_of("folding", [("a/0", "b ")])


def no_check(encode, decode, texts, what):
  del encode, decode, texts, what


def by_known_pieces(encode, decode, texts, what):
  """Looks for the id of unknown letters, which folding does not need."""
  del decode
  for name, text in texts:
    if 2 in encode(text):
      raise UserError(f"{what}: {name}")


@pytest.mark.parametrize("broken", [no_check, by_known_pieces])
def test_broken_checks_are_rejected(broken, monkeypatch):
  monkeypatch.setattr(vocabularies, "check_round_trip", broken)
  with pytest.raises(pytest.fail.Exception):
    test_where_white_space_is_folded_is_shown()


def all_texts(data_dir, task):
  """What the model sees of a task, without TensorFlow."""
  folder = pathlib.Path(data_dir, "bbh")
  rows = bbh.read_rows(folder / "tasks" / f"{task}.json")
  examples = [
    *bbh.make_examples(task, rows, "train"),
    *bbh.make_examples(task, rows, "test"),
  ]
  for row in examples:
    for name in ("prior", "guide"):
      yield row["id"], prompts.PAPER.fill(name, row)
    yield row["id"], row["targets"]
  exemplars = bbh.read_exemplars(folder / "cot-prompts" / f"{task}.txt")
  for name in ("prior", "guide"):
    yield "exemplars", prompts.PAPER.prefix(name, exemplars)


def test_a_whole_vocabulary_keeps_all_27_tasks(data_dir):
  for task in bbh.TASKS:
    check("whole", all_texts(data_dir, task))


def test_one_that_lacks_brackets_is_noticed(data_dir):
  text = message_of("lacking", all_texts(data_dir, "dyck_languages"))
  assert "'\\n' '<' '>' '{' '}'; use" in text
  text = message_of("folding", all_texts(data_dir, "dyck_languages"))
  assert "'\\n'; use" in text


def test_a_whole_vocabulary_keeps_gsm8k(data_dir):
  rows = gsm8k.read_rows(pathlib.Path(data_dir, "gsm8k", "test.jsonl"))
  check("whole", [("", row["targets"]) for row in rows[:300]])
  check("whole", [("", row["question"]) for row in rows[:300]])


def load(path):
  with pytest.raises(UserError) as error:
    seqio_vocabularies.load(str(path))
  text = str(error.value)
  assert type(error.value) is UserError
  assert len(text.splitlines()) == 1
  return text


def test_a_model_that_does_not_exist(tmp_path):
  path = tmp_path / "none.model"
  assert load(path) == f"VOCABULARY: there is no file {path}"


@pytest.mark.parametrize(
  "content", [b"", b"garbage", b"\0" * 1000, bytes(range(256)) * 9, None]
)
def test_a_file_that_is_no_model(content, tmp_path):
  if content is None:  # a model that was cut
    content = pathlib.Path(
      pipeline.sentencepiece_models()["whole"]
    ).read_bytes()[:-100]
  path = tmp_path / "bad.model"
  path.write_bytes(content)
  text = load(path)
  assert text.startswith(f"VOCABULARY: {path} is not a SentencePiece model (")


@pytest.mark.parametrize(
  ("settings", "ids"),
  [
    ({"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}, (-1, 2)),
    ({"pad_id": 3, "eos_id": 1, "unk_id": 0, "bos_id": 2}, (3, 1)),
    ({"pad_id": 0, "eos_id": 2, "unk_id": 1}, (0, 2)),
    ({"pad_id": 0, "eos_id": -1, "unk_id": 1}, (0, -1)),
  ],
)
def test_a_model_with_other_special_ids(settings, ids, tmp_path):
  path = tmp_path / "other.model"
  path.write_bytes(pipeline.train_sentencepiece(**settings))
  assert load(path) == (
    f"VOCABULARY: {path} has pad id {ids[0]} and EOS id {ids[1]}; SeqIO needs "
    "0 and 1 (spm_train --pad_id=0 --eos_id=1 --unk_id=2), or a tokenizer.json "
    "beside it"
  )
