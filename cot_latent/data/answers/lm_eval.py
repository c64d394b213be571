"""Shared parts of the conventions of lm-evaluation-harness.

Their faults are kept, so that a score can be compared with published scores.
The rules are those of EleutherAI/lm-evaluation-harness at commit 4e7e0d4:
tasks/bbh (cot_zeroshot 3.0, cot_fewshot 4.0), tasks/gsm8k (gsm8k 3.0, gsm8k_cot
3.0).
"""

import re
from collections.abc import Iterable

from cot_latent.data.answers.checkers import Convention, Extract, Normalize

COT_STOPS = ("</s>", "Q:", "<|im_end|>")


def _cut(text: str, stops: Iterable[str]) -> str:
  """Cuts a text at the first of these strings, where a model would stop."""
  for stop in stops:
    text = text.partition(stop)[0]
  return text


def last(pattern: re.Pattern[str], text: str) -> str | None:
  """Returns the last match, or None."""
  found = pattern.findall(text)
  return found[-1] if found else None


def convention(
  name: str,
  find: Extract,
  normalize: Normalize,
  stops: tuple[str, ...],
  needs_question: bool = False,
) -> Convention:
  """Makes a convention: stop strings, one filter, exact_match's changes.

  Args:
    name: Name of the convention.
    find: The filter.
    normalize: What exact_match changes on both sides.
    stops: Strings at which a completion would have stopped.
    needs_question: Whether the filter reads the question.
  """

  def extract(completion: str, question: str) -> str | None:
    found = find(_cut(completion, stops), question)
    return None if found is None else normalize(found.strip()) or None

  return Convention(name, extract, normalize, needs_question)
