"""`--limit`, the short form of TRAIN_SPLIT and EVAL_SPLIT."""

import argparse
from collections.abc import Sequence

from cot_latent.commands import arguments
from cot_latent.errors import UserError


def add_argument(parser: argparse.ArgumentParser) -> None:
  """Adds the flag."""
  parser.add_argument(
    "--limit",
    type=arguments.count,
    metavar="N",
    help="take N of the training and N of the evaluation questions; the same "
    "as --gin.TRAIN_SPLIT=\"'train[:N]'\" and --gin.EVAL_SPLIT=\"'test[:N]'\"",
  )


def bindings(
  limit: int | None,
  gin_files: Sequence[str],
  given: Sequence[str],
  search_paths: Sequence[str],
) -> list[str]:
  """Writes the flag as bindings.

  Args:
    limit: N; None gives no bindings.
    gin_files: Of the run.
    given: Its other bindings.
    search_paths: Further folders to look gin files up in.

  Raises:
    UserError: If a split of the run is a slice already, and for any fault of
      the configuration.
  """
  if limit is None:
    return []
  from cot_latent.configuration import parsing
  from cot_latent.data import subsets

  config, _ = parsing.parse(gin_files, given, search_paths)
  splits = {
    "TRAIN_SPLIT": config.task.train_split,
    "EVAL_SPLIT": config.task.test_split,
  }
  for macro, split in splits.items():
    if not subsets.parse(split).is_whole:
      raise UserError(
        f"--limit={limit}: {macro} is {split!r}, a part of a split already; "
        "leave one of the two out"
      )
  return [
    f"{macro} = {f'{split}[:{limit}]'!r}" for macro, split in splits.items()
  ]
