"""Answers extracted from completions, by plain searches.

A convention defines how an answer is extracted and when it equals the known
answer. A completion without an answer is never correct. Text of a model is
never evaluated, and the time is linear in its length (times that of a
question's options or words, if a convention searches for those).

`bbh_conventions` and `gsm8k_conventions` have the conventions of others.
"""

import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cot_latent.errors import UserError

# A kind of answer: a name in _SHAPES, or a closed set of answers.
Kind = str | tuple[str, ...]
# (completion, question) -> answer or None
Extract = Callable[[str, str], str | None]
Normalize = Callable[[str], str]

_SENTENCES = ("the answer is ", "The answer is ")  # both of the same length
_NUMBER = re.compile(r"\$?(-?)\$?([0-9][0-9,]*)(?:\.([0-9]+))?\$?\.?")
_OPEN, _CLOSE = "<answer>", "</answer>"


def answer_sentence(completion: str) -> str | None:
  """Reads the sentence that must end the completion: "the answer is X."

  Args:
    completion: Text of the model.

  Returns:
    X, or None unless the completion ends with such a sentence (white space
    after it apart) with X on one line.

  Reference: Phan et al. 2023, appendix F (BIG-Bench Hard).

  Example:

    >>> answer_sentence("4 is even. So the answer is Yes.")
    'Yes'
  """
  text = completion.rstrip()
  at = max(text.rfind(sentence) for sentence in _SENTENCES)
  if at < 0 or not text.endswith("."):
    return None
  answer = text[at + len(_SENTENCES[0]) : -1].strip()
  return answer if answer and "\n" not in answer else None


def answer_tag(completion: str) -> str | None:
  """Reads the number in the last <answer>...</answer>.

  Args:
    completion: Text of the model.

  Returns:
    The number as `normalize_number` writes it, or None if there is none.

  Reference: Phan et al. 2023, appendix F (GSM8K).

  Example:

    >>> answer_tag("3 + 4 = 7 <answer>$7.00</answer>")
    '7'
  """
  end = completion.rfind(_CLOSE)
  begin = completion.rfind(_OPEN, 0, end) if end >= 0 else -1
  if begin < 0:
    return None
  return normalize_number(completion[begin + len(_OPEN) : end])


def normalize_number(text: str) -> str | None:
  """Writes a decimal number in one way: `$1,800.50.` becomes `1800.5`.

  Args:
    text: A number in ASCII digits, with an optional minus sign, dollar sign,
      commas in its whole part, fraction and closing period.

  Returns:
    The number without commas and closing zeros, or None if text is no number.

  Example:

    >>> normalize_number("$1,800.50.")
    '1800.5'
  """
  match = _NUMBER.fullmatch(text.strip())
  if match is None:
    return None
  sign, whole, fraction = match.groups(default="")
  whole = whole.replace(",", "").lstrip("0") or "0"
  fraction = fraction.rstrip("0")
  number = f"{whole}.{fraction}" if fraction else whole
  return number if number == "0" else sign + number


CHOICE = re.compile(r"\([A-Z]\)")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_BRACKETS = re.compile(r"[()\[\]{}<>](?: [()\[\]{}<>])*")


def _is_choice(answer: str) -> bool:
  return CHOICE.fullmatch(answer) is not None


def _is_text(answer: str) -> bool:
  return answer.strip() == answer != "" and "\n" not in answer


# The description of each kind, and whether a text can be its answer.
_SHAPES: dict[str, tuple[str, Callable[[str], bool]]] = {
  "choice": ("(A), (B), ...", _is_choice),
  "integer": ("an integer", lambda a: _INTEGER.fullmatch(a) is not None),
  "brackets": ("brackets", lambda a: _BRACKETS.fullmatch(a) is not None),
  "words": ("words", lambda a: " ".join(a.split()) == a != ""),
  "text": ("text", _is_text),
  "choice_or_text": ("(A), (B), ... or text", _is_text),
}


def check_kind(kind: Kind) -> None:
  """Checks that a kind of answer is known.

  Raises:
    UserError: If it is not; lists the known kinds.
  """
  if isinstance(kind, str) and kind in _SHAPES:
    return
  if (
    isinstance(kind, tuple)
    and all(isinstance(a, str) and _is_text(a) for a in kind)
    and len(set(kind)) == len(kind) >= 2
  ):
    return
  raise UserError(
    f"unknown kind of answer {kind!r:.60}: give one of {', '.join(_SHAPES)}, "
    "or the answers themselves, as in ('Yes', 'No')"
  )


def admits(kind: Kind, answer: str) -> bool:
  """Whether a text can be the known answer of a question of this kind.

  Raises:
    UserError: If the kind is unknown.
  """
  check_kind(kind)
  if isinstance(kind, tuple):
    return answer in kind
  return _SHAPES[kind][1](answer)


def describe(kind: Kind) -> str:
  """Describes a kind of answer for a listing: `Yes or No`, `an integer`.

  Raises:
    UserError: If the kind is unknown.
  """
  check_kind(kind)
  if isinstance(kind, tuple):
    return f"{', '.join(kind[:-1])} or {kind[-1]}"
  return _SHAPES[kind][0]


class Convention(NamedTuple):
  """A way to score a completion.

  Attributes:
    name: Name of the convention.
    extract: (completion, question) -> the answer in the convention's normal
      form, or None.
    normalize: Known answer -> the same normal form.
    needs_question: Whether `extract` reads the question.
    scores_cut: Whether a completion cut at the token limit can be correct.
  """

  name: str
  extract: Extract
  normalize: Normalize
  needs_question: bool = False
  scores_cut: bool = True


def is_correct(
  convention: Convention, completion: str, answer: str, question: str = ""
) -> bool:
  """Whether a completion has the known answer.

  Args:
    convention: The rule.
    completion: Text of the model.
    answer: The known answer.
    question: The question; needed if `convention.needs_question`.
  """
  found = convention.extract(completion, question)
  return found is not None and found == convention.normalize(answer)


def same(answer: str) -> str:
  """Returns the answer unchanged: the normal form of an exact comparison."""
  return answer


def check_answers(
  path: pathlib.Path, rows: Iterable[tuple[str, str]], kind: Kind
) -> None:
  """Checks that known answers are of the kind that a task declares.

  Args:
    path: Path of their file.
    rows: Pairs of a row's place and its answer.
    kind: Kind of the answers; see `Kind`.

  Raises:
    UserError: If an answer is of another kind; names the first such row.
  """
  for place, answer in rows:
    if not admits(kind, answer):
      raise UserError(
        f"{path}, {place}: the answer {answer!r:.60} is not "
        f"{describe(kind)}; fix the row, or register the task with "
        "another kind of answer"
      )
