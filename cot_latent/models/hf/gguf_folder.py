"""Writes a GGUF file as the folder of a Hugging Face checkpoint."""

import json
import pathlib

from cot_latent.models.hf import fields as hf_fields
from cot_latent.models.hf import gguf_config, gguf_tokenizer


def write_beside(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes all files of a checkpoint except its weights.

  The caller has read the config, and so refused what is not supported.

  Args:
    path: Path of the GGUF file.
    folder: Folder to write to.
  """
  contents = {
    hf_fields.FILE: gguf_config.read_fields(path).values,
    "tokenizer_config.json": gguf_tokenizer.read_settings(path),
    "generation_config.json": gguf_tokenizer.read_generation(path),
  }
  for name, content in contents.items():
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
  tokenizer = gguf_tokenizer.read_tokenizer(path)
  (folder / "tokenizer.json").write_bytes(tokenizer)
