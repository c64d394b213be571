"""`t5x tasks`: lists the tasks, or shows what a model sees of one."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cot_latent.commands import arguments, gin_flags
from cot_latent.errors import UserError
from cot_latent.runtime import terminal

if TYPE_CHECKING:
  import numpy as np

  from cot_latent.data.source import Source

HELP = "list the tasks, or show what a model sees of one"

_ANY_TASK = "chain"  # the listing needs none, but gin does


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of gin, the task, and how much of it is shown."""
  gin_flags.add_arguments(parser)
  parser.add_argument("task", nargs="?", help="a task; without it, all")
  parser.add_argument(
    "--examples",
    type=arguments.count,
    default=3,
    metavar="N",
    help="how many examples to show (3)",
  )
  parser.add_argument(
    "--split", default="train", help="which split to show (train)"
  )


def run(options: argparse.Namespace) -> int:
  """Prints the list, or the task."""
  from cot_latent.configuration import parsing

  source = parsing.parse_source(
    _ANY_TASK if options.task is None else options.task,
    *gin_flags.collect(options),
  )
  if options.task is None:
    terminal.say(list_tasks(source))
  else:
    terminal.say(show_task(source, options.split, options.examples))
  return 0


def list_tasks(source: "Source") -> str:
  """Lists all tasks and mixtures of a module, with sizes and answers."""
  from cot_latent.data import seqio_task
  from cot_latent.data.answers import checkers
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


def show_task(source: "Source", split: str, num_examples: int) -> str:
  """Shows what the model will see of a task: prompts, targets, token counts."""
  from cot_latent.data.answers import checkers
  from cot_latent.data.open import open_task

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


def _lengths(label: str, rows: Sequence["np.ndarray"]) -> str:
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
