"""How questions are put to the model: templates and worked examples."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from cot_latent.errors import UserError
from cot_latent.runtime.validation import check_positive, check_types

_FIELD = re.compile(r"\{(\w*)\}")


@dataclasses.dataclass(frozen=True)
class Prompts:
  r"""The two prompts from which a rationale is drawn, and their exemplars.

  Attributes:
    prior: The question alone, with the field {question}. Rationales are always
      scored under this prompt.
    guide: The question with its answer as a hint, with the fields {question}
      and {answer}; the memory can be filled from it.
    is_direct: Whether the model answers at once: a target is then the answer
      and nothing else.
    exemplars: Worked examples before each question (few-shot): "none"; "task",
      the task's own (for BIG-Bench Hard, its authors');
      "train", the first questions of `train[:num_exemplars]` with the data's
      rationales (for direct prompts, with answers alone);
      "bootstrapped", which a run draws from its own base model; or the path of
      a JSONL file of `question`, `answer` and `completion`, such as the
      exemplars.jsonl of a run that has bootstrapped them.
    num_exemplars: Maximum number of worked examples.
    separator: Text that ends a worked example, and then also a completion.

  Reference: Phan et al. 2023, section 4 and appendix F.
  """

  prior: str = "Question: {question}\nAnswer: Let's think step by step.\n"
  guide: str = (
    "Question: {question}\n"
    "Answer: The answer is {answer}. Let's think step by step.\n"
  )
  is_direct: bool = False
  exemplars: str = "none"
  num_exemplars: int = 3
  separator: str = "\n\n"

  def __post_init__(self):
    check_types(self)
    check_positive(self, "num_exemplars")
    for name, fields in (
      ("prior", ["question"]),
      ("guide", ["answer", "question"]),
    ):
      found = sorted(set(_FIELD.findall(getattr(self, name))))
      if found != fields:
        wanted = " and ".join(f"{{{field}}}" for field in fields)
        raise UserError(
          f"Prompts.{name} = {getattr(self, name)!r:.80} must have the "
          f"field{'s' * (len(fields) > 1)} {wanted}, and no other"
        )

  @property
  def stop(self) -> tuple[str, ...]:
    """Strings that end a completion: the separator, if there are exemplars."""
    has_stop = self.exemplars != "none" and self.separator
    return (self.separator,) if has_stop else ()

  def split(self, name: str) -> list[str]:
    """Cuts a template: text, field, text, ..., field, text."""
    return _FIELD.split(getattr(self, name))

  def fill(self, name: str, row: Mapping[str, str]) -> str:
    """Writes "prior" or "guide" for one question.

    Example:

      >>> prompts = Prompts("{question}?", "{question}? ({answer})")
      >>> prompts.fill("guide", {"question": "2 + 3", "answer": "5"})
      '2 + 3? (5)'
    """
    parts = self.split(name)
    return "".join(row[p] if i % 2 else p for i, p in enumerate(parts))

  def prefix(self, name: str, exemplars: Sequence[Mapping[str, str]]) -> str:
    """Writes the text before each question.

    Args:
      name: "prior" or "guide". Before a hinted question the exemplars are
        hinted too.
      exemplars: Rows with `question`, `answer` and `targets`.

    Returns:
      The first `num_exemplars` of them as text, "" if there are none.
    """
    written = []
    for row in exemplars[: self.num_exemplars]:
      completion = row["answer"] if self.is_direct else row["targets"]
      written.append(self.fill(name, row) + completion + self.separator)
    return "".join(written)


PAPER = Prompts()

# For byte-level models so small that a long prompt would be most of the cost.
COMPACT = Prompts(prior="{question}?\n", guide="{question}? ({answer})\n")

# The answer alone, without a rationale.
DIRECT = Prompts(prior="Question: {question}\nAnswer:\n", is_direct=True)
