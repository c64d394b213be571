"""Small models of T5X's, and a step of its trainer, without its train.py."""

import jax
import numpy as np
import seqio
from t5x import (
  adafactor,
  decoding,
  optimizers,
  partitioning,
  utils,
)

from benchmarks import peers_t5x
from cot_latent.data.source import Source, TaskConfig
from cot_latent.em.method import Method
from cot_latent.inference import estimators
from cot_latent.models import decoder, t5
from cot_latent.t5x import checks, features, latent, latent_trainer
from tests.training import toy

VOCABULARY = seqio.ByteVocabulary(extra_ids=0)
SIZES = t5.T5Config(
  num_encoder_layers=2,
  num_decoder_layers=2,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=32,
)
RATE = 1e-2
GOOD = checks.Settings(0, False, True, True)


def encoder_decoder(optimizer=None, dropout_rate=0.0, network=None, **changes):
  """A T5; network has settings of T5X's T5Config, changes of its model."""
  network = {"dropout_rate": dropout_rate} | (network or {})
  settings = {"loss_normalizing_factor": 1}
  return _model(SIZES, network, optimizer, **settings | changes)


def decoder_only(optimizer=None, **changes):
  sizes = decoder.DecoderConfig(
    SIZES.num_decoder_layers,
    SIZES.embed_dim,
    SIZES.num_heads,
    SIZES.head_dim,
    SIZES.mlp_dim,
  )
  return _model(sizes, {}, optimizer, **changes)


def _model(sizes, network, optimizer, **changes):
  network = peers_t5x.network(sizes, VOCABULARY.vocab_size, **network)
  settings = {
    "decode_fn": decoding.temperature_sample,
    "optimizer_def": optimizer or adafactor.Adafactor(),
  }
  return peers_t5x.model(network, VOCABULARY, **settings | changes)


def sgd():
  """A step of which is the gradient itself, by the rate."""
  return optimizers.sgd(RATE)


def method(**changes):
  settings = {
    "name": "trice",
    "estimator": estimators.control_variate(),
    "memory_start": "prior",
  }
  return Method(**settings | changes)


def make_latent(model, monkeypatch, the_method=None, batch_size=8, seed=0):
  """What gin would make, on a toy task."""
  toy.register()
  settings = GOOD._replace(random_seed=seed)
  monkeypatch.setattr(checks, "gin_settings", lambda: settings)
  task = TaskConfig(Source(toy.PARITY), prompt_length=32, max_length=8)
  return latent.Latent(
    model, task, the_method or method(), seed, batch_size, "/nowhere"
  )


def make_trainer(
  model,
  made,
  num_partitions=1,
  num_microbatches=None,
  key=0,
  report=None,
  params=None,
):
  """A trainer as train.py makes it, on all devices; params are T5X's."""
  partitioner = partitioning.PjitPartitioner(
    num_partitions=num_partitions,
    logical_axis_rules=partitioning.standard_logical_axis_rules(),
  )
  config = utils.DatasetConfig("none", {}, "train", made.batch_size, False, 0)
  made(config, 0, 1, model.FEATURE_CONVERTER_CLS)
  empty = made.converter.zeros(made.batch_size)
  initializer = utils.TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes={name: part.shape for name, part in empty.items()},
    input_types={name: part.dtype for name, part in empty.items()},
    partitioner=partitioner,
  )
  state = initializer.from_scratch(jax.random.PRNGKey(key))
  if params is not None:
    leaves = map(jax.numpy.asarray, jax.tree.leaves(params))
    structure = jax.tree.structure(state.params)
    state = state.replace_params(jax.tree.unflatten(structure, leaves))
  return latent_trainer.LatentTrainer(
    model=model,
    train_state=state,
    partitioner=partitioner,
    eval_names=[],
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(1),
    learning_rate_fn=lambda step: RATE,
    num_microbatches=num_microbatches,
    latent=made,
    report=report,
  )


def host(tree):
  return jax.tree.map(np.asarray, tree)


def widths(model):
  return features.converter(model, 16, 8)
