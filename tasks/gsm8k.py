"""GSM8K: grade-school word problems with human rationales.

Reference: Cobbe et al. 2021; the target's form is that of Phan et al. 2023.
"""

from collections.abc import Iterator

from cot_latent.data import checkers
from cot_latent.errors import UserError
from cot_latent.tasks import common


def examples(split: str) -> Iterator[dict[str, str]]:
  """Reads a split's file, gsm8k/<split>.jsonl.

  Raises:
    UserError: naming the file and the line of a malformed row.
  """
  path, text = common.read_file("gsm8k", f"{split}.jsonl")
  # Not splitlines(), which also cuts at U+2028 inside a JSON string.
  lines = text.removesuffix("\n").split("\n")
  for number, line in enumerate(lines, start=1):
    row = common.parse_json(path, line, number)
    place = f"line {number}"
    common.require_strings(path, place, row, ("question", "answer"))
    rationale, mark, gold = row["answer"].rpartition("\n#### ")
    answer = checkers.normalize_number(gold)
    if not mark or answer is None:
      raise UserError(f"{path}, {place}: no number behind '#### '")
    yield {
      "id": f"gsm8k/{split}/{number - 1:05}",
      "question": row["question"],
      "answer": answer,
      "targets": f"{rationale}\n<answer>\n{answer}\n</answer>",
    }


common.register("gsm8k", examples, ["train", "test"], checkers.answer_tag)
