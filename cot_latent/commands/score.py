"""`t5x score`: scores stored completions again, without a model."""

import argparse
import json
import pathlib
from typing import TYPE_CHECKING, Any

from cot_latent.commands import gin_flags
from cot_latent.errors import UserError
from cot_latent.runtime import files, terminal

if TYPE_CHECKING:
  from cot_latent.data.source import Source

HELP = "score stored completions again, without a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for gin, the completions and the convention."""
  gin_flags.add_arguments(parser)
  parser.add_argument("outputs", help="a file of JSON lines")
  parser.add_argument("--task", required=True, help="the task of the questions")
  parser.add_argument(
    "--convention",
    help="how completions are scored, such as bbh_authors (default: as in "
    "training)",
  )
  parser.add_argument(
    "--verdicts",
    metavar="FILE",
    help="write one line per question, with the extracted answer",
  )


def run(options: argparse.Namespace) -> int:
  """Prints the share of completions that are correct."""
  from cot_latent.configuration import parsing

  source = parsing.parse_source(options.task, *gin_flags.collect(options))
  terminal.say(
    score(source, options.convention, options.outputs, options.verdicts)
  )
  return 0


def score(
  source: "Source",
  convention: str | None,
  outputs: str,
  verdicts: str | None,
) -> str:
  """Scores a file of completions.

  Args:
    source: The task of the questions.
    convention: How completions are read; None uses the convention of training.
    outputs: Path of a file that `scoring.score` can read.
    verdicts: Path of a file with one line per question; None writes no file.

  Returns:
    A JSON object: correct, total, accuracy and unparseable; the number of
    repeated ids, if any; for a mixture also its averages by name.
  """
  from cot_latent.data import scoring
  from cot_latent.data.open import open_task
  from cot_latent.reporting import stats

  if verdicts is not None:
    files.check_output("--verdicts", verdicts)
    if pathlib.Path(verdicts).resolve() == pathlib.Path(outputs).resolve():
      raise UserError(
        f"--verdicts={verdicts} is the file to be scored: name another"
      )
  task = open_task(source)
  found = scoring.score(task, convention, pathlib.Path(outputs))
  if verdicts is not None:
    lines = [files.to_json_line(verdict._asdict()) for verdict in found]
    files.write_output(pathlib.Path(verdicts), "".join(lines))
  correct = sum(verdict.correct for verdict in found)
  summary: dict[str, Any] = {
    "correct": correct,
    "total": len(found),
    "accuracy": correct / len(found),
    "unparseable": sum(verdict.extracted is None for verdict in found),
  }
  if repeated := scoring.num_repeated(found):
    summary["repeated_ids"] = repeated
  if len(task.conventions) > 1:
    summary["averages"] = stats.averages(
      scoring.count_by_task((v.task, v.correct) for v in found)
    )
  return json.dumps(summary)
