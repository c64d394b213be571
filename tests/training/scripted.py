"""A sampler that says what a test tells it to."""

import jax
import numpy as np

from cot_latent.models.api import Draws
from tests.training import toy


def spelled(task, texts, ended, length=toy.LENGTH[toy.CHAIN]):
  """[B, T] tokens of texts, with EOS where the sequence has ended."""
  tokens = np.zeros((len(texts), length), np.int32)
  for row, (text, has_ended) in enumerate(zip(texts, ended, strict=True)):
    ids = [byte + 3 for byte in text.encode()] + [task.vocabulary.eos_id]
    ids = ids if has_ended else ids[:-1]
    tokens[row, : len(ids)] = ids
  return tokens


class Scripted:
  """A sampler that says what it is told, and notes what it is asked.

  The log-probability of a row is its number, so that each has another; None
  where the sampler is not to tell.
  """

  tells = True

  def __init__(self, task, say):
    self.task, self.say, self.calls = task, say, []

  def sample(
    self,
    params,
    prompts,
    keys,
    temperature=1.0,
    num_slots=None,
    report_done=None,
  ):
    del params
    texts, ended = self.say(prompts)
    if report_done:
      for start in range(0, len(prompts), num_slots):
        report_done(min(start + num_slots, len(prompts)))
    self.calls.append((np.asarray(prompts), keys, temperature))
    tokens = spelled(self.task, texts, ended)
    if not self.tells:
      return Draws(tokens, np.array(ended))
    log_prob = np.zeros(tokens.shape, np.float32)
    log_prob[:, 0] = np.arange(len(tokens))
    return Draws(tokens, np.array(ended), log_prob)


def keys_of(scripted):
  """The random keys that a scripted model was given, in order."""
  keys = [np.asarray(jax.random.key_data(call[1])) for call in scripted.calls]
  return [tuple(key) for key in np.concatenate(keys)]
