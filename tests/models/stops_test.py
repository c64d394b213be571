"""The automaton over tokens finds what string search finds in the text."""

import functools
import itertools
import time

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from cot_latent.data.seqio_task import wrap_vocabulary
from cot_latent.errors import UserError
from cot_latent.models import stops, vocabularies
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.models.hf import tokenizer_files
from cot_latent.models.token_bytes import TokenBytes, token_bytes
from cot_latent.tasks import vocabularies as seqio_vocabularies
from tests.models.hf import tokenizer_checkpoints
from tests.tasks import pipeline

fixed = hypothesis.settings(
  derandomize=True, deadline=None, max_examples=120, database=None
)

# In tokens' texts, across them, in letters of several bytes, one in another,
# and beginning with the space that SentencePiece drops at the beginning.
STOPS = [
  ("\n\n",),
  ("\nQ:", "\n\n"),
  ("abab", "ba"),
  ("a", "cab"),
  (" b",),
  ("\u00e9\n", "\u4e2d\U0001f600"),
]
# A newline, a byte that begins a letter, a newline.
EDGES = {"bytes": [13, 0xC3 + 3, 13]}
ALPHABET = "\n\n\nQ:ab c\u00e9\u4e2d\U0001f600"
LENGTH = 16


@functools.cache
def vocabulary(name):
  if name == "bytes":
    return vocabularies.byte_vocabulary()
  if name in ("whole", "folding"):  # SentencePiece as SeqIO has it
    model = pipeline.sentencepiece_models()[name]
    return wrap_vocabulary(seqio_vocabularies.load(model))
  if name == "pieces":  # as a checkpoint has it
    folder = tokenizer_checkpoints.folders()[name]
    return wrap_vocabulary(seqio_vocabularies.load(str(folder)))
  folder = tokenizer_checkpoints.folders()[name]
  return hf_tokenizer.read_vocabulary(tokenizer_files.read_files(folder))


VOCABULARIES = [
  *("bytes", "whole", "folding", "pieces"),
  *("llama_3", "qwen", "gemma", "llama_2"),
]
# Their decoders make other bytes of a run that is no UTF-8.
FALLS_BACK = {"gemma", "llama_2"}


def decode(name, tokens):
  """The text, in which bytes that are no UTF-8 spoil no others."""
  if name in FALLS_BACK:
    inside = token_bytes(vocabulary(name)).inside
    return b"".join(inside[t] for t in tokens).decode(errors="replace")
  return vocabulary(name).decode(tokens)


@functools.cache
def ending(name, stop):
  found = vocabulary(name)
  if name == "folding":  # writes no newline, but has bytes
    ids = (found.eos_id,)
    made = stops.over_tokens(token_bytes(found), ids, stop)
    return stops.Ending(ids, stop, made)
  return stops.compile_stop(found, (found.eos_id,), stop)


@functools.cache
def writers(name):
  """Tokens that write letters of the alphabet, or a part of one."""
  used = set(ALPHABET.encode())
  inside = token_bytes(vocabulary(name)).inside
  return [t for t, added in enumerate(inside) if set(added) <= used]


def rows_of(name):
  """Strategy of rows: of texts, of tokens that touch stops, and of any."""
  found = vocabulary(name)
  token = st.one_of(
    st.sampled_from(writers(name)),
    st.sampled_from(writers(name)),
    st.integers(0, found.size - 1),
  )
  return st.lists(
    st.one_of(
      token.map(lambda t: [t]),
      st.text(ALPHABET, max_size=4).map(found.encode),
    ),
    max_size=LENGTH,
  ).map(lambda parts: [*itertools.chain(*parts)][:LENGTH])


def slow_length(name, stop, row):
  """The tokens up to the end, by searching the text after each of them."""
  for place, token in enumerate(row):
    text = decode(name, row[: place + 1])
    if token == vocabulary(name).eos_id or any(one in text for one in stop):
      return place + 1, True
  return len(row), False


def padded(row):
  return np.array([row + [0] * (LENGTH - len(row))], np.int32)


def check_search(name, find, max_examples=120):
  """Checks find(stop, row) -> length, has ended."""

  @hypothesis.settings(fixed, max_examples=max_examples)
  @hypothesis.given(st.sampled_from(STOPS), rows_of(name))
  @hypothesis.example((" b",), vocabulary(name).encode("b"))
  @hypothesis.example(("\n\n",), EDGES.get(name, []))
  def check(stop, row):
    assert find(stop, row) == slow_length(name, stop, row)

  check()


each_vocabulary = pytest.mark.parametrize("name", VOCABULARIES)


@each_vocabulary
def test_the_end_is_that_of_plain_string_search(name):
  def find(stop, row):
    (length,), (ended,) = ending(name, stop).lengths(padded(row))
    return (length if ended else len(row)), ended

  check_search(name, find)


@pytest.mark.parametrize("name", ["bytes", "whole", "llama_3"])
def test_twins_of_the_search_are_rejected(name):
  found = vocabulary(name)

  def whole_tokens(stop, row):
    """Finds a stop only as the tokens that it is encoded as."""
    wanted = [found.encode(one) for one in stop]
    for end in range(1, len(row) + 1):
      tails = [row[max(end - len(one), 0) : end] for one in wanted]
      if row[end - 1] == found.eos_id or any(
        a == b for a, b in zip(tails, wanted, strict=True)
      ):
        return end, True
    return len(row), False

  def by_token(stop, row):
    """Searches each token alone."""
    for place, token in enumerate(row):
      alone = found.decode([token])
      if token == found.eos_id or any(one in alone for one in stop):
        return place + 1, True
    return len(row), False

  def late(stop, row):
    (length,), (ended,) = ending(name, stop).lengths(padded(row))
    return (min(length + 1, len(row)) if ended else len(row)), ended

  # For bytes the first is correct, as long as all are UTF-8.
  for twin in (whole_tokens, by_token, late):
    with pytest.raises(AssertionError):
      check_search(name, twin, max_examples=2000)  # up to the first


@pytest.mark.parametrize(
  ("name", "ignored"),
  [("bytes", {"drops_invalid": False}), ("whole", {"first": None})],
)
def test_twins_that_ignore_how_text_is_decoded_are_rejected(name, ignored):
  eos_id = vocabulary(name).eos_id
  tokens = token_bytes(vocabulary(name))._replace(**ignored)

  def find(stop, row):
    made = stops.over_tokens(tokens, [eos_id], stop)
    (length,), (ended,) = stops.Ending((eos_id,), stop, made).lengths(
      padded(row)
    )
    return (length if ended else len(row)), ended

  with pytest.raises(AssertionError):
    check_search(name, find)


def test_the_beginning_of_a_text_matters_to_sentencepiece_alone():
  begun = {
    name: token_bytes(vocabulary(name)).first is not None
    for name in VOCABULARIES
  }
  assert {name for name, depends in begun.items() if depends} == {
    *("whole", "folding")
  }
  # A space there is not in the text, and so no stop that begins with it.
  for name in ("whole", "folding"):
    found, stop = vocabulary(name), (" b",)
    first = found.encode("b")
    assert found.decode(first) == "b"
    assert found.decode([*first, *first]) == "b b"
    lengths, ended = ending(name, stop).lengths(padded([*first, *first]))
    assert (lengths[0], ended[0]) == (2 * len(first), True)


@each_vocabulary
def test_bytes_of_tokens_make_the_text(name):
  """On tokens of texts, which are UTF-8, and on any where that is so too."""
  found = vocabulary(name)
  tokens = token_bytes(found)
  assert len(tokens.inside) == found.size
  errors = "ignore" if tokens.drops_invalid else "replace"

  def joined(row):
    parts, has_begun = [], tokens.first is None
    for token in row:
      added = tokens.inside[token] if has_begun else tokens.first[token]
      has_begun |= added is not None
      parts.append(added or b"")
    return b"".join(parts).decode(errors=errors)

  @fixed
  @hypothesis.given(
    st.text(max_size=9).map(found.encode)
    if name in FALLS_BACK
    else rows_of(name)
  )
  def check(row):
    # How many U+FFFD a part of a letter makes is the decoder's own affair.
    wanted = found.decode(row).split("\ufffd")
    assert list(filter(None, joined(row).split("\ufffd"))) == list(
      filter(None, wanted)
    )

  check()


# On a device.

AUTOMATIC = [("bytes", STOPS[1]), ("llama_3", STOPS[5]), ("whole", STOPS[4])]


def random_rows(name, number=64):
  chosen = np.random.default_rng(0).choice(writers(name), (number, LENGTH))
  chosen[::5, 7] = vocabulary(name).eos_id
  return chosen.astype(np.int32)


def check_device(ending, rows):
  """Checks loop and mask against the host's lengths."""
  lengths, ended = ending.lengths(rows)
  assert 0 < ended.mean() < 1
  mask = np.asarray(jax.jit(ending.mask)(rows))
  np.testing.assert_array_equal(mask, np.arange(LENGTH) < lengths[:, None])
  state, is_over = ending.start(len(rows)), np.zeros(len(rows), bool)
  for place in range(LENGTH):
    state, is_end = jax.jit(ending.advance)(state, rows[:, place])
    is_over |= np.asarray(is_end)
    np.testing.assert_array_equal(is_over, ended & (lengths <= place + 1))


@pytest.mark.parametrize(("name", "stop"), [*AUTOMATIC, ("bytes", ())])
def test_loop_mask_and_host_agree(name, stop):
  check_device(ending(name, stop), random_rows(name))


def test_any_of_several_tokens_ends():
  rows = random_rows("bytes")
  several = stops.Ending((1, 5, 13))
  check_device(several, rows)
  _, ended = stops.compile_stop(
    vocabulary("bytes"), several.ids, ("\n\n",)
  ).lengths(np.array([[40, 5, 40], [40, 6, 40]]))
  assert ended.tolist() == [True, False]


def test_a_twin_that_ends_late_is_rejected():
  found, rows = ending("bytes", STOPS[1]), random_rows("bytes")

  class Late(stops.Ending):
    def mask(self, targets):
      whole = super().mask(targets)
      return jnp.concatenate([whole[:, :1], whole[:, :-1]], axis=1)

  with pytest.raises(AssertionError):
    check_device(Late(found.ids, found.stop, found.automaton), rows)


# Texts.


def test_the_text_ends_before_the_stop():
  before = functools.partial(stops.before_stop, stop=("\n\n", "abc", "c"))
  assert before("x") == "x"
  assert before("x\n\ny") == "x"
  assert before("\n\n") == ""
  assert before("xabcd\n\n") == "x"  # "c" ends there too, but is shorter
  assert before("xbc") == "xb"
  assert before("x\n\nabc") == "x"


def test_a_stop_that_cannot_be_written_is_refused():
  lacking = wrap_vocabulary(
    seqio_vocabularies.load(pipeline.sentencepiece_models()["lacking"])
  )
  with pytest.raises(UserError, match=r"STOP: .* cannot write '<b>'"):
    stops.compile_stop(lacking, (1,), ("a", "<b>"))


# Size.


@pytest.mark.parametrize("size", [49_152, 150_000])
def test_large_vocabularies_are_compiled_small_and_soon(size):
  rng = np.random.default_rng(0)
  letters = np.frombuffer(b"abcdefgh \n:Q\xe2\x80", np.uint8)
  inside = [
    rng.choice(letters, length).tobytes()
    for length in 1 + rng.poisson(6, size).clip(max=40)
  ]
  began = time.process_time()
  found = stops.over_tokens(TokenBytes(inside), [1], ("\n\n", "\nQ:"))
  assert time.process_time() - began < 3
  assert found.classes.nbytes == size
  assert found.table.nbytes < 200
  tokens = rng.integers(size, size=(200, LENGTH))
  tokens[tokens == 1] = 2
  _, ended = stops.Ending((1,), (), found).lengths(tokens)
  texts = [b"".join(inside[t] for t in row) for row in tokens]
  wanted = [b"\n\n" in text or b"\nQ:" in text for text in texts]
  np.testing.assert_array_equal(ended, wanted)
