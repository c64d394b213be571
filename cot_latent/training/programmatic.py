"""Training from Python, with a task, a model and a method of the program."""

from collections.abc import Collection
from typing import Any

from cot_latent.data.source import Source, TaskConfig
from cot_latent.data.task import Task
from cot_latent.em.method import Method
from cot_latent.errors import UserError
from cot_latent.inference import estimators
from cot_latent.models import digests
from cot_latent.models.api import Sampler, Scorer
from cot_latent.training import experiment
from cot_latent.training import train as trainer
from cot_latent.training.given import GivenModel

# The values of a report of gin files in these places.
_NO_GIN = {"gin_files": [], "bindings": [], "resolved": "", "operative": ""}


def train(
  task: Task,
  *,
  model: Any,
  params: Any,
  steps: int,
  max_length: int,
  method: Method | None = None,
  batch_size: int = 32,
  learning_rate: float = 1e-4,
  clip_norm: float | None = 1.0,
  model_dir: str | None = None,
  seed: int = 0,
  test_split: str | None = None,
  eval_period: int | None = None,
  eval_batch_size: int = 64,
  num_votes: int = 0,
) -> dict[str, Any]:
  """Trains a model on a task, and writes a report as `t5x train` does.

  The same call again resumes a run that was stopped. `t5x show`, `compare` and
  `verify` read the report; `t5x rerun` cannot repeat it, because a program and
  not gin files made the run.

  Args:
    task: Questions and answers, such as those of `Task.from_rows`.
    model: Anything that is a `Sampler` and a `Scorer` (models/api.py), in JAX.
      It draws up to and including the end of a sequence, and at most
      `max_length` tokens; narrower rows are padded.
    params: Parameters of the model, a tree of arrays; they stay as they are.
    steps: Optimizer steps.
    max_length: Maximum tokens T of a rationale with its answer and end.
    method: How rationales are drawn and weighed; None is TRICE with the control
      variate, its memory started from the hinted prompt.
    batch_size: Questions M in a minibatch.
    learning_rate: Highest learning rate of Adam.
    clip_norm: Maximum norm of the gradient; None does not clip.
    model_dir: Folder of the run; None names one in runs/.
    seed: Seed of all randomness.
    test_split: Split of the held-out questions; None is "test", or "train" in a
      task without one.
    eval_period: Steps between evaluations; None evaluates only at both ends.
    eval_batch_size: Rows decoded together outside of steps.
    num_votes: Samples per question for self-consistency; 0 leaves it out.

  Returns:
    The report, with the metrics of each step under "metrics".

  Raises:
    UserError: If something in the task, the model or the settings does not fit;
      names it.
    RunError: If the run cannot continue.

  Example:

    report = train(task, model=model, params=params, steps=100, max_length=64)
    print(report["results"][-1]["accuracy"])
  """
  _check_model(model)
  given = experiment.Given(type(model).__name__, digests.tree_sha256(params))
  config = experiment.Experiment(
    model=given,
    base=given,
    task=_task_config(task, max_length, test_split),
    method=method or Method("trice", estimators.control_variate()),
    optimizer=experiment.OptimizerConfig(learning_rate, clip_norm=clip_norm),
    evaluation=experiment.EvaluationConfig(
      eval_batch_size, eval_period or max(steps, 1), num_votes
    ),
    model_dir=model_dir,
    seed=seed,
    steps=steps,
    batch_size=batch_size,
  )
  given_model = GivenModel(model, params, task.ending)
  return trainer.train(
    trainer.prepare(config, _NO_GIN, lambda source: task, given_model)
  )


def _check_model(model: Any) -> None:
  for protocol in (Sampler, Scorer):
    if not isinstance(model, protocol):
      raise UserError(
        f"train(model=...): {type(model).__name__} is not a "
        f"{protocol.__name__}; it needs the methods sample and log_prob of "
        "cot_latent.models.api"
      )


def _task_config(
  task: Task, max_length: int, test_split: str | None
) -> TaskConfig:
  """Makes the settings of a task that holds its questions already."""
  if test_split is None:
    test_split = "test" if "test" in task.splits else "train"
  return TaskConfig(
    source=Source(task.name),
    prompt_length=_longest_prompt(task, {"train", test_split}),
    max_length=max_length,
    test_split=test_split,
    stop=task.stop,
  )


def _longest_prompt(task: Task, splits: Collection[str]) -> int:
  """Counts the tokens of the longest prompt or hinted prompt."""
  rows = [task.rows(split) for split in splits]
  return max(len(row) for part in rows for row in (*part.prompts, *part.guides))
