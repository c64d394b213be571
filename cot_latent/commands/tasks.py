"""What `t5x tasks`, `t5x score` and `t5x cache` do."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cot_latent.data import cache as task_cache
from cot_latent.data import scoring
from cot_latent.data.answers import checkers
from cot_latent.data.open import open_task
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.reporting import stats
from cot_latent.runtime import files


def list_tasks(source: Source) -> str:
  """Lists all tasks and mixtures of a module, with sizes and answers."""
  from cot_latent.data import seqio_task
  from cot_latent.tasks import common

  seqio_task.import_module(source.module)
  splits = ("train", "test", "base")
  rows: list[tuple[str, ...]] = [("task", *splits, "rationales", "answers")]
  for name, info in sorted(common.INFO.items()):
    sizes = info.sizes()
    counts = [f"{sizes[s]:,}" if s in sizes else "-" for s in splits]
    rationales = ", ".join(info.rationale_splits) or "-"
    rows.append((name, *counts, rationales, checkers.describe(info.kind)))
  for name, parts in sorted(common.MIXTURES.items()):
    parts_sizes = [common.INFO[part].sizes() for part in parts]
    counts = [
      f"{sum(sizes[split] for sizes in parts_sizes):,}"
      if all(split in sizes for sizes in parts_sizes)
      else "-"
      for split in splits
    ]
    rows.append((name, *counts, "-", f"a mixture of {len(parts)} tasks"))
  return _table(rows, num_numbers=len(splits))


def show_task(source: Source, split: str, num_examples: int) -> str:
  """Shows what the model will see of a task: prompts, targets, token counts."""
  task = open_task(source)
  if split not in task.splits:
    raise UserError(
      f"task {task.name!r} has no split {split!r}: give --split, one of "
      f"{', '.join(task.splits)}"
    )
  rows = task.read(split)
  kinds = dict.fromkeys(map(checkers.describe, task.kinds.values()))
  ways = dict.fromkeys(w for way in task.conventions.values() for w in way)
  lines = [
    f"{task.name}: {len(rows.ids):,} examples in split {split!r} of "
    f"{', '.join(task.splits)}",
    f"answers: {'; '.join(kinds)}",
    f"conventions: {', '.join(ways)}",
    f"vocabulary: {task.vocabulary.name}, {task.vocabulary.size:,} tokens",
    f"tokens: {_lengths('prompt', rows.prompts)}; "
    f"{_lengths('guide', rows.guides)}; {_lengths('target', rows.targets)}",
  ]
  for i in range(min(num_examples, len(rows.ids))):
    lines += ["", f"--- {rows.ids[i]}, answer {rows.answers[i]!r}"]
    for label, tokens in (
      ("prompt", rows.prompts[i]),
      ("guide", rows.guides[i]),
      ("target", rows.targets[i]),
    ):
      # Not up to the first EOS, which some tokenizers have for BOS as well.
      shown = tokens[tokens != task.vocabulary.eos_id]
      text = task.vocabulary.decode(shown.tolist())
      lines.append(f"{label} ({len(tokens)} tokens)")
      lines += [f"  | {line}" for line in text.split("\n")]
  return "\n".join(lines)


def score(
  source: Source, convention: str | None, outputs: str, verdicts: str | None
) -> str:
  """Scores a file of completions.

  Args:
    source: the task that was asked.
    convention: how; None takes that of training.
    outputs: a file as for `scoring.score`.
    verdicts: a file to write a line to for each question; None writes none.

  Returns:
    A JSON object: correct, total, accuracy and unparseable; for a mixture also
    its averages by name.
  """
  if verdicts is not None:
    _check_output("--verdicts", verdicts)
    if pathlib.Path(verdicts).resolve() == pathlib.Path(outputs).resolve():
      raise UserError(
        f"--verdicts={verdicts} is the file to be scored: name another"
      )
  task = open_task(source)
  found = scoring.score(task, convention, pathlib.Path(outputs))
  if verdicts is not None:
    lines = [files.to_json_line(verdict._asdict()) for verdict in found]
    files.write_atomically(pathlib.Path(verdicts), "".join(lines))
  correct = sum(verdict.correct for verdict in found)
  summary: dict[str, Any] = {
    "correct": correct,
    "total": len(found),
    "accuracy": correct / len(found),
    "unparseable": sum(verdict.extracted is None for verdict in found),
  }
  if len(task.conventions) > 1:
    summary["averages"] = stats.averages(
      scoring.count_by_task((v.task, v.correct) for v in found)
    )
  return json.dumps(summary)


def cache(source: Source, output: str) -> str:
  """Stores a task in a file.

  Args:
    source: the task.
    output: the file.

  Returns:
    What was stored, with its fingerprint.
  """
  path = pathlib.Path(output)
  if path.suffix != ".npz":
    raise UserError(f"--output={output}: the file must end with .npz")
  _check_output("--output", output)
  task = open_task(source)
  content, fingerprint = task_cache.to_bytes(task)
  files.write_atomically(path, content)
  counts = ", ".join(f"{s} {len(task.read(s).ids):,}" for s in task.splits)
  return (
    f"{task.name}: {counts}\nfingerprint {fingerprint}\n"
    f"{path}: {len(content):,} bytes; train on it with "
    f"--gin.CACHE=\"'{path}'\""
  )


def _check_output(flag: str, output: str) -> None:
  """Refuses a file that has no place, before there is anything to write."""
  path = pathlib.Path(output)
  if path.is_dir():
    raise UserError(f"{flag}={output} is a folder: name a file")
  if not path.parent.is_dir():
    raise UserError(f"{flag}={output}: there is no folder {path.parent}")


def _lengths(label: str, rows: Sequence[np.ndarray]) -> str:
  """Tells median and longest."""
  lengths = sorted(map(len, rows))
  return f"{label} {lengths[len(lengths) // 2]}, at most {lengths[-1]}"


def _table(rows: Sequence[Sequence[str]], num_numbers: int) -> str:
  """Lays rows out; the numbers after the first column go to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.rjust(width) if 0 < i <= num_numbers else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append("  ".join(cells).rstrip())
  return "\n".join(lines)
