"""The device memory that a gradient needs, by calculation; nothing is run.

  python -m benchmarks.memory --checkpoint llama3.2-1b --rows 32 --tokens 1024

reads the model's sizes from a folder with config.json; weights are not read.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cot_latent.models import language_model
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.hf import config as hf_config
from cot_latent.models.lora import TARGETS, Lora
from cot_latent.training import mstep, tuning
from cot_latent.training.experiment import OptimizerConfig


class Need(NamedTuple):
  """Bytes that a step needs.

  Attributes:
    parameters: Trained and frozen parameters.
    gradient: Gradient of the trained parameters.
    optimizer: Adam's moments.
    kept: Activations of a row between forward and backward pass.
    within: Activations of a row within one block, during its backward pass in a
      model with remat. 0 without remat, where `kept` includes them.
  """

  parameters: int
  gradient: int
  optimizer: int
  kept: int
  within: int

  def total(self, rows: int) -> int:
    """Returns the sum for a number of rows that are differentiated at once."""
    held = self.parameters + self.gradient + self.optimizer
    return held + rows * (self.kept + self.within)


def size(tree: Any) -> int:
  """Returns the bytes of a tree's arrays, or of their descriptions."""
  leaves = jax.tree.leaves(tree)
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def calculate(
  config: DecoderConfig, vocab_size: int, tokens: int, lora: Lora | None
) -> Need:
  """Adds up the memory of a step.

  Args:
    config: Config of the model.
    vocab_size: Vocabulary size V.
    tokens: Tokens of a row, half prompt and half target.
    lora: Updates that are trained, or None for all parameters.
  """
  model = _build_model(config, vocab_size, tokens, lora)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  trained, _ = tuning.split(shapes, lora)
  optimizer = mstep.build_optimizer(OptimizerConfig(1e-3))
  within = 0
  if config.remat:
    # The difference between two blocks and one, without remat.
    one, two = (
      _kept(
        dataclasses.replace(config, remat=False, num_layers=number),
        vocab_size,
        tokens,
        lora,
      )
      for number in (1, 2)
    )
    within = two - one
  return Need(
    size(shapes),
    size(trained),
    size(jax.eval_shape(optimizer.init, trained)),
    _kept(config, vocab_size, tokens, lora),
    within,
  )


def _build_model(config, vocab_size, tokens, lora):
  return language_model.from_config(
    config, vocab_size, 1, tokens // 2, lora=lora
  )


def _kept(config, vocab_size, tokens, lora) -> int:
  """Returns the memory of a row: the difference between two rows and one."""
  model = _build_model(config, vocab_size, tokens, lora)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  trained, frozen = tuning.split(shapes, lora)

  def way_back(trained, frozen, ids):
    def score(trained):
      return model.log_prob(tuning.merge(trained, frozen), ids, ids).sum()

    return jax.vjp(score, trained)[1]

  one, two = (
    size(
      jax.eval_shape(
        way_back,
        trained,
        frozen,
        jax.ShapeDtypeStruct((rows, tokens // 2), jnp.int32),
      )
    )
    for rows in (1, 2)
  )
  return two - one


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table of the ways to train and their memory."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--tokens", type=int, default=1024)
  options = parser.parse_args(argv)
  vocab_size = hf_config.vocab_size(options.checkpoint)
  heads = ("trained", "remat", "parameters", "gradient", "Adam")
  heads += ("kept per row", "a block per row", "rows at once", "total")
  print("GB:\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
  for lora, dtype in ((None, "float32"), (Lora(16, 32.0, TARGETS), "bfloat16")):
    config = hf_config.read_config(options.checkpoint, "bfloat16", dtype)
    for remat in (False, True):
      need = calculate(
        dataclasses.replace(config, remat=remat),
        *(vocab_size, options.tokens, lora),
      )
      for rows in (options.rows, max(1, options.rows // 4)):
        figures = [f"{part / 1e9:.2f}" for part in need]
        trained = f"updates, {dtype}" if lora else f"all, {dtype}"
        row = (trained, "yes" if remat else "no", *figures, str(rows))
        total = f"{need.total(rows) / 1e9:.1f}"
        print("| " + " | ".join((*row, total)) + " |", flush=True)


if __name__ == "__main__":
  main()
