"""The models, optimizer and devices of a run."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em import answers
from cot_latent.em.drawing import Drawer
from cot_latent.em.estep import EStep, Guide
from cot_latent.em.held_out import HeldOut
from cot_latent.em.likelihood import AnswerGivenRationale
from cot_latent.em.scored_step import AnswerScorer, ScoredEStep
from cot_latent.models import language_model, lora, partitioning
from cot_latent.models.language_model import LanguageModel
from cot_latent.training import mstep, tuning
from cot_latent.training.experiment import Experiment, Given
from cot_latent.training.loading import Data


class Setup(NamedTuple):
  """The constants of a run, except its data.

  Attributes:
    config: The experiment.
    directory: The run's folder.
    task: The task, with vocabulary and answers.
    layout: Placement of arrays on the devices; None is a single device.
    base_model: The model without anything that is added to it.
    model: The model that is trained.
    optimizer: Optax optimizer, without the learning rate.
  """

  config: Experiment
  directory: pathlib.Path
  task: Task
  layout: partitioning.Layout | None
  base_model: LanguageModel
  model: LanguageModel
  optimizer: optax.GradientTransformation

  def init_optimizer(self, params: Any) -> Any:
    """Makes the optimizer's state before any step."""
    return mstep.init_optimizer(self.model, self.optimizer, params)

  def e_step(self, data: Data) -> EStep:
    """Makes the E-step on the training questions."""
    config, model, guide = self.config, self.model, None
    kind: Callable[..., EStep] = EStep
    if data.hinted is not None:
      guide = Guide(data.hinted, tuning.untuned)
    if config.method.scores_answers():
      scorer = self.answer_scorer(data.train)
      model = model.with_ending(scorer.answers.ending)
      kind = functools.partial(ScoredEStep, scorer=scorer)
    return kind(
      model,
      self.task,
      data.train,
      config.method,
      config.seed,
      config.task.max_length,
      config.evaluation.batch_size,
      self.layout,
      config.evaluation.part_batches,
      guide,
    )

  def scorer(self) -> LanguageModel:
    """Returns the model that scores the sequences a method learns from.

    With a likelihood that the model computes, words such as "So the answer is"
    end a rationale, and the answer after them is scored too.
    """
    if not self.config.method.scores_answers():
      return self.model
    return self.model.with_ending(answers.unstopped(self.task.ending))

  def answer_scorer(self, examples: Examples) -> AnswerScorer:
    """Makes the scorer of questions' rationales and known answers.

    Raises:
      UserError: If nothing tells how an answer is stated.
    """
    likelihood = self.config.method.likelihood
    assert isinstance(likelihood, AnswerGivenRationale)
    return AnswerScorer(
      self.scorer(),
      answers.build_answers(likelihood, self.task, examples),
      examples.prompts,
      self.config.evaluation.batch_size,
    )

  def held_out(self, examples: Examples) -> HeldOut:
    """Makes the measurement of held-out questions' log-likelihood."""
    likelihood = self.config.method.likelihood
    assert isinstance(likelihood, AnswerGivenRationale)
    scorer = self.answer_scorer(examples)
    model = self.model.with_ending(scorer.answers.ending)
    drawer = self.drawer(model, self.task, examples)
    return HeldOut(drawer, scorer, likelihood.num_samples)

  def drawer(
    self, model: LanguageModel, task: Task, examples: Examples
  ) -> Drawer:
    """Makes the drawer for many questions at once, with the run's settings."""
    settings = self.config.evaluation
    return Drawer(
      model,
      task,
      examples,
      settings.batch_size,
      settings.part_batches,
      self.config.task.max_length,
    )


def build_setup(
  config: Experiment,
  directory: pathlib.Path,
  task: Task,
  given: Any = None,
) -> Setup:
  """Builds models, optimizer and devices of a run; nothing is computed yet.

  Args:
    config: The experiment.
    directory: The run's folder.
    task: Task of the run.
    given: The model, if a program passes one.
  """
  layout = partitioning.make_layout(config.mesh)
  model = given or build_model(config, task, layout, config.tuning)
  is_longer = isinstance(config.tuning, lora.Lora)
  return Setup(
    config=config,
    directory=directory,
    task=task,
    layout=layout,
    base_model=build_model(config, task, layout) if is_longer else model,
    model=model,
    optimizer=mstep.build_optimizer(config.optimizer),
  )


def build_model(
  config: Experiment,
  task: Task,
  layout: partitioning.Layout | None,
  tuning: Any = None,
) -> LanguageModel:
  """Builds the language model of an experiment.

  Args:
    config: The experiment.
    task: A task with the model's vocabulary.
    layout: Placement of arrays on the devices.
    tuning: What is trained; low-rank updates are parts of the model.
  """
  assert not isinstance(config.model, Given)  # it comes with its functions
  return language_model.from_config(
    config.model,
    task.vocabulary.size,
    task.ending,
    config.task.max_length,
    layout,
    tuning if isinstance(tuning, lora.Lora) else None,
  )
