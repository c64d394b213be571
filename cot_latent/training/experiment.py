"""What a run consists of, as plain data. Gin fills these in.

M questions a minibatch, K draws a question, L sequences scored a step.
"""

import dataclasses
import math

from cot_latent.data.source import OverLong, Source, TaskConfig
from cot_latent.em.likelihood import AnswerGivenRationale
from cot_latent.em.method import Method
from cot_latent.em.plan import as_dict, plan_of
from cot_latent.errors import UserError
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.partitioning import MeshConfig
from cot_latent.models.t5 import T5Config
from cot_latent.reporting.health import Limits
from cot_latent.runtime import files
from cot_latent.runtime.validation import (
  check_positive,
  check_types,
  check_within,
)
from cot_latent.training.tuning import Tuning


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
class Checkpoint:
  """A pretrained base model.

  Attributes:
    path: The folder of a Hugging Face checkpoint, with safetensors, or a GGUF
      file.
  """

  path: str

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """Fitting a base model to a task's rationales before the run.

  Attributes:
    source: The task that it is fitted to, with the same vocabulary.
    split: Split of that task.
    over_long: What happens to an example that does not fit (`Task.load`).
    steps: Optimizer steps.
    batch_size: Examples a step, half of them under the hinted prompt.
    optimizer: Optimizer of the fit.
    start: Pretrained model that the fit begins with; None is a new model.
    seed: Seed of the fit; None is the run's. Runs with several seeds share one
      base model if it is set.
  """

  source: Source
  split: str
  steps: int
  batch_size: int
  optimizer: OptimizerConfig
  over_long: OverLong = "leave_out"
  start: Checkpoint | None = None
  seed: int | None = None

  def __post_init__(self):
    check_types(self)
    check_positive(self, "steps", "batch_size")
    if self.seed is not None:
      check_within(self, "seed", 0, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Given:
  """A model that a program hands to the trainer, known by name and hash.

  Attributes:
    name: Name for the report.
    sha256: The hash of its parameters (`digests.tree_sha256`).
  """

  name: str
  sha256: str

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
    part_batches: Batches of rows that are drawn, and kept on the disk, as one
      part; fixed, because the numbers depend on it as on the batch size.
  """

  batch_size: int
  period: int
  num_samples: int = 40
  part_batches: int = 4

  def __post_init__(self):
    check_types(self)
    check_positive(self, "batch_size", "period", "part_batches")
    check_within(self, "num_samples", 0, 4096)  # as a report has at most


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

  model: DecoderConfig | T5Config | Given
  task: TaskConfig
  method: Method
  optimizer: OptimizerConfig
  base: BaseConfig | Checkpoint | Given
  evaluation: EvaluationConfig
  model_dir: str | None
  seed: int
  steps: int
  batch_size: int
  checkpoint_period: int = 100
  base_dir: str | None = None
  max_nonfinite_steps: int = 3
  limits: Limits = dataclasses.field(default_factory=Limits)
  tuning: Tuning = None
  rows_at_once: int | None = None
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


def pretrained(config: Experiment) -> Checkpoint | None:
  """The checkpoint that a run begins with, fitted further or not; or None."""
  if isinstance(config.base, BaseConfig):
    return config.base.start
  return config.base if isinstance(config.base, Checkpoint) else None


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

  base = config.base
  if isinstance(base, BaseConfig):
    base = dataclasses.replace(
      placeless(base), start=base.start and Checkpoint("")
    )
  elif isinstance(base, Checkpoint):
    base = Checkpoint("")
  settings = as_dict(
    dataclasses.replace(
      config,
      task=placeless(config.task),
      base=base,
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


def trains_all(experiment: Experiment) -> bool:
  """Whether a run changes all parameters of its base model.

  Of a run that does not, one without steps among them, no checkpoint holds the
  base model.
  """
  return experiment.tuning is None and experiment.steps > 0


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
  likelihood = experiment.method.likelihood
  if isinstance(likelihood, AnswerGivenRationale):
    num_sampled += num_greedy * likelihood.num_samples
  return plan_of(
    experiment.method,
    steps=steps,
    batch_size=experiment.batch_size,
    num_train=num_train,
    num_answers=num_test * (num_greedy + num_sampled),
    num_base=base_rows(experiment),
  )
