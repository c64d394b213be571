"""The ends of a sequence: tokens such as EOS, and stop strings in its text.

An automaton (Aho and Corasick 1975) searches the bytes of the decoded text for
stop strings. It is compiled over tokens: whether a stop string is within a
token or across several, the sequence ends with the token that completes it. So
the end is a function of the tokens alone, and sampler, scorer and checker find
the same end.

Most tokens of a large vocabulary have the same effect on the automaton. Such
tokens form one class. A device then stores a class for each token, of one or
two bytes, and a small table of classes x states.

Symbols: B rows, T target tokens, V vocabulary, S states, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cot_latent.errors import UserError
from cot_latent.models.token_bytes import TokenBytes, token_bytes
from cot_latent.models.vocabularies import Vocabulary

Stop = tuple[str, ...]

# First bytes of UTF-8: the number of following bytes, and the next byte's
# range.
_UTF8 = {
  **dict.fromkeys(range(0x00, 0x80), (0, 0, 0)),
  **dict.fromkeys(range(0xC2, 0xE0), (1, 0x80, 0xBF)),
  **dict.fromkeys(range(0xE0, 0xF0), (2, 0x80, 0xBF)),
  **dict.fromkeys(range(0xF0, 0xF5), (3, 0x80, 0xBF)),
  0xE0: (2, 0xA0, 0xBF),
  0xED: (2, 0x80, 0x9F),
  0xF0: (3, 0x90, 0xBF),
  0xF4: (3, 0x80, 0x8F),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
  """Finds stop strings, one token at a time.

  It begins in state 0. The last state is the end, which it never leaves. Two
  automata with the same content are equal.

  Attributes:
    classes: [V] unsigned integers, the class of each token.
    table: [C, S] unsigned integers, the next state.
  """

  classes: np.ndarray
  table: np.ndarray

  def __eq__(self, other):
    return isinstance(other, Automaton) and self._content() == other._content()

  def __hash__(self):
    return hash(self._content())

  @property
  def end(self) -> int:
    """Returns the last state, S - 1."""
    return self.table.shape[1] - 1

  def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns the states after reading tokens [...] in states [...], int32."""
    kind = jnp.asarray(self.classes)[tokens].astype(jnp.int32)
    return jnp.asarray(self.table)[kind, state].astype(jnp.int32)

  def _content(self):
    return self.table.shape, self.table.tobytes(), self.classes.tobytes()


@dataclasses.dataclass(frozen=True)
class Ending:
  """The tokens and strings that end a sequence.

  Attributes:
    ids: Tokens that end it, EOS and others.
    stop: Strings that end it as soon as its text contains one.
    automaton: Finds the strings, and also `ids`; None if there are no strings.

  Example:

    ending = stops.compile_stop(vocabulary, (vocabulary.eos_id,), ("\\n\\n",))
    model = from_config(config, vocabulary.size, ending, max_length)
  """

  ids: tuple[int, ...]
  stop: Stop = ()
  automaton: Automaton | None = None

  def start(self, rows: int) -> jax.Array | None:
    """Returns the state of `advance` for rows without tokens."""
    return None if self.automaton is None else jnp.zeros(rows, jnp.int32)

  def advance(
    self, state: jax.Array | None, tokens: jax.Array
  ) -> tuple[jax.Array | None, jax.Array]:
    """Reads one token of each row.

    Args:
      state: State of the rows.
      tokens: [B] int32, the next tokens.

    Returns:
      The new state; and [B] bool, whether the rows end with these tokens or
      have ended before. (Without stop strings the state is None, and it is
      whether they end with these tokens.)
    """
    if self.automaton is None or state is None:
      return None, self._is_end(tokens)
    state = self.automaton.advance(state, tokens)
    return state, state == self.automaton.end

  def has_end(self, targets: jax.Array) -> jax.Array:
    """Returns [...] bool, whether targets [..., T] int32 have an end."""
    if self.automaton is None:
      return self._is_end(targets).any(axis=-1)
    return self._states(targets)[..., -1] == self.automaton.end

  def mask(self, targets: jax.Array) -> jax.Array:
    """Marks the tokens of a sequence up to and including its end.

    Args:
      targets: [..., T] int32.

    Returns:
      [..., T] bool; all True for a sequence without an end, cut by the limit.
    """
    if self.automaton is None:
      is_end = self._is_end(targets)
      return jnp.cumsum(is_end, axis=-1) - is_end == 0
    return self._states(targets)[..., :-1] != self.automaton.end

  def lengths(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the ends of rows on the host.

    Args:
      targets: [B, T] int32.

    Returns:
      [B] integers, the tokens up to and including the end, T if there is none;
      and [B] bool, whether there is one.
    """
    automaton = self.automaton
    if automaton is None:
      is_end = np.isin(targets, self.ids)
    else:
      is_end = np.zeros(targets.shape, bool)
      state = np.zeros(len(targets), int)
      for place, tokens in enumerate(targets.T):
        state = automaton.table[automaton.classes[tokens], state].astype(int)
        is_end[:, place] = state == automaton.end
    ended = np.asarray(is_end.any(axis=1))
    length = targets.shape[1]
    return np.where(ended, is_end.argmax(axis=1) + 1, length), ended

  def completions(
    self, decode: Callable[[Sequence[int]], str], tokens: np.ndarray
  ) -> tuple[list[str], np.ndarray]:
    """Decodes rows up to their ends.

    Args:
      decode: Token ids -> text, of a vocabulary.
      tokens: [B, T] int32, the rows.

    Returns:
      B texts, each up to the stop string or the end token; and [B] bool,
      whether the row has an end.
    """
    lengths, ended = self.lengths(tokens)
    texts = []
    for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
      if length and row[length - 1] in self.ids:
        length -= 1
      texts.append(before_stop(decode(row[:length]), self.stop))
    return texts, ended

  def _states(self, targets: jax.Array) -> jax.Array:
    """Returns [..., 1 + T] int32, the states before and after tokens."""
    automaton = self.automaton
    assert automaton is not None

    def step(state, tokens):
      state = automaton.advance(state, tokens)
      return state, state

    start = jnp.zeros(targets.shape[:-1], jnp.int32)
    columns = jnp.moveaxis(jnp.asarray(targets), -1, 0)
    _, states = jax.lax.scan(step, start, columns)
    return jnp.moveaxis(jnp.concatenate([start[None], states]), 0, -1)

  def _is_end(self, tokens: jax.Array) -> jax.Array:
    is_end = tokens == self.ids[0]
    for other in self.ids[1:]:
      is_end |= tokens == other
    return is_end


def compile_stop(
  vocabulary: Vocabulary, ids: Sequence[int], stop: Stop
) -> Ending:
  """Compiles the ends of a sequence.

  Args:
    vocabulary: Vocabulary of the sequences.
    ids: Tokens that end a sequence, such as EOS.
    stop: Strings, none of them empty, that end a sequence as soon as its text
      contains one.

  Returns:
    The ending.

  Raises:
    UserError: If the vocabulary cannot write one of the strings.
  """
  for text in stop:
    if text not in vocabulary.decode(vocabulary.encode(f"a{text}a")):
      raise UserError(
        f"STOP: {vocabulary.name} cannot write {text!r}, so that nothing would "
        "end there; choose another string or another VOCABULARY"
      )
  if not stop:
    return Ending(tuple(ids))
  automaton = over_tokens(token_bytes(vocabulary), ids, stop)
  return Ending(tuple(ids), stop, automaton)


def before_stop(text: str, stop: Iterable[str]) -> str:
  """Cuts a text before the stop string that is completed first.

  If one letter completes several, the longest counts.
  """
  ends = [text.find(one) + len(one) for one in stop if one in text]
  if not ends:
    return text
  end = min(ends)
  longest = max(len(one) for one in stop if text[:end].endswith(one))
  return text[: end - longest]


def over_tokens(
  tokens: TokenBytes, ids: Sequence[int], stop: Stop
) -> Automaton:
  """Compiles stop strings to an automaton over tokens.

  Args:
    tokens: The bytes of each of V tokens.
    ids: Tokens that end a sequence whatever the text.
    stop: One or more strings, none of them empty.
  """
  delta = over_bytes([text.encode() for text in stop])
  if tokens.drops_invalid:
    delta = _without_invalid(delta)
  end = len(delta) - 1
  after = _run(delta, range(len(delta)), tokens.inside)
  if tokens.first is not None:
    # One more state at the beginning: nothing has been written.
    starts = [b"" if added is None else added for added in tokens.first]
    begun = _run(delta, [0], starts) + 1
    begun[[added is None for added in tokens.first]] = 0
    after = np.concatenate([begun, after + 1], axis=1)
    end += 1
  after[list(ids)] = end
  rows = after.astype(np.min_scalar_type(end))
  # As byte strings, which NumPy sorts thirty times as fast as rows.
  strings = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
  _, examples, classes = np.unique(
    strings.ravel(), return_index=True, return_inverse=True
  )
  kind = np.min_scalar_type(len(examples) - 1)
  return Automaton(classes.astype(kind), rows[examples])


def over_bytes(stop: Sequence[bytes]) -> np.ndarray:
  """Compiles byte strings to an automaton over bytes.

  Args:
    stop: One or more byte strings, none of them empty.

  Returns:
    [S, 256] integers, the next state. State 0 is the beginning. Each other
    state means that the text ends with a beginning of a stop string; the last
    state is the end.
  """
  begins = {one[:size] for one in stop for size in range(len(one))}
  states = sorted(begins, key=lambda begin: (len(begin), begin))
  number = {begin: place for place, begin in enumerate(states)}
  end = len(states)
  delta = np.zeros((end + 1, 256), int)
  delta[end] = end
  for begin, place in number.items():
    for byte in set(b"".join(stop)):
      text = begin + bytes([byte])
      if text.endswith(tuple(stop)):
        delta[place, byte] = end
      else:
        rests = (text[skipped:] for skipped in range(len(text) + 1))
        delta[place, byte] = next(number[r] for r in rests if r in number)
  return delta


def _without_invalid(delta: np.ndarray) -> np.ndarray:
  """Makes an automaton read a text without bytes that are invalid UTF-8.

  `bytes.decode(errors="ignore")` leaves out the same bytes. A state consists of
  the state at the last letter's end, the state after the bytes of an incomplete
  letter, and how that letter must continue.
  """
  end = len(delta) - 1
  last = (end, end, (0, 0, 0))

  def step(state, byte: int):
    settled, begun, (left, low, high) = state
    if state == last:
      return last
    if left and low <= byte <= high:
      begun, left = int(delta[begun, byte]), left - 1
      rest = (left, 0x80, 0xBF)
    elif byte in _UTF8:  # the incomplete letter was invalid
      begun, rest = int(delta[settled, byte]), _UTF8[byte]
    else:
      return settled, settled, (0, 0, 0)
    if rest[0]:
      return settled, begun, rest
    return begun, begun, (0, 0, 0)

  return _listed((0, 0, (0, 0, 0)), last, step)


def _listed(
  first: Any, last: Any, step: Callable[[Any, int], Any]
) -> np.ndarray:
  """Numbers an automaton's states as they are found; the end is last."""
  number, found, rows = {first: 0}, [first], []
  for state in found:
    after = [step(state, byte) for byte in range(256)]
    for one in after:
      if one != last and one not in number:
        number[one] = len(found)
        found.append(one)
    rows.append(after)
  number[last] = len(found)
  rows.append([last] * 256)
  return np.array([[number[one] for one in row] for row in rows])


def _run(
  delta: np.ndarray, start: Sequence[int], texts: Sequence[bytes]
) -> np.ndarray:
  """[V, len(start)] states after each of V texts, begun in those of `start`."""
  lengths = np.array([len(text) for text in texts])
  content = np.frombuffer(b"".join(texts), np.uint8)
  # The longest texts first, so that unfinished texts are always the first.
  order = np.argsort(-lengths, kind="stable")
  begins = (np.cumsum(lengths) - lengths)[order]
  following = delta.astype(np.int32).ravel()
  states = np.tile(np.array(start, np.int32)[:, None], (1, len(texts)))
  for place in range(lengths.max(initial=0)):
    some = np.count_nonzero(lengths > place)
    read = content[begins[:some] + place]
    states[:, :some] = following[states[:, :some] * 256 + read]
  unsorted = np.empty((len(texts), len(states)), np.int32)
  unsorted[order] = states.T
  return unsorted
