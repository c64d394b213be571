"""Small SeqIO tasks and a small experiment, for the trainer's tests.

`toy_chain` is the chain task in small: its answers must be read out of a
sentence, which an untrained model does not write. `toy_parity` is for runs: a
completion's answer is the parity of its length, so that a model that has
learnt little more than to stop is correct half the time, and every part of a
step has something to do. `toy_mixture` has three tasks, two of them a family.
`toy_unexplained` has the questions of `toy_chain` without rationales.
"""

import dataclasses
import functools
import random

import seqio

from cot_latent.data import prompts
from cot_latent.data.open import open_task
from cot_latent.data.source import Source, TaskConfig
from cot_latent.em.method import Method
from cot_latent.inference import estimators
from cot_latent.models import decoder, language_model
from cot_latent.models.lora import Lora
from cot_latent.runtime import compilation
from cot_latent.tasks import chain, common
from cot_latent.training import experiment, loading, train

CHAIN, PARITY, MIXTURE = "toy_chain", "toy_parity", "toy_mixture"
UNEXPLAINED = "toy_unexplained"
PARTS = ("toy_five_objects_v1", "toy_three_objects_v1", "toy_words_v1")
SIZES = {"base": 32, "train": 24, "test": 10}
LENGTH = {CHAIN: 40, PARITY: 8, MIXTURE: 24, UNEXPLAINED: 40}


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


def _word_examples(name, split):
  rng = random.Random(name + split)
  for number in range(SIZES[split]):
    answer = rng.choice(("red", "blue"))
    yield {
      "id": f"{name}/{split}/{number:02}",
      "question": f"{name[4]}{split[0]}{number}",
      "answer": answer,
      "targets": f"The answer is {answer}.",
    }


def _unexplained_examples(split):
  for row in _chain_examples(split):
    yield row | {"targets": f"The answer is {row['answer']}."}


def _parity(text):
  return str(len(text) % 2)


def register():
  """Registers the tasks, once a process."""
  if CHAIN in seqio.TaskRegistry.names():
    return
  words = [
    (name, functools.partial(_word_examples, name), None) for name in PARTS
  ]
  for name, read, extract in (
    (CHAIN, _chain_examples, None),
    (UNEXPLAINED, _unexplained_examples, None),
    (PARITY, _parity_examples, _parity),
    *words,
  ):
    common.register(
      name,
      common.rows_source(read, list(SIZES)),
      lambda: SIZES,
      prompts=prompts.COMPACT,
      rationale_splits=[] if name == UNEXPLAINED else list(SIZES),
      extract=extract,
    )
  common.register_mixture(MIXTURE, PARTS)


def make_experiment(model_dir, task=PARITY, **changes) -> experiment.Experiment:
  """Makes a run of a few steps; `changes` are fields of the experiment."""
  register()
  optimizer = experiment.OptimizerConfig(1e-2, clip_norm=1.0)
  source = Source(task)
  config = experiment.Experiment(
    model=decoder.DecoderConfig(1, 16, 2, 8, 32),
    task=TaskConfig(source, prompt_length=32, max_length=LENGTH[task]),
    method=Method("trice", _control_variate()),
    optimizer=optimizer,
    base=experiment.BaseConfig(source, "base", 40, 8, optimizer),
    evaluation=experiment.EvaluationConfig(8, period=3, num_samples=2),
    model_dir=str(model_dir),
    seed=0,
    steps=7,
    batch_size=8,
    checkpoint_period=2,
  )
  return dataclasses.replace(config, **changes)


# Opened and read once a process.
open_task = functools.cache(open_task)
_compiled = {}  # once a process, for all runs that share the sizes
# One estimator, so that it is one static argument.
_control_variate = functools.cache(estimators.control_variate)


def shared_compilation():
  """Shares compiled functions between the runs within."""
  return compilation.shared(_compiled)


def run(config, gin_record=None):
  """Runs an experiment, which no gin file need describe."""
  return train.train(prepare(config, gin_record))


def prepare(config, gin_record=None):
  """Prepares a run."""
  nothing = {
    "gin_files": [],
    "bindings": [],
    "resolved": "",
    "operative": "",
  }
  return train.prepare(config, gin_record or nothing, open_task)


def load(config):
  """The data of an experiment."""
  return loading.load_data(config, open_task)


def make_model(config):
  """The model of an experiment."""
  vocabulary = load(config).task.vocabulary
  sizes = vocabulary.size, vocabulary.eos_id, config.task.max_length
  lora = config.tuning if isinstance(config.tuning, Lora) else None
  with shared_compilation():
    return language_model.from_config(config.model, *sizes, lora=lora)


def bootstrapped(config, num_exemplars=2, prompt_length=80):
  """The same run, with worked examples of its base model's own."""
  asked = dataclasses.replace(
    prompts.COMPACT, exemplars="bootstrapped", num_exemplars=num_exemplars
  )
  return with_prompts(config, asked, prompt_length)


def with_prompts(config, asked, prompt_length):
  """The same run with other prompts, for the base model too."""
  source = dataclasses.replace(config.task.source, prompts=asked)
  return dataclasses.replace(
    config,
    task=dataclasses.replace(
      config.task, source=source, prompt_length=prompt_length
    ),
    base=dataclasses.replace(config.base, source=source),
  )
