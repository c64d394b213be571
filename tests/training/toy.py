"""Small SeqIO tasks and a small experiment, for the trainer's tests.

`toy_chain` is the chain task in small: its answers must be read out of a
sentence, which an untrained model does not write. `toy_parity` is for runs: a
completion's answer is the parity of its length, so that a model that has
learnt little more than to stop is right half the time, and every part of a
step has something to do.
"""

import dataclasses
import random

import seqio

from cot_latent.data import checkers, prompts
from cot_latent.inference import estimators
from cot_latent.models import decoder, language_model
from cot_latent.tasks import chain, common
from cot_latent.training import experiment, train

CHAIN, PARITY = "toy_chain", "toy_parity"
SIZES = {"base": 32, "train": 24, "test": 10}
LENGTH = {CHAIN: 40, PARITY: 8}


def _chain_examples(split):
  rng = random.Random(split)
  for number in range(SIZES[split]):
    terms = chain.make_question(rng)
    targets, answer = chain.write_rationale(terms, [0] * (len(terms) - 1))
    yield {
      "id": f"{split}/{number:02}",
      "question": chain.write_question(terms),
      "answer": answer,
      "targets": targets,
    }


def _parity_examples(split):
  rng = random.Random(split)
  for number in range(SIZES[split]):
    targets = "".join(rng.choice("ab") for _ in range(rng.randrange(1, 6)))
    yield {
      "id": f"{split}/{number:02}",
      "question": f"{split[0]}{number}",
      "answer": _parity(targets),
      "targets": targets,
    }


def _parity(text):
  return str(len(text) % 2)


def register():
  """Registers the tasks, once a process."""
  if CHAIN in seqio.TaskRegistry.names():
    return
  splits, template = list(SIZES), prompts.COMPACT
  sentence = checkers.answer_sentence
  common.register(CHAIN, _chain_examples, splits, sentence, template)
  common.register(PARITY, _parity_examples, splits, _parity, template)


def make_experiment(model_dir, task=PARITY, **changes) -> experiment.Experiment:
  """Makes a run of a few steps; `changes` are fields of the experiment."""
  register()
  optimizer = experiment.OptimizerConfig(1e-2, clip_norm=1.0)
  config = experiment.Experiment(
    model=decoder.DecoderConfig(1, 16, 2, 8, 32),
    task=experiment.TaskConfig(task, prompt_length=32, max_length=LENGTH[task]),
    method=experiment.Method("trice", estimators.control_variate()),
    optimizer=optimizer,
    base=experiment.BaseConfig(40, 8, optimizer),
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


def load(config):
  """The data of an experiment."""
  return train.load_data(config)


def make_model(config):
  """The model of an experiment."""
  vocabulary = load(config).task.vocabulary
  return language_model.build(
    config.model, vocabulary.size, vocabulary.eos_id, config.task.max_length
  )
