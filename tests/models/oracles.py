"""The decoder in plain numpy, one row at a time: no padding, cache or batch.

Symbols: S tokens of a row, E width of the model, V vocabulary.
"""

import functools

import jax
import numpy as np

from cot_latent.models.api import PAD_ID


def unpadded(prompt):
  """A prompt's tokens; an empty one starts from one padding token."""
  return list(np.trim_zeros(prompt, "f")) or [PAD_ID]


def turn_halves(x, position, base):
  """Rotates a head's vector; coordinate k goes with k + D / 2."""
  half = len(x) // 2
  turned = (x[:half] + 1j * x[half:]) * _turn(half, position, base)
  return np.concatenate([turned.real, turned.imag])


def turn_neighbours(x, position, base):
  """The other convention, of GPT-J: coordinate 2 k goes with 2 k + 1."""
  turned = (x[::2] + 1j * x[1::2]) * _turn(len(x) // 2, position, base)
  return np.stack([turned.real, turned.imag], axis=1).ravel()


def up_to_itself(place, other):
  return other <= place


def next_log_probs(
  params, config, tokens, *, turn=turn_halves, sees=up_to_itself
):
  """[S, V] log-probabilities of the token after each of S, in float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  embedding = params["embed"]["embedding"]
  x = np.array([embedding[token] for token in tokens])
  x *= np.sqrt(config.embed_dim)
  turn = functools.partial(turn, base=config.rope_base)
  for number in range(config.num_layers):
    layer = params[f"layer_{number}"]
    x = x + _attention(layer, config, x, turn, sees)
    x = x + _mlp(layer, x)
  logits = _norm(x, params["final_norm"]) @ embedding.T
  return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _turn(half, position, base):
  return np.exp(1j * position * base ** (-np.arange(half) / half))


def _norm(x, params):
  mean_square = (x**2).mean(axis=-1, keepdims=True)
  return x / np.sqrt(mean_square + 1e-6) * params["scale"]


def _attention(layer, config, x, turn, sees):
  """[S, E], by loops over heads, queries and keys."""
  normed = _norm(x, layer["attention_norm"])
  output = np.zeros_like(x)
  for head in range(config.num_heads):
    query, key, value = (
      normed @ layer[name]["kernel"][:, head]
      for name in ["query", "key", "value"]
    )
    query, key = (
      [turn(row, place) for place, row in enumerate(rows)]
      for rows in [query, key]
    )
    for place in range(len(x)):
      seen = [other for other in range(len(x)) if sees(place, other)]
      scores = np.array([query[place] @ key[other] for other in seen])
      shares = np.exp(scores / np.sqrt(config.head_dim))
      attended = shares @ value[seen] / shares.sum()
      own = slice(head * config.head_dim, (head + 1) * config.head_dim)
      output[place] += attended @ layer["output"]["kernel"][own]
  return output


def _mlp(layer, x):
  normed = _norm(x, layer["mlp_norm"])
  gate = normed @ layer["gate"]["kernel"]
  up = normed @ layer["up"]["kernel"]
  return (gate / (1 + np.exp(-gate)) * up) @ layer["down"]["kernel"]
