"""What is sampled is what is scored, whatever the batch and its padding."""

import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cot_latent.inference import rng
from cot_latent.models import (
  decoder,
  pace,
  sampling,
  slots,
  stops,
  token_rows,
)
from cot_latent.models.api import PAD_ID
from tests.asserts import assert_trees_equal
from tests.models import oracles, twins
from tests.models.common import (
  CONFIG,
  EOS_ID,
  LENGTH,
  ROWS,
  VOCABULARY,
  build_model,
  check_close,
  compiled,
  keys,
  params,
  prompts,
  random_params,
  random_targets,
  slow_target_mask,
)


def test_greedy_decoding_adds_no_noise():
  logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
  data = jax.random.key_data(keys(0)[:3])
  position = np.arange(3, dtype=np.int32)
  add = jax.jit(sampling.add_noise)
  np.testing.assert_array_equal(add(logits, data, position, 0.0), logits)
  noise = sampling.row_noise(data, position, 50)
  np.testing.assert_allclose(
    add(logits, data, position, 0.5), logits + 0.5 * noise, rtol=1e-6
  )


def sample(model=None, temperature=1.0, seed=0):
  model = model or compiled()
  return model.sample(params(), prompts(), keys(seed), temperature)


def check_same_draws(actual, expected):
  np.testing.assert_array_equal(actual.tokens, expected.tokens)
  np.testing.assert_array_equal(actual.ended, expected.ended)
  np.testing.assert_allclose(
    actual.log_prob, expected.log_prob, rtol=0, atol=3e-5
  )


# Draws.


def check_scored_as_drawn(model, temperature=1.0):
  draws = sample(model, temperature)
  scores = model.log_prob(params(), prompts(), draws.tokens)
  check_close(draws.log_prob, scores)
  return draws


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1.3])
def test_draws_are_scored_as_drawn(temperature):
  draws = check_scored_as_drawn(compiled(), temperature)
  assert draws.ended.any()
  assert not draws.ended.all()


@pytest.mark.parametrize(
  ("part", "twin"),
  [
    (twins.SIN_COS, twins.late_positions),
    pytest.param(twins.ATTEND, twins.misses_the_newest, marks=pytest.mark.slow),
    pytest.param(twins.ATTEND, twins.sees_padding, marks=pytest.mark.slow),
  ],
)
def test_twins_scored_otherwise_are_rejected(part, twin):
  with twins.replaced(*part, twin), pytest.raises(AssertionError):
    check_scored_as_drawn(build_model())


def slow_greedy(prompt, **changes):
  """Runs the whole row again for every token."""
  drawn = []
  while len(drawn) < LENGTH and EOS_ID not in drawn:
    tokens = oracles.unpadded(prompt) + drawn
    log_probs = oracles.next_log_probs(params(), CONFIG, tokens, **changes)
    drawn.append(int(log_probs[-1].argmax()))
  return drawn + [PAD_ID] * (LENGTH - len(drawn))


def check_greedy(tokens, **changes):
  expected = [slow_greedy(prompt, **changes) for prompt in prompts()]
  np.testing.assert_array_equal(tokens, expected)


def test_greedy_decoding_equals_plain_numpy():
  tokens = sample(temperature=0.0).tokens
  # No constant: it goes through most of the vocabulary, in many ways.
  assert len(np.unique(tokens)) > VOCABULARY / 2
  assert len(np.unique(tokens, axis=0)) > ROWS / 2
  check_greedy(tokens)
  with pytest.raises(AssertionError):
    check_greedy(tokens, turn=oracles.turn_neighbours)
  with pytest.raises(AssertionError):
    check_greedy(sample(temperature=0.1).tokens)


def check_ends(draws):
  for tokens, ended, log_prob in zip(*map(np.asarray, draws), strict=True):
    assert ended == (EOS_ID in tokens)
    length = list(tokens).index(EOS_ID) + 1 if ended else LENGTH
    assert (tokens[length:] == PAD_ID).all()
    assert (log_prob[length:] == 0).all()
    assert (log_prob[:length] < 0).all()


def test_draws_stop_at_the_end():
  draws = sample()
  tokens, ended = draws.tokens, draws.ended
  assert tokens.dtype == np.int32
  assert tokens.shape == draws.log_prob.shape == (ROWS, LENGTH)
  assert set(np.unique(tokens)) <= set(range(VOCABULARY))
  check_ends(draws)
  for broken in [
    draws._replace(ended=tokens[:, -1] == EOS_ID),
    draws._replace(ended=tokens[:, -1] != PAD_ID),
    draws._replace(tokens=jnp.where(tokens == PAD_ID, 2, tokens)),
    draws._replace(log_prob=jnp.where(ended[:, None], -1.0, draws.log_prob)),
  ]:
    with pytest.raises(AssertionError):
      check_ends(broken)


def check_padding(model):
  """Checks that more padding changes neither draws nor scores."""
  more = np.pad(prompts(), ((0, 0), (3, 0)))
  targets = random_targets()
  check_close(
    model.log_prob(params(), more, targets),
    model.log_prob(params(), prompts(), targets),
  )
  for temperature in [0.0, 1.0]:
    draws = model.sample(params(), more, keys(), temperature)
    check_same_draws(draws, sample(model, temperature))


def test_padding_changes_nothing():
  check_padding(compiled())


def test_a_twin_that_sees_padding_is_rejected():
  part = twins.PROMPT_MASK
  with twins.replaced(*part, twins.all_real), pytest.raises(AssertionError):
    check_padding(build_model())


def check_rows_stand_alone(draw):
  """Checks draw(prompts, keys) at other places and with other batch mates."""
  whole = draw(prompts(), keys())
  order = np.random.default_rng(2).permutation(ROWS)
  for chosen in [order, order[:1], np.resize(order[:3], ROWS)]:
    part = draw(prompts()[chosen], keys()[chosen])
    check_same_draws(part, jax.tree.map(lambda x, at=chosen: x[at], whole))


def keys_of_places(prompts, keys):
  keys = jax.random.split(keys[0], len(keys))
  return compiled().sample(params(), prompts, keys)


def test_rows_stand_alone():
  check_rows_stand_alone(functools.partial(compiled().sample, params()))
  with pytest.raises(AssertionError):
    check_rows_stand_alone(keys_of_places)


def test_draws_are_a_function_of_their_keys():
  draws, again, other = sample(), sample(), sample(seed=1)
  assert_trees_equal(again, draws)
  assert (other.tokens != draws.tokens).any(axis=1).mean() > 0.9
  # Another key in one row is another draw in that row alone.
  one = keys().at[3].set(keys(1)[3])
  changed = compiled().sample(params(), prompts(), one).tokens != draws.tokens
  assert changed[3].any()
  assert not np.delete(changed, 3, axis=0).any()


def test_greedy_decoding_ignores_keys():
  greedy = sample(temperature=0.0)
  assert_trees_equal(sample(temperature=0.0, seed=1), greedy)
  assert (greedy.tokens != sample().tokens).any()


# Slots.


def check_slots(model, num_slots, temperature=1.0):
  """Checks that rows that take turns are drawn as if all at once."""
  rows = 3 * ROWS
  questions = np.tile(prompts(), (3, 1))
  draw = functools.partial(
    model.sample, params(), questions, keys(3, rows), temperature
  )
  done = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pace, "SECONDS", 0.0)  # reports at every pause
    slots = draw(num_slots=num_slots, report_done=lambda n, *_: done.append(n))
  check_same_draws(slots, draw())
  assert done == sorted(done)
  assert done[-1] == rows
  assert len(done) > 2


@pytest.mark.parametrize(
  "num_slots",
  [
    pytest.param(1, marks=pytest.mark.slow),
    pytest.param(2, marks=pytest.mark.slow),
    5,
    pytest.param(16, marks=pytest.mark.slow),
  ],
)
def test_rows_that_take_turns_are_drawn_as_if_at_once(num_slots):
  check_slots(compiled(), num_slots)


def test_greedy_rows_share_slots_too():
  check_slots(compiled(), 5, temperature=0.0)  # compiled already


@pytest.mark.slow
def test_a_twin_that_forgets_is_rejected():
  twin, expected = twins.forgets_the_end_of_the_ring, sample()
  with twins.replaced(*twins.LAYER_MASKS, twin):
    model = build_model()
    check_same_draws(sample(model), expected)
    with pytest.raises(AssertionError):
      check_slots(model, 8)


@pytest.mark.slow
def test_slots_become_fewer(monkeypatch):
  """When nothing waits, and where it makes up for compiling."""
  monkeypatch.setattr(slots, "_WORTH_SHRINKING", 1)
  monkeypatch.setattr(slots, "_SHRINK", 2)
  sizes = []
  apply = decoder.Decoder.apply
  lengths = (sample().tokens != PAD_ID).sum(axis=1)
  order = np.resize(np.argsort(lengths)[: ROWS // 4], ROWS)
  order[-2:] = lengths.argmax()
  questions, rng_keys = prompts()[order], keys()[order]

  def noted(self, variables, tokens, *args, **fields):
    sizes.append(len(tokens))
    return apply(self, variables, tokens, *args, **fields)

  with monkeypatch.context() as patch:
    patch.setattr(decoder.Decoder, "apply", noted)
    model = build_model()
    draws = model.sample(params(), questions, rng_keys)
  check_same_draws(draws, jax.tree.map(lambda x: x[order], sample()))
  assert {*sizes} == {ROWS, ROWS // 2}
  check_slots(build_model(), 8)


# What all rows begin with.

PREFIX = np.random.default_rng(5).integers(2, VOCABULARY, 37, np.int32)


def prefixed(prefix=PREFIX):
  """The prompts that are not empty after a common beginning."""
  rows = [[*prefix, *oracles.unpadded(row)] for row in prompts() if row.any()]
  width = max(map(len, rows))
  padded = [[PAD_ID] * (width - len(row)) + row for row in rows]
  return np.array(padded, np.int32)


def plain_rows(prompts):
  return [row[row != PAD_ID].tolist() for row in prompts]


def test_what_all_begin_with_is_split_off():
  whole = prefixed()
  lengths = (whole != PAD_ID).sum(axis=1)
  prefix, rest = token_rows.split_prefix(whole)
  np.testing.assert_array_equal(prefix, PREFIX[:32])
  assert rest.shape == (len(whole), whole.shape[1] - 32)
  for row, one in zip(rest, whole, strict=True):
    assert [*prefix, *oracles.unpadded(row)] == oracles.unpadded(one)
  for alone in (whole[:1], prompts(), whole[:, 10:], np.zeros_like(whole)):
    prefix, rest = token_rows.split_prefix(alone)
    assert not len(prefix)
    np.testing.assert_array_equal(rest, alone)
  # What is left would lose a token that is 0.
  zero = whole.copy()
  zero[0, -lengths[0] + 32] = PAD_ID
  assert not len(token_rows.split_prefix(zero)[0])
  # No row may be empty.
  prefix, rest = token_rows.split_prefix(np.tile(PREFIX[:32], (3, 1)))
  assert not len(prefix)
  prefix, rest = token_rows.split_prefix(np.tile(PREFIX[:33], (3, 1)))
  assert len(prefix) == 32
  assert rest.tolist() == [[PREFIX[32]]] * 3


ENDING = stops.Ending((EOS_ID,))


def test_padding_is_cut():
  wide = np.pad(prompts(), ((0, 0), (90, 0)))
  _, rest = token_rows.compact_prompts(wide)
  assert rest.shape == (ROWS, 16)
  np.testing.assert_array_equal(rest, wide[:, -16:])
  targets = np.pad(random_targets(), ((0, 0), (0, 90)))
  targets[:, LENGTH - 1] = EOS_ID
  cut = token_rows.trim_targets(targets, ENDING)
  np.testing.assert_array_equal(cut, targets[:, :16])
  assert token_rows.trim_targets(targets[:, :5], ENDING).shape == (ROWS, 5)


def test_zeros_that_were_drawn_are_not_trimmed():
  """A row without an end was drawn to the limit, whatever its last tokens."""
  targets = np.zeros((2, 40), np.int32)
  targets[:, :3] = 5
  targets[0, 3] = EOS_ID
  assert token_rows.trim_targets(targets[:1], ENDING).shape == (1, 16)
  np.testing.assert_array_equal(
    token_rows.trim_targets(targets, ENDING), targets
  )


def check_prefix(model):
  """Checks a prefix that is fed in once against rows that all have it."""
  whole = prefixed()
  prefix, rest = token_rows.split_prefix(whole)
  targets = random_targets(len(whole))

  def score(params, prompts, targets, prefix=None):
    shared = None if prefix is None else model.encode_prefix(params, prefix)
    return model.log_prob(params, prompts, targets, shared).sum()

  expected = jax.jit(jax.value_and_grad(score))(params(), whole, targets)
  actual = jax.jit(jax.value_and_grad(score))(params(), rest, targets, prefix)
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
  for one, other in zip(
    jax.tree.leaves(actual[1]), jax.tree.leaves(expected[1]), strict=True
  ):
    size = np.abs(other).max()
    np.testing.assert_allclose(one / size, other / size, rtol=0, atol=1e-4)
  draws = model.sample(params(), whole, keys(0, len(whole)))
  scores = model.log_prob(params(), whole, draws.tokens)
  np.testing.assert_allclose(draws.log_prob, scores, rtol=0, atol=1e-4)


def test_a_prefix_that_is_fed_in_once_counts_as_if_each_row_had_it():
  check_prefix(compiled())


@pytest.mark.slow
@pytest.mark.parametrize(
  "twin", [twins.misses_the_prefix, twins.late_positions]
)
def test_twins_of_the_prefix_are_rejected(twin):
  part = twins.SIN_COS if twin is twins.late_positions else twins.ATTEND
  with twins.replaced(*part, twin), pytest.raises(AssertionError):
    check_prefix(build_model())


# The distribution.

# Small enough to list every sequence.
SMALL = {"vocabulary": 4, "length": 3}
SMALL_PROMPT = np.array([[PAD_ID, 3, 2, 3]], np.int32)
NUM_DRAWS = 20_000


@functools.cache
def small():
  return build_model(**SMALL)


@functools.cache
def small_params():
  return random_params(small().init, seed=1)


def every_sequence():
  """[Z, T] all that can be drawn: nothing but padding after EOS."""
  tokens = range(SMALL["vocabulary"])
  rows = np.array([*itertools.product(tokens, repeat=SMALL["length"])])
  is_over = [np.logical_not(slow_target_mask(list(row))) for row in rows]
  return rows[~(is_over & (rows != PAD_ID)).any(axis=1)]


def small_probabilities(model):
  """[Z] exp of the sums of log_prob, in float64."""
  sequences = every_sequence()
  questions = np.repeat(SMALL_PROMPT, len(sequences), axis=0)
  log_prob = model.log_prob(small_params(), questions, sequences)
  return np.exp(np.asarray(log_prob, np.float64).sum(axis=1))


def check_sum(model):
  check_close(small_probabilities(model).sum(), 1.0)


def test_probabilities_sum_to_one():
  assert len(every_sequence()) == 1 + 3 + 3 * 3 * 4
  check_sum(small())


@pytest.mark.parametrize("twin", [twins.never_ends, twins.ends_before_padding])
def test_twins_of_another_sum_are_rejected(twin):
  with twins.replaced(*twins.TARGET_MASK, twin), pytest.raises(AssertionError):
    check_sum(build_model(**SMALL))


def check_fit(temperature):
  """Chi-square of one question's draws against the listed probabilities."""
  words = np.repeat(rng.id_words(["x/0"]), NUM_DRAWS, axis=0)
  rng_key = rng.purpose_key(0, "draw", 1)
  draws = small().sample(
    small_params(),
    np.repeat(SMALL_PROMPT, NUM_DRAWS, axis=0),
    rng.row_keys(rng_key, words, np.arange(NUM_DRAWS)),
    temperature,
  )
  counts = {tuple(row): 0 for row in every_sequence()}
  for row in np.asarray(draws.tokens):
    counts[tuple(row)] += 1
  probabilities = small_probabilities(small())
  expected = NUM_DRAWS * probabilities / probabilities.sum()
  # The statistic is no chi-square where few are expected: those are pooled.
  is_rare = expected < 10
  assert is_rare.mean() < 1 / 2
  found = np.array(list(counts.values()))
  pooled = [np.append(x[~is_rare], x[is_rare].sum()) for x in [found, expected]]
  assert scipy.stats.chisquare(*pooled).pvalue > 1e-6


def test_draws_fit_the_model():
  check_fit(temperature=1.0)
  with pytest.raises(AssertionError):
    check_fit(temperature=1.3)


# Golden: of a thousand seeds, those where some token of probability 3e-8 is
# drawn (three are expected). Made by
# np.flatnonzero(rare_draws(range(1000))), a hundred at a time.
RARE_SEEDS = [301, 711]


def rare_draws(seeds):
  """[B] whether the draw is one of 100,000 tokens of probability 3e-8 each."""
  config = decoder.DecoderConfig(
    num_layers=1, embed_dim=2, num_heads=1, head_dim=2, mlp_dim=1
  )
  model = build_model(vocabulary=100_001, length=1, config=config)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  # The only token that is not 0 is asked for, and is next almost surely.
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  params["embed"]["embedding"][3, 0] = 1
  gap = np.log1p(-100_000 * 3e-8) - np.log(3e-8)
  params["final_norm"]["scale"][0] = gap / 2**0.5
  questions = np.full((len(seeds), 1), 3, np.int32)
  rng_keys = jax.vmap(jax.random.key)(np.array(seeds))
  draws = model.sample(params, questions, rng_keys)
  is_rare = np.asarray(draws.tokens[:, 0] != 3)
  check_close(draws.log_prob[is_rare], np.log(3e-8))
  return is_rare


def default_noise(gumbel, key, shape, **_):
  return gumbel(key, shape)


def test_rare_tokens_can_be_drawn():
  assert rare_draws(RARE_SEEDS).all()
  with twins.replaced(jax.random, "gumbel", default_noise):
    assert not rare_draws(RARE_SEEDS).any()


# Running.


def test_each_shape_compiles_once():
  model = build_model(config=dataclasses.replace(CONFIG, num_layers=1))

  def run(seed, temperature, rows=ROWS, num_slots=None):
    with compilations() as number:
      draws = model.sample(
        *(params(), prompts()[:rows], keys(seed)[:rows], temperature),
        num_slots=num_slots,
      )
      model.log_prob(params(), prompts()[:rows], draws.tokens)
    return len(number)

  assert run(0, 1.0) > 0
  assert run(1, 0.0) == run(2, 1.3) == 0
  assert run(0, 1.0, rows=3) > 0
  # Many rows, whatever their number, through a few slots.
  assert run(0, 1.0, num_slots=4) > 0
  assert run(1, 1.3, num_slots=4) == 0


@contextlib.contextmanager
def compilations():
  """Notes what XLA compiles."""
  found = []

  def note(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      found.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(note)
  yield found
  jax.monitoring.unregister_event_duration_listener(note)


def test_decoding_stops_when_every_row_has_ended(monkeypatch):
  draws = sample()
  passes = []
  apply = decoder.Decoder.apply

  def counted(*args, **fields):
    jax.debug.callback(lambda: passes.append(1))
    return apply(*args, **fields)

  monkeypatch.setattr(decoder.Decoder, "apply", counted)
  model = build_model()

  def count_passes(chosen):
    passes.clear()
    draws = model.sample(params(), prompts()[chosen], keys()[chosen])
    jax.block_until_ready(draws)
    jax.effects_barrier()
    return len(passes)

  lengths = np.array([sum(slow_target_mask(row)) for row in draws.tokens])
  short = np.flatnonzero(draws.ended & (lengths < LENGTH - 1))
  chosen = np.resize(short, ROWS)
  # One pass reads the prompts and gives the first token.
  assert count_passes(chosen) == lengths[short].max()
  chosen[-1] = np.argmin(draws.ended)
  assert count_passes(chosen) == LENGTH
