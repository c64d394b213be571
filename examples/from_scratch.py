"""TRICE on one page: the whole algorithm, for reading.

A question is a row of bits. A rationale is as many bits, and its last one is
the answer: whether the question has an odd number of ones. Nobody tells the
model what to write before the answer. Trained on answers to questions of three
bits alone, it finds out that the running parity is worth writing down, and so
it answers questions of twelve bits, which it has never seen.

The statistics are those of `cot_latent.inference`; the model, the sampler and
the optimizer's step are below. Run it (about ten seconds):

    python examples/from_scratch.py

Reference: Phan et al. 2023, "Training Chain-of-Thought via Latent-Variable
Inference", Algorithm 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cot_latent.inference import (
  estimators,
  memory,
  resampling,
  rng,
  transition,
)

NUM_BITS = 3
BATCH_SIZE = 8  # M, questions in a minibatch: here all questions
NUM_SCORED = 8  # L, sequences whose gradient is computed in a step
ESTIMATOR = estimators.control_variate()
OPTIMIZER = optax.adam(0.03)


def questions(num_bits: int) -> tuple[np.ndarray, np.ndarray]:
  """Lists all questions, [N, T] int32 bits, and their answers, [N]."""
  bits = np.arange(2**num_bits)[:, None] >> np.arange(num_bits) & 1
  return bits.astype(np.int32), bits.sum(axis=1) % 2


# The model: p(z_t | x_t, z_{t-1}), one table of logits for all positions.


def init_params(key: jax.Array) -> dict[str, jax.Array]:
  """Draws a small table, [bit of the question, last bit written, next bit]."""
  return {"logits": 0.1 * jax.random.normal(key, (2, 2, 2))}


def log_prob(
  params: dict[str, jax.Array], x: jax.Array, z: jax.Array
) -> jax.Array:
  """Scores rationales z of questions x, both [B, T]: [B] nats."""
  before = jnp.pad(z[:, :-1], ((0, 0), (1, 0)))
  log_p = jax.nn.log_softmax(params["logits"][x, before])
  return jnp.take_along_axis(log_p, z[..., None], axis=-1)[..., 0].sum(axis=1)


@jax.jit
def sample(
  params: dict[str, jax.Array], x: jax.Array, keys: jax.Array
) -> jax.Array:
  """Draws a rationale for each of B questions, [B, T] int32."""

  def draw(x, key):
    def write(last, bit_and_key):
      bit, key = bit_and_key
      z = jax.random.categorical(key, params["logits"][bit, last])
      return z, z

    start = jnp.zeros((), jnp.int32)
    return jax.lax.scan(write, start, (x, jax.random.split(key, len(x))))[1]

  return jax.vmap(draw)(x, keys).astype(jnp.int32)


# The E-step: one move of each question's Markov chain, and signed weights.


@jax.jit
def e_step(chains, index, draws, answers, step, offset):
  """Moves the chains of a minibatch and weighs its sequences.

  Args:
    chains: The memory of all N questions.
    index: [M] int32, the questions of the minibatch.
    draws: [M, 1, T] int32, a fresh rationale for each.
    answers: [M] known answers.
    step: The step of the run, from 1.
    offset: A number uniform in [0, 1), for the subsample.

  Returns:
    The memory after the step, [M, 2, T] sequences and their [M, 2] weights.
  """
  is_correct = draws[:, :, -1] == answers[:, None]
  moved = transition.independence(
    chains.tokens[index], chains.is_correct[index], draws, is_correct
  )
  chains = memory.write(
    chains, index, moved.tokens, moved.is_correct, moved.accepted, step
  )
  weights = estimators.merge_accepted(moved, ESTIMATOR(moved))
  weights = resampling.subsample(weights, NUM_SCORED, offset)
  sequences = jnp.concatenate([moved.tokens[:, None], draws], axis=1)
  return chains, sequences, weights


# The M-step: one step of the optimizer along the weighted sum of scores.


@jax.jit
def m_step(params, opt_state, x, sequences, weights):
  """Takes one step up sum(weight * log p(sequence | question)).

  Most of the [M, 2] weights of a subsample are 0. With a large model, only the
  gradient of the other sequences is computed.
  """

  def loss(params):
    score = jax.vmap(
      functools.partial(log_prob, params), in_axes=(None, 1), out_axes=1
    )(x, sequences)
    return -(weights * score).sum()

  updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state)
  return optax.apply_updates(params, updates), opt_state


def objective(params, x, answers) -> float:
  """Computes what TRICE ascends, by listing all rationales.

  Returns:
    The mean over questions of log p(answer | question), in nats.
  """
  every = questions(x.shape[1])[0]
  log_p = jax.vmap(
    lambda z: log_prob(params, x, jnp.broadcast_to(z, x.shape)), out_axes=1
  )(every)
  reaches = every[:, -1] == answers[:, None]
  log_pi = jax.nn.logsumexp(jnp.where(reaches, log_p, -jnp.inf), axis=1)
  return float(log_pi.mean())


def accuracy(params, key: jax.Array, num_bits: int = 12) -> float:
  """Draws one answer to each question of a length, and counts the correct."""
  x, answers = questions(num_bits)
  z = sample(params, x, jax.random.split(key, len(x)))
  return float((z[:, -1] == answers).mean())


def train(num_steps: int, seed: int = 0) -> list[tuple[int, float, float]]:
  """Trains from questions and answers alone.

  Returns:
    (step, mean log p(answer | question), accuracy on longer questions), before
    training and after every tenth of it.
  """
  x, answers = questions(NUM_BITS)
  words = rng.id_words([f"question {i}" for i in range(len(x))])
  params = init_params(rng.purpose_key(seed, "params"))
  opt_state = OPTIMIZER.init(params)

  # The first memory is a draw for each question, correct or not.
  every = np.arange(len(x))
  keys = rng.row_keys(rng.purpose_key(seed, "memory"), words, 0 * every)
  first = sample(params, x, keys)
  chains = memory.init(len(x), NUM_BITS)
  chains = memory.start(chains, every, first, first[:, -1] == answers)

  history = []
  for step in range(num_steps + 1):
    if step:
      index = rng.minibatch(seed, "order", step - 1, len(x), BATCH_SIZE)
      draw_key = rng.purpose_key(seed, "draw", step)
      keys = rng.row_keys(draw_key, words[index], 0 * index)
      draws = sample(params, x[index], keys)[:, None]
      offset = jax.random.uniform(rng.purpose_key(seed, "subsample", step))
      chains, sequences, weights = e_step(
        chains, index, draws, answers[index], step, offset
      )
      params, opt_state = m_step(
        params, opt_state, x[index], sequences, weights
      )
    if step % (num_steps // 10) == 0:
      key = rng.purpose_key(seed, "evaluate", step)
      history.append(
        (step, objective(params, x, answers), accuracy(params, key))
      )
  return history


if __name__ == "__main__":
  print("  step   log p(answer|question)   accuracy, 12 bits")
  for step, log_pi, correct in train(num_steps=600):
    print(f"{step:6}   {log_pi:22.3f}   {correct:17.3f}")
