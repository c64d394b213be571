"""A small SeqIO task and a small experiment on it, for the trainer's tests."""

import dataclasses
import random

import seqio

from cot_latent.data import checkers, prompts
from cot_latent.inference import estimators
from cot_latent.models import decoder, language_model
from cot_latent.tasks import chain, common
from cot_latent.training import experiment, train

NAME = "toy_chain"
SIZES = {"base": 32, "train": 24, "test": 10}


def _examples(split):
  rng = random.Random(split)
  for number in range(SIZES[split]):
    first, steps = chain.make_question(rng)
    targets, answer = chain.write_rationale(first, steps, [0] * len(steps))
    yield {
      "id": f"{split}/{number:02}",
      "question": chain.write_question(first, steps),
      "answer": answer,
      "targets": targets,
    }


def register():
  """Registers the task, once a process."""
  if NAME not in seqio.TaskRegistry.names():
    common.register(
      NAME, _examples, list(SIZES), checkers.answer_sentence, prompts.COMPACT
    )


def make_experiment(model_dir, **changes) -> experiment.Experiment:
  """Makes a run of a few steps; `changes` are fields of the experiment."""
  register()
  optimizer = experiment.OptimizerConfig(1e-2, clip_norm=1.0)
  config = experiment.Experiment(
    model=decoder.DecoderConfig(1, 16, 2, 8, 32),
    task=experiment.TaskConfig(NAME, prompt_length=32, max_length=40),
    method=experiment.Method("trice", estimators.control_variate()),
    optimizer=optimizer,
    base=experiment.BaseConfig(4, 8, optimizer),
    evaluation=experiment.EvaluationConfig(8, period=3, num_samples=2),
    model_dir=str(model_dir),
    seed=0,
    steps=7,
    batch_size=8,
    checkpoint_period=2,
  )
  return dataclasses.replace(config, **changes)


def run(config):
  """Runs an experiment that no gin file describes."""
  gin_record = {
    "gin_files": [],
    "bindings": [],
    "resolved": "",
    "operative": "",
  }
  return train.train(train.prepare(config, gin_record))


def load(config=None):
  """The toy's data."""
  return train.load_data(config or make_experiment("unused"))


def make_model(max_length=40):
  config = make_experiment("unused")
  vocabulary = load(config).task.vocabulary
  return language_model.build(
    config.model, vocabulary.size, vocabulary.eos_id, max_length
  )
