"""The four workloads of issue 6, of this package and its peers."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import limits
from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em.estep import EStep
from cot_latent.em.method import Method
from cot_latent.inference import estimators, memory
from cot_latent.models import language_model, t5, vocabularies
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.language_model import LanguageModel
from cot_latent.models.lora import Lora
from cot_latent.models.stops import Ending
from cot_latent.training import mstep
from cot_latent.training.experiment import OptimizerConfig

OURS, TRANSFORMERS, T5X = "ours", "transformers", "T5X"
PEERS = (TRANSFORMERS, T5X)
ACCEPTANCES = (0.3, 0.6, 0.95)
_EOS = 1
_PLAIN = t5.T5Config(
  num_encoder_layers=8,
  num_decoder_layers=8,
  embed_dim=512,
  num_heads=6,
  head_dim=64,
  mlp_dim=1024,
)
_DECODER = DecoderConfig(
  num_layers=8, embed_dim=512, num_heads=8, head_dim=64, mlp_dim=1536
)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of models and data; tests use smaller ones.

  Attributes:
    plain: Model of W0.
    decoder: Model of the other workloads.
    plain_length: Tokens of W0's prompt, and tokens drawn.
    prefix: Tokens of W1's prefix.
    question: Tokens of W1's questions.
    max_length: Length at which W1's rationales are cut.
    mean_length: Expected length of W1's rationales.
    num_questions: Number of W1's questions.
    num_slots: Numbers of slots to try in W1.
    batch_size: Batch size of W0, W2 and W3, and of the peers.
    num_peer_questions: Number of W1's questions that the peers answer.
  """

  plain: t5.T5Config = _PLAIN
  decoder: DecoderConfig = _DECODER
  plain_length: int = 128
  prefix: int = 600
  question: int = 64
  max_length: int = 256
  mean_length: int = 64
  num_questions: int = 256
  num_slots: tuple[int, ...] = (32, 64, 128)
  batch_size: int = 32
  num_peer_questions: int = 32


class Workload(NamedTuple):
  """One thing to measure.

  Attributes:
    title: Title for people.
    unit: Unit of the results of `contenders`, in the plural.
    contenders: Name -> a function that does the work once and returns its
      amount; the first call compiles. Those that are not in PEERS are ours.
    work: Name -> work of one unit, for the contender's limit.
    untimed: Name -> a function for work outside the inner loop.
    target: Required ratio of our rate to the fastest peer's.
  """

  title: str
  unit: str
  contenders: Mapping[str, Callable[[], float]]
  work: Mapping[str, limits.Work]
  untimed: Mapping[str, Callable[[], Any]]
  target: float


def _set_eos_rate(
  rate: float, logits: jax.Array, eos_id: int = _EOS
) -> jax.Array:
  """Changes logits [..., V] so that EOS has this probability."""
  is_eos = jnp.arange(logits.shape[-1]) == eos_id
  rest = jnp.where(is_eos, -jnp.inf, logits)
  eos = -jnp.inf
  if rate:
    whole = jax.nn.logsumexp(rest, axis=-1, keepdims=True)
    eos = whole + np.log(rate / (1 - rate))
  return jnp.where(is_eos, eos, rest)


def with_eos_rate(
  config: Any,
  vocab_size: int,
  max_length: int,
  rate: float,
  eos_id: int = _EOS,
  lora: Lora | None = None,
) -> LanguageModel:
  """Makes a model that draws EOS with this probability at every step.

  Its log_prob is the network's own, because it does the same work.
  """
  settings = (config, vocab_size, Ending((eos_id,)), max_length)
  base: Any = type(language_model.from_config(*settings).network)

  class WithEosRate(base):
    def prefill(self, *arguments):
      logits, cache = super().prefill(*arguments)
      return _set_eos_rate(rate, logits, eos_id), cache

    def decode_step(self, *arguments):
      logits, cache = super().decode_step(*arguments)
      return _set_eos_rate(rate, logits, eos_id), cache

  return LanguageModel(WithEosRate(*settings, lora=lora))


def _random_tokens(seed: int, *shape: int) -> np.ndarray:
  generator = np.random.default_rng(seed)
  size = vocabularies.byte_vocabulary().size
  return generator.integers(3, size, shape).astype(np.int32)


def _prompts(sizes: Sizes) -> np.ndarray:
  """Returns [N, P' + P], with the same P' tokens before every question."""
  prefix = np.tile(_random_tokens(1, sizes.prefix), (sizes.num_questions, 1))
  questions = _random_tokens(2, sizes.num_questions, sizes.question)
  return np.concatenate([prefix, questions], axis=1)


def _keys(number: int) -> jax.Array:
  return jax.random.split(jax.random.key(0), number)


def _num_tokens(draws: Any) -> np.ndarray:
  """Returns [N] numbers of tokens, EOS included."""
  return Ending((_EOS,)).lengths(np.asarray(draws.tokens))[0]


def plain_sampling(sizes: Sizes, with_peers: Collection[str] = ()) -> Workload:
  """Makes workload W0."""
  config, vocab_size = sizes.plain, vocabularies.byte_vocabulary().size
  length, rows = sizes.plain_length, sizes.batch_size
  prompts, keys = _random_tokens(3, rows, length), _keys(rows)
  model = with_eos_rate(config, vocab_size, length, 0.0)
  params = model.init(jax.random.key(0))
  first = with_eos_rate(config, vocab_size, 1, 0.0)

  def ours():
    return float(_num_tokens(model.sample(params, prompts, keys)).sum())

  contenders: dict[str, Callable[[], float]] = {OURS: ours}
  if TRANSFORMERS in with_peers:
    from benchmarks import peers

    contenders[TRANSFORMERS] = functools.partial(
      peers.sampler(peers.t5(config, vocab_size), length, _EOS, 0.0, rows),
      prompts,
    )
  if T5X in with_peers:
    from benchmarks import peers_t5x

    contenders[T5X] = functools.partial(
      peers_t5x.sampler(
        peers_t5x.build_peer(config, vocab_size),
        *(length, _EOS, functools.partial(_set_eos_rate, 0.0), rows),
      ),
      prompts,
    )
  work = limits.plain_sampling(config, vocab_size, rows, length, length)
  return Workload(
    f"encoder-decoder, {rows} rows, {length} + {length} tokens",
    "tokens",
    contenders,
    {OURS: limits.of_one(work, rows * length)},
    {OURS: lambda: first.sample(params, prompts, keys)},
    1.3,
  )


def few_shot_sampling(
  sizes: Sizes, with_peers: Collection[str] = ()
) -> Workload:
  """Makes workload W1."""
  vocab_size = vocabularies.byte_vocabulary().size
  rate = 1 / sizes.mean_length
  model = with_eos_rate(sizes.decoder, vocab_size, sizes.max_length, rate)
  params = model.init(jax.random.key(0))
  prompts, keys = _prompts(sizes), _keys(sizes.num_questions)
  # The lengths for the limit, before any rationale is drawn.
  drawn = np.random.default_rng(0).geometric(rate, sizes.num_questions)
  lengths = np.minimum(drawn, sizes.max_length)

  def ours(num_slots):
    draws = model.sample(params, prompts, keys, 1.0, num_slots=num_slots)
    return float(_num_tokens(draws).sum())

  contenders: dict[str, Callable[[], float]] = {}
  work = {}
  for slots in sizes.num_slots:
    name = f"{OURS}, {slots} slots"
    contenders[name] = functools.partial(ours, slots)
    work[name] = limits.few_shot_sampling(
      sizes.decoder, vocab_size, sizes.prefix, sizes.question, lengths, slots
    )
  of_peers = prompts[: sizes.num_peer_questions]
  if TRANSFORMERS in with_peers:
    from benchmarks import peers

    contenders[TRANSFORMERS] = functools.partial(
      peers.sampler(
        peers.llama(sizes.decoder, vocab_size),
        *(sizes.max_length, _EOS, rate, sizes.batch_size),
      ),
      of_peers,
    )
  if T5X in with_peers:
    from benchmarks import peers_t5x

    change = functools.partial(_set_eos_rate, rate)
    contenders[T5X] = functools.partial(
      peers_t5x.sampler(
        peers_t5x.build_peer(sizes.decoder, vocab_size),
        *(sizes.max_length, _EOS, change, sizes.batch_size),
      ),
      of_peers,
    )
  return Workload(
    f"few-shot, {sizes.num_questions} questions of {sizes.question} tokens "
    f"under a prefix of {sizes.prefix}",
    "useful tokens",
    contenders,
    {name: limits.of_one(each, lengths.sum()) for name, each in work.items()},
    {},
    10.0,
  )


def _m_step(
  model: LanguageModel,
  optimizer: optax.GradientTransformation,
  rows_at_once: int | None = None,
) -> tuple[Callable[[], Any], Callable[..., None]]:
  """Returns the trainer's own step at a rate of 0, which passes parameters on.

  Returns:
    A function that returns the unchanged parameters; and the step, of prompts,
    targets and weights, which waits for its end.
  """
  step = mstep.build_step(model, optimizer, rows_at_once)
  params = model.init(jax.random.key(0))
  state = [params, mstep.init_optimizer(model, optimizer, params)]

  def run(prompts, targets, weights):
    updated = step(*state, None, 0.0, prompts, targets, weights)
    state[:] = updated.params, updated.opt_state
    jax.block_until_ready(state)

  return lambda: state[0], run


def gradient(sizes: Sizes, with_peers: Collection[str] = ()) -> Workload:
  """Makes workload W2."""
  vocab_size, rows = vocabularies.byte_vocabulary().size, sizes.batch_size
  target_length = sizes.mean_length
  model = language_model.from_config(
    sizes.decoder, vocab_size, _EOS, target_length
  )
  _, m_step = _m_step(model, optax.identity())
  prompts = _prompts(sizes)[:rows]
  targets = _random_tokens(4, rows, target_length)
  weights = np.random.default_rng(5).normal(size=rows).astype(np.float32)

  def once(step):
    step(prompts, targets, weights)
    return 1.0

  contenders: dict[str, Callable[[], float]] = {
    OURS: functools.partial(once, m_step)
  }
  if TRANSFORMERS in with_peers:
    from benchmarks import peers

    llama = peers.llama(sizes.decoder, vocab_size)
    contenders[TRANSFORMERS] = functools.partial(once, peers.gradient(llama))
  if T5X in with_peers:
    from benchmarks import peers_t5x

    peer = peers_t5x.build_peer(sizes.decoder, vocab_size)
    contenders[T5X] = functools.partial(once, peers_t5x.gradient(peer))
  return Workload(
    f"gradient of {rows} rows, {sizes.prefix} + {sizes.question} + "
    f"{target_length} tokens",
    "gradients",
    contenders,
    {
      OURS: limits.gradient(
        *(sizes.decoder, vocab_size, sizes.prefix, sizes.question),
        *(target_length, rows),
      )
    },
    {},
    6.0,
  )


class Step(NamedTuple):
  """The results of a step of W3.

  Attributes:
    seconds: Total time.
    sampling_seconds: Time to draw, included in the total.
    accept_rate: Acceptance rate of its draws.
    num_rows: Sequences that have weight.
  """

  seconds: float
  sampling_seconds: float
  accept_rate: float
  num_rows: int


def trice_step(sizes: Sizes) -> dict[str, Callable[[int], Step]]:
  """W3: one step of TRICE, for each acceptance and L.

  Whether a draw is correct is a hash of its tokens, so that it is the same each
  time. The memory is full of rationales that the model drew.

  Returns:
    For each, a step by its number from 0. Steps of the same number have the
    same draws and memories whatever acceptance and L; steps of other numbers
    have others. Everything is compiled before.
  """
  # The true decoder drops bytes that are not text. Draws of an unfitted model
  # would then often be equal.
  vocabulary = dataclasses.replace(
    vocabularies.byte_vocabulary(), decode=lambda ids: " ".join(map(str, ids))
  )
  rows, total = sizes.batch_size, sizes.num_questions
  model = with_eos_rate(
    sizes.decoder, vocabulary.size, sizes.max_length, 1 / sizes.mean_length
  )
  examples = _examples(sizes)
  index = np.arange(rows, dtype=np.int32)
  adam = mstep.build_optimizer(OptimizerConfig(1e-3))
  params, m_step = _m_step(model, adam, rows // 4)

  @functools.cache
  def remembered(step):
    keys = jax.random.split(jax.random.key(step), rows)
    drawn = model.sample(params(), examples.prompts[index], keys)
    return np.pad(drawn.tokens, ((0, total - rows), (0, 0)))

  def run(acceptance, num_scored, step):
    def check(completion, answer):
      return _verdict(acceptance, completion) == answer

    task = Task.from_rows(
      examples.questions, examples.answers, check=check, vocabulary=vocabulary
    )
    method = Method(
      "benchmark", estimators.control_variate(), num_scored=num_scored
    )
    everything = np.arange(total)
    state = memory.start(
      memory.init(total, sizes.max_length),
      *(everything, remembered(step), everything < rows),
    )
    jax.block_until_ready(state)
    began = time.perf_counter()
    e_step = EStep(model, task, examples, method, 0, sizes.max_length)
    _, weighted, info = e_step.step(params(), state, index, step + 1)
    m_step(weighted.prompts, weighted.targets, weighted.weights)
    return Step(
      time.perf_counter() - began,
      info.sampling_seconds,
      info.accept_rate,
      weighted.num_weighted(),
    )

  # Every width that a part may have.
  for width in range(16, sizes.max_length + 1, 8):
    targets = np.full((rows // 4, width), _EOS + 1, np.int32)
    prompts = examples.prompts[: rows // 4]
    m_step(prompts, targets, np.ones(rows // 4, np.float32))
  return {
    f"L = {num_scored or 2 * rows}, acceptance {acceptance}": functools.partial(
      run, acceptance, num_scored
    )
    for num_scored in (None, rows)
    for acceptance in ACCEPTANCES
  }


def _examples(sizes: Sizes) -> Examples:
  """Makes questions whose answer is "correct" (`_verdict`)."""
  total = sizes.num_questions
  ids = [str(i) for i in range(total)]
  nothing = np.zeros((total, 0), np.int32)
  return Examples(
    ids=ids,
    tasks=["benchmark"] * total,
    questions=ids,
    answers=["correct"] * total,
    prompts=_prompts(sizes),
    guides=nothing,
    targets=nothing,
    words=np.stack([np.arange(total), np.zeros(total)], 1).astype(np.uint32),
    num_left_out=0,
    num_truncated=0,
  )


def _verdict(acceptance: float, text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  uniform = int.from_bytes(digest[:4]) / 2**32
  return "correct" if uniform < acceptance else "incorrect"


SAMPLING_AND_GRADIENT: dict[str, Callable[..., Workload]] = {
  "W0": plain_sampling,
  "W1": few_shot_sampling,
  "W2": gradient,
}
NAMES = (*SAMPLING_AND_GRADIENT, "W3")
