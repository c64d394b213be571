"""Conventions for BIG-Bench Hard.

The authors' conventions are those of suzgunmirac/BIG-Bench-Hard at commit
9ee07bd: they reproduce the published accuracies from the published outputs. The
other conventions are described in `lm_eval`.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

from cot_latent.data.answers import checkers, lm_eval
from cot_latent.data.answers.checkers import Convention, Extract, Kind


def _authors(completion: str, question: str) -> str | None:
  """Takes the text after the first marker in its line, without one period.

  No published output has two markers, so the accuracies do not tell which one
  counts. With the first marker, text after the answer changes nothing.
  """
  del question
  _, marker, rest = completion.partition("the answer is ")
  answer = rest.partition("\n")[0].strip().removesuffix(".")
  return answer if marker and answer else None


def _authors_direct(completion: str, question: str) -> str | None:
  """Takes the whole completion, so that any further text makes it incorrect."""
  del question
  return completion if completion.strip() else None


# A capital Q ends a completion, and loses the answer (Q).
_FEWSHOT_STOPS = ("</s>", "Q", "\n\n")
_IGNORED = str.maketrans("", "", ',\\\n"')


def _fewshot_normal(text: str) -> str:
  """Changes nothing, except that NumPy's strings lose closing NULs."""
  return text.rstrip("\0")


def _zeroshot_normal(text: str) -> str:
  """Drops one closing period, commas, backslashes, newlines, quotes, case."""
  text = text.removesuffix(".").translate(_IGNORED).rstrip("\0")
  return text.lower()[: len(text)].rstrip("\0")  # NumPy keeps the length


_STRICT = re.compile(
  r"(?:[Tt]he answer is |The answer: |The final answer: )(.+)"
)
_FEWSHOT = re.compile("the answer is (.+)")


def _line_less_one(pattern: re.Pattern[str]) -> Extract:
  """Takes the rest of the first marker's line without its last character.

  That drops the period, or the end of an answer without one: `(B` for the
  answer (B).
  """

  def find(completion: str, question: str) -> str | None:
    del question
    match = pattern.search(completion)
    return None if match is None else match[1][:-1]

  return find


# Wordings that lm-eval counts as an answer, in lower case.
_PLAUSIBLE = {
  "no": "no",
  "not plausible": "no",
  "yes": "yes",
  "plausible": "yes",
}
_TRUTH = {
  "no": "no",
  "does not tell the truth": "no",
  "is not telling the truth": "no",
  "yes": "yes",
  "tells the truth": "yes",
  "is telling the truth": "yes",
}


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
  return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")


def _last_member(kind: tuple[str, ...]) -> Extract:
  """Takes the last of the answers that is anywhere in the text as a word."""
  lower = ("yes", "no") if set(kind) == {"Yes", "No"} else ()
  pattern = _any_of(kind + lower)
  return lambda completion, question: lm_eval.last(pattern, completion)


def _last_wording(wordings: Mapping[str, str]) -> Extract:
  """Takes the answer whose wording comes last, in any case."""
  pattern = _any_of(wordings)

  def find(completion: str, question: str) -> str | None:
    del question
    found = lm_eval.last(pattern, completion.lower())
    return None if found is None else wordings[found]

  return find


_LAST_BRACKETS = re.compile(r'[" \[(<{}>)\]]+')
_NUMBERS = re.compile("[-0-9]+")


def _last_brackets(completion: str, question: str) -> str | None:
  """Takes the last run of brackets, quotes and spaces, even a single space."""
  del question
  return lm_eval.last(_LAST_BRACKETS, completion)


def _sorted_words(completion: str, question: str) -> str | None:
  """Takes the question's words in the order of their last occurrences.

  Words are taken from anywhere: if the answer leaves one out, it is taken from
  the rationale.
  """
  parts = question.split("List:")
  words = parts[1].split() if len(parts) > 1 else []
  if not words:
    return None
  found = _any_of(words).findall(completion)
  return " ".join(reversed(dict.fromkeys(reversed(found))))


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPTION = re.compile(r"\([A-Z]\)([^\n^(]*)")


def _bare(text: str) -> str:
  """Writes a text in lower case, without punctuation."""
  text = text.lower()
  marks = (c for c in set(text) if unicodedata.category(c).startswith("P"))
  return text.translate(dict.fromkeys(map(ord, marks)))


def _last_choice(completion: str, question: str) -> str | None:
  """Takes the last (X), else the last option's text, else a letter after `:`.

  Options are numbered by their order in the question, whatever their letters.
  """
  found = lm_eval.last(checkers.CHOICE, completion)
  if found is not None:
    return found
  texts = [m[1].strip() for m in _OPTION.finditer(question)]
  options = dict(zip(map(_bare, texts), _LETTERS, strict=False))
  if not options:
    return None
  # An empty option is found after all others, and then no option counts.
  pattern = re.compile("|".join(map(re.escape, options)))
  found = (lm_eval.last(pattern, _bare(completion)) or "").strip()
  if found:
    return f"({options[found]})" if found in options else found
  letters = _LETTERS[: len(texts)]
  letter = lm_eval.last(re.compile(rf":\s*([{letters}])"), completion)
  return None if letter is None else f"({letter})"


_UNITS = "zero|one|two|three|four|five"
_STEMS = "(?:twen|thir|for|fif|six|seven|nine)"
_LARGE = "ten|eleven|twelve|fourteen|hundred|thousand|(?:m|b|tr)illion"
# At the end of a text `six`, `seven`, `eight` and `nine` are not numbers.
# Number words can be parts of other words: `often` is 10.
_NUMERAL = f"{_UNITS}|{_STEMS}(?:teen|ty)|eight(?:een|y)|{_LARGE}"
_SPOKEN = re.compile(
  rf"(?:(?:{_NUMERAL}|eight)"
  rf"(?:{_UNITS}|{_STEMS}(?:teen|ty)?|eight(?:een|y)|{_LARGE}|and"
  # Whitespace as in lm-eval's regex engine.
  r"|(?:[^\S\r\n\x1c-\x1f]|[,&])++)+)?"
  rf"(?:{_NUMERAL})"
)
_ONES = (
  "zero one two three four five six seven eight nine ten eleven twelve "
  "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_ONES.split())}
_VALUES |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
_SCALES = (10**9, 10**6, 10**3)
_VALUES |= {"hundred": 100, "thousand": 10**3, "million": 10**6}
_VALUES |= {"billion": 10**9}


def _group(values: list[int]) -> int:
  """Returns the value of a few number words, as word2number does.

  Raises:
    IndexError: If there are no words.
  """
  if len(values) in (3, 4):
    return values[0] * values[1] + sum(values[2:])
  if len(values) == 2:
    one, other = values
    return one * other if 100 in values else one + other
  return values[0]


def _spoken_number(text: str) -> str | None:
  """Returns the value of a number in words, as word2number does.

  Where word2number fails, lm-eval ends with a traceback; here there is no
  answer. It takes the words after the last scale that words follow, so that
  `one million two thousand` is 1003002.
  """
  values = [_VALUES[word] for word in text.split() if word in _VALUES]
  at = [values.index(s) if s in values else -1 for s in _SCALES]
  present = [place for place in at if place >= 0]
  if any(values.count(scale) > 1 for scale in _SCALES):
    return None
  try:
    if len(values) == 1 or not present:
      return str(_group(values))
    total, begin = 0, 0
    for scale, place in zip(_SCALES, at, strict=True):
      if place >= 0:  # no word is before it if the order is incorrect
        total += scale * _group(values[begin:place])
        begin = place + 1
    followed = [place for place in present if place != len(values) - 1]
    if followed:
      total += _group(values[followed[-1] + 1 :])
    return str(total)
  except IndexError:
    return None


def _last_integer(completion: str, question: str) -> str | None:
  """Takes the last digits and minus signs, else the last number in words.

  So `18.0` gives 0, `1,800` gives 800 and `well-known` gives `-`.
  """
  del question
  found = lm_eval.last(_NUMBERS, completion)
  if found is not None:
    return found
  spoken = lm_eval.last(_SPOKEN, completion.lower())
  return None if spoken is None else _spoken_number(spoken)


def _flexible(kind: Kind, task: str) -> tuple[Extract, bool] | None:
  """Returns the filter flexible-extract, and whether it reads the question."""
  if isinstance(kind, tuple):
    if task == "web_of_lies":
      return _last_wording(_TRUTH), False
    if set(kind) == {"yes", "no"}:  # sports_understanding
      return _last_wording(_PLAUSIBLE), False
    return _last_member(kind), False
  return {
    "choice": (_last_choice, True),
    "choice_or_text": (_last_choice, True),
    "integer": (_last_integer, False),
    "brackets": (_last_brackets, False),
    "words": (_sorted_words, True),
  }.get(kind)


def conventions(kind: Kind, task: str = "") -> dict[str, Convention]:
  """Lists the conventions for BIG-Bench Hard.

  trice: the completion ends with "the answer is X."; it is incorrect if it was
    cut or continues with other text.
  bbh_authors: the rest of the line after the first "the answer is ", even in a
    copy of the question or of an exemplar.
  bbh_authors_direct: the whole completion, for prompts without a rationale.
  lm_eval_strict: bbh_cot_zeroshot, filter strict-match: like bbh_authors with
    three other markers, up to "Q:", in another normal form.
  lm_eval_flexible: bbh_cot_zeroshot, filter flexible-extract: the last text
    that looks like an answer, so that any text before "Q:" can change it. Left
    out for the kind "text", because none of its tasks has that kind.
  lm_eval_fewshot: the group bbh, filter get-answer, up to any "Q" or blank
    line.

  Args:
    kind: Kind of the task's answers.
    task: The task's name in BIG-Bench Hard. It matters for web_of_lies alone,
      whose flexible filter knows other wordings of Yes and No.

  Raises:
    UserError: If the kind is unknown.

  Reference: Phan et al. 2023, appendix F; the commits above.
  """
  checkers.check_kind(kind)
  found = [
    Convention(
      "trice",
      lambda completion, question: checkers.answer_sentence(completion),
      checkers.same,
      scores_cut=False,
    ),
    Convention("bbh_authors", _authors, checkers.same),
    Convention("bbh_authors_direct", _authors_direct, checkers.same),
    lm_eval.convention(
      "lm_eval_strict",
      _line_less_one(_STRICT),
      _zeroshot_normal,
      lm_eval.COT_STOPS,
    ),
  ]
  flexible = _flexible(kind, task)
  if flexible is not None:
    find, needs_question = flexible
    found.append(
      lm_eval.convention(
        "lm_eval_flexible",
        find,
        _zeroshot_normal,
        lm_eval.COT_STOPS,
        needs_question,
      )
    )
  found.append(
    lm_eval.convention(
      "lm_eval_fewshot",
      _line_less_one(_FEWSHOT),
      _fewshot_normal,
      _FEWSHOT_STOPS,
    )
  )
  return {convention.name: convention for convention in found}
