"""Features are SeqIO's own, except the weights."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cot_latent.errors import UserError
from tests.t5x import small

PROMPTS = np.array([[0, 0, 5, 6, 7], [0, 8, 9, 4, 3], [1, 2, 3, 4, 5]])
TARGETS = np.array([[9, 8, 1, 0], [7, 1, 0, 0], [6, 5, 4, 3]])


def of_seqio(converter_cls, prompt_length, target_length):
  rows = [
    {
      "inputs": np.array([t for t in prompt if t], np.int32),
      "targets": np.array([t for t in target if t], np.int32),
    }
    for prompt, target in zip(PROMPTS, TARGETS, strict=True)
  ]
  dataset = tf.data.Dataset.from_generator(
    lambda: rows,
    output_signature={
      name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")
    },
  )
  converted = converter_cls(pack=False)(
    dataset, {"inputs": prompt_length, "targets": target_length}
  )
  columns = list(converted.as_numpy_iterator())
  return {name: np.stack([row[name] for row in columns]) for name in columns[0]}


@pytest.mark.parametrize(
  ("model", "converter_cls"),
  [
    (small.encoder_decoder, seqio.EncDecFeatureConverter),
    (small.decoder_only, seqio.DecoderFeatureConverter),
  ],
)
def test_features_are_those_of_seqio(model, converter_cls):
  converter = small.features.converter(model(), 6, 4)
  made = converter.convert(
    PROMPTS.astype(np.int32), TARGETS.astype(np.int32), np.ones(3, np.float32)
  )
  wanted = of_seqio(converter_cls, 6, 4)
  assert made.keys() >= wanted.keys() - {"decoder_positions"}
  for name in made:
    if name == "decoder_causal_attention":
      # SeqIO marks the prompt and the place where the target begins.
      wanted[name] = wanted[name].astype(np.int32)
    np.testing.assert_array_equal(made[name], wanted[name], err_msg=name)
    assert made[name].dtype in (np.int32, np.float32)


def test_only_targets_have_weights():
  weights = np.array([2.0, -1.0, 0.5], np.float32)
  for model in (small.encoder_decoder(), small.decoder_only()):
    made = small.features.converter(model, 6, 4).convert(
      PROMPTS.astype(np.int32), TARGETS.astype(np.int32), weights
    )
    on_tokens = made["decoder_loss_weights"]
    assert on_tokens.sum(axis=1).tolist() == [6.0, -2.0, 2.0]
    assert (made["decoder_target_tokens"][on_tokens != 0] != 0).all()


def test_another_model_is_refused():
  with pytest.raises(UserError, match="MODEL is a str"):
    small.features.converter("a model", 6, 4)
