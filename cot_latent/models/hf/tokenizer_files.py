"""The files of a checkpoint beside its weights: tokenizer and settings."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cot_latent.errors import UserError
from cot_latent.models.hf import gguf_config, gguf_files, gguf_tokenizer
from cot_latent.models.vocabularies import NUM_BYTES
from cot_latent.runtime import text_files

_TOKENIZER = "tokenizer.json"
_PIECES = ("tokenizer.model", "spiece.model")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


class TokenizerFiles(NamedTuple):
  """The files of a checkpoint's folder about its tokenizer.

  Attributes:
    path: Path of the tokenizer's file.
    tokenizer: Content of tokenizer.json; None if there is none.
    pieces: Content of the SentencePiece model that replaces it; None if there
      is none.
    settings: tokenizer_config.json; special_tokens_map.json fills the gaps.
    config: Content of config.json.
    generation: Content of generation_config.json.
    chat_template: Template of a conversation, in Jinja; None if there is none.
  """

  path: pathlib.Path
  tokenizer: bytes | None
  pieces: pathlib.Path | None
  settings: Mapping[str, Any]
  config: Mapping[str, Any]
  generation: Mapping[str, Any]
  chat_template: str | None = None

  def token(self, name: str) -> str | None:
    """Returns the text of a token such as `eos_token`, which has two forms."""
    found = self.settings.get(name)
    if isinstance(found, dict):
      found = found.get("content")
    return found if isinstance(found, str) else None

  def tokens(self) -> dict[str, str]:
    """Returns the texts of all tokens with a name, such as `bos_token`."""
    names = [name for name in self.settings if name.endswith("_token")]
    found = {name: self.token(name) for name in names}
    return {name: text for name, text in found.items() if text is not None}

  def size(self) -> int | None:
    """Returns the number of rows of the embedding, from config.json."""
    text = self.config.get("text_config")
    for config in (self.config, text if isinstance(text, dict) else {}):
      found = config.get("vocab_size")
      if type(found) is int and found > 0:
        return found
    return None

  def eos_ids(self) -> list[int]:
    """Returns the ends in config.json and generation_config.json, in order."""
    ends: dict[int, None] = {}
    for config in (self.config, self.generation):
      found = config.get("eos_token_id")
      for end in found if isinstance(found, list) else [found]:
        if type(end) is int and end >= 0:
          ends[end] = None
    return [*ends]


def has_tokenizer(path: pathlib.Path) -> bool:
  """Whether there is a tokenizer, in a folder or as a file."""
  return path.is_file() or bool(_tokenizers(path))


def _tokenizers(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists a folder's tokenizers; the first one counts."""
  places = [folder / name for name in (_TOKENIZER, *_PIECES)]
  return [place for place in places if place.is_file()]


def read_files(path: pathlib.Path) -> TokenizerFiles:
  """Reads the files of a checkpoint beside its weights.

  Args:
    path: A checkpoint's folder, a tokenizer.json in one, or a GGUF file.

  Raises:
    UserError: If there is no tokenizer, or if a file is malformed.
  """
  if gguf_files.is_gguf(path):
    settings = gguf_tokenizer.read_settings(path)
    return TokenizerFiles(
      path,
      gguf_tokenizer.read_tokenizer(path),
      None,
      settings,
      gguf_config.read_fields(path).values,
      gguf_tokenizer.read_generation(path),
      settings.get("chat_template"),
    )
  if path.is_file():
    folder, found = path.parent, path
  else:
    folder = path
    there = _tokenizers(path)
    if not there:
      raise UserError(
        f"VOCABULARY: {path} has no {_TOKENIZER}, {' or '.join(_PIECES)}"
      )
    found = there[0]
  is_pieces = found.name in _PIECES
  settings = _read_object(folder / "special_tokens_map.json")
  for name, value in _read_object(folder / "tokenizer_config.json").items():
    if value is not None:
      settings[name] = value
  try:
    content = None if is_pieces else found.read_bytes()
  except OSError as error:
    raise UserError(f"cannot read {found} ({error.strerror})") from None
  return TokenizerFiles(
    found,
    content,
    found if is_pieces else None,
    settings,
    _read_object(folder / "config.json"),
    _read_object(folder / "generation_config.json"),
    _chat_template(folder, settings),
  )


def byte_extra_ids(path: pathlib.Path) -> int | None:
  """Returns the number of ids after ByT5's bytes; None for other checkpoints.

  Args:
    path: A checkpoint's folder. The bytes are SeqIO's, and no file describes
      them further.
  """
  if path.is_file() or (path / _TOKENIZER).exists():
    return None
  settings = _read_object(path / "tokenizer_config.json")
  config = _read_object(path / "config.json")
  named = settings.get("tokenizer_class", config.get("tokenizer_class"))
  size = config.get("vocab_size")
  if named != "ByT5Tokenizer" or type(size) is not int or size < NUM_BYTES:
    return None
  return size - NUM_BYTES


def _chat_template(
  folder: pathlib.Path, settings: Mapping[str, Any]
) -> str | None:
  """Returns the chat template from the first place that has one."""
  alone, in_object = (folder / name for name in _TEMPLATES)
  if alone.is_file():
    return text_files.read_text(alone)
  found = _read_object(in_object).get("chat_template")
  if found is None:
    found = settings.get("chat_template")
  if isinstance(found, list):  # several, by name
    named = [one for one in found if isinstance(one, dict)]
    default = [one for one in named if one.get("name") == "default"]
    found = default[-1].get("template") if default else None
  return found if isinstance(found, str) else None


def _read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object; a missing file is an empty object."""
  return text_files.read_object(path) if path.exists() else {}
