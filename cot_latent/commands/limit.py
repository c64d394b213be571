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
    help="use N training and N evaluation questions, of which there must be as "
    "many; the same as --gin.TRAIN_SPLIT=\"'train[:N]'\" and "
    "--gin.EVAL_SPLIT=\"'test[:N]'\"",
  )


def bindings(
  limit: int | None,
  gin_files: Sequence[str],
  given: Sequence[str],
  search_paths: Sequence[str],
) -> list[str]:
  """Returns the bindings that the flag stands for.

  Args:
    limit: Number of questions N; None returns no bindings.
    gin_files: Gin files of the run.
    given: Other bindings of the run.
    search_paths: Further folders in which gin files are looked up.

  Raises:
    UserError: If a split of the run is a slice already, or if the
      configuration has a fault.
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
