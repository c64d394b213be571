"""Small models of T5X's, and a step of its trainer, without its train.py."""

import jax
import numpy as np
import seqio
from t5x import (
  adafactor,
  decoding,
  models,
  optimizers,
  partitioning,
  utils,
)
from t5x.examples.decoder_only import network as decoder_network
from t5x.examples.t5 import network

from cot_latent.data import examples
from cot_latent.inference import estimators
from cot_latent.models import t5
from cot_latent.t5x import checks, features, latent, latent_trainer
from cot_latent.training import experiment
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


def encoder_decoder(optimizer=None, dropout_rate=0.0, **changes):
  config = network.T5Config(
    vocab_size=VOCABULARY.vocab_size,
    emb_dim=SIZES.embed_dim,
    num_heads=SIZES.num_heads,
    num_encoder_layers=SIZES.num_encoder_layers,
    num_decoder_layers=SIZES.num_decoder_layers,
    head_dim=SIZES.head_dim,
    mlp_dim=SIZES.mlp_dim,
    mlp_activations=("gelu", "linear"),
    dropout_rate=dropout_rate,
  )
  settings = {
    "decode_fn": decoding.temperature_sample,
    "loss_normalizing_factor": 1,
  }
  return models.EncoderDecoderModel(
    network.Transformer(config),
    VOCABULARY,
    VOCABULARY,
    optimizer or adafactor.Adafactor(),
    **settings | changes,
  )


def decoder_only(optimizer=None, **changes):
  config = decoder_network.TransformerConfig(
    vocab_size=VOCABULARY.vocab_size,
    emb_dim=16,
    num_heads=2,
    num_layers=2,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
    logits_via_embedding=True,
  )
  settings = {"decode_fn": decoding.temperature_sample}
  return models.DecoderOnlyModel(
    decoder_network.DecoderWrapper(config),
    VOCABULARY,
    optimizer or adafactor.Adafactor(),
    **settings | changes,
  )


def sgd():
  """A step of which is the gradient itself, by the rate."""
  return optimizers.sgd(RATE)


def method(**changes):
  settings = {
    "name": "trice",
    "estimator": estimators.control_variate(),
    "memory_start": "prior",
  }
  return experiment.Method(**settings | changes)


def make_latent(model, monkeypatch, the_method=None, batch_size=8):
  """What gin would make, on a toy task."""
  toy.register()
  monkeypatch.setattr(checks, "gin_settings", lambda: GOOD)
  task = experiment.TaskConfig(
    examples.Source(toy.PARITY), prompt_length=32, max_length=8
  )
  return latent.Latent(
    model, task, the_method or method(), 0, batch_size, "nowhere"
  )


def make_trainer(
  model, made, num_partitions=1, num_microbatches=None, key=0, report=None
):
  """A trainer as train.py makes it, on all devices."""
  partitioner = partitioning.PjitPartitioner(
    num_partitions=num_partitions,
    logical_axis_rules=partitioning.standard_logical_axis_rules(),
  )
  config = utils.DatasetConfig("none", {}, "train", made.batch_size, False, 0)
  made(config, 0, 1, model.FEATURE_CONVERTER_CLS)
  spec = made.converter.spec(made.batch_size)
  initializer = utils.TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes={name: part.shape for name, part in spec.items()},
    input_types={name: part.dtype for name, part in spec.items()},
    partitioner=partitioner,
  )
  state = initializer.from_scratch(jax.random.PRNGKey(key))
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
