"""The same work in T5X, in its usual style.

The models are T5X's own: of the same sizes, but with relative positions where
ours are rotary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import decoding, models
from t5x.examples.decoder_only import network as decoder_only
from t5x.examples.t5 import network as encoder_decoder

from cot_latent.models import t5

_SETTINGS: dict[str, Any] = {
  "optimizer_def": None,
  # As many as there are, because T5X wants a number even if nothing is cut off.
  "decode_fn": functools.partial(
    decoding.temperature_sample, temperature=1.0, topk=0
  ),
  "label_smoothing": 0.0,
  "z_loss": 0.0,
  "loss_normalizing_factor": 1.0,
}


class Peer:
  """A model of T5X, with its parameters.

  Attributes:
    model: Model of T5X.
    params: Parameters of the model.
    is_causal: Whether it is decoder-only.
  """

  def __init__(self, model: Any, is_causal: bool):
    """Draws parameters."""
    names = ["decoder_input_tokens"]
    if not is_causal:
      names.append("encoder_input_tokens")
    shapes = {name: (1, 8) for name in names}
    types = dict.fromkeys(shapes, jnp.int32)
    if not is_causal:
      shapes["decoder_target_tokens"] = (1, 8)
      types["decoder_target_tokens"] = jnp.int32
    variables = jax.jit(
      lambda: model.get_initial_variables(jax.random.key(0), shapes, types)
    )()
    self.model, self.params = model, variables["params"]
    self.is_causal = is_causal


def network(config: Any, vocab_size: int, **changes: Any) -> Any:
  """Makes T5X's network of a T5Config's or a DecoderConfig's sizes.

  Args:
    config: Our config.
    vocab_size: Vocabulary size V.
    **changes: Other fields of T5X's config.
  """
  settings = {
    "vocab_size": vocab_size,
    "emb_dim": config.embed_dim,
    "num_heads": config.num_heads,
    "head_dim": config.head_dim,
    "mlp_dim": config.mlp_dim,
    "mlp_activations": ("gelu", "linear"),
    "dropout_rate": 0.0,
  }
  if isinstance(config, t5.T5Config):
    settings["num_encoder_layers"] = config.num_encoder_layers
    settings["num_decoder_layers"] = config.num_decoder_layers
    return encoder_decoder.Transformer(
      encoder_decoder.T5Config(**settings | changes)
    )
  settings["num_layers"] = config.num_layers
  settings["logits_via_embedding"] = True
  return decoder_only.DecoderWrapper(
    decoder_only.TransformerConfig(**settings | changes)
  )


def model(network: Any, vocabulary: Any, **settings: Any) -> Any:
  """Makes T5X's model from a network and one vocabulary."""
  if isinstance(network, encoder_decoder.Transformer):
    return models.EncoderDecoderModel(
      network, vocabulary, vocabulary, **settings
    )
  return models.DecoderOnlyModel(network, vocabulary, **settings)


def build_peer(config: Any, vocab_size: int) -> Peer:
  """Makes the peer of a model with a T5Config's or a DecoderConfig's sizes."""
  is_causal = not isinstance(config, t5.T5Config)
  # As in our own model.
  activation = "silu" if is_causal else "gelu"
  peer = network(config, vocab_size, mlp_activations=(activation, "linear"))
  vocabulary = seqio.PassThroughVocabulary(1)
  return Peer(model(peer, vocabulary, **_SETTINGS), is_causal)


def sampler(
  peer: Peer,
  max_length: int,
  eos_id: int,
  change: Callable[[jax.Array], jax.Array],
  batch_size: int,
) -> Callable[[np.ndarray], int]:
  """Builds sampling in batches.

  Args:
    peer: Model that samples.
    max_length: Maximum number of tokens T.
    eos_id: Token that ends a row.
    change: Change of the logits [B, V] before a token is drawn.
    batch_size: Batch size B.

  Returns:
    prompts [N, P] -> the number of tokens drawn, up to each row's EOS.
  """

  @jax.jit
  def sample_batch(params, batch, rng_key):
    return peer.model.predict_batch_with_aux(
      params,
      batch,
      rng=rng_key,
      decoder_params={
        "eos_id": eos_id,
        "logit_callback_fn": lambda logits, state: change(logits),
      },
    )[0]

  def sample(prompts):
    total = 0
    for first in range(0, len(prompts), batch_size):
      batch = _features(peer, prompts[first : first + batch_size], max_length)
      written = sample_batch(peer.params, batch, jax.random.key(0))
      is_end = (np.asarray(written)[:, :max_length] == eos_id).astype(int)
      total += int((is_end.cumsum(1) - is_end == 0).sum())
    return total

  return sample


def _features(peer: Peer, prompts: np.ndarray, max_length: int) -> dict:
  """Returns T5X's features of prompts [B, P], with room for T tokens."""
  room = np.zeros((len(prompts), max_length), np.int32)
  if not peer.is_causal:
    return {"encoder_input_tokens": prompts, "decoder_input_tokens": room}
  tokens = np.concatenate([prompts, room], axis=1)
  # The prompt's last token predicts the first drawn token.
  is_prompt = np.arange(tokens.shape[1]) <= prompts.shape[1]
  return {
    "decoder_input_tokens": _shifted(tokens),
    "decoder_causal_attention": np.tile(is_prompt, (len(tokens), 1)).astype(
      np.int32
    ),
  }


def _shifted(tokens: np.ndarray) -> np.ndarray:
  return np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]


def gradient(
  peer: Peer,
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], int]:
  """Builds the gradient of the weighted sum of log-probabilities.

  Returns:
    (prompts [S, P], targets [S, T], weights [S]) -> S.
  """

  @jax.jit
  def differentiate(params, batch):
    return jax.grad(lambda p: peer.model.loss_fn(p, batch, None)[0])(params)

  def step(prompts, targets, weights):
    tokens = np.concatenate([prompts, targets], axis=1)
    is_target = np.arange(tokens.shape[1]) >= prompts.shape[1]
    batch = {
      "decoder_input_tokens": _shifted(tokens),
      "decoder_target_tokens": tokens,
      "decoder_loss_weights": weights[:, None] * is_target,
    }
    jax.block_until_ready(differentiate(peer.params, batch))
    return len(prompts)

  return step
