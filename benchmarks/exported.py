"""A trained run's greedy answers, and transformers' from the run's export.

  t5x export RUN --output EXPORT --dtype float32
  python -m benchmarks.exported RUN EXPORT

Answers the held-out questions of the run's last greedy evaluation with
`transformers`, on the run's own token ids and with its stop strings. As in the
run, a completion that was cut has no answer. Prints how many texts and how many
answers are the same, and for each answer that is not, by how little
transformers preferred its token at the first difference (null: the run's token
was not its second choice). If the run computes in bfloat16, give --dtype
bfloat16 to compare like with like.
"""

import argparse
import json
from typing import Any

import torch
import transformers

from benchmarks import greedy
from cot_latent.commands import reports, resolved
from cot_latent.data.open import open_task
from cot_latent.reporting import reading


def compare(run: str, export: str, dtype: torch.dtype) -> dict[str, Any]:
  """Answers a run's held-out questions with transformers.

  Args:
    run: Folder of the run.
    export: Folder that `t5x export` made of it.
    dtype: Type of the numbers that transformers computes with.
  """
  path = reports.find(run)
  config, _ = resolved.parse(path, reading.open_report(path).report, None, ())
  settings = config.task
  task = open_task(settings.source)
  task = task.ending_at(
    task.prompts.stop if settings.stop is None else settings.stop
  )
  examples = task.load(
    settings.test_split,
    prompt_length=settings.prompt_length,
    over_long=settings.over_long,
  )
  *_, last = sorted((path.parent / "outputs").glob("*greedy.jsonl"))
  rows = [json.loads(line) for line in last.read_text().splitlines()]
  model = transformers.AutoModelForCausalLM.from_pretrained(export, dtype=dtype)
  peers = greedy.answer(model.eval(), task, examples, settings.max_length)
  differing = []
  same_texts = correct = 0
  for row, peer in zip(rows, peers, strict=True):
    theirs = peer.output
    if row["id"] != theirs.id:
      raise SystemExit(f"question {row['id']} is {theirs.id} on the other side")
    text = row["completion"]
    correct += theirs.is_correct
    same_texts += (text, row["ended"]) == (
      theirs.completions[0],
      theirs.ended[0],
    )
    if row["extracted"] != theirs.extracted:
      found = greedy.difference_of_text(task, text, peer)
      differing.append({"id": row["id"], **found._asdict()})
  return {
    "outputs": last.name,
    "questions": len(rows),
    "same_texts": same_texts,
    "same_answers": len(rows) - len(differing),
    "correct": sum(row["is_correct"] for row in rows),
    "correct_transformers": correct,
    "differing": differing,
  }


def main() -> None:
  """Reads the arguments, compares, prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("run")
  parser.add_argument("export")
  parser.add_argument(
    "--dtype", choices=("float32", "bfloat16"), default="float32"
  )
  options = parser.parse_args()
  found = compare(options.run, options.export, getattr(torch, options.dtype))
  print(json.dumps(found, indent=1))


if __name__ == "__main__":
  main()
