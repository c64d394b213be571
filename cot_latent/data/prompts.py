"""Prompt templates, with the fields {question} and {answer}."""

from typing import NamedTuple


class Template(NamedTuple):
  """The two prompts that a rationale is drawn from.

  Attributes:
    prior: the question alone. Rationales are always scored under it.
    guide: the question with its answer as a hint, to fill the memory from.
  """

  prior: str
  guide: str


# Phan et al. 2023, section 4 and appendix F.
PAPER = Template(
  prior="Question: {question}\nAnswer: Let's think step by step.\n",
  guide=(
    "Question: {question}\n"
    "Answer: The answer is {answer}. Let's think step by step.\n"
  ),
)

# For byte-level models so small that a long prompt would be most of the cost.
COMPACT = Template(prior="{question}?\n", guide="{question}? ({answer})\n")
