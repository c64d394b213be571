"""`t5x import`: writes a GGUF file as a Hugging Face checkpoint folder."""

import argparse

from cot_latent.runtime import files, terminal

HELP = "write a GGUF file as a checkpoint that transformers loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  parser.add_argument("file", help="a .gguf file")
  parser.add_argument(
    "--output", required=True, metavar="DIR", help="a new folder to write"
  )


def run(options: argparse.Namespace) -> int:
  """Writes the folder."""
  from cot_latent.models.hf import weights

  files.check_output_folder("--output", options.output)
  weights.convert(options.file, options.output)
  terminal.say(f"wrote {options.output} from {options.file}")
  return 0
