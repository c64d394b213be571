"""The E-step stays exact where stop strings end rationales.

What can be drawn is listed by plain string search in the text, and its
probability is summed over all that a model could have written after the end.
Sampler and scorer see tokens alone.

X questions, Z token sequences of length T, R of them that can be drawn.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cot_latent.inference import estimators
from cot_latent.models import stops
from cot_latent.models.token_bytes import TokenBytes
from tests import toys
from tests.asserts import assert_close, assert_mean
from tests.exact import enumeration
from tests.params import by_night

# Padding, EOS, and two that complete the stop alone, or with one before it.
TEXTS, EOS, STOP = ["", "", "ab", "ba"], 1, "ba"
TOY = toys.make_toy(vocabulary=len(TEXTS), length=3, num_questions=2)
QUESTIONS = [0, 1]
ENDING = stops.Ending(
  (EOS,),
  (STOP,),
  stops.over_tokens(TokenBytes([t.encode() for t in TEXTS]), [EOS], (STOP,)),
)
ESTIMATORS = [
  estimators.basic(),
  estimators.control_variate(),
  estimators.control_variate(correct_first_acceptance=True),
]


def decode(tokens):
  return "".join(TEXTS[t] for t in tokens)


def slow_end(row):
  """The tokens up to the end, and the text before it; None if there is none."""
  for place, token in enumerate(row):
    text = decode(row[: place + 1])
    if token == EOS or STOP in text:
      return place + 1, text.split(STOP)[0]
  return len(row), None


def by_token(theta):
  """[X, Z, T] log-probabilities of each token, ended or not."""
  logits = jnp.tanh(jnp.asarray(TOY.features) @ theta)
  return jax.nn.log_softmax(logits)[:, TOY.prefixes, TOY.sequences]


@functools.cache
def drawn():
  """[Z] where each sequence is found when all after its end is padding."""
  cut = TOY.sequences.copy()
  for row in cut:
    row[slow_end(row.tolist())[0] :] = 0
  return toys.index_of(TOY, cut)


@functools.cache
def is_correct():
  """[X, Z] whether the text's length is odd, or even, as the question wants.

  What was cut is incorrect, and what cannot be drawn does not count.
  """
  table = np.zeros((len(QUESTIONS), len(TOY.sequences)), bool)
  for index in set(drawn().tolist()):
    _, text = slow_end(TOY.sequences[index].tolist())
    if text is not None:
      table[len(text) % 2, index] = True
  return table


def probability(theta):
  """[X, Z] of drawing a sequence: summed over all that begin as it does."""
  whole = jnp.exp(by_token(theta).sum(axis=-1))
  return jnp.zeros_like(whole).at[:, drawn()].add(whole)


def log_marginals(theta):
  """[X] log p(y|x)."""
  return jnp.log((probability(theta) * is_correct()).sum(axis=1))


def scores(mask):
  """[X, Z, D] gradients of what is scored: the tokens that the mask marks."""

  def score(theta):
    return jnp.where(mask(TOY.sequences), by_token(theta), 0).sum(axis=-1)

  return np.asarray(jax.jacobian(score)(TOY.theta))


def check_unbiased(estimator, mask):
  prior = np.asarray(probability(TOY.theta))
  posterior = prior * is_correct()
  posterior /= posterior.sum(axis=1, keepdims=True)
  cases = enumeration.outcomes(posterior, prior)
  toy = TOY._replace(is_correct=is_correct())
  taken = enumeration.transitions(toy, QUESTIONS, cases)
  weights = enumeration.weights(taken, estimator)
  sequences = np.concatenate(
    [
      toys.index_of(TOY, x)
      for x in (taken.tokens[:, :, None], taken.draw_tokens)
    ],
    axis=-1,
  )
  by_sequence = scores(mask)[np.array(QUESTIONS)[:, None], sequences]
  estimates = np.einsum("smj,smjd->sd", weights, by_sequence)
  slope = jax.grad(lambda theta: log_marginals(theta).mean())(TOY.theta)
  assert_mean(cases.probability, estimates, np.asarray(slope))


def test_both_ways_of_stopping_are_listed():
  completed = {
    decode(row[: slow_end(row)[0]]) for row in TOY.sequences.tolist()
  }
  assert {"ba", "abab", "abba"} <= completed
  assert is_correct().any(axis=1).all()
  assert len(set(drawn().tolist())) == 19


def test_what_is_listed_is_what_is_scored():
  possible = sorted(set(drawn().tolist()))
  mask = np.asarray(ENDING.mask(TOY.sequences))
  scored = np.where(mask, by_token(TOY.theta), 0).sum(axis=-1)
  prior = np.asarray(probability(TOY.theta))
  assert_close(np.exp(scored)[:, possible], prior[:, possible])
  assert_close(prior.sum(axis=1), np.ones(len(QUESTIONS)))
  texts, ended = ENDING.completions(decode, TOY.sequences)
  for row, text, has_ended in zip(
    TOY.sequences.tolist(), texts, ended, strict=True
  ):
    wanted = slow_end(row)[1]
    assert has_ended == (wanted is not None)
    assert text == (wanted if has_ended else decode(row))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_are_exact_with_a_stop(estimator):
  check_unbiased(estimator, ENDING.mask)


def beyond(tokens):
  """Scores the padding after the end too."""
  return jnp.ones(tokens.shape, bool)


def late(tokens):
  """Ends a token late."""
  mask = ENDING.mask(tokens)
  return jnp.concatenate([mask[:, :1], mask[:, :-1]], axis=1)


def at_eos_alone(tokens):
  return stops.Ending((EOS,)).mask(tokens)


def before_the_stop(tokens):
  """Leaves the token out that completes the stop."""
  mask = ENDING.mask(tokens)
  return jnp.concatenate([mask[:, 1:], mask[:, :1] & False], axis=1)


@pytest.mark.parametrize(
  "twin", [beyond, *by_night(late, at_eos_alone), before_the_stop]
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_twins_that_score_another_end_are_rejected(estimator, twin):
  with pytest.raises(AssertionError):
    check_unbiased(estimator, twin)
