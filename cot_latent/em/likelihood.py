"""How likely a rationale makes the known answer: a verdict, or a probability.

`indicator` is 0 or 1: a completion holds its answer, and a checker compares it.
`answer_given_rationale` is p(y|x, z), which the model computes: no checker is
needed, and an answer may be written in many ways.
"""

import dataclasses

from cot_latent.errors import UserError
from cot_latent.runtime.validation import check_positive, check_types


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """A likelihood of 0 or 1, by the task's checker.

  Attributes:
    name: Name for the report.
  """

  name: str = dataclasses.field(default="indicator", init=False)


@dataclasses.dataclass(frozen=True)
class AnswerGivenRationale(Likelihood):
  """The probability of the known answer after the rationale.

  A rationale is what the model writes up to and with `prefix`. The answer's
  tokens and EOS follow, and their probability is l. A rationale that ends
  otherwise (by EOS, another stop string, or the length limit) has l = 0.

  Attributes:
    prefix: Words that end a rationale; None uses those of the task's form,
      "answer is" or "<answer>" with a line break.
    answer: Text after the prefix, with {answer} for the known answer; None uses
      that of the task's form, " {answer}." or the answer and its closing tag.
    num_samples: Rationales drawn for each held-out question at an evaluation.
  """

  name: str = dataclasses.field(default="answer_given_rationale", init=False)
  prefix: str | None = None
  answer: str | None = None
  num_samples: int = 4

  def __post_init__(self):
    check_types(self)
    check_positive(self, "num_samples")
    if self.prefix == "":
      raise UserError("answer_given_rationale.prefix is empty; give some words")
    if self.answer is not None and "{answer}" not in self.answer:
      raise UserError(
        f"answer_given_rationale.answer = {self.answer!r:.60} has no {{answer}}"
      )


def indicator() -> Likelihood:
  """Whether a completion's answer is the known one, by the task's checker."""
  return Likelihood()


def answer_given_rationale(
  prefix: str | None = None, answer: str | None = None, num_samples: int = 4
) -> AnswerGivenRationale:
  """The probability of the known answer after the rationale.

  Args:
    prefix: Words that end a rationale; None uses those of the task's form.
    answer: Text after the prefix, with {answer} for the known answer; None uses
      that of the task's form.
    num_samples: Rationales drawn for each held-out question at an evaluation.

  Raises:
    UserError: If the prefix is empty, or if the answer has no {answer}.

  Example:

    >>> answer_given_rationale("so it is", " {answer}!", num_samples=8)
    AnswerGivenRationale(name='answer_given_rationale', prefix='so it is',
                         answer=' {answer}!', num_samples=8)
  """
  return AnswerGivenRationale(prefix, answer, num_samples)
