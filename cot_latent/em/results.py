"""Evaluations as rows of the journal, and stored completions."""

import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cot_latent.data import scoring, subsets
from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em import evaluation
from cot_latent.em.evaluation import Output
from cot_latent.inference import memory
from cot_latent.models import partitioning
from cot_latent.reporting import objective, stats
from cot_latent.reporting.runlog import Evaluation
from cot_latent.runtime import files, processes

OUTPUTS = "outputs"
_NUM_SHOWN = 6  # completions of each kind, in a report
_NUM_STUCK = 20  # questions of each kind, in a report


def evaluated(
  directory: pathlib.Path,
  step: int,
  *,
  task: str,
  split: str,
  decoder: str,
  outputs: Sequence[Output],
  is_shown: bool,
) -> Evaluation:
  """Writes an evaluation's completions, and counts correct answers.

  Args:
    directory: The run's folder.
    step: The step after which the questions were answered.
    task: The name of the task or mixture.
    split: The split of the questions.
    decoder: How they were answered, such as greedy.
    outputs: The answers.
    is_shown: Whether the report shows some of them.

  Returns:
    The evaluation as the run's log takes it.
  """
  return Evaluation(
    results=list(rows(task, split, decoder, outputs)),
    num_sampled=sum(len(output.completions) for output in outputs),
    output=write(directory, step, split, decoder, outputs),
    samples=[
      sample(decoder, output) for output in outputs[:_NUM_SHOWN] if is_shown
    ],
  )


def rows(
  whole: str, split: str, decoder: str, outputs: Sequence[Output]
) -> Iterator[dict[str, Any]]:
  """Counts correct answers: of each task, and of a mixture as a whole.

  Args:
    whole: Name of the task or mixture.
    split: Split of the questions.
    decoder: How they were answered, such as greedy.
    outputs: The answers.

  Yields:
    A row of results; a mixture's own comes first and has its averages.
  """
  counts = scoring.count_by_task((o.task, o.is_correct) for o in outputs)
  parts = {task: [o for o in outputs if o.task == task] for task in counts}
  if len(parts) > 1:
    parts = {whole: list(outputs), **parts}
  for name, answered in parts.items():
    correct = sum(output.is_correct for output in answered)
    ended = [end for output in answered for end in output.ended]
    row: dict[str, Any] = {
      "task": name,
      "split": split,
      "decoder": decoder,
      "num_samples": len(answered[0].completions),
      "correct": correct,
      "total": len(answered),
      "accuracy": correct / len(answered),
      "interval": list(stats.wilson_interval(correct, len(answered))),
      "verdicts": "".join("01"[output.is_correct] for output in answered),
      "num_unparseable": sum(o.extracted is None for o in answered),
      "num_cut": len(ended) - sum(ended),
    }
    if row["num_samples"] > 1:
      votes = [output.num_correct for output in answered]
      row["correct_votes"] = votes
      row["objective"] = objective.summarise(votes, row["num_samples"])
    if name == whole and len(counts) > 1:
      row["averages"] = stats.averages(counts)
    yield row


def write(
  directory: pathlib.Path,
  step: int,
  split: str,
  decoder: str,
  outputs: Sequence[Output],
) -> dict[str, Any]:
  """Writes one JSON line per question, for scoring again without a model.

  Returns:
    What was written, for the report.
  """
  lines = [files.to_json_line(output.as_line()) for output in outputs]
  name = f"{step:06}-{subsets.file_name(split)}-{decoder}.jsonl"
  written = _keep(directory, name, "".join(lines).encode())
  return written | {"split": split, "decoder": decoder}


def write_memory(
  directory: pathlib.Path,
  step: int,
  ids: Sequence[str],
  state: memory.MemoryState,
) -> dict[str, Any]:
  """Writes a memory as a numpy file, with its rows in the order of the ids.

  Returns:
    What was written, for the report.
  """
  stream = io.BytesIO()
  whole = partitioning.to_host(state)._asdict()
  arrays = {name: rows[: len(ids)] for name, rows in whole.items()}
  np.savez_compressed(stream, allow_pickle=False, ids=np.array(ids), **arrays)
  return _keep(directory, f"{step:06}-memory.npz", stream.getvalue())


def write_soft_prompt(
  directory: pathlib.Path, step: int, content: bytes
) -> dict[str, Any]:
  """Writes a soft prompt as a numpy file, [L, E] float32.

  Args:
    directory: The run's folder.
    step: Step after which it is written.
    content: Content of the file.

  Returns:
    What was written, for the report.
  """
  return _keep(directory, f"{step:06}-soft_prompt.npy", content)


def _keep(directory: pathlib.Path, name: str, content: bytes) -> dict[str, Any]:
  if processes.is_first():
    folder = directory / OUTPUTS
    folder.mkdir(exist_ok=True)
    files.write_atomically(folder / name, content)
  return {
    "path": f"{OUTPUTS}/{name}",
    "sha256": files.sha256(content),
    "num_bytes": len(content),
  }


def memory_samples(
  task: Task, train: Examples, state: memory.MemoryState
) -> Iterator[dict[str, Any]]:
  """Makes samples of the first remembered rationales, with their history."""
  first = jax.tree.map(lambda rows: rows[:_NUM_SHOWN], state)
  shown = partitioning.to_host(first)
  for i, tokens in enumerate(shown.tokens[: len(train)]):
    output = evaluation.judge(task, train, i, tokens)
    yield sample("memory", output) | {
      "is_correct": bool(shown.is_correct[i]),
      "accepted_at": int(shown.accepted_at[i]),
      "num_proposed": int(shown.num_proposed[i]),
      "num_accepted": int(shown.num_accepted[i]),
    }


def stuck_questions(
  task: Task, train: Examples, state: memory.MemoryState
) -> Iterator[dict[str, Any]]:
  """Lists questions whose chain did not start, or did not move.

  Args:
    task: Task that extracts and compares answers.
    train: The N training questions.
    state: Their memory at the end.

  Yields:
    A row for each of the first questions that were drawn for and never had a
    correct rationale, and then of those whose rationale was never replaced.
  """
  whole = partitioning.to_host(state)
  num = len(train)
  is_drawn = whole.num_proposed[:num] > 0
  is_correct = whole.is_correct[:num]
  is_unmoved = is_drawn & is_correct & (whole.num_accepted[:num] == 0)
  for why, which in (
    ("never correct", is_drawn & ~is_correct),
    ("never moved", is_unmoved),
  ):
    for i in np.flatnonzero(which)[:_NUM_STUCK].tolist():
      output = evaluation.judge(task, train, i, whole.tokens[i])
      yield {
        "why": why,
        "id": output.id,
        "question": output.question,
        "answer": output.target,
        "completion": output.completions[0],
        "num_proposed": int(whole.num_proposed[i]),
      }


def sample(source: str, output: Output) -> dict[str, Any]:
  """Makes a row of the report's samples."""
  return {
    "source": source,
    "id": output.id,
    "question": output.question,
    "answer": output.target,
    "completion": output.completions[0],
    "extracted": output.extracted,
    "is_correct": output.is_correct,
  }
