"""What a run compiles, and what a step of its decoding loop does not read."""

import dataclasses

import jax
import pytest

from cot_latent.em.method import Method, OuterLoops
from cot_latent.inference import estimators
from cot_latent.models import decoder, language_model, partitioning, t5
from cot_latent.planning import programs, shapes
from cot_latent.planning.lengths import Lengths
from tests.training import toy
from tests.training.watching import POOLED

EMBED, HEADS, WIDTH, MLP, VOCAB = 16, 4, 8, 32, 64
# Two shards of the model axis; heads and vocabulary divide.
TABLE = VOCAB * EMBED * 4 // 2
KERNEL = EMBED * HEADS * WIDTH * 4 // 2


def params_of(config):
  """Shapes of parameters that are whole along the data axis."""
  mesh = jax.sharding.AbstractMesh((2, 2), ("data", "model"))
  layout = partitioning.Layout(mesh, partitioning.RULES, fully_sharded=False)
  return language_model.from_config(config, VOCAB, 1, 8, layout).shapes


@pytest.mark.parametrize(("is_tied", "expected"), [(True, 0), (False, TABLE)])
@pytest.mark.parametrize("is_whole", [True, False])
def test_an_embedding_is_read_where_it_is_the_output_layer(
  is_tied, expected, is_whole
):
  config = decoder.DecoderConfig(
    1, EMBED, HEADS, WIDTH, MLP, tie_embeddings=is_tied
  )
  assert programs.unread_bytes(params_of(config), is_whole) == expected


# What is drawn, in which widths.

LENGTHS = Lengths(
  64, prompt=16, prefix=8, guide=24, guide_prefix=40, train=70, test=20
)


@pytest.mark.parametrize(
  ("loops", "names"),
  [
    (OuterLoops("greedy", hint_on_failure=True), ["loop", "hinted loop"]),
    (OuterLoops("sample"), ["loop"]),
    (OuterLoops("human"), []),
  ],
)
def test_hinted_draws_of_a_loop_are_planned(loops, names):
  num_draws = 1 if loops.source == "human" else 2
  method = Method("x", POOLED, "empty", num_draws, loops=loops)
  config = toy.make_experiment("x", method=method)
  found = {one.name: one for one in programs.samplings(config, LENGTHS)}
  assert [*found] == [*names, "evaluation"]
  widths = {name: (one.prompt, one.prefix) for name, one in found.items()}
  wanted = {"loop": (16, 8), "hinted loop": (24, 40), "evaluation": (16, 8)}
  assert widths == {name: wanted[name] for name in found}
  most = config.evaluation.batch_size * config.evaluation.part_batches
  assert [found[name].total for name in names] == [min(140, most)] * len(names)


@pytest.mark.parametrize(
  ("start", "widths"),
  [("guide", (24, 40)), ("prior", (16, 8)), ("empty", None)],
)
def test_a_memory_starts_with_prompts_of_its_own(start, widths):
  method = Method("x", estimators.basic(), start)
  config = toy.make_experiment("x", method=method)
  found = {one.name: one for one in programs.samplings(config, LENGTHS)}
  one = found.get("memory start")
  assert (one and (one.prompt, one.prefix)) == widths


@pytest.mark.parametrize(
  ("name", "known", "widths"),
  [
    ("M-step", LENGTHS, (8, 16)),
    # The longer of the question's two prompts, and then its own.
    ("base model", LENGTHS, (8, 56)),
    (
      "base model",
      dataclasses.replace(LENGTHS, base=48, base_prefix=3),
      (3, 48),
    ),
  ],
)
def test_a_fit_has_prompts_of_its_own(monkeypatch, name, known, widths):
  config = toy.make_experiment("x")
  mesh = jax.sharding.AbstractMesh((1, 1), ("data", "model"))
  layout = partitioning.Layout(mesh, partitioning.RULES)
  kept, noted = shapes.shapes_of(config, known, layout), {}

  def note(self, name, function, *arguments, **settings):
    del self, settings
    noted[name.rpartition(": ")[2]] = [
      leaf.shape for leaf in jax.tree.leaves(arguments)
    ]
    return jax.eval_shape(function, *arguments)

  monkeypatch.setattr(programs.Compiler, "_compile", note)
  compiler = programs.Compiler(kept, print)
  compiler._m_step(name, kept.base, None, config, known, 8)
  prefix, rest = widths
  assert (prefix,) in noted["prefix"]
  assert (8, rest) in noted["gradient"]


def test_an_encoder_is_read_before_the_loop():
  config = t5.T5Config(1, 1, EMBED, HEADS, WIDTH, MLP)
  params = params_of(config)
  encoder = programs.device_bytes(params["encoder"])
  # Four projections, and three kernels of the MLP.
  assert encoder > 4 * KERNEL + 3 * EMBED * MLP * 4 // 2
  # The untied embedding, and keys and values of the encoder's positions.
  whole = TABLE + encoder + 2 * KERNEL
  assert programs.unread_bytes(params, is_whole=True) == whole
  assert programs.unread_bytes(params, is_whole=False) == TABLE
