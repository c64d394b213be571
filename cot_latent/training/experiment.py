"""The configuration of a run, as plain data. Gin fills it in.

M questions per minibatch, K draws per question, L sequences scored per step.
"""

import dataclasses
import math

from cot_latent.data.source import OverLong, Source, TaskConfig
from cot_latent.em.likelihood import AnswerGivenRationale
from cot_latent.em.method import Method
from cot_latent.em.plan import as_dict, plan_of
from cot_latent.em.watching import UNRECORDED, Watch
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
from cot_latent.training.tuning import SoftPrompt, Tuning


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Adam with clipping, warm-up and cosine decay.

  Attributes:
    learning_rate: Highest learning rate.
    warmup_steps: Steps of linear growth from 0.
    decay_steps: Steps of cosine decay after that; None is all remaining steps.
    final_ratio: Last learning rate over the highest; 1 is constant.
    clip_norm: Maximum norm of the whole gradient, or None.
    b1: Decay of the first moment.
    b2: Decay of the second moment.
    eps: Term added to the root of the second moment.
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
    for name in ("b1", "b2"):
      if getattr(self, name) == 1:
        raise UserError(f"OptimizerConfig.{name} = 1: must be below 1")


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A pretrained model to start from.

  Attributes:
    path: Folder of a Hugging Face checkpoint with safetensors, or path of a
      GGUF file.
  """

  path: str

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """Settings for fitting a base model to a task's rationales before the run.

  Attributes:
    source: Task with the rationales; its vocabulary is the run's.
    split: Split of that task.
    over_long: What happens to an example that does not fit (`Task.load`).
    steps: Optimizer steps.
    batch_size: Examples per step, half of them under the hinted prompt.
    optimizer: Optimizer of the fit.
    start: Pretrained model with which the fit begins; None is a new model.
    seed: Seed of the fit; None is the run's. If it is set, runs with several
      seeds share one base model.
  """

  source: Source
  split: str
  steps: int
  batch_size: int
  optimizer: OptimizerConfig
  over_long: OverLong = "leave_out"
  start: Pretrained | None = None
  seed: int | None = None

  def __post_init__(self):
    check_types(self)
    check_positive(self, "steps", "batch_size")
    if self.seed is not None:
      check_within(self, "seed", 0, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Given:
  """A model that a program passes to the trainer, known by name and hash.

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
    batch_size: Rows decoded together; fixed, because the numbers depend on it.
    period: Steps between greedy evaluations; the first and the last step are
      always evaluated, greedily and by self-consistency.
    num_samples: Votes per question for self-consistency (40 in the paper); 0
      leaves self-consistency out.
    part_batches: Batches of rows that are drawn and stored on disk as one part;
      fixed, because the numbers depend on it as on the batch size.
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
  """The configuration of one run.

  Attributes:
    model: Sizes of the language model.
    task: The questions.
    method: Method of the E-step.
    optimizer: Optimizer of the M-step.
    base: How the base model is made, or where it is.
    evaluation: Evaluation on held-out questions.
    model_dir: Folder for checkpoints, logs and the report; None is runs/ and
      the run's id.
    seed: Seed of all randomness.
    steps: Training steps of the method.
    batch_size: Questions M in a minibatch.
    checkpoint_period: Steps between checkpoints.
    base_dir: Folder in which runs with the same base model share it; None fits
      it in each run.
    max_nonfinite_steps: Number of successive steps that may have a gradient
      that is not finite. Such steps are skipped; one more ends the run.
    limits: Limits beyond which a complete run is suspect.
    tuning: What is trained: None is all parameters, `SoftPrompt` or `Lora`.
    rows_at_once: Rows that are differentiated at once, padded to the longest of
      them; gradients are summed. None is a quarter of the minibatch.
    mesh: Arrangement of the devices; it may change when the run resumes.
    watch: Metric writers and profile; they are not in the report.
  """

  model: DecoderConfig | T5Config | Given
  task: TaskConfig
  method: Method
  optimizer: OptimizerConfig
  base: BaseConfig | Pretrained | Given
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
  watch: Watch = dataclasses.field(default_factory=Watch, metadata=UNRECORDED)

  def __post_init__(self):
    check_types(self)
    check_positive(self, "batch_size", "checkpoint_period")
    check_within(self, "max_nonfinite_steps", 0, math.inf)
    check_within(self, "steps", 0, math.inf)  # 0 evaluates the base model
    check_within(self, "seed", 0, 2**32 - 1)
    self.watch.check_steps(self.steps)
    if self.rows_at_once is not None:
      check_positive(self, "rows_at_once")
    if self.model_dir == "":
      raise UserError("Experiment.model_dir is empty; None names the folder")
    if self.base_dir == "":
      raise UserError("Experiment.base_dir is empty; None shares nothing")
    for name in ("model_dir", "base_dir"):
      path = getattr(self, name)
      # As a path on a disk it would be a folder here, named "gs:".
      if path and "://" in path:
        raise UserError(
          f"Experiment.{name} = {path!r} is a bucket's address, and a folder "
          "of a file system is needed: mount the bucket, or train inside T5X"
        )

  def rows_of_part(self) -> int:
    """Returns how many rows are differentiated at once, by default M / 4."""
    return self.rows_at_once or -(-self.batch_size // 4)


def pretrained(config: Experiment) -> Pretrained | None:
  """Returns the model to start from, fitted further or not; or None."""
  if isinstance(config.base, BaseConfig):
    return config.base.start
  return config.base if isinstance(config.base, Pretrained) else None


def run_id(config: Experiment) -> str:
  """Names a run by what it computes, whatever its folders."""

  def without_folders(part):
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
      without_folders(base), start=base.start and Pretrained("")
    )
  elif isinstance(base, Pretrained):
    base = Pretrained("")
  tuned = config.tuning
  if isinstance(tuned, SoftPrompt) and tuned.source is not None:
    tuned = without_folders(tuned)
  settings = as_dict(
    dataclasses.replace(
      config,
      tuning=tuned,
      task=without_folders(config.task),
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

  If it does not, or has no steps, no checkpoint holds the base model.
  """
  return experiment.tuning is None and experiment.steps > 0


def base_rows(experiment: Experiment) -> int:
  """Counts the sequences to which the base model is fitted."""
  base = experiment.base
  return base.steps * base.batch_size if isinstance(base, BaseConfig) else 0


def plan(experiment: Experiment, num_train: int, num_test: int) -> dict:
  """Counts the cost of a run, before it starts.

  Args:
    experiment: The run.
    num_train: Training questions N.
    num_test: Held-out questions.

  Returns:
    Sequences sampled and scored (differentiated), in all and by phase. The
    scored counts are upper bounds, because a row without weight is left out.
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
