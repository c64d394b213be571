"""Answers read out of completions, by plain searches.

An extractor returns the answer's text, or None where there is none; a
completion is correct when what is extracted equals the known answer, so a
completion without an answer is never correct. Nothing that a model wrote is
evaluated, and the time is linear in its length.
"""

import re

_SENTENCES = ("the answer is ", "The answer is ")  # of one length
_NUMBER = re.compile(r"\$?(-?)\$?([0-9][0-9,]*)(?:\.([0-9]+))?\$?\.?")
_OPEN, _CLOSE = "<answer>", "</answer>"


def answer_sentence(completion: str) -> str | None:
  """Reads the sentence that must end the completion: "the answer is X."

  Args:
    completion: what the model wrote.

  Returns:
    X, or None unless the completion ends with such a sentence (white space
    after it apart) with X on one line.

  Reference: Phan et al. 2023, appendix F (BIG-Bench Hard).
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
    completion: what the model wrote.

  Returns:
    The number as `normalize_number` writes it, or None if there is none.

  Reference: Phan et al. 2023, appendix F (GSM8K).
  """
  end = completion.rfind(_CLOSE)
  begin = completion.rfind(_OPEN, 0, end) if end >= 0 else -1
  if begin < 0:
    return None
  return normalize_number(completion[begin + len(_OPEN) : end])


def normalize_number(text: str) -> str | None:
  """Writes a decimal number in one way: `$1,800.50.` becomes `1800.5`.

  Args:
    text: a number in ASCII digits, with an optional minus sign, dollar sign,
      commas in its whole part, fraction and closing period.

  Returns:
    The number without commas and closing zeros, or None if text is no number.
  """
  match = _NUMBER.fullmatch(text.strip())
  if match is None:
    return None
  sign, whole, fraction = match.groups(default="")
  whole = whole.replace(",", "").lstrip("0") or "0"
  fraction = fraction.rstrip("0")
  number = f"{whole}.{fraction}" if fraction else whole
  return number if number == "0" else sign + number
