"""The forms in which completions state answers, and how each form is scored."""

import re
from collections.abc import Callable
from typing import Literal

from cot_latent.data.answers import bbh as bbh_conventions
from cot_latent.data.answers import checkers
from cot_latent.data.answers import gsm8k as gsm8k_conventions
from cot_latent.data.answers.checkers import Convention, Kind

_BBH_NAME = re.compile(r"^bbh_|_v\d+$")

# "sentence" ends with "So the answer is X."; "tag" with <answer>X</answer>.
Form = Literal["sentence", "tag"]


def close(form: Form, answer: str) -> str:
  """Writes the end of a target: the answer in its form."""
  if form == "sentence":
    return f"So the answer is {answer}."
  return f"<answer>\n{answer}\n</answer>"


def conventions(
  task: str, form: Form, kind: Kind, is_direct: bool
) -> dict[str, Convention]:
  """Lists the ways to score a completion, the one of training first.

  Args:
    task: The registered name; lm-evaluation-harness treats one task of
      BIG-Bench Hard in a way of its own.
    form: Form of an answer after a rationale.
    kind: Kind of the answers.
    is_direct: Whether a completion is the answer and nothing else.

  Returns:
    Conventions by name.
  """
  is_sentence = form == "sentence"
  known = (
    bbh_conventions.conventions(kind, _BBH_NAME.sub("", task))
    if is_sentence
    else gsm8k_conventions.conventions()
  )
  if not is_direct:
    return known
  read = _text_alone if is_sentence else checkers.normalize_number
  return {"direct": own("direct", read)} | known


def own(name: str, extract: Callable[[str], str | None]) -> Convention:
  """Makes a convention from a function that extracts answers."""
  return Convention(
    name=name,
    extract=lambda completion, question: extract(completion),
    normalize=checkers.same,
    scores_cut=False,
  )


def _text_alone(completion: str) -> str | None:
  return completion.strip() or None
