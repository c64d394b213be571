"""Models moved between T5X and the embedded trainer.

The embedded trainer begins with a folder of Hugging Face's form, T5X with a
checkpoint of its own.
"""

import argparse
import sys
from collections.abc import Sequence

from cot_latent.errors import UserError
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.t5 import T5Config
from cot_latent.runtime import terminal
from cot_latent.t5x import checkpoints, convert, paths


def to_folder(checkpoint: str, source: str, folder: str) -> int:
  """Writes a T5X checkpoint as a folder that the embedded trainer begins with.

  Args:
    checkpoint: T5X's, of `t5x.examples.t5`.
    source: the folder of a model of the same sizes, whose config.json and
      tokenizer are taken over.
    folder: to be made.

  Returns:
    The checkpoint's step.

  Raises:
    UserError: if they are not of one model.
  """
  stored = checkpoints.read(checkpoint)
  config = _config(source)
  hf_weights.save(folder, convert.from_t5x(config, stored.params), source)
  return stored.step


def from_folder(source: str, directory: str) -> str:
  """Writes a folder's model as a T5X checkpoint of step 0.

  It has no optimizer: a run begins with it by gin/t5x/parameters_only.gin.

  Args:
    source: the folder, such as `t5x export` makes.
    directory: in which checkpoint_0 is made.

  Returns:
    The checkpoint's path.

  Raises:
    UserError: if it is there already, or if this is no T5.
  """
  config = _config(source)
  params = hf_weights.load(source, config, hf_config.vocab_size(source))
  path = paths.absolute(directory) / "checkpoint_0"
  if path.exists():
    raise UserError(f"{path} exists: give a folder that has none")
  checkpoints.write(str(path), convert.to_t5x(config, params))
  return str(path)


def _config(folder: str) -> T5Config:
  config = hf_config.read_config(folder)
  if not isinstance(config, T5Config):
    raise UserError(f"{folder} is no T5, which alone moves to T5X and back")
  return config


def main(argv: Sequence[str] | None = None) -> int:
  """Moves a model; see --help."""
  parser = argparse.ArgumentParser(prog="python -m cot_latent.t5x.moving")
  commands = parser.add_subparsers(required=True, dest="command")
  out = commands.add_parser("to_folder", help="T5X to the embedded trainer")
  for name in ("checkpoint", "source", "folder"):
    out.add_argument(name)
  back = commands.add_parser("from_folder", help="the other way")
  for name in ("source", "directory"):
    back.add_argument(name)
  options = parser.parse_args(argv)
  try:
    if options.command == "to_folder":
      step = to_folder(options.checkpoint, options.source, options.folder)
      terminal.say(f"{options.folder} has the model of step {step}")
    else:
      terminal.say(from_folder(options.source, options.directory))
  except UserError as error:
    terminal.fail(str(error))
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
