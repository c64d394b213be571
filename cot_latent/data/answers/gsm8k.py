"""Conventions for GSM8K.

The authors' convention is that of openai/grade-school-math at commit 3101c7d
(grade_school_math/dataset.py). For lm-evaluation-harness see `lm_eval`.
"""

import re

from cot_latent.data.answers import checkers, lm_eval
from cot_latent.data.answers.checkers import Convention, Extract

_MARKED = re.compile(r"#### (-?[0-9.,]+)")
# The last character is not part of the number, or else it is its last digit.
_COT_MARKED = re.compile(r"The answer is (-?[0-9.,]+).")
_LAST_NUMBER = re.compile("-?[$0-9.,]{2,}|-?[0-9]+")
_GSM8K_STOPS = ("Question:", "</s>", "<|im_end|>")


def _first(pattern: re.Pattern[str]) -> Extract:
  """Takes the group of the first match."""

  def find(completion: str, question: str) -> str | None:
    del question
    match = pattern.search(completion)
    return None if match is None else match[1]

  return find


def _openai(completion: str, question: str) -> str | None:
  """Takes the number after the first `#### `, without commas.

  A period after it stays: `18.` is not `18`.
  """
  found = _first(_MARKED)(completion, question)
  return None if found is None else _without_commas(found) or None


def _without_commas(text: str) -> str:
  return text.replace(",", "")


def _gsm8k_normal(text: str) -> str:
  """Drops commas, dollar signs, and then one closing period."""
  return text.replace(",", "").replace("$", "").removesuffix(".").lower()


def conventions() -> dict[str, Convention]:
  """Lists the conventions for GSM8K.

  trice: the number in the last <answer>...</answer>; a completion that was
    cut is incorrect.
  openai: the authors' rule, the first "#### ".
  lm_eval_strict: task gsm8k, filter strict-match: the first "#### ", up to
    "Question:".
  lm_eval_flexible: task gsm8k, filter flexible-extract: the last text that
    looks like a number, up to "Question:". An ellipsis looks like one, and
    `18.0` is not `18`. A following question in another form changes it.
  lm_eval_cot_strict: task gsm8k_cot, filter strict-match: the number after
    the first "The answer is ", up to "Q:". It needs a character after the
    number; without one, `18` becomes `1`, and `5` becomes no answer.

  Known answers are numbers as `normalize_number` writes them.

  Reference: Phan et al. 2023, appendix F; the commits above.
  """
  found = [
    Convention(
      "trice",
      lambda completion, question: checkers.answer_tag(completion),
      lambda answer: checkers.normalize_number(answer) or answer,
      scores_cut=False,
    ),
    Convention("openai", _openai, _without_commas),
    lm_eval.convention(
      "lm_eval_strict", _first(_MARKED), _gsm8k_normal, _GSM8K_STOPS
    ),
    lm_eval.convention(
      "lm_eval_flexible",
      lambda completion, question: lm_eval.last(_LAST_NUMBER, completion),
      _gsm8k_normal,
      _GSM8K_STOPS,
    ),
    lm_eval.convention(
      "lm_eval_cot_strict",
      _first(_COT_MARKED),
      _gsm8k_normal,
      lm_eval.COT_STOPS,
    ),
  ]
  return {convention.name: convention for convention in found}
