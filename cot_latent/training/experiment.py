"""What a run consists of, as plain data. Gin fills these in.

M questions a minibatch, K draws a question, L sequences scored a step.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Literal

import jax

from cot_latent.data.examples import OverLong, Source
from cot_latent.errors import UserError
from cot_latent.inference import transition
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.partitioning import MeshConfig
from cot_latent.models.t5 import T5Config
from cot_latent.reporting import files
from cot_latent.reporting.liveness import Limits
from cot_latent.training.tuning import Tuning
from cot_latent.validation import (
  added_later,
  check_positive,
  check_types,
  check_within,
  is_to_be_told,
)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """Which questions, and how long they and their rationales may be.

  Attributes:
    source: the task.
    prompt_length: P, tokens; prompt and hinted prompt must fit.
    max_length: T, tokens of a rationale with its answer and EOS.
    over_long: what becomes of an example that does not fit (`Task.load`).
    train_split: the questions with a memory.
    test_split: the held-out questions.
  """

  source: Source
  prompt_length: int
  max_length: int
  over_long: OverLong = "error"
  train_split: str = "train"
  test_split: str = "test"

  def __post_init__(self):
    check_types(self)
    check_positive(self, "prompt_length", "max_length")


@dataclasses.dataclass(frozen=True)
class Refit:
  """Outer loops: rationales of all questions, then a fit to the right ones.

  Attributes:
    source: "sample" draws them at temperature 1, "greedy" decodes them, "human"
      takes those of the data.
    hint_on_failure: draw once more where the answer is wrong, from the question
      with its answer as a hint.
    restart: begin every fit from the base model, and not where the last ended.
    first_steps: steps of the first loop; None is one loop of all steps.
    growth: each loop's steps over those of the one before.
    max_steps: of a loop.
    stop_loss: end a loop when a minibatch's loss, in nats a sequence, is below
      it; the steps saved go to the loops that follow. None never does.
  """

  source: Literal["sample", "greedy", "human"]
  hint_on_failure: bool = False
  restart: bool = False
  first_steps: int | None = None
  growth: float = 1.0
  max_steps: int | None = None
  stop_loss: float | None = None

  def __post_init__(self):
    check_types(self)
    check_within(self, "growth", 1, math.inf)
    for name in ("first_steps", "max_steps"):
      if getattr(self, name) is not None:
        check_positive(self, name)
    if self.source == "human" and (self.hint_on_failure or self.first_steps):
      raise UserError(
        "Refit.source = 'human' is one loop without hints: leave "
        "hint_on_failure and first_steps out"
      )

  def loop_steps(self, loop: int, num_steps: int) -> int:
    """Steps of a loop, from 0, in a run of `num_steps`; at most those.

    Reference: Phan et al. 2023, appendix F: 40, growing by 20% up to 200.
    """
    if self.first_steps is None:
      return num_steps
    try:
      steps = round(self.first_steps * self.growth**loop)
    except OverflowError:
      steps = num_steps
    return min(steps, self.max_steps or steps, num_steps)

  def begins_anew(self) -> bool:
    """Whether there may be a second loop, with an optimizer as at first."""
    return self.first_steps is not None or self.stop_loss is not None

  def num_loops(self, num_steps: int) -> int:
    """Loops in a run, none of which ends early."""
    loops, done = 0, 0
    while done < num_steps:
      done += self.loop_steps(loops, num_steps)
      loops += 1
    return loops


@dataclasses.dataclass(frozen=True)
class Method:
  """How rationales are drawn and what weight they get.

  Attributes:
    name: for the report.
    estimator: a Transition -> weights [M, 1 + K] (inference/estimators.py).
    memory_start: the prompt that the first rationales are drawn from: "guide"
      (the question with its answer as a hint), "prior" (the question alone),
      or "empty", to start without any.
    num_draws: K.
    num_scored: L, or None to score every sequence that has weight.
    refit: outer loops, between which nothing is drawn; None draws afresh in
      every step.
  """

  name: str
  estimator: Callable
  memory_start: Literal["guide", "prior", "empty"] = "guide"
  num_draws: int = 1
  num_scored: int | None = None
  refit: Refit | None = None

  def __post_init__(self):
    check_types(self)
    check_positive(self, "num_draws")
    if self.refit is not None:
      if self.memory_start != "empty":
        raise UserError(
          "Method.memory_start must be 'empty' with outer loops, which fill "
          "the memory themselves"
        )
      if self.refit.source == "human" and self.num_draws != 1:
        raise UserError(
          "there is one human rationale a question: num_draws = 1"
        )
    if self.num_scored is not None:
      check_positive(self, "num_scored")
    if not inspect.isfunction(self.estimator):
      raise UserError(
        "Method.estimator must be a plain function, so that the report can "
        f"tell its settings, not {self.estimator!r:.60}"
      )
    # On shapes alone, so that a misfit is found before anything is computed.
    example = transition.shapes(num_rows=2, num_draws=self.num_draws, length=1)
    try:
      weights = jax.eval_shape(self.estimator, example)
    except ValueError as error:
      raise UserError(f"Method.estimator: {error}") from None
    except TypeError as error:
      raise UserError(
        f"Method.estimator: {error}; in gin, write it with (), as in "
        "@estimators.basic()"
      ) from None
    if getattr(weights, "shape", None) != (2, 1 + self.num_draws):
      raise UserError("Method.estimator must give weights [M, 1 + K]")

  def drawn_by_loop(self, num_train: int) -> int:
    """Sequences that an outer loop draws for N questions at most."""
    if self.refit is None or self.refit.source == "human":
      return 0
    # Not all need the hint.
    return num_train * self.num_draws * (1 + self.refit.hint_on_failure)

  def drawn_by_steps(self, steps: int, batch_size: int, num_train: int) -> int:
    """Sequences that the steps of a run draw, at most."""
    if self.refit is None:
      return steps * batch_size * self.num_draws
    return self.refit.num_loops(steps) * self.drawn_by_loop(num_train)

  def max_scored(self, batch_size: int) -> int:
    """The most sequences that one step differentiates."""
    everything = batch_size * (1 + self.num_draws)
    return min(self.num_scored or everything, everything)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Adam with clipping, warm-up and cosine decay.

  Attributes:
    learning_rate: the highest.
    warmup_steps: of linear growth from 0.
    decay_steps: of cosine decay after that; None is all the steps there are.
    final_ratio: the last learning rate over the highest; 1 is constant.
    clip_norm: of the whole gradient, or None.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
  """

  learning_rate: float
  warmup_steps: int = 0
  decay_steps: int | None = None
  final_ratio: float = 0.1
  clip_norm: float | None = None
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8

  def __post_init__(self):
    check_types(self)
    check_positive(self, "learning_rate", "eps")
    for name in ("decay_steps", "clip_norm"):
      if getattr(self, name) is not None:
        check_positive(self, name)
    check_within(self, "warmup_steps", 0, math.inf)
    for name in ("final_ratio", "b1", "b2"):
      check_within(self, name, 0, 1)


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """Fitting a base model from scratch, where no pretrained one is at hand.

  Attributes:
    source: the task that it is fitted to, with the same vocabulary.
    split: of that task.
    over_long: what becomes of an example that does not fit (`Task.load`).
    steps: optimizer steps.
    batch_size: examples a step, half of them under the hinted prompt.
    optimizer: its own.
  """

  source: Source
  split: str
  steps: int
  batch_size: int
  optimizer: OptimizerConfig
  over_long: OverLong = "leave_out"

  def __post_init__(self):
    check_types(self)
    check_positive(self, "steps", "batch_size")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A pretrained base model.

  Attributes:
    path: the folder of a Hugging Face checkpoint, with safetensors.
  """

  path: str

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """How held-out questions are answered and scored.

  Attributes:
    batch_size: rows decoded together; fixed, for the numbers depend on it.
    period: steps between greedy evaluations; the first and the last step are
      always evaluated, greedily and by self-consistency.
    num_samples: votes a question for self-consistency (40 in the paper); 0
      leaves self-consistency out.
  """

  batch_size: int
  period: int
  num_samples: int = 40

  def __post_init__(self):
    check_types(self)
    check_positive(self, "batch_size", "period")
    check_within(self, "num_samples", 0, math.inf)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One run.

  Attributes:
    model: sizes of the language model.
    task: the questions.
    method: the E-step.
    optimizer: the M-step.
    base: how the base model is made, or where it is.
    evaluation: of held-out questions.
    model_dir: the folder for checkpoints, logs and the report; None takes
      runs/ and the run's id.
    seed: all randomness derives from it.
    steps: of the method.
    batch_size: M.
    checkpoint_period: steps between checkpoints.
    base_dir: a folder in which runs with the same base model share it; None
      fits it in each run.
    max_nonfinite_steps: how many steps in a row may have a gradient that is
      not finite; they are skipped, and one more ends the run.
    limits: beyond which the report says that the run was dead.
    tuning: what is trained: None is all parameters, `SoftPrompt` or `Lora`.
    rows_at_once: rows that are differentiated at once, each time as wide as the
      longest of them; gradients are summed. None is a quarter of the
      minibatch.
    mesh: how the run is spread over devices; that may change when it goes on.
  """

  model: DecoderConfig | T5Config
  task: TaskConfig
  method: Method
  optimizer: OptimizerConfig
  base: BaseConfig | Checkpoint
  evaluation: EvaluationConfig
  model_dir: str | None
  seed: int
  steps: int
  batch_size: int
  checkpoint_period: int = 100
  base_dir: str | None = None
  max_nonfinite_steps: int = 3
  limits: Limits = added_later(Limits())
  tuning: Tuning = added_later(None)
  rows_at_once: int | None = added_later(None)
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

  def __post_init__(self):
    check_types(self)
    check_positive(self, "batch_size", "checkpoint_period")
    check_within(self, "max_nonfinite_steps", 0, math.inf)
    check_within(self, "steps", 0, math.inf)  # 0 evaluates the base model
    check_within(self, "seed", 0, 2**32 - 1)
    if self.rows_at_once is not None:
      check_positive(self, "rows_at_once")
    if self.model_dir == "":
      raise UserError("Experiment.model_dir is empty; None names the folder")
    if self.base_dir == "":
      raise UserError("Experiment.base_dir is empty; None shares nothing")
    for name in ("model_dir", "base_dir"):
      path = getattr(self, name)
      # As a path of a disk it would be a folder here, named "gs:".
      if path and "://" in path:
        raise UserError(
          f"Experiment.{name} = {path!r} is a bucket's address, and a folder "
          "of a file system is needed: mount the bucket, or train inside T5X"
        )


def run_id(config: Experiment) -> str:
  """Names a run after what it computes, wherever it lies or reads from."""

  def placeless(part):
    source = dataclasses.replace(
      part.source,
      data_dir=None,
      cache=None,
      vocabulary=part.source.vocabulary and "a file",
    )
    return dataclasses.replace(part, source=source)

  is_fitted = isinstance(config.base, BaseConfig)
  settings = as_dict(
    dataclasses.replace(
      config,
      task=placeless(config.task),
      base=placeless(config.base) if is_fitted else Checkpoint(""),
      model_dir=None,
      checkpoint_period=1,
      base_dir=None,
      limits=Limits(),
      mesh=MeshConfig(),
    )
  )
  return (
    f"{config.task.source.task}-{config.method.name}-s{config.seed}-"
    f"{files.short_hash(settings)}"
  )


def as_dict(config) -> dict:
  """Writes an experiment as nested dicts of plain values.

  A function is written as its name and the values that it closes over: for an
  estimator, the settings that it was built with.
  """

  def plain(value):
    if dataclasses.is_dataclass(value):
      return {
        field.name: plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if is_to_be_told(value, field)
      }
    if inspect.isfunction(value):
      settings = inspect.getclosurevars(value).nonlocals
      name = f"{value.__module__}.{value.__qualname__.split('.')[0]}"
      return {"name": name} | {k: plain(v) for k, v in settings.items()}
    return value

  return plain(config)


def base_rows(experiment: Experiment) -> int:
  """Counts the sequences that the base model is fitted to."""
  base = experiment.base
  return base.steps * base.batch_size if isinstance(base, BaseConfig) else 0


def plan(experiment: Experiment, num_train: int, num_test: int) -> dict:
  """Counts what a run will cost, before it starts.

  Args:
    experiment: the run.
    num_train: N, training questions.
    num_test: held-out questions.

  Returns:
    Sequences sampled and scored (differentiated), in all and by phase; the
    scored ones are an upper bound, since a row without weight is left out.
  """
  steps, evaluation = experiment.steps, experiment.evaluation
  num_greedy = 1 + -(-steps // evaluation.period)
  num_sampled = (1 + (steps > 0)) * evaluation.num_samples
  return plan_of(
    experiment.method,
    steps=steps,
    batch_size=experiment.batch_size,
    num_train=num_train,
    num_answers=num_test * (num_greedy + num_sampled),
    num_base=base_rows(experiment),
  )


def plan_of(
  method: Method,
  *,
  steps: int,
  batch_size: int,
  num_train: int,
  num_answers: int,
  num_base: int = 0,
) -> dict:
  """Counts as `plan` does, whatever the trainer.

  Args:
    method: the E-step.
    steps: of the method.
    batch_size: M.
    num_train: N, training questions.
    num_answers: completions that all evaluations draw.
    num_base: sequences that the base model is fitted to.

  Returns:
    What `plan` gives.
  """
  sampled = {
    "memory_start": 0 if method.memory_start == "empty" else num_train,
    "steps": method.drawn_by_steps(steps, batch_size, num_train),
    "evaluation": num_answers,
  }
  scored = {"base": num_base, "steps": steps * method.max_scored(batch_size)}
  return {
    "steps": steps,
    "sequences_sampled": sum(sampled.values()),
    "sequences_scored": sum(scored.values()),
    "sampled_by_phase": sampled,
    "scored_by_phase": scored,
  }
