"""`t5x tasks`: lists the tasks, or shows one task as a model sees it."""

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cot_latent.commands import arguments, gin_flags
from cot_latent.errors import UserError
from cot_latent.runtime import terminal

if TYPE_CHECKING:
  import numpy as np

  from cot_latent.data.source import Source
  from cot_latent.data.task import Task
  from cot_latent.models.vocabularies import Vocabulary

HELP = "list the tasks, or show one task as a model sees it"

_WIDTH = 76  # columns of pieces
_ANY_TASK = "chain"  # the list does not depend on it, but gin needs a task


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for gin, the task and the examples."""
  gin_flags.add_arguments(parser)
  parser.add_argument("task", nargs="?", help="a task (default: list all)")
  parser.add_argument(
    "--examples",
    type=arguments.count,
    default=3,
    metavar="N",
    help="number of examples to show (default: 3)",
  )
  parser.add_argument(
    "--split",
    default="train",
    help="split to show, or a slice such as test[:100] (default: train)",
  )
  parser.add_argument(
    "--tokens",
    action="store_true",
    help="show each prompt's tokens also where they are its bytes",
  )


def run(options: argparse.Namespace) -> int:
  """Prints the list, or the task."""
  from cot_latent.configuration import parsing

  given = gin_flags.collect(options)
  if options.task is None:
    terminal.say(list_tasks(parsing.parse_source(_ANY_TASK, *given)))
    return 0
  source, stop = parsing.parse_shown(options.task, *given)
  shown = show_task(
    source,
    options.split,
    options.examples,
    with_tokens=options.tokens,
    stop=stop,
  )
  terminal.say(shown)
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


def show_task(
  source: "Source",
  split: str,
  num_examples: int,
  *,
  with_tokens: bool = False,
  stop: tuple[str, ...] | None = None,
) -> str:
  """Shows the examples of a task as a model sees them.

  Args:
    source: The task's source.
    split: Split to show, or a slice of one.
    num_examples: Maximum number of examples to show.
    with_tokens: Whether to show each prompt's tokens also where they are its
      bytes.
    stop: Strings that end a completion; None uses those of the prompts.

  Returns:
    Text with prompts, targets and token counts.
  """
  from cot_latent.data import subsets
  from cot_latent.data.answers import checkers
  from cot_latent.data.open import open_task

  task = open_task(source).ending_at(stop)
  if subsets.parse(split).split not in task.splits:
    raise UserError(
      f"task {task.name!r} has no split {split!r}: give --split, one of "
      f"{', '.join(task.splits)}"
    )
  rows = task.rows(split)
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
    *_endings(task),
  ]
  with_tokens = with_tokens or not _has_bytes(task.vocabulary)
  for i in range(min(num_examples, len(rows.ids))):
    lines += ["", f"--- {rows.ids[i]}, answer {rows.answers[i]!r}"]
    for label, tokens in (
      ("prompt", rows.prompts[i]),
      ("guide", rows.guides[i]),
      ("target", rows.targets[i]),
    ):
      # Not up to the first EOS: some tokenizers use the same token as BOS.
      shown = tokens[tokens != task.vocabulary.eos_id]
      text = task.vocabulary.decode(shown.tolist())
      lines.append(f"{label} ({len(tokens)} tokens)")
      lines += [f"  | {line}" for line in text.split("\n")]
      if with_tokens and label == "prompt":
        shown_tokens = _wrap(_pieces(task.vocabulary, tokens))
        lines += [f"  # {line}" for line in shown_tokens]
  return "\n".join(lines)


def _endings(task: "Task") -> list[str]:
  """Explains how tokens are shown, and what ends a completion."""
  ids = (task.vocabulary.eos_id, *task.vocabulary.end_ids)
  stop = ", ".join(repr(text) for text in task.stop) or "none"
  how = "id and 'text'; special tokens by name, without quotes"
  if _has_bytes(task.vocabulary):
    how = "each byte is a token, whose id is the byte + 3 (--tokens shows them)"
  return [
    f"pieces: {how}",
    f"end tokens: {', '.join(_pieces(task.vocabulary, ids))}",
    f"stop strings: {stop}",
  ]


def _has_bytes(vocabulary: "Vocabulary") -> bool:
  from cot_latent.models import vocabularies

  return vocabulary.name.startswith(vocabularies.BYTES)


def _pieces(vocabulary: "Vocabulary", tokens: Iterable[int]) -> list[str]:
  from cot_latent.models import pieces

  shown = []
  for piece in pieces.pieces(vocabulary, tokens):
    text = terminal.printable(piece.text, is_line=True)
    if not piece.is_special:
      text = repr(piece.text)
    elif piece.id == vocabulary.bos_id:
      text = f"BOS {text}"
    shown.append(f"{piece.id} {text}")
  return shown


def _wrap(words: Sequence[str]) -> list[str]:
  """Fills lines with words that can contain spaces."""
  lines: list[str] = []
  for word in words:
    if lines and len(lines[-1]) + 2 + len(word) <= _WIDTH:
      lines[-1] += f"  {word}"
    else:
      lines.append(word)
  return lines


def _lengths(label: str, rows: Sequence["np.ndarray"]) -> str:
  """Describes the median and the greatest length."""
  lengths = sorted(map(len, rows))
  return f"{label} {lengths[len(lengths) // 2]}, at most {lengths[-1]}"


def _table(rows: Sequence[Sequence[str]], num_numbers: int) -> str:
  """Formats rows as columns; numbers after the first column align right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.rjust(width) if 0 < i <= num_numbers else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append("  ".join(cells).rstrip())
  return "\n".join(lines)
